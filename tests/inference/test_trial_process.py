"""The steps of the trial process, here in this one: what each says, and where they end."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from deployments.inference import trial_process
from deployments.inference.trial_process import MAX_FEED_BYTES, steps
from deployments.inference.trial_protocol import Order, Said, Step, pack_said, unpack_said
from tests.inference.model_bombs import with_operator
from tests.inference.models import graph, logits, node, served


def said(path: Path, model: onnx.ModelProto | None = None, *, card: bool = True) -> list[Said]:
    version = served(path, model)
    return list(steps(Order(version.path, version.card if card else None)))


def test_a_good_model_goes_through_every_step(tmp_path: Path) -> None:
    done = said(tmp_path)

    assert [one.step for one in done] == [
        Step.FACTS, Step.SESSION, Step.GOLDEN, Step.LATENCY, Step.LATENCY,
    ]  # fmt: skip
    assert [one.batch for one in done] == [0, 0, 0, 1, 8]
    assert [one.detail for one in done] == [""] * 5
    assert all(one.peak_bytes > 0 for one in done)
    assert 1 < len(done[-1].seconds) <= trial_process.MOST_RUNS
    assert done[2].deviation <= 0.05
    assert unpack_said(b"".join(map(pack_said, done))) == done


def test_without_a_card_it_is_loaded_and_run_once(tmp_path: Path) -> None:
    done = said(tmp_path, card=False)

    assert [(one.step, one.detail) for one in done] == [
        (Step.FACTS, ""), (Step.SESSION, ""), (Step.RUN, ""),
    ]  # fmt: skip


def test_a_file_that_breaks_a_rule_is_only_read(tmp_path: Path) -> None:
    assert [one.step for one in said(tmp_path, with_operator("evil", "Run"))] == [Step.FACTS]


def test_a_file_that_cannot_be_loaded_says_so_and_ends(tmp_path: Path) -> None:
    wrong = graph([node("Add", ["input", "nothing"], ["logits"])])

    done = said(tmp_path, wrong)

    assert (done[-1].step, done[-1].facts) == (Step.SESSION, None)
    assert done[-1].detail.startswith("ONNX Runtime refuses the file")


def test_a_run_that_fails_without_a_card_says_so(tmp_path: Path) -> None:
    apart = logits(
        [
            node("Shape", ["plain"], ["size"]),
            node("Add", ["size", "size"], ["more"]),
            node("Expand", ["plain", "more"], ["wide"]),
            node("MatMul", ["wide", "plain"], ["logits"]),
        ]
    )

    assert said(tmp_path, apart, card=False)[-1].detail.startswith("the run failed")


def test_an_input_too_large_to_try_is_not_made(tmp_path: Path) -> None:
    side = int(np.sqrt(MAX_FEED_BYTES / 4)) + 1

    (*_, last) = said(tmp_path, graph(shape=(1, side, side)), card=False)

    assert last.step is Step.RUN
    assert last.violations[0].rule == "input"
    assert last.violations[0].limit == f"at most {MAX_FEED_BYTES} bytes"


@pytest.mark.parametrize(
    ("raised", "detail"),
    [(MemoryError(), "it took too much memory"), (KeyError("CANARY"), "it failed (KeyError)")],
)
def test_whatever_a_step_raises_is_said_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, detail: str
) -> None:
    def fail(path: Path) -> None:
        raise raised

    monkeypatch.setattr(trial_process, "inspect_file", fail)

    assert [one.detail for one in said(tmp_path)] == [detail]

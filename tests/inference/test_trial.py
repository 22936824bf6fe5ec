"""Trying a model file: a good one is measured, a bad one named; a bomb harms its process only."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from deployments.inference import trial
from deployments.inference.registration import Candidate, examine
from deployments.inference.trial import ModelReport, spread, try_model
from deployments.inference.trial_protocol import Order, Said, Step, pack_said, unpack_said
from registry.errors import ForbiddenOperator, InvalidModel
from registry.inspection import ModelCheck, State
from tests.inference.model_bombs import (
    BOMBS,
    lay_out,
    nested_on_the_wire,
    outside,
    with_operator,
)
from tests.inference.models import bundled, card, graph, logits, node, served

MEMORY = 1 << 30


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory for models, with other files about."""
    directory = tmp_path / "models"
    directory.mkdir()
    lay_out(directory)
    return directory


def tried(directory: Path, model: onnx.ModelProto | None = None, **changes: object) -> ModelReport:
    version = served(directory, model)
    return try_model(replace(Order(version.path, version.card, memory_bytes=MEMORY), **changes))  # type: ignore[arg-type]  # by name


def rules(report: ModelReport) -> list[str]:
    return [fault.rule for check in report.checks for fault in check.faults]


def named(report: ModelReport, name: str) -> ModelCheck:
    (check,) = (check for check in report.checks if check.name == name)
    return check


def test_a_good_model_is_fit_and_measured() -> None:
    version = bundled("body-part")

    report = try_model(Order(version.path, version.card))

    assert report.fit
    assert rules(report) == []
    assert named(report, "golden case").state is State.PASSED
    assert set(report.latencies_ms) == {1, 8}
    assert all(0 < run < 1000 for runs in report.latencies_ms.values() for run in runs)
    assert sum(report.latencies_ms[8]) / len(report.latencies_ms[8]) > 2 * min(
        report.latencies_ms[1]
    )
    assert 20 << 20 < report.peak_bytes < MEMORY
    assert "Conv x " in named(report, "operators").measured
    report.require()


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_named_soon_and_in_little_memory(name: str, home: Path) -> None:
    build, rule = BOMBS[name]
    model = build()

    started = time.monotonic()
    report = tried(home, model)

    assert rule in rules(report), report.checks
    assert not report.fit
    assert time.monotonic() - started < 10
    assert report.peak_bytes < MEMORY


def test_the_documents_table_of_model_files_is_what_happens() -> None:
    document = (Path(__file__).parents[2] / "docs" / "input.md").read_text("utf-8")
    table = document.partition("<!-- models -->\n")[2].partition("\n<!-- /models -->")[0]
    rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()[2:]]

    told = {row[1]: row[3].split("`")[1] for row in rows}
    assert told == {name: rule for name, (_, rule) in BOMBS.items()}


def test_graphs_nested_without_end_are_no_file(home: Path) -> None:
    content = nested_on_the_wire(5000)
    path = home / "nested.onnx"
    path.write_bytes(content)

    report = try_model(Order(str(path), card(content), memory_bytes=MEMORY))

    assert "not ONNX" in named(report, "file").measured


def test_nothing_is_run_of_a_file_that_breaks_a_rule(home: Path) -> None:
    report = tried(home, with_operator("evil", "Run"))

    assert [check.name for check in report.checks if check.state is State.SKIPPED] == [
        "loads", "golden case", "latency",
    ]  # fmt: skip
    with pytest.raises(ForbiddenOperator, match=r"evil\.Run x 1"):
        report.require()


def test_memory_that_only_a_run_asks_for_is_refused_by_its_name(home: Path) -> None:
    report = tried(home, BOMBS["memory by the pixels"][0]())

    assert "known at run time only" in named(report, "memory estimate").measured
    assert "out of memory" in named(report, "golden case").measured


def test_the_limit_of_memory_holds(home: Path) -> None:
    zeros = logits(
        [
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            node("Add", ["plain", "sum"], ["logits"]),
        ],
        size=np.array([2**27], np.int64),
    )

    enough, little = (tried(home, zeros, memory_bytes=limit << 20) for limit in (1536, 384))

    assert enough.fit
    assert rules(little) == ["golden case"] or "loads" in rules(little)
    assert "out of memory" in str(little.checks)


def test_a_model_that_takes_too_long_is_stopped(home: Path) -> None:
    before = living_children()
    started = time.monotonic()
    report = tried(home, wall_s=0.1)

    (check,) = (check for check in report.checks if check.state is State.FAILED)
    assert check.measured == "it took too long"
    assert str(check.faults[0]) == (
        "trial, allowed is 0.1 s and 1024 MiB: use a smaller model, or raise the limits"
    )
    assert time.monotonic() - started < 5
    assert living_children() <= before


def living_children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if child.status() != "zombie"}


def test_a_process_that_dies_is_the_files_fault(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_START", "import os; os.kill(os.getpid(), 11)")

    report = tried(home)

    assert named(report, "file").measured == "ONNX Runtime died of this file (SIGSEGV)"
    with pytest.raises(InvalidModel):
        report.require()


def test_a_process_that_says_nonsense_is_not_believed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_START", "import sys; sys.stdin.read(); print('{\"step\": 1}')")

    assert "nonsense" in named(tried(home), "file").measured


def test_a_process_that_talks_without_end_is_ended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(trial, "_START", "import os\nwhile True: os.write(1, b'x' * 500)")

    assert not tried(home, wall_s=20).fit


def test_a_golden_case_that_is_off_says_by_how_much(home: Path) -> None:
    version = served(
        home, golden={"seed": "g", "scores": {"DARK": 1, "BRIGHT": 0}, "tolerance": 0.01}
    )

    report = try_model(Order(version.path, version.card, memory_bytes=MEMORY))

    assert rules(report) == ["golden.scores.DARK", "golden.scores.BRIGHT"]
    assert named(report, "latency").state is State.SKIPPED


def test_a_file_without_a_card_is_told_and_run_once(home: Path) -> None:
    version = served(home)

    report = try_model(Order(version.path, memory_bytes=MEMORY))

    assert report.fit
    assert named(report, "input").state is State.TOLD
    assert named(report, "dry run").state is State.PASSED
    assert report.latencies_ms == {}


def test_a_domain_may_be_allowed_for_one_check(home: Path) -> None:
    version = served(home, graph(extra_opsets=(("ai.onnx.ml", 3),)))
    model = with_operator("ai.onnx.ml", "Binarizer")
    model.graph.node[-1].input[:] = ["input"]
    version = served(home, model)
    order = Order(version.path, version.card, memory_bytes=MEMORY)

    assert rules(try_model(order)) == ["operator"]
    assert rules(try_model(replace(order, allow_domains=("ai.onnx.ml",)))) == []


def test_bytes_outside_the_file_are_never_in_the_report(home: Path) -> None:
    secret = home.parent / "secret"
    secret.write_text("CANARY!!")

    report = tried(home, outside("../secret"))

    assert "CANARY" not in str(report)
    assert str(home) not in str(report)


def test_names_of_a_file_cannot_write_to_a_terminal(home: Path) -> None:
    report = tried(home, BOMBS["names that write to a terminal"][0]())

    assert "\x1b" not in str(report)
    assert len(str(report)) < 20_000


def test_registration_makes_the_same_checks(home: Path) -> None:
    good = served(home)
    bad = served(home, with_operator("com.microsoft", "Gelu"))

    examine(Candidate.of(good.card, Path(good.path)))
    with pytest.raises(ForbiddenOperator):
        examine(Candidate.of(bad.card, Path(bad.path)))


def test_the_process_has_none_of_our_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql://user:CANARY@host/name")
    seen = home / "seen"
    script = f"import os; open({str(seen)!r}, 'w').write(repr(dict(os.environ)))"
    monkeypatch.setattr(trial, "_START", script)

    tried(home)

    assert "PYTHONPATH" in seen.read_text()
    assert "CANARY" not in seen.read_text()
    assert os.environ["MEDAI_DATABASE__URL"]


def test_what_is_said_comes_through_and_a_cut_line_is_left_out() -> None:
    said = Said(Step.GOLDEN, (0.5,), 1000, deviation=0.25)

    assert unpack_said(pack_said(said) + pack_said(said)[:-5]) == [said]


def test_a_spread_is_median_quartiles_and_count() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == "3.00 ms (quartiles 1.50 to 4.50, 5 runs)"
    assert spread([7.0]) == "7.00 ms (1 run)"

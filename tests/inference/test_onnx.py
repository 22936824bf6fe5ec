"""The session: exactly the registered file, exactly the card's arithmetic, and never for ever."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deployments.inference.onnx import OnnxSession
from registry.errors import InferenceTimeout, Internal, InvalidModel
from tests.inference.models import SIDE, bundled, graph, logits, node, served

PIXELS = np.arange(4 * SIDE * SIDE, dtype=np.uint8).reshape(4, 1, SIDE, SIDE)


@pytest.fixture
def open_session(tmp_path: Path) -> Any:
    """Makes sessions and closes them."""
    opened: list[OnnxSession] = []

    def build(model: onnx.ModelProto | None = None, **changes: Any) -> OnnxSession:
        options = {name: changes.pop(name) for name in ("deadline_s", "spin") if name in changes}
        version = served(tmp_path, model, **changes)
        opened.append(OnnxSession(version.path, version.card, version.model.sha256, **options))
        return opened[-1]

    yield build
    for session in opened:
        session.close()


Open = Callable[..., OnnxSession]


def endless() -> onnx.ModelProto:
    """Loop 2^62 times, v + v."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["still"]), node("Add", ["v", "v"], ["twice"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    return logits(
        [node("Loop", ["count", "true", "plain"], ["logits"], body=body)],
        count=np.array(2**62, np.int64),
        true=np.array(True),
    )


def test_scores_are_the_cards_arithmetic(open_session: Open) -> None:
    scores = open_session().run(PIXELS)

    mean = ((PIXELS / 255 - 0.5) / 0.25).mean(axis=(1, 2, 3))
    expected = np.exp(mean) / (np.exp(mean) + np.exp(-mean))
    assert scores.dtype == np.float32
    assert np.allclose(scores[:, 1], expected, atol=1e-6)
    assert np.allclose(scores.sum(axis=1), 1)


def test_sigmoid_and_no_activation(open_session: Open) -> None:
    spec = {"labels": ["DARK", "BRIGHT"]}
    mean = ((PIXELS / 255 - 0.5) / 0.25).mean(axis=(1, 2, 3))

    sigmoid = open_session(output={"activation": "sigmoid", **spec}).run(PIXELS)
    plain = open_session(output={"activation": "none", **spec}).run(PIXELS)

    assert np.allclose(sigmoid[:, 1], 1 / (1 + np.exp(-mean)), atol=1e-6)
    assert np.allclose(plain[:, 0], -mean, atol=1e-5)


def test_each_channel_has_its_own_mean_and_deviation(open_session: Open) -> None:
    spec = {"height": SIDE, "width": SIDE, "color": "rgb", "scale": 1 / 255}
    session = open_session(
        graph(shape=(3, SIDE, SIDE)),
        input={**spec, "mean": [0, 0.5, 1], "std": [1, 2, 4]},
        output={"activation": "none", "labels": ["DARK", "BRIGHT"]},
    )

    scores = session.run(np.full((1, 3, SIDE, SIDE), 255, np.uint8))

    assert scores[0, 1] == pytest.approx((1 + 0.25 + 0) / 3)


def test_huge_logits_do_not_overflow(open_session: Open) -> None:
    model = logits([node("Mul", ["plain", "huge"], ["logits"])], huge=np.array(1e30, np.float32))

    scores = open_session(model).run(PIXELS)

    assert np.allclose(scores.max(axis=1), 1)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_non_finite_answer_is_nan_for_its_image_alone(
    open_session: Open, bad: float, activation: str
) -> None:
    nodes = [
        node("Greater", ["plain", "limit"], ["much"]),  # only for the brightest image, one label
        node("Where", ["much", "bad", "plain"], ["logits"]),
    ]
    model = logits(nodes, limit=np.array(0.9, np.float32), bad=np.array(bad, np.float32))
    spec = {"activation": activation, "labels": ["DARK", "BRIGHT"]}
    pixels = np.stack([np.full((1, SIDE, SIDE), level, np.uint8) for level in (130, 255, 120)])

    scores = open_session(model, output=spec).run(pixels)

    assert np.isnan(scores[1]).all()
    assert np.isfinite(scores[[0, 2]]).all()


def test_a_run_that_never_ends_is_stopped(open_session: Open) -> None:
    session = open_session(endless(), deadline_s=0.2)

    started = time.monotonic()
    with pytest.raises(InferenceTimeout) as failure:
        session.run(PIXELS)

    assert time.monotonic() - started < 5
    assert failure.value.retry_after_s == 1


def test_a_run_that_fails_leaves_no_text_of_the_runtime(open_session: Open) -> None:
    model = logits(
        [node("Gather", ["plain", "columns"], ["logits"], axis=1)],
        columns=np.array([0, 7], np.int64),
    )

    with pytest.raises(Internal, match=r"^ONNX Runtime failed \(\w+\)$"):
        open_session(model).run(PIXELS)


def test_the_bundled_models_pass_their_golden_case() -> None:
    for name in ("cxr-pneumonia", "body-part"):
        version = bundled(name)
        session = OnnxSession(version.path, version.card, version.model.sha256)
        session.golden()
        session.warm_up((1, 3))
        session.close()


def test_a_golden_case_that_is_off_names_each_score(open_session: Open) -> None:
    golden = {"seed": "g", "scores": {"DARK": 0.9, "BRIGHT": 0.1}, "tolerance": 0.01}

    with pytest.raises(InvalidModel, match="golden") as refusal:
        open_session(golden=golden).golden()

    assert [violation.rule for violation in refusal.value.violations] == [
        "golden.scores.DARK", "golden.scores.BRIGHT",
    ]  # fmt: skip
    assert refusal.value.violations[0].limit == "0.9000000 within 0.01"


def test_a_golden_case_that_is_not_a_number_is_off(open_session: Open) -> None:
    model = logits([node("Mul", ["plain", "bad"], ["logits"])], bad=np.array(np.nan, np.float32))

    with pytest.raises(InvalidModel, match="golden"):
        open_session(model).golden()


def test_a_golden_case_that_does_not_end_is_off(open_session: Open) -> None:
    with pytest.raises(InvalidModel, match="did not answer in time"):
        open_session(endless(), deadline_s=0.2).golden()


def test_another_file_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    version = served(tmp_path)
    content = bytearray(Path(version.path).read_bytes())
    content[-1] ^= 1
    Path(version.path).write_bytes(content)

    with pytest.raises(InvalidModel, match="not the registered one"):
        OnnxSession(version.path, version.card, version.model.sha256)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    version = served(tmp_path)
    Path(version.path).unlink()

    with pytest.raises(InvalidModel) as refusal:
        OnnxSession(version.path, version.card, version.model.sha256)

    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (graph(shape=(1, 9, SIDE)), "input"),
        (graph(shape=(3, SIDE, SIDE)), "input"),
        (graph(batch=1), "input.batch"),
    ],
    ids=["size", "channels", "batch"],
)
def test_a_graph_that_is_not_what_the_card_says_is_refused(
    open_session: Open, model: onnx.ModelProto, rule: str
) -> None:
    with pytest.raises(InvalidModel) as refusal:
        open_session(model)

    assert refusal.value.violations[0].rule == rule


def test_every_difference_to_the_card_is_named(open_session: Open) -> None:
    spec = {"name": "pixels", "height": SIDE, "width": SIDE, "scale": 1, "mean": [0], "std": [1]}
    scores = {"A": 0.3, "B": 0.3, "C": 0.4}

    with pytest.raises(InvalidModel) as refusal:
        open_session(
            input=spec,
            output={"activation": "softmax", "labels": list(scores)},
            golden={"seed": "g", "scores": scores, "tolerance": 0.05},
        )

    assert [violation.rule for violation in refusal.value.violations] == ["input", "output"]
    assert refusal.value.violations[0].measured == "input: tensor(float) [batch, 1, 8, 8]"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    import hashlib

    version = served(tmp_path)
    Path(version.path).write_bytes(b"not a model")

    with pytest.raises(InvalidModel, match=r"ONNX Runtime refuses the file \(\w+\)"):
        OnnxSession(version.path, version.card, hashlib.sha256(b"not a model").hexdigest())


def test_a_provider_that_is_not_installed_is_named(open_session: Open) -> None:
    assert "CUDAExecutionProvider" not in ort.get_available_providers()

    with pytest.raises(InvalidModel, match="CUDAExecutionProvider"):
        open_session(runtime={"execution_providers": ["CUDAExecutionProvider"]})


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda _: ["OtherProvider"])

    with pytest.raises(InvalidModel, match="did not start"):
        open_session()


def test_weights_outside_the_file_are_never_read(
    open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph()
    signs = model.graph.initializer[-1]
    (tmp_path / "weights.bin").write_bytes(signs.raw_data)
    onnx.external_data_helper.set_external_data(signs, "weights.bin")
    signs.ClearField("raw_data")
    monkeypatch.chdir(tmp_path)
    assert os.path.exists("weights.bin")  # noqa: PTH110  # where a runtime would look for it

    with pytest.raises(InvalidModel, match="ONNX Runtime refuses the file"):
        open_session(model)


def test_spinning_may_be_asked_for(open_session: Open) -> None:
    assert open_session(spin=True).run(PIXELS).shape == (4, 2)

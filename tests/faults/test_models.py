"""Models that hang, answer nothing a number, or are not the file that was registered.

Each behaves in its golden case, as a model that passed its checks does, and breaks on a bright
image.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from configs.settings import LimitSettings
from deployments.inference.host import ModelHost
from registry.contract import ModelRef
from registry.errors import InvalidModel
from registry.events import AuditAction
from storage.verify import verify
from tests.api.house import JPEG, House
from tests.faults.conftest import problem_of
from tests.inference.models import card, logits, node

DEADLINE_S = 2.0
TINY = "/infer?model=tiny"


def film(brightness: int) -> bytes:
    """A grey image with structure, 128 x 128, its mean at `brightness`."""
    noise = np.random.default_rng(1).normal(0, 40, (16, 16))
    grey = np.kron(noise, np.ones((8, 8))) + brightness
    file = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


DIM, BRIGHT = film(128), film(190)


def hanging() -> onnx.ModelProto:
    """Loops 2^62 times where the image is bright, else not at all."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["still"]), node("Add", ["v", "v"], ["twice"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, ["batch", 2]),
        ],
        [value("still", TensorProto.BOOL, []), value("twice", TensorProto.FLOAT, ["batch", 2])],
    )
    return logits(
        [
            node("Gather", ["plain", "second"], ["means"], axis=1),
            node("ReduceMax", ["means"], ["most"], keepdims=0),
            node("Greater", ["most", "limit"], ["bright"]),
            node("Cast", ["bright"], ["once"], to=TensorProto.INT64),
            node("Mul", ["once", "many"], ["count"]),
            node("Loop", ["count", "true", "plain"], ["logits"], body=body),
        ],
        second=np.array([1], np.int64),
        limit=np.array(0.5, np.float32),
        many=np.array(2**62, np.int64),
        true=np.array(True),
    )


def no_number() -> onnx.ModelProto:
    """Takes the root of a negative number where the image is bright."""
    return logits(
        [
            node("Gather", ["plain", "second"], ["means"], axis=1),
            node("Sub", ["limit", "means"], ["rest"]),
            node("Sqrt", ["rest"], ["root"]),
            node("Mul", ["root", "zero"], ["nothing"]),
            node("Add", ["plain", "nothing"], ["logits"]),
        ],
        second=np.array([1], np.int64),
        limit=np.array(0.5, np.float32),
        zero=np.array(0, np.float32),
    )


@pytest.fixture
def open_with(
    house_at: Callable[..., Any], sqlite_url: str, tmp_path: Path
) -> Callable[[onnx.ModelProto], Any]:
    """A house that serves this model as `tiny`."""

    async def opened(model: onnx.ModelProto) -> House:
        directory = tmp_path / "candidate"
        directory.mkdir()
        content = model.SerializeToString()
        document = json.loads(card(content, file="model.onnx").model_dump_json())
        (directory / "model.onnx").write_bytes(content)
        (directory / "card.yaml").write_text(yaml.safe_dump(document))
        house: House = await house_at(
            sqlite_url, directory, limits=LimitSettings(deadline_s=DEADLINE_S)
        )
        return house

    return opened


async def ask(house: House, image: bytes) -> Any:
    return await house.client("clara").post(TINY, content=image, headers=JPEG)


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [(hanging, 504, "inference-timeout"), (no_number, 500, "model-nonfinite-output")],
)
async def test_a_model_that_fails_one_image_is_recorded_and_answers_the_next(
    open_with: Callable[..., Any], model: Callable[[], onnx.ModelProto], status: int, code: str
) -> None:
    house = await open_with(model())

    before = await ask(house, DIM)
    failed = await ask(house, BRIGHT)
    after = await ask(house, DIM)

    assert (before.status_code, after.status_code) == (200, 200), before.text
    assert (failed.status_code, problem_of(failed)) == (status, code)
    problem = failed.json()
    (entry,) = await house.entries(AuditAction.INFERENCE_FAILED)
    assert entry["seq"] == problem["audit"]["seq"]
    stored = (await house.client("clara").get(f"/results/{problem['result_id']}")).json()
    assert (stored["outcome"], stored["prediction"], stored["scores"]) == ("failed", None, {})
    assert after.json()["scores"] == before.json()["scores"]
    assert (await verify(house.database)).problems == ()


async def test_a_file_that_was_changed_is_not_loaded_and_what_is_loaded_goes_on(
    open_with: Callable[..., Any], tmp_path: Path
) -> None:
    house = await open_with(no_number())
    (file,) = (tmp_path / "models").glob("*.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    served = house.services.inference._catalogue().active("tiny")
    assert isinstance(served.model, ModelRef)

    with pytest.raises(InvalidModel, match="registered"):
        ModelHost(served, threads=1, deadline_s=DEADLINE_S)

    assert (await ask(house, DIM)).status_code == 200

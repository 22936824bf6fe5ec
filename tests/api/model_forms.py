"""Forms that send a model over HTTP, and what is left of them."""

from typing import Any

import httpx2
import onnx
import yaml

from tests.api.house import House
from tests.inference.models import card as card_of
from tests.inference.models import graph

ROUTE = "/admin/models"
FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}

Upload = dict[str, tuple[str, bytes, str]]


def upload(model: onnx.ModelProto | None = None, **changes: Any) -> Upload:
    """The form of a small model and its card."""
    content = (graph() if model is None else model).SerializeToString()
    document = card_of(content).model_dump(mode="json", exclude_none=True) | changes
    return form(yaml.safe_dump(document).encode(), content)


def form(card: bytes, model: bytes) -> Upload:
    return {
        "card": ("card.yaml", card, "application/yaml"),
        "model": ("model.onnx", model, "application/octet-stream"),
    }


def part(name: str, body: bytes) -> bytes:
    head = b'--frontier\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
    return head % name.encode() + body + b"\r\n"


def left(house: House) -> list[str]:
    """What lies in the model directory."""
    directory = house.services.model_dir
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def rules(answer: httpx2.Response) -> list[str]:
    return [violation["rule"] for violation in answer.json()["violations"]]

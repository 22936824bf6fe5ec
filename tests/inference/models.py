"""Small ONNX models, made for one test, and the bundled ones."""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from registry.card import ModelCard
from registry.catalogue import Catalogue, Served
from registry.contract import ModelRef, Scores, Tensors
from registry.errors import ModelUnavailable

SIDE = 8


@cache
def bundled(name: str) -> Served:
    """A bundled model as the catalogue would give it."""
    directory = Path(str(files("registry") / "bundled" / name))
    card = ModelCard.model_validate(yaml.safe_load((directory / "card.yaml").read_text("utf-8")))
    model = ModelRef(UUID(int=len(name)), card.name, card.version, card.sha256)
    return Served(model, card, str(directory / card.file))


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, outputs, **attributes)


def graph(
    nodes: list[Any] | None = None,
    *,
    weights: dict[str, Any] | None = None,
    batch: str | int = "batch",
    shape: tuple[int, ...] = (1, SIDE, SIDE),
    labels: int = 2,
    name: str = "input",
    opset: int = 18,
    extra_opsets: tuple[tuple[str, int], ...] = (),
    functions: tuple[Any, ...] = (),
) -> onnx.ModelProto:
    """A model `input` -> `logits`. By default the mean of the pixels m gives (-m, m)."""
    if nodes is None:
        nodes = [
            node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
            node("Unsqueeze", ["mean", "last"], ["column"]),
            node("Mul", ["column", "signs"], ["logits"]),
        ]
        weights = {
            "axes": np.array([1, 2, 3], np.int64),
            "last": np.array([1], np.int64),
            "signs": np.array([[-1, 1]], np.float32),
        }
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, labels])],
        [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()],
    )
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in (("", opset), *extra_opsets)
    ]
    return helper.make_model(made, opset_imports=opsets, ir_version=10, functions=functions)


def logits(expression: list[Any], **weights: Any) -> onnx.ModelProto:
    """A model whose (-m, m) goes through `expression`, from `plain` to `logits`."""
    model = graph()
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.extend(expression)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, key) for key, value in weights.items()
    )
    return model


def card(content: bytes, **changes: Any) -> ModelCard:
    """A card for a model of `graph`'s shape. Its golden case is right for the default graph."""
    digest = hashlib.sha256(content).hexdigest()
    document: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "sha256": digest,
        "clinical_domain": "test",
        "intended_use": "tests",
        "input": {"height": SIDE, "width": SIDE, "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
        "output": {"activation": "softmax", "labels": ["DARK", "BRIGHT"]},
        "confidence_threshold": 0.5,
        "golden": {"seed": "g", "scores": {"DARK": 0.5, "BRIGHT": 0.5}, "tolerance": 0.05},
        "data": [{"title": "none", "authors": "none", "licence": "none"}],
        "licence": "none",
        "limits": ["a test"],
        **changes,
    }
    return ModelCard.model_validate(document)


def served(directory: Path, model: onnx.ModelProto | None = None, **changes: Any) -> Served:
    """A model saved in `directory`, with its card."""
    content = (graph() if model is None else model).SerializeToString()
    made = card(content, **changes)
    path = directory / f"{made.name}-{made.sha256}.onnx"
    path.write_bytes(content)
    ref = ModelRef(UUID(int=int(made.sha256[:8], 16)), made.name, made.version, made.sha256)
    return Served(ref, made, str(path))


class Known:
    """`Versions` of a fixed set of models."""

    def __init__(self, *versions: Served) -> None:
        self._by_id = {version.model.id: version for version in versions}
        self._catalogue = Catalogue(versions)

    def served(self, model: ModelRef) -> Served:
        try:
            return self._by_id[model.id]
        except KeyError:
            raise ModelUnavailable("this version is not known") from None

    async def learn(self, model: ModelRef) -> Served:
        return self.served(model)

    def current(self) -> Catalogue:
        return self._catalogue


class InProcess:
    """`Scoring` by hosts in this process. `broken` names models that fail, and how."""

    def __init__(self, hosts: dict[str, Any], broken: dict[str, Exception] | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self._hosts = hosts
        self._broken = broken or {}

    async def score(self, tensors: Tensors) -> Scores:
        name = tensors.model.name
        self.calls.append((name, len(tensors.pixels)))
        if name in self._broken:
            raise self._broken[name]
        scores: Scores = await self._hosts[name].score(tensors)
        return scores

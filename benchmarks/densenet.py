"""A DenseNet-121-sized model, written with `onnx.helper`: a real topology with random weights.

Huang et al., "Densely Connected Convolutional Networks" (CVPR 2017), table 1, column DenseNet-121,
for one grey channel and two labels: 7 x 7 convolution, four dense blocks of 6, 12, 24 and 16 layers
(growth rate 32, bottleneck 4 x 32), transitions that halve channels and sides, global average
pooling, one linear layer. CheXNet and its many successors have this size (7 million weights, 5.7
billion operations on 224 x 224), so it stands for what hospitals run; its answers mean nothing.

The same seed gives the same bytes: weights are uniform (He et al., ICCV 2015, by fan-in), drawn
from PCG64, batch normalisation is near the identity.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.classifier import Classifier
from registry.card import GoldenCase, InputSpec, ModelCard

NAME = "densenet121"
VERSION = "1.0.0"
GROWTH = 32
BOTTLENECK = 4 * GROWTH
BLOCKS = (6, 12, 24, 16)
STEM = 64
SIDE = 224
LABELS = ("NORMAL", "ABNORMAL")
SEED = 121
OPSET = 18
IR_VERSION = 10
EPSILON = 1e-5
TOLERANCE = 0.001


@dataclass(slots=True)
class _Graph:
    """A graph in the making. Each method adds nodes after `tensor` and returns the new name."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float32]:
        drawn = self.random.random(shape, dtype=np.float32)
        return (drawn * np.float32(high - low) + np.float32(low)).astype(np.float32)

    def node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(
        self, tensor: str, name: str, channels: tuple[int, int], kernel: int, stride: int = 1
    ) -> str:
        """A convolution without bias; `channels` in and out, padding keeps the side."""
        inward, outward = channels
        bound = math.sqrt(6 / (inward * kernel * kernel))
        shape = (outward, inward, kernel, kernel)
        return self.node(
            "Conv",
            name,
            [tensor, self.weight(f"{name}.w", self.uniform(-bound, bound, *shape))],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def norm_relu(self, tensor: str, name: str, channels: int) -> str:
        """Batch normalisation and rectifier."""
        parameters = {
            "scale": self.uniform(0.9, 1.1, channels),
            "bias": self.uniform(-0.1, 0.1, channels),
            "mean": self.uniform(-0.1, 0.1, channels),
            "variance": self.uniform(0.9, 1.1, channels),
        }
        names = [self.weight(f"{name}.{part}", drawn) for part, drawn in parameters.items()]
        norm = self.node("BatchNormalization", f"{name}.norm", [tensor, *names], epsilon=EPSILON)
        return self.node("Relu", f"{name}.relu", [norm])

    def dense_layer(self, tensor: str, name: str, channels: int) -> str:
        """`GROWTH` new channels beside those there are."""
        inner = self.norm_relu(tensor, f"{name}.1", channels)
        inner = self.conv(inner, f"{name}.1.conv", (channels, BOTTLENECK), 1)
        inner = self.norm_relu(inner, f"{name}.2", BOTTLENECK)
        inner = self.conv(inner, f"{name}.2.conv", (BOTTLENECK, GROWTH), 3)
        return self.node("Concat", f"{name}.concat", [tensor, inner], axis=1)

    def transition(self, tensor: str, name: str, channels: int) -> str:
        """Half the channels, half the side."""
        inner = self.norm_relu(tensor, name, channels)
        inner = self.conv(inner, f"{name}.conv", (channels, channels // 2), 1)
        return self.node(
            "AveragePool", f"{name}.pool", [inner], kernel_shape=[2, 2], strides=[2, 2]
        )


def build(seed: int = SEED) -> onnx.ModelProto:
    """The graph: `input` float32 (batch, 1, 224, 224) to `logits` float32 (batch, 2)."""
    graph = _Graph(np.random.Generator(np.random.PCG64(seed)))
    tensor = graph.conv("input", "stem.conv", (1, STEM), 7, stride=2)
    tensor = graph.norm_relu(tensor, "stem", STEM)
    tensor = graph.node(
        "MaxPool", "stem.pool", [tensor], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    channels = STEM
    for number, layers in enumerate(BLOCKS, start=1):
        for layer in range(1, layers + 1):
            tensor = graph.dense_layer(tensor, f"block{number}.{layer}", channels)
            channels += GROWTH
        if number < len(BLOCKS):
            tensor = graph.transition(tensor, f"transition{number}", channels)
            channels //= 2
    tensor = graph.norm_relu(tensor, "head", channels)
    tensor = graph.node("GlobalAveragePool", "head.pool", [tensor])
    tensor = graph.node("Flatten", "head.flat", [tensor], axis=1)
    bound = 1 / math.sqrt(channels)
    linear = [
        graph.weight("head.linear.w", graph.uniform(-bound, bound, len(LABELS), channels)),
        graph.weight("head.linear.b", graph.uniform(-bound, bound, len(LABELS))),
    ]
    graph.node("Gemm", "logits", [tensor, *linear], transB=1)
    return _model(graph)


def _model(graph: _Graph) -> onnx.ModelProto:
    made = helper.make_graph(
        graph.nodes,
        NAME,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        graph.weights,
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="medai-flow-bench",
    )


def write(folder: Path) -> Path:
    """Write `<folder>/densenet121/{model.onnx, card.yaml}`, unless it is there; returns the folder.

    The golden case is computed here, with the ONNX Runtime that is installed.
    """
    target = folder / NAME
    body = build().SerializeToString(deterministic=True)
    digest = hashlib.sha256(body).hexdigest()
    card_file = target / "card.yaml"
    if card_file.is_file() and digest in card_file.read_text("utf-8"):
        return target
    target.mkdir(parents=True, exist_ok=True)
    model_file = target / "model.onnx"
    model_file.write_bytes(body)
    card = _card(digest, scores=dict.fromkeys(LABELS, 0.0))
    scores = _golden_scores(model_file, card)
    document = _card(digest, scores=scores).model_dump_json(exclude_defaults=True)
    card_file.write_text(yaml.safe_dump(json.loads(document), sort_keys=False), "utf-8")
    return target


def _golden_scores(model_file: Path, card: ModelCard) -> dict[str, float]:
    spec = card.input
    pixels = np.frombuffer(card.golden.pixels(spec), np.uint8)
    classifier = Classifier(model_file, card)
    tensor = classifier.normalise(pixels.reshape(1, spec.channels, spec.height, spec.width))
    (scores,) = classifier.scores(tensor)
    return {label: round(float(score), 6) for label, score in zip(LABELS, scores, strict=True)}


def _card(digest: str, scores: dict[str, float]) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": NAME,
            "version": VERSION,
            "sha256": digest,
            "clinical_domain": "benchmark",
            "intended_use": "Measuring throughput. The weights are random: no clinical use.",
            "architecture": "DenseNet-121, one channel, two labels, random weights",
            "input": InputSpec(
                height=SIDE, width=SIDE, scale=1 / 255, mean=(0.5,), std=(0.25,)
            ).model_dump(),
            "output": {"activation": "softmax", "labels": LABELS},
            "confidence_threshold": 0.0,
            "golden": GoldenCase(
                seed="medai-bench", scores=scores, tolerance=TOLERANCE
            ).model_dump(),
            "data": [{"title": "none", "authors": "none", "licence": "none"}],
            "licence": "Apache-2.0",
            "limits": ["Random weights: an answer means nothing."],
        }
    )

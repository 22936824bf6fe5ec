"""Other versions of the bundled chest model: the same graph, with another last bias."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from deployments.inference.onnx import OnnxSession
from deployments.inference.registration import bundled_directories
from registry.card import ModelCard

NAME = "cxr-pneumonia"
BIAS = "n.fc.bias"


def challenger(directory: Path, version: str, shift: float, *, honest: bool = True) -> Path:
    """Write card and file of a version whose logits differ by `shift`.

    Args:
        directory: Where; made.
        version: The version's number.
        shift: What is added to the last bias of the second label.
        honest: Whether the golden scores are the version's own; else the bundled model's.
    """
    (source,) = (path for path in bundled_directories() if path.name == NAME)
    model = onnx.load(source / "model.onnx")
    (bias,) = (one for one in model.graph.initializer if one.name == BIAS)
    shifted = numpy_helper.to_array(bias) + np.array([0, shift], np.float32)
    bias.CopyFrom(numpy_helper.from_array(shifted, BIAS))
    directory.mkdir(parents=True)
    content = model.SerializeToString()
    (directory / "model.onnx").write_bytes(content)
    card = yaml.safe_load((source / "card.yaml").read_text())
    card |= {"version": version, "sha256": hashlib.sha256(content).hexdigest()}
    if honest:
        card["golden"]["scores"] = golden_scores(directory / "model.onnx", card)
    (directory / "card.yaml").write_text(yaml.safe_dump(card))
    return directory


def golden_scores(path: Path, document: dict[str, object]) -> dict[str, float]:
    """What the file answers to its golden case."""
    card = ModelCard.model_validate(document)
    spec = card.input
    pixels = np.frombuffer(card.golden.pixels(spec), np.uint8)
    session = OnnxSession(str(path), card, card.sha256)
    (row,) = session.run(pixels.reshape(1, spec.channels, spec.height, spec.width))
    session.close()
    return {label: float(score) for label, score in zip(card.output.labels, row, strict=True)}

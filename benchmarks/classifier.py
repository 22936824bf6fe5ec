"""The work every row does for an image: decode, resize, normalise, run. The fastest honest way.

Used as it stands by the rows without a service (raw), by bare FastAPI and by LitServe. The service
has code of its own for it; `run` checks that all rows give the same scores for the same image.

ONNX Runtime is set the same everywhere: `threads` intra-op threads, one inter-op thread, no
spinning, all graph optimisations. JPEG files are decoded as luma only, as the service does it.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import yaml
from numpy.typing import NDArray
from PIL import Image

from registry.card import ModelCard


class Classifier:
    """One model in one ONNX Runtime session.

    Args:
        model_file: The ONNX file.
        card: What its tensor looks like and what its answer means.
        threads: ONNX Runtime's intra-op threads.
    """

    def __init__(self, model_file: Path, card: ModelCard, threads: int = 1) -> None:
        self.card = card
        self._session = onnxruntime.InferenceSession(
            str(model_file), session_options(threads), providers=["CPUExecutionProvider"]
        )
        spec = card.input
        self._size = (spec.width, spec.height)
        self._mode = "L" if spec.channels == 1 else "RGB"
        shape = (1, spec.channels, 1, 1)
        mean, std = (np.asarray(part, np.float32).reshape(shape) for part in (spec.mean, spec.std))
        self._factor = (np.float32(spec.scale) / std).astype(np.float32)
        self._offset = (-mean / std).astype(np.float32)

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Classifier":
        """The model of a folder that holds `card.yaml` and the file it names."""
        card = load_card(folder)
        return cls(folder / card.file, card, threads)

    def decode(self, body: bytes) -> NDArray[np.uint8]:
        """JPEG to pixels of the model's size: uint8, shape (1, channels, height, width)."""
        file = Image.open(BytesIO(body), formats=["JPEG"])
        file.draft(self._mode, file.size)
        image: Image.Image = file
        if image.mode != self._mode:
            image = image.convert(self._mode)
        if image.size != self._size:
            image = image.resize(self._size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(v * scale - mean) / std, float32, the same shape."""
        tensor = pixels.astype(np.float32)
        tensor *= self._factor
        tensor += self._offset
        return tensor

    def scores(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of a batch: float32, shape (n, labels), after the card's activation."""
        (values,) = self._session.run([self.card.output.name], {self.card.input.name: tensor})
        match self.card.output.activation:
            case "softmax":
                raised = np.exp(values - values.max(axis=1, keepdims=True))
                return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)
            case "sigmoid":
                return np.asarray(1 / (1 + np.exp(-values)), np.float32)
            case _:
                return np.asarray(values, np.float32)

    def answer(self, scores: NDArray[np.float32]) -> dict[str, object]:
        """What a caller gets for one image; `scores` has shape (labels,)."""
        labels = self.card.output.labels
        return {
            "prediction": labels[int(scores.argmax())],
            "scores": dict(zip(labels, scores.tolist(), strict=True)),
        }


def load_card(folder: Path) -> ModelCard:
    """The card in `folder`."""
    return ModelCard.model_validate(yaml.safe_load((folder / "card.yaml").read_text("utf-8")))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The settings of every row."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options

"""One ONNX Runtime session: the only file that imports onnxruntime.

Rules this file keeps:

- The bytes that are hashed are the bytes that run: the file is read once.
- The graph must be what the card says, and its providers there: nothing falls back silently.
- Every run has a deadline; a graph that loops is stopped (`RunOptions.terminate`).
- A non-finite logit makes NaN of that row, and of no other: one image's trouble stays its own.
"""

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from registry.card import ModelCard
from registry.errors import (
    Failed,
    InferenceTimeout,
    Internal,
    InvalidModel,
    Violation,
)

Scores = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_FLOAT = "tensor(float)"
# Where external weights would be looked for. Below it nothing can exist, so none are ever read.
_NOWHERE = "/dev/null/none"
_ERRORS_ONLY = 3  # ONNX Runtime's severity


class OnnxSession:
    """A session that is what its card says. May be used from several threads.

    Args:
        path: The model file.
        card: What the file must be.
        sha256: Digest of the registered file, hex.
        threads: Threads of one run.
        deadline_s: When a run is stopped.
        spin: Whether threads wait for work by spinning: quicker, but takes a core while idle.

    Raises:
        InvalidModel: The file is missing, is another one, or is not what the card says.
    """

    def __init__(
        self,
        path: str,
        card: ModelCard,
        sha256: str,
        *,
        threads: int = 1,
        deadline_s: float = 30.0,
        spin: bool = False,
    ) -> None:
        self._card = card
        self._session = load_session(
            _verified(path, sha256), card.runtime.execution_providers, threads=threads, spin=spin
        )
        _check_signature(self._session, card)
        self._watchdog = _Watchdog(deadline_s)
        shape = (1, card.input.channels, 1, 1)
        mean, std = (np.asarray(part, np.float64) for part in (card.input.mean, card.input.std))
        self._gain = (card.input.scale / std).astype(np.float32).reshape(shape)
        self._offset = (-mean / std).astype(np.float32).reshape(shape)

    def run(self, pixels: Pixels) -> Scores:
        """Scores of each image, after the card's activation.

        Args:
            pixels: uint8 on the display scale, shape (n, channels, height, width).

        Returns:
            float32, shape (n, labels). A row whose logits are not all finite is NaN throughout.

        Raises:
            InferenceTimeout: The deadline passed.
            Internal: ONNX Runtime failed.
        """
        tensor = np.multiply(pixels, self._gain, dtype=np.float32)  # (v * scale - mean) / std
        tensor += self._offset
        spec = self._card.output
        options = ort.RunOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            with self._watchdog.over(options):
                (logits,) = self._session.run(
                    [spec.name], {self._card.input.name: tensor}, run_options=options
                )
        except Exception as error:  # noqa: BLE001  # ONNX Runtime has no common root of its errors
            raise _run_error(error, stopped=options.terminate) from None
        scores = _activate(logits, spec.activation)
        scores[~np.isfinite(logits).all(axis=1)] = np.nan
        return scores

    def golden(self) -> float:
        """Run the card's golden case, and tell by how much the score that is most off is off.

        Raises:
            InvalidModel: A score is off by more than the card's tolerance; all such are named.
        """
        case, spec = self._card.golden, self._card.input
        shape = (1, spec.channels, spec.height, spec.width)
        pixels = np.frombuffer(case.pixels(spec), np.uint8).reshape(shape)
        try:
            (scores,) = self.run(pixels)
        except Failed as error:
            raise InvalidModel(f"the golden case did not run: {error.detail}") from None
        violations = tuple(
            Violation(
                f"golden.scores.{label}",
                f"{score:.7f}",
                f"{case.scores[label]:.7f} within {case.tolerance:g}",
                "this file does not compute what was registered; register it anew",
            )
            for label, score in zip(self._card.output.labels, scores, strict=True)
            if not abs(float(score) - case.scores[label]) <= case.tolerance  # NaN is off, too
        )
        if violations:
            raise InvalidModel("the golden case fails", violations)
        return max(
            abs(float(score) - case.scores[label])
            for label, score in zip(self._card.output.labels, scores, strict=True)
        )

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Run once at each batch size, so that no caller pays for first allocations."""
        spec = self._card.input
        for size in batch_sizes:
            self.run(np.zeros((size, spec.channels, spec.height, spec.width), np.uint8))

    def close(self) -> None:
        """End the watchdog. The session itself goes with the last reference."""
        self._watchdog.close()


class _Watchdog:
    """Stops runs at their deadline.

    One thread looks at all runs of a session now and then; a timer would start a thread a run.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._runs: dict[int, tuple[float, ort.RunOptions]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="onnx-watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def over(self, options: ort.RunOptions) -> Iterator[None]:
        self._runs[id(options)] = (time.monotonic() + self._deadline_s, options)
        try:
            yield
        finally:
            del self._runs[id(options)]

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._deadline_s / 4, 0.25)):
            now = time.monotonic()
            for deadline, options in list(self._runs.values()):
                if now > deadline:
                    options.terminate = True


def _verified(path: str, sha256: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError:
        raise InvalidModel("the model file cannot be read") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise InvalidModel(
            "the model file is not the registered one",
            (Violation("sha256", digest, sha256, "restore the file, or register this one anew"),),
        )
    return content


def load_session(
    content: bytes, providers: tuple[str, ...], *, threads: int = 1, spin: bool = False
) -> ort.InferenceSession:
    """A session of a model's bytes, with exactly these execution providers.

    Raises:
        InvalidModel: A provider is missing or does not start, or ONNX Runtime refuses the file.
    """
    there = ort.get_available_providers()
    missing = [name for name in providers if name not in there]
    if missing:
        raise InvalidModel(
            "an execution provider of the card is not installed",
            (
                Violation(
                    "runtime.execution_providers",
                    ", ".join(there),
                    ", ".join(providers),
                    "install the ONNX Runtime build that has it, or change the card",
                ),
            ),
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NOWHERE
    )
    try:
        session = ort.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # noqa: BLE001  # ONNX Runtime has no common root of its errors
        raise InvalidModel(_refusal("ONNX Runtime refuses the file", error)) from None
    active = session.get_providers()
    if not set(providers) <= set(active):  # it falls back to the CPU with no more than a log line
        raise InvalidModel(
            "an execution provider of the card did not start",
            (Violation("runtime.execution_providers", ", ".join(active), ", ".join(providers)),),
        )
    return session


def _check_signature(session: ort.InferenceSession, card: ModelCard) -> None:
    """The graph's inputs and outputs against the card. Raises `InvalidModel`, all faults named."""
    spec = card.input
    inputs = {node.name: (node.type, list(node.shape)) for node in session.get_inputs()}
    outputs = {node.name: (node.type, list(node.shape)) for node in session.get_outputs()}
    image = [spec.channels, spec.height, spec.width]
    violations = []
    kind, shape = inputs.get(spec.name, ("", []))
    if list(inputs) != [spec.name] or kind != _FLOAT or shape[1:] != image:
        limit = f"{spec.name}: {_FLOAT} [batch, {', '.join(map(str, image))}]"
        violations.append(Violation("input", _described(inputs), limit, "correct the card"))
    elif isinstance(shape[0], int):
        violations.append(
            Violation("input.batch", str(shape[0]), "dynamic", "export with a dynamic batch")
        )
    kind, shape = outputs.get(card.output.name, ("", []))
    if kind != _FLOAT or shape[1:] != [len(card.output.labels)]:
        limit = f"{card.output.name}: {_FLOAT} [batch, {len(card.output.labels)}]"
        violations.append(Violation("output", _described(outputs), limit, "correct the card"))
    if violations:
        raise InvalidModel("the graph is not what the card says", tuple(violations))


def _described(nodes: dict[str, tuple[str, list[int | str | None]]]) -> str:
    return "; ".join(
        f"{name}: {kind} [{', '.join(map(str, shape))}]" for name, (kind, shape) in nodes.items()
    )


def _activate(logits: NDArray[np.float32], activation: str) -> Scores:
    if activation == "softmax":
        with np.errstate(invalid="ignore"):  # infinity minus infinity; the row becomes NaN anyway
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores: Scores = powers / powers.sum(axis=1, keepdims=True)
        return scores
    if activation == "sigmoid":
        halves: Scores = np.tanh(logits * np.float32(0.5))  # the sigmoid that never overflows
        halves *= np.float32(0.5)
        halves += np.float32(0.5)
        return halves
    return logits.copy()


def _run_error(error: Exception, *, stopped: bool) -> Failed:
    if stopped:
        return InferenceTimeout("the model did not answer in time", retry_after_s=1)
    return Internal(_refusal("ONNX Runtime failed", error))


def _refusal(what: str, error: Exception) -> str:
    """The error's kind, never its text: that may quote the file. Want of memory has no kind."""
    text = str(error)
    starved = isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text
    return f"{what} ({'out of memory' if starved else type(error).__name__})"

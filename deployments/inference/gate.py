"""The gate: another model that must first say that an image is of the kind the model was made for.

A classifier that knows only pneumonia and its absence finds one of the two in a head CT. The gate
sees the image first; what it does not accept gets no label (`OUT_OF_DOMAIN`). It is small, and runs
in the Validator's own process: no hop, about 0.25 ms an image.
"""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from deployments.inference.onnx import OnnxSession
from deployments.inference.screening import Candidate, after_gate
from registry.card import Gate
from registry.catalogue import Served
from registry.contract import GateVerdict, ModelRef, Verdict
from registry.errors import Failed, InvalidModel, ModelNonfiniteOutput, ModelUnavailable

KEPT = 4  # sessions; older versions are let go


class Gates:
    """The gate models' sessions. Loads each once, on first use. May be used from several threads.

    Args:
        deadline_s: When a run is stopped.
    """

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._sessions: dict[ModelRef, OnnxSession] = {}
        self._lock = threading.Lock()

    def judge(self, candidates: list[Candidate]) -> list[Candidate | Verdict]:
        """Ask the gate of each image, which is the same for all of them.

        Returns:
            In order, the candidates it accepts, and the verdicts where it does not, or cannot say.
        """
        started = time.perf_counter()
        judgements = self._judgements(candidates)
        gate_ms = (time.perf_counter() - started) * 1e3
        return [
            after_gate(candidate, judgement, gate_ms)
            for candidate, judgement in zip(candidates, judgements, strict=True)
        ]

    def close(self) -> None:
        """Let the sessions go."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def _session(self, served: Served) -> OnnxSession:
        """Raises `InvalidModel` where the file is another one, or fails its golden case."""
        with self._lock:
            session = self._sessions.get(served.model)
            if session is None:
                session = OnnxSession(
                    served.path, served.card, served.model.sha256, deadline_s=self._deadline_s
                )
                session.golden()
                while len(self._sessions) >= KEPT:
                    self._sessions.pop(next(iter(self._sessions))).close()
                self._sessions[served.model] = session
            return session

    def _judgements(self, candidates: list[Candidate]) -> list[GateVerdict | Failed]:
        served = candidates[0].gate
        assert served is not None  # only candidates with a gate come here
        tensors = np.stack([candidate.prepared.tensors[1] for candidate in candidates])
        try:
            scores = self._session(served).run(tensors)
        except InvalidModel:
            return [ModelUnavailable("the gate model cannot be used") for _ in candidates]
        except Failed as error:
            return [error for _ in candidates]
        return [
            _judgement(served, candidate.served.card.gate, row)
            for candidate, row in zip(candidates, scores, strict=True)
        ]


def _judgement(
    served: Served, rule: Gate | None, scores: NDArray[np.float32]
) -> GateVerdict | Failed:
    assert rule is not None  # as above
    if not np.isfinite(scores).all():
        return ModelNonfiniteOutput("the gate model's answer is not finite for this image")
    labels = served.card.output.labels
    accepted = sum(
        float(score) for label, score in zip(labels, scores, strict=True) if label in rule.accept
    )
    return GateVerdict(
        model=served.model,
        label=labels[int(scores.argmax())],
        score=accepted,
        at_least=rule.at_least,
        passed=accepted >= rule.at_least,
    )

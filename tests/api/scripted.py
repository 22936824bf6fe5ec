"""A core that a test scripts: a trail that refuses, a screening whose verdicts are given."""

from collections.abc import Callable, Sequence
from typing import Protocol

from registry.contract import Check as Rule
from registry.contract import (
    GateVerdict,
    ImageFacts,
    Outcome,
    Reason,
    Receipt,
    Upload,
    Validation,
    Verdict,
)
from registry.errors import MedAIError
from registry.events import AuditEvent
from storage.ledger import Ledger


class Writing(Protocol):
    """A ledger, or the recorder around one."""

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        """A receipt for each event, or what refused it."""
        ...


class LedgerTrail:
    """The AuditWriter in process: the real ledger, one event at a time. `refuse` makes it fail."""

    def __init__(self, ledger: Ledger) -> None:
        self.refuse: MedAIError | None = None
        self.groups: list[int] = []  # sizes of what was to be recorded together
        self._ledger: Writing = ledger

    def write_through(self, writer: "Writing") -> None:
        """Record by another writer from now on."""
        self._ledger = writer

    async def record(self, event: AuditEvent) -> Receipt:
        if self.refuse is not None:
            raise self.refuse
        (outcome,) = await self._ledger.append([event])
        if isinstance(outcome, MedAIError):
            raise outcome
        return outcome

    async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        if self.refuse is not None:
            raise self.refuse
        self.groups.append(len(events))
        return await self._ledger.append(list(events))


class ScriptedScreening:
    """The Validator where the image is not the point: every upload gets the verdict set here."""

    def __init__(self) -> None:
        self.verdict: Callable[[Upload], Verdict] = predicted
        self.uploads: list[Upload] = []

    async def screen(self, upload: Upload) -> Verdict:
        self.uploads.append(upload)
        return self.verdict(upload)


def facts(upload: Upload) -> ImageFacts:
    return ImageFacts(sha256="ab" * 32, size_bytes=len(upload.body), format="JPEG", width=64)


def predicted(upload: Upload) -> Verdict:
    """A verdict with everything in it."""
    checks = (
        Rule("brightness", 0.47, "0.08 to 0.92", passed=True),
        Rule("view", "AP", "PA", passed=False, code="WRONG_VIEW", advice="use PA"),
    )
    return Verdict(
        outcome=Outcome.PREDICTED,
        facts=facts(upload),
        validation=Validation(is_valid=True, score=0.9, checks=checks),
        prediction="PNEUMONIA",
        confidence=0.75,
        scores={"NORMAL": 0.25, "PNEUMONIA": 0.75},
        threshold=0.5,
        needs_review=True,
        reasons=(Reason.OUTSIDE_INTENDED_USE,),
        gate=GateVerdict(upload.model, "CXR", 0.99, 0.5, passed=True),
        patient=upload.patient,
        decode_ms=1.25,
        inference_ms=1.0,
    )


def refused(error: MedAIError) -> Callable[[Upload], Verdict]:
    """A verdict that is a problem."""

    def verdict(upload: Upload) -> Verdict:
        return Verdict(Outcome.REJECTED, facts(upload), patient=upload.patient, error=error)

    return verdict

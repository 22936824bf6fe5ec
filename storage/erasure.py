"""Forgetting a patient, so that the log still verifies (GDPR, article 17).

The log holds SHA-256(domain || salt || pseudonym) and nothing else of a patient. Erasing removes
the salts, and the pseudonym from the results. What stays is an answer about nobody: image hash,
measurements, scores. The digests of the patient's requests go too, also from the other results of
the same batch, for the pseudonym went into them; their idempotency keys are then 409 for everybody.

A commitment without its salt stands in the log as an erasure that can be counted: `check_erasures`
compares with what the entries of erasures say, so forgetting leaves a trace and hiding a patient
beside the log is found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from registry.errors import NotFound, Violation
from registry.events import PatientErased
from storage.findings import Findings, Flaw
from storage.hashchain import Json
from storage.tables import AuditSubject, InferenceResult

KIND = "patient_erased"


async def erase_patient(session: AsyncSession, change: PatientErased) -> dict[str, Json]:
    """Remove what leads from results and log to the patient.

    Returns:
        What the entry says: how many results were concerned, never whose.

    Raises:
        NotFound: No result is this patient's, or all were erased before.
    """
    erased = await session.execute(
        delete(AuditSubject).where(AuditSubject.patient_id == change.pseudonym)
    )
    of_patient = InferenceResult.patient_id == change.pseudonym
    digests = select(InferenceResult.request_digest).where(
        of_patient, InferenceResult.request_digest.is_not(None)
    )
    await session.execute(
        update(InferenceResult)
        .where(InferenceResult.request_digest.in_(digests))
        .values(request_digest=None)
    )
    emptied = await session.execute(
        update(InferenceResult).where(of_patient).values(patient_id=None)
    )
    assert isinstance(erased, CursorResult)
    assert isinstance(emptied, CursorResult)
    if not erased.rowcount and not emptied.rowcount:
        raise NotFound(
            "no result of this patient",
            (Violation("patient", advice="give the id as the site writes it, or the pseudonym"),),
        )
    return {"kind": KIND, "results": emptied.rowcount, "commitments": erased.rowcount}


async def check_erasures(
    session: AsyncSession,
    committed: int,
    changes: Sequence[tuple[int, Mapping[str, Any]]],
    findings: Findings,
) -> None:
    """Every patient who is gone was erased by an entry.

    Args:
        session: Of the verification.
        committed: How many entries commit to a patient.
        changes: What the entries changed, with their numbers.
        findings: Where to write what is wrong.
    """
    told = sum(
        change["commitments"]
        for _, change in changes
        if change.get("kind") == KIND and isinstance(change.get("commitments"), int)
    )
    kept = await session.scalar(select(func.count()).select_from(AuditSubject)) or 0
    if committed - kept != told:
        findings.add(
            0, Flaw.SUBJECT, f"{committed - kept} patients are gone, the log tells of {told}"
        )

"""Lists of recorded results, the newest first, in the caller's transaction.

Rules this file keeps:

- The order is that of the ids. They are UUIDv7 (RFC 9562), so it is that of time, no two are
  equal, and a list that grows at its beginning never shifts what was read after a cursor.
- A cursor is the id of a result: what comes after it is found in an index, O(log n + page). Page
  numbers count the ids they pass over, in an index alone and from the nearer end; only the rows of
  the page are read.
- Every filter has an index in the order of the ids (tests/storage/test_result_pages.py looks at
  the plans); a range of time is a range of ids first, and is then checked to the microsecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import ModelRef, Outcome, Reason, Receipt
from storage.tables import AuditLog, InferenceResult, ModelVersion

# A result's id is made before its `created_at`, by at most the deadline, or by a clock's step.
CLOCKS_APART: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results are wanted; None is any.

    Attributes:
        created_by: Whose.
        model: A model's name, or the id of one of its versions.
        model_version: A version number of whatever model.
        outcome: How the inference ended.
        patient: A pseudonym.
        since: Not older than this, aware.
        until: Older than this, aware.
        needs_review: Whether a person must look.
    """

    created_by: UUID | None = None
    model: str | UUID | None = None
    model_version: str | None = None
    outcome: Outcome | None = None
    patient: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    needs_review: bool | None = None


@dataclass(frozen=True, slots=True)
class ListedResult:
    """What a list shows of a result."""

    result_id: UUID
    created_at: datetime
    created_by: UUID
    model: ModelRef
    outcome: Outcome
    prediction: str | None
    confidence: float | None
    needs_review: bool
    reasons: tuple[Reason, ...]
    error_code: str | None
    patient: str | None
    receipt: Receipt


class ResultPages:
    """Pages of the results that a filter lets through.

    Args:
        session: The caller's transaction.
        wanted: Which results.
    """

    def __init__(self, session: AsyncSession, wanted: ResultFilter) -> None:
        self._session = session
        self._wanted = wanted
        self._where: Sequence[ColumnElement[bool]] | None = None

    async def total(self) -> int:
        """How many there are. Counts in an index: O(n)."""
        wanted = select(func.count()).select_from(InferenceResult)
        return (await self._session.scalar(wanted.where(*await self._conditions()))) or 0

    async def numbered(self, page: int, size: int, *, total: int) -> tuple[ListedResult, ...]:
        """Page number `page` (from 1) of `total` results."""
        first = (page - 1) * size
        if first >= total:
            return ()
        count = min(size, total - first)
        ids = select(InferenceResult.id)
        behind = total - first - count
        if first <= behind:
            ids = ids.order_by(InferenceResult.id.desc()).offset(first)
        else:  # nearer to the other end
            ids = ids.order_by(InferenceResult.id).offset(behind)
        return await self._listed(ids, count)

    async def after(self, result_id: UUID, size: int) -> tuple[ListedResult, ...]:
        """At most `size` results that are older than the one with this id, which may be gone."""
        ids = select(InferenceResult.id).where(InferenceResult.id < result_id)
        return await self._listed(ids.order_by(InferenceResult.id.desc()), size)

    async def before(self, result_id: UUID, size: int) -> tuple[ListedResult, ...]:
        """At most `size` results that are newer than the one with this id: those next to it."""
        ids = select(InferenceResult.id).where(InferenceResult.id > result_id)
        return await self._listed(ids.order_by(InferenceResult.id), size)

    async def _listed(self, ids: Select[Any], size: int) -> tuple[ListedResult, ...]:
        """First the ids, then their rows: as one statement, SQLite may begin with the log."""
        wanted = ids.where(*await self._conditions()).limit(size)
        page = (await self._session.scalars(wanted)).all()
        if not page:
            return ()
        found = await self._session.execute(_LISTED.where(InferenceResult.id.in_(page)))
        return tuple(_listed(row) for row in found)

    async def _conditions(self) -> Sequence[ColumnElement[bool]]:
        if self._where is None:
            self._where = [*_conditions(self._wanted), *await self._of_model()]
        return self._where

    async def _of_model(self) -> Sequence[ColumnElement[bool]]:
        """The versions by their ids, because only so the planner sees that an index fits."""
        wanted = self._wanted
        if wanted.model is None and wanted.model_version is None:
            return ()
        column = ModelVersion.id if isinstance(wanted.model, UUID) else ModelVersion.model_name
        versions = select(ModelVersion.id)
        if wanted.model is not None:
            versions = versions.where(column == wanted.model)
        if wanted.model_version is not None:
            versions = versions.where(ModelVersion.version == wanted.model_version)
        found = (await self._session.scalars(versions)).all()
        if len(found) == 1:
            return (InferenceResult.model_version_id == found[0],)
        return (InferenceResult.model_version_id.in_(found),)


def _conditions(wanted: ResultFilter) -> Sequence[ColumnElement[bool]]:
    pairs = (
        (InferenceResult.created_by, wanted.created_by),
        (InferenceResult.outcome, wanted.outcome),
        (InferenceResult.patient_id, wanted.patient),
        (InferenceResult.needs_review, wanted.needs_review),
    )
    conditions = [column == value for column, value in pairs if value is not None]
    if wanted.since is not None:
        conditions.append(InferenceResult.created_at >= wanted.since)
        conditions.append(InferenceResult.id >= first_id(wanted.since - CLOCKS_APART))
    if wanted.until is not None:
        conditions.append(InferenceResult.created_at < wanted.until)
        conditions.append(InferenceResult.id < first_id(wanted.until + CLOCKS_APART))
    return conditions


def first_id(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment: 48 bits of milliseconds since 1970 (RFC 9562, 5.7)."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)


_LISTED = (
    select(
        InferenceResult.id,
        InferenceResult.created_at,
        InferenceResult.created_by,
        InferenceResult.outcome,
        InferenceResult.prediction,
        InferenceResult.confidence_score,
        InferenceResult.needs_review,
        InferenceResult.reasons,
        InferenceResult.error_code,
        InferenceResult.patient_id,
        ModelVersion.id.label("model_id"),
        ModelVersion.model_name,
        ModelVersion.version,
        ModelVersion.file_hash,
        AuditLog.event_id,
        AuditLog.seq,
        AuditLog.entry_hash,
        AuditLog.created_at.label("recorded_at"),
    )
    .join(ModelVersion, ModelVersion.id == InferenceResult.model_version_id)
    .join(AuditLog, AuditLog.inference_result_id == InferenceResult.id)
    .order_by(InferenceResult.id.desc())
)


def _listed(row: Any) -> ListedResult:
    return ListedResult(
        result_id=row.id,
        created_at=row.created_at,
        created_by=row.created_by,
        model=ModelRef(row.model_id, row.model_name, row.version, row.file_hash),
        outcome=Outcome(row.outcome),
        prediction=row.prediction,
        confidence=row.confidence_score,
        needs_review=row.needs_review,
        reasons=tuple(Reason(reason) for reason in row.reasons.split(",") if reason),
        error_code=row.error_code,
        patient=row.patient_id,
        receipt=Receipt(row.event_id, row.seq, row.entry_hash, row.recorded_at),
    )

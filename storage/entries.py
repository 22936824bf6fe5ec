"""From an event to its rows: what an audit payload holds, and what is inserted with it.

The payload is the record; the columns beside it repeat parts of it for searching. Its keys:

    v, seq, event_id, ts, epoch, action, outcome, description, request_id, context, software
    actor {kind, id, role, token}
    model_version_id             the version the event is about, or null
    subject_commit               the commitment to the patient, or null; see storage.records
    result                       what was said of an image; only where the event has a new result
    changes [{kind, ...}]        old and new values; only where the event changed something else
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from registry.contract import Receipt
from registry.errors import Internal, MedAIError
from registry.events import (
    AuditEvent,
    Change,
    ModelTransition,
    NewModelVersion,
    NewResult,
    ShadowStarted,
    VersionStaged,
    VersionUnstaged,
)
from storage.chain import Chain
from storage.changes import Applied, apply
from storage.hashchain import Json, canonical
from storage.records import Record, record_of, rfc3339
from storage.tables import Table

FORMAT = 1

_OF_A_VERSION = (
    NewResult,
    NewModelVersion,
    ModelTransition,
    VersionStaged,
    VersionUnstaged,
    ShadowStarted,
)

_INSERTS = tuple(
    insert(Table.metadata.tables[name])
    for name in ("inference_results", "validation_results", "audit_subjects", "audit_logs")
)


@dataclass(slots=True)
class Draft:
    """One event on its way into the log. Ends with a receipt or with a refusal."""

    event: AuditEvent
    receipt: Receipt | None = None
    refusal: MedAIError | None = None

    def ended(self) -> Receipt | MedAIError:
        """How it ended."""
        ended = self.refusal or self.receipt
        assert ended is not None
        return ended


@dataclass(frozen=True, slots=True)
class Rows:
    """What one group of events inserts, beside its other changes."""

    results: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    subjects: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)


async def applied(
    session: AsyncSession, drafts: Sequence[Draft], *, at: datetime
) -> list[list[Json]]:
    """Apply the changes of `drafts`; for each, what its entry says of them.

    Raises:
        MedAIError: A change was refused.
    """
    return [
        [await apply(session, change, at=at) for change in _split(draft.event.changes)[1]]
        for draft in drafts
    ]


def compose(
    chain: Chain,
    drafts: Sequence[Draft],
    changes: Sequence[list[Json]],
    *,
    at: datetime,
    software: str,
) -> Rows:
    """Move `chain` over the entries of `drafts`, and give the rows.

    Args:
        chain: The tip.
        drafts: The events, in order.
        changes: What `applied` gave for them.
        at: When they are recorded.
        software: What every entry says it was written by.

    Raises:
        MedAIError: An event cannot be written down.
    """
    rows = Rows()
    for draft, changed in zip(drafts, changes, strict=True):
        results, _ = _split(draft.event.changes)
        try:
            record = record_of(results[0]) if results else None
            _add_entry(rows, chain, draft, record, changed, at=rfc3339(at), software=software)
        except (TypeError, ValueError):
            raise Internal("the event holds a value that cannot be recorded") from None
        if record is not None:
            _add_record(rows, draft, record)
    return rows


def write(session: Session, rows: Rows) -> None:
    """Insert, the rows that others refer to first."""
    for values, statement in zip(
        (rows.results, rows.validations, rows.subjects, rows.entries), _INSERTS, strict=True
    ):
        if values:
            session.execute(statement, values)


def is_plain(event: AuditEvent) -> bool:
    """Whether the event only adds rows, so that it reads and locks nothing."""
    return all(isinstance(change, NewResult) for change in event.changes)


def _split(changes: Sequence[Change]) -> tuple[list[NewResult], list[Applied]]:
    results = [change for change in changes if isinstance(change, NewResult)]
    if len(results) > 1:
        raise Internal("an event has at most one result")
    return results, [change for change in changes if not isinstance(change, NewResult)]


def _add_entry(
    rows: Rows,
    chain: Chain,
    draft: Draft,
    record: Record | None,
    changes: list[Json],
    *,
    at: str,
    software: str,
) -> None:
    event = draft.event
    actor = event.actor
    model = _model_of(event)
    payload: dict[str, Json] = {
        "v": FORMAT,
        "seq": chain.size + 1,
        "event_id": str(event.event_id),
        "ts": at,
        "epoch": chain.epoch,
        "action": event.action,
        "outcome": event.outcome,
        "description": event.description,
        "actor": {
            "kind": actor.kind,
            "id": None if actor.user_id is None else str(actor.user_id),
            "role": actor.role,
            "token": actor.token_id,
        },
        "request_id": event.request_id,
        "context": event.context,
        "software": software,
        "model_version_id": None if model is None else str(model),
        "subject_commit": None
        if record is None or record.subject_commit is None
        else record.subject_commit.hex(),
    }
    if record is not None:
        payload["result"] = record.summary
    if changes:
        payload["changes"] = changes
    text = canonical(payload)
    link = chain.add(text, at)
    rows.entries.append(
        {
            "seq": link.seq,
            "event_id": event.event_id,
            "created_at": at,
            "epoch": chain.epoch,
            "action": str(event.action),
            "outcome": str(event.outcome),
            "description": event.description,
            "context": canonical(event.context).decode(),
            "user_id": actor.user_id,
            "model_version_id": model,
            "inference_result_id": None if record is None else record.result["id"],
            "previous_hash": link.previous_hash,
            "entry_hash": link.entry_hash,
            "leaf_hash": link.leaf_hash,
            "payload": text.decode(),
        }
    )
    draft.receipt = Receipt(event.event_id, link.seq, link.entry_hash, at)


def _add_record(rows: Rows, draft: Draft, record: Record) -> None:
    rows.results.append(record.result)
    if record.validation is not None:
        rows.validations.append(record.validation)
    if record.salt is not None:
        rows.subjects.append(
            {
                "event_id": draft.event.event_id,
                "salt": record.salt,
                "patient_id": record.result["patient_id"],
            }
        )


def _model_of(event: AuditEvent) -> Any:
    """The id of the model version the event is about: that of its first change that names one."""
    for change in event.changes:
        if isinstance(change, _OF_A_VERSION):
            return change.model.id
    return None

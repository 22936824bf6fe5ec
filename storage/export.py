"""The log as JSON lines, for whoever verifies it elsewhere (deployments/medai_verify.py).

    {"medai_audit_export":1,...}        first, what is to come
    {"payload":{...},"row":[...]}       an entry: its exact text, and the columns beside it
    {"record":{...},"seq":n}            after it, what is stored of its result, as it was hashed
    {"checkpoint":"...","size":n,"root":"..."}    after entry n

The rows are given as they are, also where they were tampered with: a payload that would break the
line is given as a string. The log is read in pages, each in a transaction of its own, up to where
it ended at the beginning; what is committed never changes, so they fit together.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import NullType

from storage.database import Database
from storage.evidence import RECORD_COLUMNS, record_of
from storage.hashchain import canonical
from storage.tables import (
    AuditCheckpoint,
    AuditLog,
    AuditState,
    InferenceResult,
    ValidationResult,
)

FORMAT = 1
PAGE = 1000
COLUMNS = (
    "seq",
    "event_id",
    "created_at",
    "epoch",
    "action",
    "outcome",
    "description",
    "user_id",
    "model_version_id",
    "inference_result_id",
    "context",
    "previous_hash",
    "entry_hash",
    "leaf_hash",
)

_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


async def export_log(
    database: Database,
    *,
    after: int = 0,
    until: int | None = None,
    records: bool = True,
    software: str = "",
) -> AsyncIterator[bytes]:
    """The log from the entry after `after`, as pieces of whole lines.

    Args:
        database: Where the log is.
        after: How many entries the reader has already.
        until: The last entry to give; None for all there are.
        records: Whether to give the stored results, too.
        software: What made the export.

    Raises:
        DatabaseUnavailable: The database is away. The export is then not whole, and says so: its
            first line told how many entries were to come.
    """
    async with database.reading() as session:
        state = (await session.execute(select(AuditState.origin, AuditState.size))).first()
        last = (await session.scalar(select(func.max(AuditLog.seq)))) or 0
        previous = await session.scalar(select(_HASH).where(AuditLog.seq == after))
    origin, size = (state.origin, state.size) if state is not None else ("", last)
    if until is not None:
        size, last = min(size, until), min(last, until)
    header = {  # size: says audit_state; last: what is there; previous: the hash of entry `after`
        "medai_audit_export": FORMAT,
        "origin": origin,
        "size": size,
        "last": last,
        "after": after,
        "previous": None if previous is None else _hex(previous),
        "records": records,
        "columns": COLUMNS,
        "software": software,
    }
    yield (_JSON(header) + "\n").encode()
    more = True
    while more:
        page = await _page(database, after, size, records=records)
        more = len(page.entries) == PAGE
        last = page.entries[-1].seq if more else size
        checkpoints = await _checkpoints(database, after, last if more else until)
        yield "".join(_lines(page, checkpoints)).encode()
        after = last


class _Page:
    """Some entries in order, and by number the records of their results."""

    def __init__(self, entries: Sequence[Any], records: Sequence[Any]) -> None:
        self.entries = entries
        self.records = {row.seq: row for row in records}


async def _page(database: Database, after: int, size: int, *, records: bool) -> _Page:
    async with database.reading() as session:
        between = (AuditLog.seq > after, AuditLog.seq <= size)
        entries = (
            await session.execute(_ENTRIES.where(*between).order_by(AuditLog.seq).limit(PAGE))
        ).all()
        if not records or not entries:
            return _Page(entries, ())
        return _Page(entries, await _records(session, after, entries[-1].seq))


async def _records(session: AsyncSession, after: int, last: int) -> Sequence[Any]:
    """What is stored of the results of these entries; what cannot be read is left out."""
    wanted = _RECORDS.where(AuditLog.seq > after, AuditLog.seq <= last)
    try:
        return (await session.execute(wanted)).all()
    except (ValueError, TypeError):  # SQLite keeps what it is given, a word where a time should be
        if last - after == 1:
            return ()
    middle = (after + last) // 2
    return (*await _records(session, after, middle), *await _records(session, middle, last))


async def _checkpoints(database: Database, after: int, last: int | None) -> Sequence[Any]:
    """Those of the entries after `after`, up to `last`, or to the end of what was ever signed."""
    wanted = _CHECKPOINTS.where(AuditCheckpoint.size > after)
    if last is not None:
        wanted = wanted.where(AuditCheckpoint.size <= last)
    async with database.reading() as session:
        return (await session.execute(wanted.order_by(AuditCheckpoint.size))).all()


def _lines(page: _Page, checkpoints: Sequence[Any]) -> Iterator[str]:
    waiting = list(reversed(checkpoints))
    for row in page.entries:
        while waiting and waiting[-1].size < row.seq:
            yield _checkpoint_line(waiting.pop())
        yield _entry_line(row)
        record = page.records.get(row.seq)
        if record is not None:
            yield _record_line(record)
    while waiting:
        yield _checkpoint_line(waiting.pop())


def _entry_line(row: Any) -> str:
    payload = row.payload
    if not isinstance(payload, str) or not payload.startswith("{") or "\n" in payload:
        payload = _JSON(str(payload))
    columns = (
        row.seq,
        _dashed(row.event_id),
        row.created_at,
        row.epoch,
        row.action,
        row.outcome,
        row.description,
        _dashed(row.user_id),
        _dashed(row.model_version_id),
        _dashed(row.inference_result_id),
        row.context,
        *map(_hex, (row.previous_hash, row.entry_hash, row.leaf_hash)),
    )
    return f'{{"payload":{payload},"row":{_JSON(columns)}}}\n'


def _record_line(row: Any) -> str:
    try:
        commit = json.loads(row.payload)["subject_commit"]
    except (ValueError, KeyError, TypeError):
        commit = None
    return f'{{"record":{canonical(record_of(row, commit)).decode()},"seq":{row.seq}}}\n'


def _checkpoint_line(row: Any) -> str:
    return _JSON({"checkpoint": row.note, "size": row.size, "root": row.root.hex()}) + "\n"


def _hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _dashed(uuid: str | None) -> str | None:
    """The usual spelling of an id, which SQLite keeps as 32 digits; anything else as it is."""
    if uuid is None or len(uuid) != 32:  # noqa: PLR2004  # hex digits of a UUID
        return uuid
    return "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))


_HASH: ColumnElement[Any] = type_coerce(AuditLog.entry_hash, NullType())
_ENTRIES = select(
    AuditLog.seq,
    cast(AuditLog.event_id, String).label("event_id"),
    AuditLog.created_at,
    AuditLog.epoch,
    AuditLog.action,
    AuditLog.outcome,
    AuditLog.description,
    AuditLog.context,
    cast(AuditLog.user_id, String).label("user_id"),
    cast(AuditLog.model_version_id, String).label("model_version_id"),
    cast(AuditLog.inference_result_id, String).label("inference_result_id"),
    *(
        type_coerce(column, NullType()).label(column.key)
        for column in (AuditLog.previous_hash, AuditLog.entry_hash, AuditLog.leaf_hash)
    ),
    AuditLog.payload,
)
_RECORDS = (
    select(AuditLog.seq, AuditLog.payload, *RECORD_COLUMNS)
    .join(InferenceResult, InferenceResult.id == AuditLog.inference_result_id)
    .outerjoin(ValidationResult, ValidationResult.inference_result_id == InferenceResult.id)
)
_CHECKPOINTS = select(AuditCheckpoint.size, AuditCheckpoint.root, AuditCheckpoint.note)

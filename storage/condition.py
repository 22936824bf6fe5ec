"""How a database stands, for whoever looks after it: clock, rights, the log's last moment.

Asked as the role that the server uses, because its rights are the question. Nothing is changed.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from storage.database import Database
from storage.schema import GRANTS
from storage.tables import AuditLog

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_GRANT = re.compile(r"([A-Z]+)(?: \(([^)]+)\))?")


@dataclass(frozen=True, slots=True)
class Condition:
    """What was found.

    Attributes:
        answer_ms: How long a question and its answer took.
        skew_s: How far the database's clock is ahead of this machine's; exact to half of
            `answer_ms`.
        last_entry: When the audit log's last entry was recorded, by the clock of its writer; None
            where the log has not begun.
        missing: Rights the server needs and the role has not got, as `INSERT on users`.
        excess: Rights the role has and must not have. Always empty on SQLite, which has no roles.
    """

    answer_ms: float
    skew_s: float
    last_entry: datetime | None
    missing: tuple[str, ...]
    excess: tuple[str, ...]


async def condition(database: Database) -> Condition:
    """Ask a database of this release's schema. Raises `DatabaseUnavailable`."""
    await database.ping()  # connects: what is measured next is one question, not a handshake
    async with database.reading() as session:
        skew_s, answer_ms = await _clock(session, sqlite=database.is_sqlite)
        recorded = await session.scalar(
            select(AuditLog.created_at).order_by(AuditLog.seq.desc()).limit(1)
        )
        held = None if database.is_sqlite else await _held(session)
    needed = set(_needed())
    return Condition(
        answer_ms=answer_ms,
        skew_s=skew_s,
        last_entry=None if recorded is None else datetime.fromisoformat(recorded),
        missing=() if held is None else _shown(needed - held),
        excess=() if held is None else _shown(_tables_only(held) - _implied(needed)),
    )


async def _clock(session: AsyncSession, *, sqlite: bool) -> tuple[float, float]:
    """Seconds the database is ahead of the middle of the question; milliseconds it took."""
    now = (
        "(julianday('now') - 2440587.5) * 86400.0"
        if sqlite
        else "extract(epoch FROM clock_timestamp())"
    )
    before, started = time.time(), time.perf_counter()
    there = float((await session.execute(text(f"SELECT {now}"))).scalar_one())
    taken = time.perf_counter() - started
    return there - (before + taken / 2), taken * 1e3


Right = tuple[str, str, str]  # table, privilege, column or ""


def _needed() -> Iterator[Right]:
    """`schema.GRANTS`, one right at a time."""
    for table, privileges in GRANTS.items():
        for privilege, columns in _GRANT.findall(privileges):
            for column in columns.split(", "):
                yield table, privilege, column


def _implied(needed: set[Right]) -> set[Right]:
    """The rights a table as a whole may have: those granted on a column are not among them."""
    return {right for right in needed if not right[2]}


def _tables_only(held: set[Right]) -> set[Right]:
    return {right for right in held if not right[2]}


async def _held(session: AsyncSession) -> set[Right]:
    """Which of the rights in question the connected role has."""
    held: set[Right] = set()
    for table, privilege in product(GRANTS, PRIVILEGES):
        if await session.scalar(select(func.has_table_privilege(table, privilege))):
            held.add((table, privilege, ""))
    for table, privilege, column in _needed():
        if column and await session.scalar(
            select(func.has_column_privilege(table, column, privilege))
        ):
            held.add((table, privilege, column))
    return held


def _shown(rights: set[Right]) -> tuple[str, ...]:
    return tuple(
        f"{privilege} on {table}{f'.{column}' if column else ''}"
        for table, privilege, column in sorted(rights)
    )

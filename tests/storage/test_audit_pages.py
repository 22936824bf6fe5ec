"""Lists of audit entries on both databases: one order, every filter, an index for each."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, select, text
from uuid_utils.compat import uuid7

from registry.events import CLI, AuditAction, AuditOutcome
from storage.audit import Entry
from storage.audit_pages import EntryFilter, EntryPages
from storage.database import Database
from storage.tables import Table

if TYPE_CHECKING:
    from conftest import Site


async def read(database: Database, wanted: EntryFilter, call: str, *args: Any) -> Any:
    async with database.reading() as session:
        return await getattr(EntryPages(session, wanted), call)(*args)


def seqs(entries: tuple[Entry, ...]) -> list[int]:
    return [entry.seq for entry in entries]


@pytest.fixture
async def log(database: Database, site: "Site") -> tuple[Entry, ...]:
    """Eight entries more than the three that found a site, the newest first."""
    await site.record(
        site.inference(),
        site.event(actor=CLI),
        site.event(outcome=AuditOutcome.DENIED, action=AuditAction.ACCESS_DENIED),
        *(site.event() for _ in range(5)),
    )
    found: tuple[Entry, ...] = await read(database, EntryFilter(), "numbered", 1, 100)
    return found


async def test_pages_and_cursors_are_the_log_backwards(
    database: Database, log: tuple[Entry, ...]
) -> None:
    anything = EntryFilter()

    pages = [seqs(await read(database, anything, "numbered", page, 4)) for page in (1, 2, 3, 4)]
    behind = await read(database, anything, "after", 5, 3)

    assert [seq for page in pages for seq in page] == seqs(log) == list(range(11, 0, -1))
    assert pages[3] == []
    assert seqs(behind) == [4, 3, 2]
    assert await read(database, anything, "total") == 11


@pytest.mark.parametrize(
    ("make", "holds"),
    [
        (lambda _: EntryFilter(action="access.denied"), lambda one, _: one.seq == 6),
        (lambda _: EntryFilter(outcome="denied"), lambda one, _: one.seq == 6),
        (lambda log: EntryFilter(user_id=log[0].user_id), lambda one, _: one.user_id),
        (lambda _: EntryFilter(first_seq=3, last_seq=5), lambda one, _: 3 <= one.seq <= 5),
        (
            lambda log: EntryFilter(since=moment(log[3])),
            lambda one, log: moment(one) >= moment(log[3]),
        ),
        (
            lambda log: EntryFilter(until=moment(log[3])),
            lambda one, log: moment(one) < moment(log[3]),
        ),
        (
            lambda log: EntryFilter(since=moment(log[0]) + timedelta(microseconds=1)),
            lambda *_: False,
        ),
    ],
    ids=["action", "outcome", "user", "numbers", "since", "until", "future"],
)
async def test_a_filter_lets_through_what_fits(
    database: Database,
    log: tuple[Entry, ...],
    make: Callable[[tuple[Entry, ...]], EntryFilter],
    holds: Callable[[Entry, tuple[Entry, ...]], object],
) -> None:
    wanted = make(log)
    expected = [entry.seq for entry in log if holds(entry, log)]

    found = await read(database, wanted, "numbered", 1, 100)

    assert seqs(found) == expected
    assert await read(database, wanted, "total") == len(expected)


def moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry.recorded_at)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (EntryFilter(), "primary key"),
        (EntryFilter(action="login.locked"), "ix_audit_logs_action"),
        (EntryFilter(user_id=uuid7()), "ix_audit_logs_user_id"),
        (EntryFilter(until=datetime.fromisoformat("2020-01-01T00:00:00Z")), "created_at"),
    ],
    ids=["none", "action", "user", "time"],
)
async def test_what_is_rare_is_found_by_an_index(
    database: Database, site: "Site", wanted: EntryFilter, index: str
) -> None:
    await site.record(site.event())
    table = Table.metadata.tables["audit_logs"]
    async with database.transaction() as session:
        newest = select(table).order_by(table.c.seq.desc()).limit(1)
        row = dict((await session.execute(newest)).mappings().one())
        many = [row | {"seq": seq, "event_id": uuid7(), **hashes(seq)} for seq in range(100, 9_000)]
        await session.execute(insert(table), many)
    async with database.transaction() as session:
        await session.execute(text("ANALYZE audit_logs"))

    plan = await explained(database, wanted)

    names = {"primary key": "PRIMARY KEY" if database.is_sqlite else "pk_audit_logs"}
    if database.is_sqlite:  # for a time, it reads the log backwards in its own order
        names["created_at"] = "PRIMARY KEY"
    assert names.get(index, index) in plan, plan
    assert "Seq Scan" not in plan, plan


def hashes(seq: int) -> dict[str, bytes]:
    digest = seq.to_bytes(32)
    return {"previous_hash": digest, "entry_hash": digest}


async def explained(database: Database, wanted: EntryFilter) -> str:
    async with database.reading() as session:
        connection = await session.connection()
        statements: list[tuple[str, Any]] = []

        def keep(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> None:
            del rest
            statements.append((statement, parameters))

        event.listen(connection.sync_connection, "before_cursor_execute", keep)
        await EntryPages(session, wanted).after(8_500, 20)
        how = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        statement, parameters = statements[0]
        rows = await connection.exec_driver_sql(f"{how} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)

"""Transactions on both databases, and what is said when something is wrong."""

import asyncio
import sqlite3
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import func, insert, make_url, select, text

from registry.errors import Conflict, DatabaseUnavailable, Internal, MedAIError
from storage.circuit import CircuitState
from storage.database import Database
from storage.engine import RollingBack
from storage.tables import User

if TYPE_CHECKING:
    from conftest import OpenDatabase


def path_of(url: str) -> Path:
    return Path(str(make_url(url).database))


def user(name: str, **fields: object) -> dict[str, object]:
    return {"id": uuid4(), "username": name, "password_hash": "x", "role": "viewer", **fields}


async def names(database: Database) -> list[str]:
    async with database.reading() as session:
        return list(await session.scalars(select(User.username).order_by(User.username)))


async def test_a_transaction_is_kept_whole(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(insert(User).values(user("a")))
        await session.execute(insert(User).values(user("b")))

    assert await names(database) == ["a", "b"]


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            await session.execute(insert(User).values(user("a")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await names(database) == []


async def test_who_reads_cannot_write(database: Database) -> None:
    with pytest.raises(MedAIError):
        async with database.reading() as session:
            await session.execute(insert(User).values(user("a")))

    async with database.transaction() as session:
        await session.execute(insert(User).values(user("b")))
    assert await names(database) == ["b"]


async def test_who_reads_sees_one_moment(database: Database) -> None:
    async with database.reading() as session:
        before = await session.scalar(select(func.count()).select_from(User))
        async with database.transaction() as other:
            await other.execute(insert(User).values(user("a")))

        after = await session.scalar(select(func.count()).select_from(User))

    assert (before, after) == (0, 0)
    assert await names(database) == ["a"]


@pytest.mark.parametrize("column", ["username", "email"])
async def test_a_broken_rule_is_named_and_the_value_is_not(database: Database, column: str) -> None:
    taken = {"username": "doe^john", "email": "doe^john@x"}[column]
    async with database.transaction() as session:
        await session.execute(insert(User).values(user("a") | {column: taken}))

    with pytest.raises(Conflict) as caught:
        async with database.transaction() as session:
            await session.execute(insert(User).values(user("b") | {column: taken}))

    assert [violation.rule for violation in caught.value.violations] == [column]
    assert "doe" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_rule_nobody_can_mend_is_a_conflict_too(database: Database) -> None:
    with pytest.raises(Conflict) as caught:
        async with database.transaction() as session:
            await session.execute(insert(User).values(user("a", role="king")))

    assert caught.value.violations == ()


async def test_a_statement_the_database_refuses_is_our_mistake(database: Database) -> None:
    with pytest.raises(Internal) as caught:
        async with database.transaction() as session:
            await session.execute(text("SELECT secret FROM nowhere"))

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_time_without_a_zone_has_no_place_in_a_record(database: Database) -> None:
    naive = datetime(2026, 11, 24)  # noqa: DTZ001  # the point

    with pytest.raises(Internal):
        async with database.transaction() as session:
            await session.execute(insert(User).values(user("a", locked_until=naive)))


async def test_a_question_and_its_answer_are_timed(database: Database) -> None:
    latency_ms = await database.ping()

    assert 0 < latency_ms < 1000
    assert database.state().fault is None
    assert database.state().size == 1


async def test_when_all_connections_are_in_use_the_next_hears_in_time(
    open_database: "OpenDatabase", url: str
) -> None:
    database = open_database(url, pool_size=1, max_overflow=0, connect_timeout_s=0.5)
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
        started = time.monotonic()

        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.ping()

        assert time.monotonic() - started < 2
        assert database.state().checked_out == 1
    assert database.state().circuit is CircuitState.CLOSED
    assert await database.ping() > 0


async def test_a_connection_that_came_too_late_is_not_lost(
    open_database: "OpenDatabase", url: str
) -> None:
    database = open_database(url, pool_size=1, max_overflow=0, connect_timeout_s=0.1)
    async with database.reading():
        with pytest.raises(DatabaseUnavailable):
            await database.ping()  # its place in the queue outlives it

    with anyio.fail_after(5):
        while database.state().checked_out:
            await anyio.lowlevel.checkpoint()

    assert await database.ping() > 0


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind(
    open_database: "OpenDatabase", url: str
) -> None:
    database = open_database(url, pool_size=1, max_overflow=0, connect_timeout_s=5)
    async with database.reading():
        waiting = asyncio.create_task(database.ping())
        await anyio.wait_all_tasks_blocked()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert await database.ping() > 0


async def test_sqlite_writes_to_the_disk_before_it_says_so(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    database = open_database(sqlite_url)

    async with database.transaction() as session:
        pragmas = {
            name: await session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        }

    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }


@pytest.fixture
def vanished_url(sqlite_url: str) -> str:
    path_of(sqlite_url).unlink()
    return sqlite_url


async def test_a_sqlite_file_that_vanished_is_an_outage_and_not_a_new_database(
    open_database: "OpenDatabase", vanished_url: str
) -> None:
    database = open_database(vanished_url)

    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await database.ping()

    assert database.state().fault == "SQLITE_CANTOPEN"


async def test_a_sqlite_file_that_another_program_holds_is_an_outage(
    open_database: "OpenDatabase", sqlite_url: str
) -> None:
    database = open_database(sqlite_url, command_timeout_s=0.1)
    other = sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))

    other.close()
    async with database.transaction() as session:
        await session.execute(insert(User).values(user("a")))
    assert await names(database) == ["a"]


@pytest.fixture
def odd_url(sqlite_url: str, tmp_path: Path) -> str:
    odd = tmp_path / "50% ü ? #&.db"
    path_of(sqlite_url).rename(odd)
    return make_url("sqlite+aiosqlite://").set(database=str(odd)).render_as_string()


def test_a_closed_sqlite_connection_holds_no_lock_whatever_still_refers_to_it(
    sqlite_url: str,
) -> None:
    path = path_of(sqlite_url)
    closed = sqlite3.connect(path, isolation_level=None, factory=RollingBack)
    closed.execute("BEGIN IMMEDIATE")
    cursor = closed.execute("SELECT * FROM sqlite_schema")  # as a cancelled task leaves it

    closed.close()

    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    del cursor


async def test_a_path_with_odd_characters_is_opened(
    open_database: "OpenDatabase", odd_url: str
) -> None:
    database = open_database(odd_url)

    assert await names(database) == []

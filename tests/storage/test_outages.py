"""What callers meet when PostgreSQL is stopped, silent, slow or cut off, and how it ends.

Between the server and PostgreSQL stands a relay that can fall silent or cut the line at a moment
that matters: just before a COMMIT arrives, or just after it was done.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from sqlalchemy import func, make_url, select, text

from registry.contract import Receipt
from registry.errors import AuditUnavailable, DatabaseUnavailable
from registry.events import AuditEvent
from storage import chain
from storage.circuit import CircuitState
from storage.database import Database
from storage.ledger import Ledger, append_once
from storage.tables import AuditLog
from storage.verify import verify
from tests.storage.relay import Line, Relay

if TYPE_CHECKING:
    from conftest import OpenDatabase, Site, TestClock

    from tests.postgres import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
async def relay(postgres: "PostgresServer", tmp_path: Path) -> AsyncIterator[Relay]:
    relay = Relay(postgres.socket_dir / ".s.PGSQL.5432")
    server = await asyncio.start_unix_server(relay.accept, tmp_path / ".s.PGSQL.5432")
    yield relay
    server.close()
    await relay.stop()
    await server.wait_closed()


@pytest.fixture
def relayed_url(relay: Relay, postgres_url: str, tmp_path: Path) -> str:
    return make_url(postgres_url).update_query_dict({"host": str(tmp_path)}).render_as_string()


@pytest.fixture
def database(open_database: "OpenDatabase", relayed_url: str) -> Database:
    """Reached through the relay."""
    return open_database(relayed_url)


async def seconds_until_unavailable(database: Database) -> float:
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.ping()
    assert caught.value.retry_after_s is not None
    return time.monotonic() - started


async def until_it_answers(database: Database) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                await database.ping()
            except DatabaseUnavailable:
                await anyio.sleep(0.05)
            else:
                return


async def ask_while_it_falls_silent(database: Database, relay: Relay) -> None:
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
        relay.fall_silent()
        await session.execute(text("SELECT 2"))


async def test_a_stopped_server_is_noticed_in_time_and_then_at_once_and_it_heals(
    open_database: "OpenDatabase", postgres_url: str, postgres: "PostgresServer"
) -> None:
    database = open_database(postgres_url)
    await database.ping()
    postgres.stop()
    try:
        # the connection there was, and two that are tried for: these open the circuit
        first = [await seconds_until_unavailable(database) for _ in range(3)]
        later = [await seconds_until_unavailable(database) for _ in range(20)]
        state = database.state()
    finally:
        postgres.start()

    await until_it_answers(database)

    assert max(first) < 2
    assert max(later) < 0.05
    assert state.circuit is CircuitState.OPEN
    assert state.fault is not None
    assert database.state().circuit is CircuitState.CLOSED


async def test_a_silent_server_is_noticed_in_time_and_then_at_once_and_it_heals(
    database: Database, relay: Relay
) -> None:
    await database.ping()
    await anyio.sleep(0.15)  # the connection has lain idle
    relay.fall_silent()

    first = [await seconds_until_unavailable(database) for _ in range(2)]
    later = [await seconds_until_unavailable(database) for _ in range(20)]

    relay.speak()
    await until_it_answers(database)
    assert max(first) < 2
    assert max(later) < 0.05


async def test_a_server_that_falls_silent_in_mid_question_is_given_up(
    open_database: "OpenDatabase", relayed_url: str, relay: Relay
) -> None:
    database = open_database(relayed_url, command_timeout_s=1)
    started = time.monotonic()

    with pytest.raises(DatabaseUnavailable):
        await ask_while_it_falls_silent(database, relay)

    assert time.monotonic() - started < 1.9  # one time-out, no second for a ROLLBACK
    relay.speak()
    await until_it_answers(database)


async def test_who_stops_waiting_for_a_silent_server_is_let_go_at_once(
    database: Database, relay: Relay
) -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask_while_it_falls_silent(database, relay), 0.2)

    assert time.monotonic() - started < 1
    relay.speak()
    await until_it_answers(database)


async def test_a_slow_statement_is_given_up(
    open_database: "OpenDatabase", postgres_url: str
) -> None:
    database = open_database(postgres_url, command_timeout_s=0.3)

    with pytest.raises(DatabaseUnavailable):
        async with database.reading() as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    assert await database.ping() > 0


async def test_an_idle_connection_that_the_server_ended_is_replaced_unnoticed(
    open_database: "OpenDatabase", postgres_url: str, postgres: "PostgresServer"
) -> None:
    database = open_database(postgres_url)
    await database.ping()
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'medai-flow'"
    )
    await anyio.sleep(0.15)

    assert await database.ping() > 0


async def test_closing_ends_what_still_waits_for_a_silent_server(
    open_database: "OpenDatabase", relayed_url: str, relay: Relay
) -> None:
    relay.fall_silent()
    database = open_database(relayed_url, connect_timeout_s=60)
    waiting = asyncio.create_task(database.ping())
    await anyio.wait_all_tasks_blocked()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    started = time.monotonic()

    await database.close()

    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"database": "nowhere"}, "SQLSTATE 3D000"), ({"username": "nobody"}, "SQLSTATE 28000")],
    ids=["database", "user"],
)
async def test_why_the_server_lets_nobody_in_is_told_by_its_code(
    open_database: "OpenDatabase", postgres_url: str, change: dict[str, str], fault: str
) -> None:
    url = make_url(postgres_url).set(**change)  # type: ignore[arg-type]  # two of many fields
    database = open_database(url.render_as_string())

    with pytest.raises(DatabaseUnavailable) as caught:
        await database.ping()

    assert database.state().fault == fault
    assert "no" not in str(caught.value).split()


@pytest.fixture
async def ledger(database: Database, clock: "TestClock", site: "Site") -> Ledger:
    ledger = Ledger(database, software_version="1", now=clock)
    await ledger.open()
    return ledger


@pytest.mark.parametrize("cut", [Line.CUT_QUESTION, Line.CUT_ANSWER])
async def test_a_commit_of_unknown_outcome_is_recorded_once(
    ledger: Ledger, site: "Site", database: Database, relay: Relay, cut: Line
) -> None:
    events = [site.inference(), site.event(), site.inference()]
    relay.cut(cut)

    recorded = await ledger.append(events)

    assert [ended.event_id for ended in recorded if isinstance(ended, Receipt)] == [
        event.event_id for event in events
    ]
    assert relay.line is Line.OPEN
    assert await times_recorded(database, events) == [1, 1, 1]
    assert (await verify(database)).intact


@pytest.mark.parametrize("cut", [Line.CUT_QUESTION, Line.CUT_ANSWER])
async def test_a_commit_that_stays_unknown_is_not_given_a_receipt_and_can_be_offered_again(
    ledger: Ledger, site: "Site", database: Database, relay: Relay, cut: Line
) -> None:
    event = site.inference()
    relay.cut(cut, times=2)
    [lost] = await ledger.append([event])

    [found] = await ledger.append([event])

    assert isinstance(lost, AuditUnavailable)
    assert isinstance(found, Receipt)
    assert await times_recorded(database, [event]) == [1]
    assert (await verify(database)).intact


@pytest.mark.parametrize("cut", [Line.CUT_QUESTION, Line.CUT_ANSWER])
async def test_the_command_line_looks_again_after_a_lost_commit(
    site: "Site", database: Database, relay: Relay, clock: "TestClock", cut: Line
) -> None:
    event = site.event()
    relay.cut(cut)

    [recorded] = await append_once(database, [event], software_version="1", now=clock)

    assert isinstance(recorded, Receipt)
    assert await times_recorded(database, [event]) == [1]


@pytest.mark.parametrize("at", [b"SAVEPOINT", b"INSERT INTO audit_logs", b"RELEASE SAVEPOINT"])
async def test_a_line_cut_in_mid_transaction_leaves_nothing_half(
    open_database: "OpenDatabase",
    relayed_url: str,
    site: "Site",
    relay: Relay,
    clock: "TestClock",
    at: bytes,
) -> None:
    database = open_database(relayed_url)  # new: known statements travel without their text
    events = [site.inference(), site.event()]
    relay.cut(Line.CUT_QUESTION, at=at)

    recorded = await append_once(database, events, software_version="1", now=clock)

    assert all(isinstance(ended, Receipt) for ended in recorded)
    assert relay.line is Line.OPEN
    assert await times_recorded(database, events) == [1, 1]
    assert (await verify(database)).intact


async def test_while_the_server_is_away_nothing_gets_a_receipt_and_then_it_goes_on(
    ledger: Ledger, site: "Site", database: Database, relay: Relay, clock: "TestClock"
) -> None:
    event = site.inference()
    relay.cut(Line.CUT_QUESTION, times=1000)
    lost = [*await ledger.append([event]), *await site.offer(site.event())]
    relay.cut(Line.OPEN)

    [found] = await ledger.append([event])

    assert all(isinstance(ended, AuditUnavailable) for ended in lost)
    assert isinstance(found, Receipt)
    assert (await verify(database)).intact


async def test_a_writer_stopped_in_mid_transaction_does_not_hold_the_log_for_ever(
    open_database: "OpenDatabase", postgres_url: str, site: "Site", clock: "TestClock"
) -> None:
    zombie = open_database(postgres_url, command_timeout_s=1)
    successor = Ledger(
        open_database(postgres_url, command_timeout_s=5), software_version="1", now=clock
    )

    async def stop_in_mid_transaction() -> None:
        async with zombie.transaction() as session:
            await chain.lock(session)
            await successor.open()  # while this one keeps the lock and does nothing

    with pytest.raises(DatabaseUnavailable):
        await stop_in_mid_transaction()

    assert isinstance((await successor.append([site.event()]))[0], Receipt)


async def times_recorded(database: Database, events: list[AuditEvent]) -> list[int]:
    async with database.reading() as session:
        return [
            await session.scalar(select(func.count()).where(AuditLog.event_id == event.event_id))
            or 0
            for event in events
        ]

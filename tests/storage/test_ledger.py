"""The writer of the audit log, on both databases."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from registry.contract import Receipt, Role
from registry.errors import AuditUnavailable, Internal, MedAIError
from registry.events import AuditAction, NewUser
from storage.appender import Appender
from storage.audit import AuditRepository, Entry
from storage.database import Database
from storage.entries import Draft
from storage.hashchain import canonical
from storage.ledger import Ledger, append_once
from storage.tables import AuditLog, AuditSubject, InferenceResult
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import OpenDatabase, Site, TestClock


async def entries(database: Database) -> list[Entry]:
    """The whole log, oldest first."""
    async with database.reading() as session:
        return [*reversed(await AuditRepository(session).recent(10_000))]


async def payloads(database: Database) -> list[dict[str, Any]]:
    return [json.loads(entry.payload) for entry in await entries(database)]


async def count(database: Database, table: type[Any]) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


def receipts(recorded: list[Receipt | MedAIError]) -> list[Receipt]:
    for ended in recorded:
        assert isinstance(ended, Receipt), ended
    return [ended for ended in recorded if isinstance(ended, Receipt)]


async def test_the_log_begins_by_naming_itself(database: Database, ledger: Ledger) -> None:
    genesis, start = await payloads(database)
    async with database.reading() as session:
        head = await AuditRepository(session).head()

    assert genesis["action"] == "log.genesis"
    assert genesis["context"] == {"origin": head.origin, "format": 1, "hash": "SHA-256"}
    assert head.origin.startswith("medaiflow/")
    assert (start["action"], start["epoch"]) == ("log.writer_start", 1)
    assert start["context"] == {"writer": head.writer_id}


async def test_a_payload_is_pinned(database: Database, site: "Site", ledger: Ledger) -> None:
    event = replace(
        site.event(),
        event_id=UUID("01932c07-73a0-7000-8000-000000000001"),
        context={"note": "ü", "pages": 3},
    )

    [receipt] = receipts(await ledger.append([event]))

    [*_, entry] = await entries(database)
    assert entry.payload == (
        '{"action":"result.read","actor":{"id":"' + str(site.user_id) + '","kind":"user",'
        '"role":"clinician","token":"jti-1"},"context":{"note":"ü","pages":3},'
        '"description":"A result was read.","epoch":1,'
        '"event_id":"01932c07-73a0-7000-8000-000000000001","model_version_id":null,'
        '"outcome":"success","request_id":"req-1","seq":' + str(receipt.seq) + ","
        '"software":"1.2.3","subject_commit":null,"ts":"' + receipt.recorded_at + '","v":1}'
    )
    assert len(receipt.recorded_at) == 27


async def test_receipts_come_in_the_order_of_the_events(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    events = [site.event(), site.inference(), site.event(), site.inference()]

    recorded = receipts(await ledger.append(events))

    first = recorded[0].seq
    assert [receipt.seq for receipt in recorded] == [first, first + 1, first + 2, first + 3]
    stored = (await entries(database))[-4:]
    assert [entry.event_id for entry in stored] == [event.event_id for event in events]
    assert [(entry.entry_hash, entry.recorded_at) for entry in stored] == [
        (receipt.entry_hash, receipt.recorded_at) for receipt in recorded
    ]


async def test_no_events_are_no_entries(database: Database, ledger: Ledger) -> None:
    before = await count(database, AuditLog)

    assert await ledger.append([]) == []

    assert await count(database, AuditLog) == before


async def test_a_payload_says_what_was_said_of_the_image_but_not_of_whom(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    event = site.inference()

    await ledger.append([event])

    [*_, entry] = await entries(database)
    payload = json.loads(entry.payload)
    result = payload["result"]
    assert canonical(payload).decode() == entry.payload
    assert result["id"] == str(event.event_id)
    assert result["scores"] == [["normal", "0.068750"], ["pneumonia", "0.931250"]]
    assert (result["prediction"], result["confidence"]) == ("pneumonia", "0.931250")
    assert result["model"]["sha256"] == site.model.sha256
    assert result["checks_failed"] == ["LOW_CONTRAST"]
    assert result["reasons"] == ["INTENDED_USE_UNKNOWN", "BELOW_THRESHOLD"]
    assert payload["model_version_id"] == str(site.model.id)
    assert len(bytes.fromhex(payload["subject_commit"])) == 32
    assert "p1:" not in entry.payload
    async with database.reading() as session:
        subject = await session.get_one(AuditSubject, event.event_id)
    assert subject.patient_id == "p1:00112233445566778899aabbccddeeff"


async def test_a_payload_never_holds_a_password_hash_or_an_address(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    user = NewUser(site.model.id, "Roe", Role.ADMIN, "$argon2id$secret", "roe@example.org")

    await ledger.append([site.event(user)])

    [*_, entry] = await entries(database)
    assert json.loads(entry.payload)["changes"] == [
        {
            "kind": "new_user",
            "must_change_password": False,
            "role": "admin",
            "user_id": str(site.model.id),
            "username": "roe",
        }
    ]
    assert "argon2" not in entry.payload
    assert "example.org" not in entry.payload


async def test_the_same_event_is_recorded_once(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    event, other = site.inference(), site.event()

    first, again, _ = receipts(await ledger.append([event, event, other]))
    [later] = receipts(await ledger.append([event]))
    mixed = receipts(await ledger.append([site.event(), event, site.event()]))

    assert first == again == later == mixed[1]
    assert mixed[2].seq == mixed[0].seq + 1
    assert (await verify(database)).intact


async def test_twenty_concurrent_appenders_make_one_chain(
    open_database: "OpenDatabase", url: str, site: "Site", clock: "TestClock"
) -> None:
    """One writer and nineteen who add beside it, each with connections of its own."""
    before = await count(site.database, AuditLog)
    ledger = Ledger(site.database, software_version="1", now=clock)
    await ledger.open()

    async def add_beside() -> None:
        database = open_database(url, pool_size=1, command_timeout_s=30, connect_timeout_s=30)
        for _ in range(3):
            events = [site.inference(), site.event()]
            receipts(await append_once(database, events, software_version="1", now=clock))

    async def write() -> None:
        for _ in range(3):
            receipts(await ledger.append([site.inference(), site.event()]))

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(19):
            group.create_task(add_beside())

    report = await verify(site.database)
    assert report.problems == ()
    assert report.entries == before + 1 + 20 * 3 * 2
    assert not ledger.fenced


async def test_one_writer_s_concurrent_groups_make_one_chain(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    groups = [[site.event(), site.inference()] for _ in range(20)]

    recorded = await asyncio.gather(*(ledger.append(group) for group in groups))

    assert all(pair[1].seq == pair[0].seq + 1 for pair in map(receipts, recorded))
    assert (await verify(database)).intact


async def test_the_writer_goes_on_after_the_command_line_has_added(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    [first] = receipts(await ledger.append([site.event()]))
    [between] = await site.record(site.event())

    [after] = receipts(await ledger.append([site.event()]))

    assert (between.seq, after.seq) == (first.seq + 1, first.seq + 2)
    assert not ledger.fenced
    assert [payload["epoch"] for payload in (await payloads(database))[-3:]] == [1, 1, 1]


async def test_a_writer_that_was_replaced_records_nothing_more(
    database: Database, site: "Site", ledger: Ledger, clock: "TestClock"
) -> None:
    successor = Ledger(database, software_version="1", now=clock)
    await successor.open()
    before = await count(database, AuditLog)

    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            await ledger.append([site.inference()])
    await ledger.close()

    assert ledger.fenced
    assert await count(database, AuditLog) == before
    receipts(await successor.append([site.inference()]))
    assert (await payloads(database))[-1]["epoch"] == 2
    assert (await verify(database)).intact


async def test_a_log_that_does_not_end_where_its_state_says_is_not_continued(
    database: Database, site: "Site", ledger: Ledger, clock: "TestClock"
) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE audit_state SET size = size + 1"))

    with pytest.raises(AuditUnavailable, match="medai audit verify"):
        await Ledger(database, software_version="1", now=clock).open()
    recorded = [*await ledger.append([site.event()]), *await site.offer(site.event())]

    assert [type(ended) for ended in recorded] == [AuditUnavailable, AuditUnavailable]
    assert not ledger.fenced


async def test_a_damaged_frontier_is_not_continued(
    database: Database, site: "Site", clock: "TestClock"
) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE audit_state SET frontier = tip_hash"))

    with pytest.raises(AuditUnavailable, match="frontier"):
        await Ledger(database, software_version="1", now=clock).open()


@pytest.mark.parametrize(("seconds", "steps"), [(3, 0), (3600, 1)])
async def test_a_clock_that_went_back_is_an_entry_of_its_own(
    database: Database,
    site: "Site",
    ledger: Ledger,
    clock: "TestClock",
    seconds: int,
    steps: int,
) -> None:
    receipts(await ledger.append([site.event()]))
    clock.time -= timedelta(seconds=seconds)

    receipts(await ledger.append([site.event(), site.event()]))

    stepped = [
        payload
        for payload in await payloads(database)
        if payload["action"] == AuditAction.CLOCK_STEP
    ]
    assert len(stepped) == steps
    assert all(3_599_000 < payload["context"]["behind_ms"] < 3_600_001 for payload in stepped)
    assert (await verify(database)).intact


async def test_a_writer_says_that_it_stops(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    await ledger.close()

    stop = (await payloads(database))[-1]
    async with database.reading() as session:
        head = await AuditRepository(session).head()
    assert stop["action"] == "log.writer_stop"
    assert stop["context"] == {"writer": head.writer_id}


async def test_a_writer_that_never_began_stops_quietly(
    database: Database, clock: "TestClock"
) -> None:
    await Ledger(database, software_version="1", now=clock).close()

    assert await count(database, AuditLog) == 0


async def test_a_writer_that_was_replaced_stops_quietly(
    database: Database, site: "Site", ledger: Ledger, clock: "TestClock"
) -> None:
    await Ledger(database, software_version="1", now=clock).open()
    before = await count(database, AuditLog)

    await ledger.close()

    assert ledger.fenced
    assert await count(database, AuditLog) == before


async def test_a_writer_that_cannot_say_what_it_is_does_not_begin(
    database: Database, clock: "TestClock"
) -> None:
    with pytest.raises(Internal):
        await Ledger(database, software_version="\ud800", now=clock).open()

    assert await count(database, AuditLog) == 0


async def test_the_command_line_can_begin_the_log(
    database: Database, site: "Site", clock: "TestClock"
) -> None:
    began = await payloads(database)

    await Ledger(database, software_version="1", now=clock).open()

    assert [payload["action"] for payload in began[:2]] == ["log.genesis", "result.read"]
    assert {payload["epoch"] for payload in began} == {0}
    assert (await payloads(database))[-1]["epoch"] == 1
    assert (await verify(database)).intact


async def test_who_stops_waiting_in_mid_commit_leaves_the_log_whole(
    database: Database, site: "Site", ledger: Ledger
) -> None:
    """Cancelled after more and more steps of the loop, so that every await is hit."""
    events = [site.inference() for _ in range(40)]
    for steps, event in enumerate(events):
        task = asyncio.create_task(ledger.append([event]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    recorded = receipts(await ledger.append(events))

    assert sorted(receipt.event_id for receipt in recorded) == [e.event_id for e in events]
    assert await count(database, InferenceResult) == len(events)
    assert (await verify(database)).intact


async def test_a_change_is_never_recorded_by_the_way_that_only_adds_rows(
    database: Database, site: "Site", clock: "TestClock"
) -> None:
    """That way would write the entry and leave out what it says was changed."""
    appender = Appender(database, software_version="1.2.3", now=clock)
    tip = await appender.take_over("the test")
    user = NewUser(UUID(int=7), "nora", Role.VIEWER, "x")
    before = len(await entries(database))

    with pytest.raises(AssertionError):
        await appender.append_at(tip, [Draft(site.event(user))])

    assert len(await entries(database)) == before

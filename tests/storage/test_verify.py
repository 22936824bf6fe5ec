"""Damage to the audit log itself is found, by a verifier, done by one who can write everything.

What a database cannot show by itself stands at the end, pinned as not found: signed checkpoints
kept elsewhere are for those.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update

from storage.database import Database
from storage.findings import MOST, Findings, Flaw
from storage.hashchain import Frontier
from storage.tables import AuditLog
from storage.verify import Report, verify

if TYPE_CHECKING:
    from conftest import Intruder, Site

# The entries of `damaged`.
FIRST_RESULT, EVENT, LAST_EVENT, REJECTED, LAST = 5, 6, 8, 9, 11

Damaged = Callable[[Callable[["Intruder"], None]], Awaitable[Report]]


def flaws(report: Report) -> set[Flaw]:
    return {problem.flaw for problem in report.problems}


def places(report: Report, flaw: Flaw) -> set[int]:
    return {problem.seq for problem in report.problems if problem.flaw is flaw}


async def test_an_edited_payload_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        intruder.change_entry(EVENT, payload=intruder.denied(intruder.entry(EVENT))["payload"])

    report = await damaged(damage)

    assert flaws(report) == {Flaw.PAYLOAD, Flaw.COLUMN, Flaw.STATE}
    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_an_edited_payload_with_its_own_hash_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        intruder.change_entry(EVENT, **intruder.hashed(intruder.denied(intruder.entry(EVENT))))

    report = await damaged(damage)

    assert places(report, Flaw.CHAIN) == {EVENT + 1}


async def test_an_edited_last_entry_with_its_own_hash_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        intruder.change_entry(LAST, **intruder.hashed(intruder.denied(intruder.entry(LAST))))

    report = await damaged(damage)

    assert flaws(report) == {Flaw.STATE}


@pytest.mark.parametrize(
    ("column", "flaw"),
    [
        ("leaf_hash", Flaw.PAYLOAD),
        ("entry_hash", Flaw.CHAIN),
        ("previous_hash", Flaw.CHAIN),
    ],
)
async def test_an_edited_hash_is_found(damaged: Damaged, column: str, flaw: Flaw) -> None:
    report = await damaged(lambda intruder: intruder.change_entry(EVENT, **{column: bytes(32)}))

    assert EVENT in places(report, flaw)


async def test_a_deleted_entry_is_found(damaged: Damaged) -> None:
    report = await damaged(
        lambda intruder: intruder.run(delete(AuditLog).where(AuditLog.seq == EVENT))
    )

    assert places(report, Flaw.GAP) == {EVENT + 1}
    assert places(report, Flaw.CHAIN) == {EVENT + 1}


async def test_swapped_entries_are_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        for seq, other in ((EVENT, 99), (LAST_EVENT, EVENT), (99, LAST_EVENT)):
            intruder.change_entry(seq, seq=other)

    report = await damaged(damage)

    assert {EVENT, LAST_EVENT} <= places(report, Flaw.CHAIN)


async def test_an_inserted_entry_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        for seq in range(LAST, EVENT, -1):
            intruder.change_entry(seq, seq=seq + 1)
        before = intruder.entry(EVENT)
        forged = before | {"seq": EVENT + 1, "event_id": uuid4()}
        forged["previous_hash"] = before["entry_hash"]
        intruder.change_entry(EVENT + 2, previous_hash=bytes(32))
        intruder.add_entry(intruder.hashed(forged))

    report = await damaged(damage)

    assert {Flaw.CHAIN, Flaw.STATE, Flaw.COLUMN} <= flaws(report)


async def test_an_appended_entry_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        last = intruder.entry(LAST)
        payload = last["payload"].replace(f'"seq":{LAST}', f'"seq":{LAST + 1}')
        forged = last | {"seq": LAST + 1, "payload": payload, "previous_hash": last["entry_hash"]}
        forged["event_id"] = uuid4()
        intruder.add_entry(intruder.hashed(forged))

    report = await damaged(damage)

    assert Flaw.STATE in flaws(report)


@pytest.mark.parametrize("kept", [LAST - 1, REJECTED - 1, 0])
async def test_a_cut_tail_is_found(damaged: Damaged, kept: int) -> None:
    report = await damaged(
        lambda intruder: intruder.run(delete(AuditLog).where(AuditLog.seq > kept))
    )

    assert Flaw.STATE in flaws(report)
    assert (Flaw.UNRECORDED in flaws(report)) is (kept < LAST - 1)


COLUMN_EDITS: dict[str, Any] = {
    "event_id": uuid4(),
    "created_at": "2026-11-24T08:00:00.999999Z",
    "epoch": 7,
    "action": "logout",
    "outcome": "failure",
    "description": "Nothing happened.",
    "context": '{"note":"other"}',
    "user_id": None,
    "model_version_id": None,
    "inference_result_id": None,
}


@pytest.mark.parametrize("column", COLUMN_EDITS)
async def test_a_column_that_says_something_else_than_its_payload_is_found(
    damaged: Damaged, column: str
) -> None:
    report = await damaged(
        lambda intruder: intruder.change_entry(FIRST_RESULT, **{column: COLUMN_EDITS[column]})
    )

    assert places(report, Flaw.COLUMN) == {FIRST_RESULT}
    [told] = [problem.message for problem in report.problems if problem.flaw is Flaw.COLUMN]
    assert column in told


async def test_a_context_that_is_no_json_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda intruder: intruder.change_entry(EVENT, context="{"))

    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_a_payload_that_is_no_json_is_found_though_the_chain_holds(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        rows[EVENT - 1]["payload"] = "not json"
        intruder.rewrite(rows)

    report = await damaged(damage)

    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_a_back_dated_entry_is_found_though_the_chain_holds(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        row = rows[LAST_EVENT - 1]
        moment = datetime.fromisoformat(row["created_at"]) - timedelta(hours=1)
        earlier = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        row["payload"] = row["payload"].replace(row["created_at"], earlier)
        row["created_at"] = earlier
        intruder.rewrite(rows)

    report = await damaged(damage)

    assert flaws(report) == {Flaw.CLOCK}
    assert places(report, Flaw.CLOCK) == {LAST_EVENT}


async def test_a_time_that_is_none_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda intruder: intruder.change_entry(EVENT, created_at="1"))

    assert places(report, Flaw.CLOCK) == {EVENT}


@pytest.mark.parametrize(
    "values", [{"frontier": b""}, {"tip_hash": bytes(32)}, {"size": 3}], ids=str
)
async def test_an_edited_state_is_found(damaged: Damaged, values: dict[str, Any]) -> None:
    report = await damaged(lambda intruder: intruder.run(update(intruder.state).values(values)))

    assert flaws(report) == {Flaw.STATE}


async def test_a_deleted_state_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda intruder: intruder.run(delete(intruder.state)))

    assert Flaw.STATE in flaws(report)


async def test_another_origin_is_found(damaged: Damaged) -> None:
    report = await damaged(
        lambda intruder: intruder.run(update(intruder.state).values(origin="medaiflow/x"))
    )

    assert places(report, Flaw.CHAIN) == {1}


async def test_a_log_that_begins_in_the_middle_is_found_though_the_chain_holds(
    damaged: Damaged,
) -> None:
    report = await damaged(lambda intruder: intruder.rewrite(intruder.entries()[1:]))

    assert places(report, Flaw.CHAIN) == {1}


async def test_a_log_rewritten_with_its_state_is_not_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        rows[EVENT - 1] = intruder.denied(rows[EVENT - 1])
        intruder.rewrite(rows)

    assert (await damaged(damage)).intact


async def test_a_dropped_entry_is_not_found_where_the_rest_is_chained_anew(
    damaged: Damaged,
) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        intruder.rewrite(rows[: EVENT - 1] + rows[EVENT:])

    assert (await damaged(damage)).intact


async def test_a_cut_tail_is_not_found_where_the_state_agrees(damaged: Damaged) -> None:
    report = await damaged(lambda intruder: intruder.rewrite(intruder.entries()[:-1]))

    assert report.intact


async def test_a_whole_log_has_a_root(database: Database, site: "Site") -> None:
    [receipt] = await site.record(site.event())

    report = await verify(database)

    assert report.entries == receipt.seq
    assert report.tip == receipt.entry_hash
    async with database.reading() as session:
        rows = (await session.execute(select(AuditLog.leaf_hash).order_by(AuditLog.seq))).scalars()
    frontier = Frontier()
    for leaf in rows:
        frontier.append(leaf)
    assert report.root == frontier.root()
    assert report.origin.startswith("medaiflow/")


async def test_a_log_that_has_not_begun_is_whole(database: Database) -> None:
    report = await verify(database)

    assert report.intact
    assert (report.origin, report.entries) == ("", 0)


def test_a_thousand_findings_are_kept_and_all_are_counted() -> None:
    findings = Findings()

    for seq in range(MOST + 5):
        findings.add(seq, Flaw.GAP, "")

    assert (findings.count, len(findings.kept)) == (MOST + 5, MOST)

"""Every kind of damage is found, on both databases, by somebody who can write everything.

What a database cannot show by itself stands at the end, pinned as not found: signed checkpoints
kept elsewhere are for those.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from registry.events import SYSTEM, AuditAction, AuditEvent
from registry.lifecycle import ModelStatus
from storage.chain import Chain
from storage.database import Database
from storage.entries import Draft, compose
from storage.findings import MOST, Findings, Flaw
from storage.hashchain import Frontier, canonical, entry_hash, genesis_hash, leaf_hash
from storage.ledger import Ledger
from storage.tables import Table
from storage.verify import Report, verify
from storage.verify_log import COLUMNS, LogWalk

if TYPE_CHECKING:
    from conftest import Site

TABLES = Table.metadata.tables
LOG = TABLES["audit_logs"]
STATE = TABLES["audit_state"]
RESULTS = TABLES["inference_results"]
VALIDATIONS = TABLES["validation_results"]
SUBJECTS = TABLES["audit_subjects"]
VERSIONS = TABLES["model_versions"]
USERS = TABLES["users"]

# The log of `damaged`: 1 genesis, 2 user, 3 model, 4 writer, then these.
FIRST_RESULT, EVENT, SECOND_RESULT, LAST_EVENT, REJECTED, STEP, LAST = 5, 6, 7, 8, 9, 10, 11

Damage = Callable[[Connection], None]
Damaged = Callable[[Damage], Awaitable[Report]]


@pytest.fixture
async def intruder(url: str) -> AsyncIterator[AsyncEngine]:
    """Connections for which neither triggers nor foreign keys hold."""
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def damaged(
    database: Database,
    site: "Site",
    ledger: Ledger,
    verdicts: dict[str, Any],
    intruder: AsyncEngine,
) -> Damaged:
    """Does damage to a log of eleven entries and gives what the verifier says then."""
    await ledger.append([site.inference(), site.event(), site.inference(), site.event()])
    await ledger.append([site.inference(verdicts["failed"])])
    await ledger.append([site.step(site.model, ModelStatus.REGISTERED, ModelStatus.VALIDATED)])
    await ledger.append([site.event()])
    assert (await verify(database)).intact

    async def after(damage: Damage) -> Report:
        async with intruder.begin() as connection:
            await connection.run_sync(disarm)
            await connection.run_sync(damage)
        return await verify(database)

    return after


def disarm(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":  # foreign keys are off unless asked for
        connection.execute(text("DROP TRIGGER audit_logs_no_update"))
        connection.execute(text("DROP TRIGGER audit_logs_no_delete"))
    else:
        for table in TABLES:
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))


def flaws(report: Report) -> set[Flaw]:
    return {problem.flaw for problem in report.problems}


def places(report: Report, flaw: Flaw) -> set[int]:
    return {problem.seq for problem in report.problems if problem.flaw is flaw}


# --- what an intruder can do to entries ---


def entry(connection: Connection, seq: int) -> dict[str, Any]:
    return dict(connection.execute(select(LOG).where(LOG.c.seq == seq)).mappings().one())


def set_entry(connection: Connection, seq: int, **values: Any) -> None:
    connection.execute(update(LOG).where(LOG.c.seq == seq).values(values))


def with_own_hash(row: dict[str, Any]) -> dict[str, Any]:
    leaf = leaf_hash(row["payload"].encode())
    return row | {
        "leaf_hash": leaf,
        "entry_hash": entry_hash(row["previous_hash"], row["seq"], leaf),
    }


def denied(row: dict[str, Any]) -> dict[str, Any]:
    payload = row["payload"].replace('"outcome":"success"', '"outcome":"denied"')
    assert payload != row["payload"]
    return row | {"payload": payload, "outcome": "denied"}


def rewrite(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Write the whole log anew, numbered and hashed as it should be, and the state with it."""
    origin = connection.scalar(select(STATE.c.origin))
    tip, frontier = genesis_hash(str(origin)), Frontier()
    connection.execute(delete(LOG))
    for seq, row in enumerate(rows, 1):
        try:
            payload = canonical(json.loads(row["payload"]) | {"seq": seq}).decode()
        except json.JSONDecodeError:
            payload = row["payload"]
        whole = with_own_hash(row | {"seq": seq, "previous_hash": tip, "payload": payload})
        tip = whole["entry_hash"]
        frontier.append(whole["leaf_hash"])
        connection.execute(insert(LOG).values(whole))
    connection.execute(
        update(STATE).values(size=frontier.size, tip_hash=tip, frontier=frontier.to_bytes())
    )


def all_entries(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(select(LOG).order_by(LOG.c.seq)).mappings()]


async def test_an_edited_payload_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        set_entry(connection, EVENT, payload=denied(entry(connection, EVENT))["payload"])

    report = await damaged(damage)

    assert flaws(report) == {Flaw.PAYLOAD, Flaw.COLUMN, Flaw.STATE}
    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_an_edited_payload_with_its_own_hash_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        set_entry(connection, EVENT, **with_own_hash(denied(entry(connection, EVENT))))

    report = await damaged(damage)

    assert places(report, Flaw.CHAIN) == {EVENT + 1}


async def test_an_edited_last_entry_with_its_own_hash_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        set_entry(connection, LAST, **with_own_hash(denied(entry(connection, LAST))))

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
    report = await damaged(lambda connection: set_entry(connection, EVENT, **{column: bytes(32)}))

    assert EVENT in places(report, flaw)


async def test_a_deleted_entry_is_found(damaged: Damaged) -> None:
    report = await damaged(
        lambda connection: connection.execute(delete(LOG).where(LOG.c.seq == EVENT)) and None
    )

    assert places(report, Flaw.GAP) == {EVENT + 1}
    assert places(report, Flaw.CHAIN) == {EVENT + 1}


async def test_swapped_entries_are_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        for seq, other in ((EVENT, 99), (LAST_EVENT, EVENT), (99, LAST_EVENT)):
            set_entry(connection, seq, seq=other)

    report = await damaged(damage)

    assert {EVENT, LAST_EVENT} <= places(report, Flaw.CHAIN)


async def test_an_inserted_entry_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        for seq in range(LAST, EVENT, -1):
            set_entry(connection, seq, seq=seq + 1)
        before = entry(connection, EVENT)
        forged = before | {"seq": EVENT + 1, "event_id": uuid4()}
        forged["previous_hash"] = before["entry_hash"]
        set_entry(connection, EVENT + 2, previous_hash=bytes(32))
        connection.execute(insert(LOG).values(with_own_hash(forged)))

    report = await damaged(damage)

    assert {Flaw.CHAIN, Flaw.STATE, Flaw.COLUMN} <= flaws(report)


async def test_an_appended_entry_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        last = entry(connection, LAST)
        payload = last["payload"].replace(f'"seq":{LAST}', f'"seq":{LAST + 1}')
        forged = last | {"seq": LAST + 1, "payload": payload, "previous_hash": last["entry_hash"]}
        forged["event_id"] = uuid4()
        connection.execute(insert(LOG).values(with_own_hash(forged)))

    report = await damaged(damage)

    assert Flaw.STATE in flaws(report)


@pytest.mark.parametrize("kept", [LAST - 1, REJECTED - 1, 0])
async def test_a_cut_tail_is_found(damaged: Damaged, kept: int) -> None:
    report = await damaged(
        lambda connection: connection.execute(delete(LOG).where(LOG.c.seq > kept)) and None
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
        lambda connection: set_entry(connection, FIRST_RESULT, **{column: COLUMN_EDITS[column]})
    )

    assert places(report, Flaw.COLUMN) == {FIRST_RESULT}
    assert [column in problem.message for problem in report.problems if problem.seq] == [True]


async def test_a_context_that_is_no_json_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda connection: set_entry(connection, EVENT, context="{"))

    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_a_payload_that_is_no_json_is_found_though_the_chain_holds(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        rows[EVENT - 1]["payload"] = "not json"
        rewrite(connection, rows)

    report = await damaged(damage)

    assert places(report, Flaw.PAYLOAD) == {EVENT}


async def test_a_back_dated_entry_is_found_though_the_chain_holds(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        row = rows[LAST_EVENT - 1]
        moment = datetime.fromisoformat(row["created_at"]) - timedelta(hours=1)
        earlier = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        row["payload"] = row["payload"].replace(row["created_at"], earlier)
        row["created_at"] = earlier
        rewrite(connection, rows)

    report = await damaged(damage)

    assert flaws(report) == {Flaw.CLOCK}
    assert places(report, Flaw.CLOCK) == {LAST_EVENT}


async def test_a_time_that_is_none_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda connection: set_entry(connection, EVENT, created_at="1"))

    assert places(report, Flaw.CLOCK) == {EVENT}


@pytest.mark.parametrize(
    "values", [{"frontier": b""}, {"tip_hash": bytes(32)}, {"size": 3}], ids=str
)
async def test_an_edited_state_is_found(damaged: Damaged, values: dict[str, Any]) -> None:
    report = await damaged(
        lambda connection: connection.execute(update(STATE).values(values)) and None
    )

    assert flaws(report) == {Flaw.STATE}


async def test_a_deleted_state_is_found(damaged: Damaged) -> None:
    report = await damaged(lambda connection: connection.execute(delete(STATE)) and None)

    assert Flaw.STATE in flaws(report)


async def test_another_origin_is_found(damaged: Damaged) -> None:
    report = await damaged(
        lambda connection: connection.execute(update(STATE).values(origin="medaiflow/x")) and None
    )

    assert places(report, Flaw.CHAIN) == {1}


async def test_a_log_that_begins_in_the_middle_is_found_though_the_chain_holds(
    damaged: Damaged,
) -> None:
    report = await damaged(lambda connection: rewrite(connection, all_entries(connection)[1:]))

    assert places(report, Flaw.CHAIN) == {1}


# --- what an intruder can do to the rows the log vouches for ---


def result_id(connection: Connection, seq: int) -> UUID:
    found: UUID = entry(connection, seq)["inference_result_id"]
    return found


def edit_result(**values: Any) -> Damage:
    def damage(connection: Connection) -> None:
        wanted = RESULTS.c.id == result_id(connection, FIRST_RESULT)
        connection.execute(update(RESULTS).where(wanted).values(values))

    return damage


def edit_validation(**values: Any) -> Damage:
    def damage(connection: Connection) -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(connection, FIRST_RESULT)
        connection.execute(update(VALIDATIONS).where(wanted).values(values))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        edit_result(prediction="normal"),
        edit_result(confidence_score=0.9312499761581422),
        edit_result(scores='{"normal":0.9,"pneumonia":0.1}'),
        edit_result(needs_review=False),
        edit_result(image_facts="{}"),
        edit_result(created_at=datetime(2026, 1, 1, tzinfo=UTC)),
        edit_result(idempotency_key="k"),
        edit_result(record_hash=bytes(32)),
        edit_result(gate=None),
        edit_validation(is_valid=False),
        edit_validation(measurements="[]"),
        edit_validation(validation_score=0.8314159265358980),
    ],
    ids=range(12),
)
async def test_an_edited_result_is_found(damaged: Damaged, damage: Damage) -> None:
    report = await damaged(damage)

    assert flaws(report) == {Flaw.RECORD}
    assert places(report, Flaw.RECORD) == {FIRST_RESULT}


async def test_a_deleted_validation_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(connection, SECOND_RESULT)
        connection.execute(delete(VALIDATIONS).where(wanted))

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {SECOND_RESULT}


async def test_a_validation_given_to_another_result_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(connection, FIRST_RESULT)
        other = result_id(connection, REJECTED)
        connection.execute(update(VALIDATIONS).where(wanted).values(inference_result_id=other))

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {FIRST_RESULT, REJECTED}


async def test_a_deleted_result_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        wanted = RESULTS.c.id == result_id(connection, SECOND_RESULT)
        connection.execute(delete(RESULTS).where(wanted))

    report = await damaged(damage)

    assert places(report, Flaw.MISSING) == {SECOND_RESULT}


async def test_a_result_without_an_entry_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        wanted = RESULTS.c.id == result_id(connection, SECOND_RESULT)
        row = dict(connection.execute(select(RESULTS).where(wanted)).mappings().one())
        connection.execute(insert(RESULTS).values(row | {"id": uuid4()}))

    report = await damaged(damage)

    assert flaws(report) == {Flaw.UNRECORDED}


async def test_an_entry_that_cannot_be_compared_with_its_result_is_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        row = rows[FIRST_RESULT - 1]
        row["payload"] = row["payload"].replace('"record_hash":', '"record_cash":')
        rewrite(connection, rows)

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {FIRST_RESULT}


@pytest.mark.parametrize(
    "damage",
    [
        edit_result(patient_id="p1:somebody-else"),
        edit_result(patient_id=None),
        lambda connection: connection.execute(update(SUBJECTS).values(salt=bytes(32))) and None,
        lambda connection: connection.execute(delete(SUBJECTS)) and None,
    ],
    ids=["other", "emptied", "salt", "forgotten"],
)
async def test_a_result_given_to_another_patient_is_found(damaged: Damaged, damage: Damage) -> None:
    report = await damaged(damage)

    assert flaws(report) == {Flaw.SUBJECT}
    assert FIRST_RESULT in places(report, Flaw.SUBJECT)


async def test_a_patient_can_be_forgotten_and_the_log_still_holds(damaged: Damaged) -> None:
    def forget(connection: Connection) -> None:
        connection.execute(delete(SUBJECTS))
        connection.execute(update(RESULTS).values(patient_id=None))

    report = await damaged(forget)

    assert report.intact


def a_version(**values: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "model_name": "other",
        "version": "1.0.0",
        "status": "active",
        "file_path": "x",
        "file_hash": "0" * 64,
        "file_size_bytes": 1,
        "clinical_domain": "x",
        "confidence_threshold": 0.5,
        "card": "{}",
        "registered_by": "x",
        **values,
    }


@pytest.mark.parametrize(
    ("damage", "flaw", "seq"),
    [
        (update(VERSIONS).values(status="active"), Flaw.RECORD, STEP),
        (update(VERSIONS).values(card="{}"), Flaw.RECORD, STEP),
        (update(VERSIONS).values(confidence_threshold=0.1), Flaw.RECORD, STEP),
        (update(VERSIONS).values(file_hash="0" * 64), Flaw.RECORD, STEP),
        (delete(VERSIONS), Flaw.MISSING, STEP),
        (insert(VERSIONS).values(a_version()), Flaw.UNRECORDED, 0),
        (update(USERS).values(role="admin"), Flaw.RECORD, 2),
        (update(USERS).values(username="root"), Flaw.RECORD, 2),
        (delete(USERS), Flaw.MISSING, 2),
        (
            insert(USERS).values(id=uuid4(), username="x", password_hash="x", role="admin"),
            Flaw.UNRECORDED,
            0,
        ),
    ],
    ids=range(10),
)
async def test_a_model_or_user_that_no_entry_made_so_is_found(
    damaged: Damaged, damage: Any, flaw: Flaw, seq: int
) -> None:
    report = await damaged(lambda connection: connection.execute(damage) and None)

    assert places(report, flaw) == {seq}
    assert flaws(report) == {flaw}


@pytest.mark.parametrize(
    ("found", "planted"),
    [('"kind":"new_model_version"', '"kind":"other"'), ('"changes":[{', '"changes":[[],{')],
    ids=["step without registration", "no change at all"],
)
async def test_changes_that_make_no_sense_are_found(
    damaged: Damaged, found: str, planted: str
) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        row = rows[2]
        assert found in row["payload"]
        row["payload"] = row["payload"].replace(found, planted)
        rewrite(connection, rows)

    report = await damaged(damage)

    assert Flaw.PAYLOAD in flaws(report)


# --- what is not found here, and why there are checkpoints ---


async def test_a_log_rewritten_with_its_state_is_not_found(damaged: Damaged) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        rows[EVENT - 1] = denied(rows[EVENT - 1])
        rewrite(connection, rows)

    assert (await damaged(damage)).intact


async def test_a_dropped_entry_is_not_found_where_the_rest_is_chained_anew(
    damaged: Damaged,
) -> None:
    def damage(connection: Connection) -> None:
        rows = all_entries(connection)
        rewrite(connection, rows[: EVENT - 1] + rows[EVENT:])

    assert (await damaged(damage)).intact


async def test_a_cut_tail_is_not_found_where_the_state_agrees(damaged: Damaged) -> None:
    report = await damaged(lambda connection: rewrite(connection, all_entries(connection)[:-1]))

    assert report.intact


# --- the report ---


async def test_a_whole_log_has_a_root(database: Database, site: "Site") -> None:
    [receipt] = await site.record(site.event())

    report = await verify(database)

    assert report.entries == receipt.seq
    assert report.tip == receipt.entry_hash
    async with database.reading() as session:
        rows = (await session.execute(select(LOG.c.leaf_hash).order_by(LOG.c.seq))).scalars()
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


# --- any list of events, any single change ---

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
events = st.lists(
    st.builds(
        AuditEvent,
        event_id=st.uuids(),
        action=st.sampled_from(AuditAction),
        description=texts,
        actor=st.just(SYSTEM),
        request_id=st.none() | texts,
        context=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(-9, 9) | texts),
    ).filter(lambda event: event.action is not AuditAction.CLOCK_STEP),
    min_size=1,
    max_size=5,
)


async def log_of(listed: list[AuditEvent]) -> tuple[list[list[Any]], dict[str, Any]]:
    """The rows of a log, as the verifier reads them, and its state."""
    chain = Chain(genesis_hash("medaiflow/x"), Frontier(), epoch=1)
    genesis = AuditEvent(
        UUID(int=0), AuditAction.LOG_GENESIS, "", SYSTEM, context={"origin": "medaiflow/x"}
    )
    drafts = [Draft(event) for event in (genesis, *listed)]
    at = datetime(2026, 11, 24, tzinfo=UTC)
    rows = await compose(AsyncSession(), chain, drafts, at=at, software="1")
    shown = [
        [row[name] if name != "event_id" else row[name].hex for name in COLUMNS]
        for row in rows.entries
    ]
    state = {"size": chain.size, "tip_hash": chain.tip_hash, "frontier": chain.frontier_bytes()}
    return shown, state


def found_in(rows: list[list[Any]], state: dict[str, Any]) -> int:
    findings = Findings()
    walk = LogWalk("medaiflow/x", findings)
    walk.feed(rows)
    walk.finish(**state)
    return findings.count


@given(events, st.data())
async def test_any_events_are_a_whole_log_and_any_single_change_is_found(
    listed: list[AuditEvent], data: st.DataObject
) -> None:
    rows, state = await log_of(listed)
    untouched = found_in(rows, state)
    row = rows[data.draw(st.integers(0, len(rows) - 1))]
    place = data.draw(st.sampled_from([i for i, value in enumerate(row) if value]))
    row[place] = changed(row[place], data)

    touched = found_in(rows, state)

    assert untouched == 0
    assert touched > 0


def changed(value: Any, data: st.DataObject) -> Any:
    """`value` with one byte, or one unit, changed."""
    if isinstance(value, int):
        return value + data.draw(st.sampled_from([-1, 1]))
    if isinstance(value, bytes):
        place = data.draw(st.integers(0, len(value) - 1))
        flipped = value[place] ^ data.draw(st.integers(1, 255))
        return value[:place] + bytes([flipped]) + value[place + 1 :]
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != value[place]))
    return value[:place] + other + value[place + 1 :]

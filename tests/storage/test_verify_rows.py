"""Damage to the rows the log vouches for is found, by a verifier, done by one who can write all."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, select, update

from registry.contract import Role
from registry.events import NewUser, UserRoleChanged
from storage.database import Database
from storage.findings import Flaw
from storage.tables import Table
from storage.verify import Report, verify

if TYPE_CHECKING:
    from conftest import Intruder, Site

# The entries of `damaged`.
USER, FIRST_RESULT, SECOND_RESULT, REJECTED, STEP = 2, 5, 7, 9, 10

RESULTS = Table.metadata.tables["inference_results"]
VALIDATIONS = Table.metadata.tables["validation_results"]
SUBJECTS = Table.metadata.tables["audit_subjects"]
VERSIONS = Table.metadata.tables["model_versions"]
USERS = Table.metadata.tables["users"]

Damage = Callable[["Intruder"], None]
Damaged = Callable[[Damage], Awaitable[Report]]


def flaws(report: Report) -> set[Flaw]:
    return {problem.flaw for problem in report.problems}


def places(report: Report, flaw: Flaw) -> set[int]:
    return {problem.seq for problem in report.problems if problem.flaw is flaw}


def result_id(intruder: "Intruder", seq: int) -> UUID:
    found: UUID = intruder.entry(seq)["inference_result_id"]
    return found


def edit_result(**values: Any) -> Damage:
    def damage(intruder: "Intruder") -> None:
        wanted = RESULTS.c.id == result_id(intruder, FIRST_RESULT)
        intruder.run(update(RESULTS).where(wanted).values(values))

    return damage


def edit_validation(**values: Any) -> Damage:
    def damage(intruder: "Intruder") -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(intruder, FIRST_RESULT)
        intruder.run(update(VALIDATIONS).where(wanted).values(values))

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
    def damage(intruder: "Intruder") -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(intruder, SECOND_RESULT)
        intruder.run(delete(VALIDATIONS).where(wanted))

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {SECOND_RESULT}


async def test_a_validation_given_to_another_result_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        wanted = VALIDATIONS.c.inference_result_id == result_id(intruder, FIRST_RESULT)
        other = result_id(intruder, REJECTED)
        intruder.run(update(VALIDATIONS).where(wanted).values(inference_result_id=other))

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {FIRST_RESULT, REJECTED}


async def test_a_deleted_result_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        wanted = RESULTS.c.id == result_id(intruder, SECOND_RESULT)
        intruder.run(delete(RESULTS).where(wanted))

    report = await damaged(damage)

    assert places(report, Flaw.MISSING) == {SECOND_RESULT}


async def test_a_result_without_an_entry_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        wanted = RESULTS.c.id == result_id(intruder, SECOND_RESULT)
        row = intruder.row(select(RESULTS).where(wanted))
        intruder.run(insert(RESULTS).values(row | {"id": uuid4()}))

    report = await damaged(damage)

    assert flaws(report) == {Flaw.UNRECORDED}


async def test_an_entry_that_cannot_be_compared_with_its_result_is_found(damaged: Damaged) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        row = rows[FIRST_RESULT - 1]
        row["payload"] = row["payload"].replace('"record_hash":', '"record_cash":')
        intruder.rewrite(rows)

    report = await damaged(damage)

    assert places(report, Flaw.RECORD) == {FIRST_RESULT}


@pytest.mark.parametrize(
    "damage",
    [
        edit_result(patient_id="p1:somebody-else"),
        edit_result(patient_id=None),
        lambda intruder: intruder.run(update(SUBJECTS).values(salt=bytes(32))),
        lambda intruder: intruder.run(delete(SUBJECTS)),
    ],
    ids=["other", "emptied", "salt", "forgotten"],
)
async def test_a_result_given_to_another_patient_is_found(damaged: Damaged, damage: Damage) -> None:
    report = await damaged(damage)

    assert flaws(report) == {Flaw.SUBJECT}
    assert FIRST_RESULT in places(report, Flaw.SUBJECT)


async def test_a_patient_forgotten_beside_the_log_is_found(damaged: Damaged) -> None:
    def forget(intruder: "Intruder") -> None:
        intruder.run(delete(SUBJECTS))
        intruder.run(update(RESULTS).values(patient_id=None))

    report = await damaged(forget)

    assert [problem.message for problem in report.problems] == [
        "2 patients are gone, the log tells of 0"
    ]


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
        (update(USERS).values(role="admin"), Flaw.RECORD, USER),
        (update(USERS).values(username="root"), Flaw.RECORD, USER),
        (delete(USERS), Flaw.MISSING, USER),
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
    report = await damaged(lambda intruder: intruder.run(damage))

    assert places(report, flaw) == {seq}
    assert flaws(report) == {flaw}


async def test_the_role_of_a_user_is_the_one_the_last_entry_gave(
    site: "Site", database: Database
) -> None:
    await site.record(
        site.event(NewUser(uuid4(), "root", Role.ADMIN, "x")),
        site.event(UserRoleChanged(site.user_id, Role.VIEWER)),
    )
    before = await verify(database)
    async with database.transaction() as session:
        await session.execute(update(USERS).values(role="clinician"))

    after = await verify(database)

    assert before.intact
    assert places(after, Flaw.RECORD) == {before.entries - 1, before.entries}


@pytest.mark.parametrize(
    ("found", "planted"),
    [('"kind":"new_model_version"', '"kind":"other"'), ('"changes":[{', '"changes":[[],{')],
    ids=["step without registration", "no change at all"],
)
async def test_changes_that_make_no_sense_are_found(
    damaged: Damaged, found: str, planted: str
) -> None:
    def damage(intruder: "Intruder") -> None:
        rows = intruder.entries()
        row = rows[2]
        assert found in row["payload"]
        row["payload"] = row["payload"].replace(found, planted)
        intruder.rewrite(rows)

    report = await damaged(damage)

    assert Flaw.PAYLOAD in flaws(report)

"""A patient can be forgotten: nothing leads to the pseudonym, and everything still verifies."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from registry.errors import NotFound
from registry.events import CLI, AuditAction, AuditEvent, PatientErased
from storage.database import Database
from storage.ledger import Ledger
from storage.tables import AuditLog, AuditSubject, InferenceResult, Table
from storage.verify import verify
from tests.storage.conftest import predicted

if TYPE_CHECKING:
    from conftest import Site

DOE, ROE = "p1:00112233445566778899aabbccddeeff", "p1:" + "ab" * 16
DIGEST = b"d" * 32


def result_of(site: "Site", patient: str, **fields: Any) -> AuditEvent:
    return site.inference(replace(predicted(), patient=patient), **fields)


def erasure(site: "Site", patient: str) -> AuditEvent:
    return site.event(
        PatientErased(patient), actor=CLI, action=AuditAction.PATIENT_ERASED, request_id=None
    )


async def everything(database: Database) -> str:
    """All that is stored, as text."""
    async with database.reading() as session:
        tables = [
            (await session.execute(select(table))).all() for table in Table.metadata.sorted_tables
        ]
    return repr(tables)


async def test_nothing_of_the_patient_is_left_and_the_records_still_verify(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append([result_of(site, DOE), result_of(site, ROE), result_of(site, DOE)])
    assert DOE in await everything(database)

    await site.record(erasure(site, DOE))

    left = await everything(database)
    assert DOE not in left
    assert ROE in left
    assert (await verify(database)).intact


async def test_the_entry_counts_and_names_nobody(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append([result_of(site, DOE), result_of(site, ROE), result_of(site, DOE)])

    [receipt] = await site.record(erasure(site, DOE))

    async with database.reading() as session:
        payload = await session.scalar(select(AuditLog.payload).where(AuditLog.seq == receipt.seq))
    assert payload is not None
    assert json.loads(payload)["changes"] == [
        {"kind": "patient_erased", "results": 2, "commitments": 2}
    ]
    assert DOE not in payload


async def test_the_digest_that_the_pseudonym_went_into_is_gone_from_the_whole_batch(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append(
        [
            result_of(site, DOE, idempotency_key="batch 0", request_digest=DIGEST),
            result_of(site, ROE, idempotency_key="batch 1", request_digest=DIGEST),
            result_of(site, ROE, idempotency_key="other", request_digest=b"o" * 32),
        ]
    )

    await site.record(erasure(site, DOE))

    async with database.reading() as session:
        digests = await session.scalars(
            select(InferenceResult.request_digest).order_by(InferenceResult.idempotency_key)
        )
        assert list(digests) == [None, None, b"o" * 32]
    assert (await verify(database)).intact


async def test_a_patient_nobody_has_is_not_found_and_leaves_no_entry(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append([result_of(site, ROE)])

    [ended] = await site.offer(erasure(site, DOE))

    assert isinstance(ended, NotFound)
    async with database.reading() as session:
        entries = await session.scalar(
            select(func.count()).where(AuditLog.action == AuditAction.PATIENT_ERASED)
        )
    assert entries == 0


async def test_an_erasure_that_was_made_larger_beside_the_log_is_found(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append([result_of(site, DOE), result_of(site, ROE)])
    await site.record(erasure(site, DOE))

    async with database.transaction() as session:
        await session.execute(text("DELETE FROM audit_subjects"))
        await session.execute(text("UPDATE inference_results SET patient_id = NULL"))

    report = await verify(database)
    assert [problem.message for problem in report.problems] == [
        "2 patients are gone, the log tells of 1"
    ]


async def test_a_patient_who_comes_again_is_a_new_one_to_the_log(
    database: Database, ledger: Ledger, site: "Site"
) -> None:
    await ledger.append([result_of(site, DOE)])
    await site.record(erasure(site, DOE))

    await ledger.append([result_of(site, DOE)])

    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(AuditSubject)) == 1
    assert (await verify(database)).intact


@pytest.mark.postgres
async def test_the_servers_role_can_erase_and_change_nothing_else_of_a_result(
    database: Database, site: "Site"
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no roles")
    async with database.reading() as session:
        granted = await session.execute(
            text(
                "SELECT column_name FROM information_schema.column_privileges WHERE grantee ="
                " 'medai_app' AND table_name = 'inference_results' AND privilege_type = 'UPDATE'"
            )
        )
    assert set(granted.scalars()) == {"patient_id", "request_digest"}

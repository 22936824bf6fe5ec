"""A recorded result, read back with its place in the audit log."""

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from registry.contract import Verdict
from registry.errors import NotFound
from storage.audit import AuditRepository
from storage.database import Database
from storage.results import ResultRepository, StoredResult

if TYPE_CHECKING:
    from conftest import Site


@pytest.mark.parametrize("name", ["predicted", "failed"])
async def test_a_result_reads_back_as_it_was_recorded(
    site: "Site", verdicts: dict[str, Verdict], name: str
) -> None:
    verdict = verdicts[name]
    event = site.inference(verdict, idempotency_key="key-1")
    [receipt] = await site.record(event)

    async with site.database.reading() as session:
        stored = await ResultRepository(session).get(event.event_id)

    assert stored == StoredResult(
        result_id=event.event_id,
        created_at=event.changes[0].created_at,  # type: ignore[union-attr]  # a NewResult
        created_by=site.user_id,
        model=site.model,
        outcome=verdict.outcome,
        prediction=verdict.prediction,
        confidence=verdict.confidence,
        scores=verdict.scores,
        reasons=verdict.reasons,
        needs_review=verdict.needs_review,
        error_code=verdict.error.code if verdict.error else None,
        patient=verdict.patient,
        facts=verdict.facts,
        gate=verdict.gate,
        validation=verdict.validation,
        inference_ms=verdict.inference_ms,
        preprocessing_ms=verdict.decode_ms + verdict.validate_ms + verdict.preprocess_ms,
        request_digest=None,
        idempotency_key="key-1",
        record_hash=stored.record_hash,
        receipt=receipt,
    )
    assert list(stored.scores) == list(verdict.scores)


async def test_a_result_that_is_not_there_is_not_found(site: "Site") -> None:
    async with site.database.reading() as session:
        with pytest.raises(NotFound):
            await ResultRepository(session).get(uuid4())


async def test_the_entry_of_a_result_is_found(site: "Site") -> None:
    event = site.inference()
    [receipt, _] = await site.record(event, site.event())

    async with site.database.reading() as session:
        entry = await AuditRepository(session).entry_of_result(event.event_id)
        same = await AuditRepository(session).entry(receipt.seq)

    assert entry == same
    assert (entry.seq, entry.entry_hash) == (receipt.seq, receipt.entry_hash)
    assert (entry.result_id, entry.user_id) == (event.event_id, site.user_id)
    assert entry.model_version_id == site.model.id


async def test_the_newest_entries_come_first_page_by_page(site: "Site") -> None:
    receipts = await site.record(*(site.event() for _ in range(5)))
    newest = [receipt.seq for receipt in reversed(receipts)]

    async with site.database.reading() as session:
        first = await AuditRepository(session).recent(2)
        second = await AuditRepository(session).recent(2, before=first[-1].seq)

    assert [entry.seq for entry in (*first, *second)] == newest[:4]


async def test_an_entry_that_is_not_there_is_not_found(site: "Site") -> None:
    async with site.database.reading() as session:
        with pytest.raises(NotFound):
            await AuditRepository(session).entry(999)
        with pytest.raises(NotFound):
            await AuditRepository(session).entry_of_result(uuid4())


async def test_a_log_that_has_not_begun_has_no_head(database: Database) -> None:
    async with database.reading() as session:
        with pytest.raises(NotFound):
            await AuditRepository(session).head()

"""An inference as rows: the hash is pinned, and comes out the same before storing and after."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Check, ImageFacts, ModelRef, Outcome, Validation, Verdict
from registry.events import NewResult
from storage.records import (
    RESULT_FIELDS,
    VALIDATION_FIELDS,
    record_hash,
    record_of,
    rfc3339,
    subject_commit,
)
from storage.tables import Table

if TYPE_CHECKING:
    from conftest import Site

# Computed by hand from the formula in storage.records, with hashlib and json alone.
PINNED = "e5a0299021f43d6006ba8ed7a77f27c258e0e96c675c91895d1bd0106e0530df"
MOMENT = datetime(2026, 11, 24, 8, 0, 0, 1500, tzinfo=UTC)


def result_of(verdict: Verdict) -> NewResult:
    return NewResult(
        result_id=UUID("01932c07-73a0-7000-8000-000000000001"),
        model=ModelRef(UUID(int=1), "cxr-pneumonia", "1.0.0", "ab" * 32),
        verdict=verdict,
        created_by=UUID(int=2),
        created_at=MOMENT,
        idempotency_key="key-1",
    )


def test_the_hash_of_a_record_is_pinned(verdicts: dict[str, Verdict]) -> None:
    record = record_of(result_of(replace(verdicts["predicted"], patient=None)))

    assert record.result["record_hash"].hex() == PINNED
    assert record.summary["record_hash"] == PINNED


def test_the_commitment_to_a_patient_is_pinned() -> None:
    commit = subject_commit(bytes(range(32)), "p1:00ff")

    assert commit.hex() == "d6118808094b74c7a5fd586d8e473d7280df75d5fa3ebc258aa1863a1aa27a2b"


def test_every_column_that_never_changes_is_in_the_hash() -> None:
    results = {column.name for column in Table.metadata.tables["inference_results"].columns}
    validations = {column.name for column in Table.metadata.tables["validation_results"].columns}

    assert results == {*RESULT_FIELDS, "patient_id", "record_hash", "request_digest"}
    assert validations == set(VALIDATION_FIELDS)


@pytest.mark.parametrize("name", RESULT_FIELDS)
def test_the_hash_covers_every_field_of_the_result(verdicts: dict[str, Verdict], name: str) -> None:
    record = record_of(result_of(verdicts["predicted"]))
    assert record.validation is not None

    other = record_hash(record.result | {name: "other"}, record.validation, record.subject_commit)

    assert other != record.result["record_hash"]


@pytest.mark.parametrize("name", VALIDATION_FIELDS)
def test_the_hash_covers_every_field_of_the_validation(
    verdicts: dict[str, Verdict], name: str
) -> None:
    record = record_of(result_of(verdicts["predicted"]))
    assert record.validation is not None

    other = record_hash(record.result, record.validation | {name: "other"}, record.subject_commit)

    assert other != record.result["record_hash"]


def test_the_hash_covers_the_patient_and_that_there_was_a_validation(
    verdicts: dict[str, Verdict],
) -> None:
    record = record_of(result_of(verdicts["predicted"]))

    assert record_hash(record.result, None, record.subject_commit) != record.result["record_hash"]
    assert record_hash(record.result, record.validation, None) != record.result["record_hash"]


def test_two_records_of_one_patient_cannot_be_told_to_be_so(verdicts: dict[str, Verdict]) -> None:
    one = record_of(result_of(verdicts["predicted"]))
    other = record_of(result_of(verdicts["predicted"]))

    assert one.subject_commit != other.subject_commit
    assert one.salt is not None
    assert len(one.salt) == 32


def test_numbers_from_numpy_are_stored_as_plain_doubles() -> None:
    verdict = Verdict(
        Outcome.ABSTAINED,
        ImageFacts("cd" * 32, 1),
        confidence=float(np.float32(0.3)),
        scores={"normal": np.float32(0.3)},  # type: ignore[dict-item]  # as a model may give it
        inference_ms=np.float64(-0.0),
    )

    row = record_of(result_of(verdict)).result

    assert row["scores"] == '{"normal":0.30000001192092896}'
    assert str(row["inference_latency_ms"]) == "0.0"
    assert type(row["inference_latency_ms"]) is float


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_score_that_is_no_number_is_refused(number: float) -> None:
    facts = ImageFacts("cd" * 32, 1)

    for verdict in (
        Verdict(Outcome.ABSTAINED, facts, scores={"normal": number}),
        Verdict(Outcome.ABSTAINED, facts, confidence=number),
        Verdict(Outcome.ABSTAINED, facts, validation=Validation(True, number, ())),
    ):
        with pytest.raises(ValueError, match="finite"):
            record_of(result_of(verdict))


def test_a_measurement_that_is_no_number_is_kept_as_a_word() -> None:
    checks = (Check("brightness", nan, "0 to 1", passed=False, code="NO_BRIGHTNESS"),)
    facts = ImageFacts("cd" * 32, 1, pixel_spacing_mm=inf)

    record = record_of(result_of(Verdict(Outcome.REJECTED, facts, Validation(False, 0.0, checks))))

    assert record.validation is not None
    assert '"measured":"nan"' in record.validation["measurements"]
    assert '"pixel_spacing_mm":null' in record.result["image_facts"]


def test_which_quality_rule_failed_is_a_column(verdicts: dict[str, Verdict]) -> None:
    validation = record_of(result_of(verdicts["predicted"])).validation

    assert validation is not None
    assert (
        validation["brightness_valid"],
        validation["contrast_valid"],
        validation["motion_artifact_free"],
    ) == (True, False, True)


def test_what_a_record_cannot_hold_is_refused(verdicts: dict[str, Verdict]) -> None:
    record = record_of(result_of(verdicts["failed"]))

    with pytest.raises(TypeError, match="bytes"):
        record_hash(record.result | {"gate": b"x"}, None, None)


@given(
    st.datetimes(timezones=st.timezones())
    .filter(lambda moment: datetime(1900, 1, 1) < moment.replace(tzinfo=None))  # noqa: DTZ001
    .filter(lambda moment: moment.replace(tzinfo=None) < datetime(2200, 1, 1))  # noqa: DTZ001
)
def test_a_moment_has_one_text(moment: datetime) -> None:
    text = rfc3339(moment)

    assert len(text) == 27
    assert text.endswith("Z")
    assert datetime.fromisoformat(text).timestamp() == moment.timestamp()


def test_a_moment_is_told_in_utc() -> None:
    berlin = timezone(timedelta(hours=1))

    assert rfc3339(datetime(2026, 11, 24, 9, 0, tzinfo=berlin)) == "2026-11-24T08:00:00.000000Z"


@pytest.mark.parametrize("name", ["predicted", "failed"])
async def test_the_hash_comes_out_the_same_from_the_database(
    site: "Site", verdicts: dict[str, Any], name: str
) -> None:
    event = site.inference(verdicts[name])
    await site.record(event)

    async def only_row(table: str) -> dict[str, Any] | None:
        async with site.database.reading() as session:
            found = await session.execute(Table.metadata.tables[table].select())
            row = found.mappings().one_or_none()
            return None if row is None else {str(name): value for name, value in row.items()}

    result = await only_row("inference_results")
    validation = await only_row("validation_results")
    subject = await only_row("audit_subjects")
    assert result is not None
    commit = subject_commit(subject["salt"], subject["patient_id"]) if subject else None

    assert record_hash(result, validation, commit) == result["record_hash"]

"""The evidence of one result: it proves itself offline, and nothing in it can be changed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update
from uuid_utils.compat import uuid7

from registry.errors import AuditUnavailable, NotFound
from storage.evidence import EvidenceReader
from storage.tables import AuditLog, AuditSubject, InferenceResult, ModelVersion
from tests.audit.verifier import OK

if TYPE_CHECKING:
    from conftest import Case, Intruder, Log, Verify


async def test_it_proves_what_was_said_of_the_image(
    case: "Case", verify: "Verify", tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(case.document, indent=2, sort_keys=True))  # any layout will do

    code, report = verify("evidence", path, "--vkey", case.vkey)

    assert (code, report["result"], report["findings"]) == (OK, "OK", [])
    assert report["result_id"] == str(case.result_id)
    assert report["prediction"] == "pneumonia"
    assert report["scores"] == [["normal", "0.068750"], ["pneumonia", "0.931250"]]
    assert report["threshold"] == "0.700000"
    assert report["input_sha256"] == "cd" * 32
    assert (report["model"]["version"], report["model"]["sha256"]) == ("2.0.0", "cd" * 32)
    assert report["image"]["modality"] == "DX"
    assert report["measurements"][0]["name"] == "brightness"
    assert report["preprocessing"]["height"] == 8
    assert report["user"]["id"] == str(case.log.site.user_id)
    assert report["software"] == "1.2.3"
    assert report["recorded_at"].startswith("2026-11-24T08:00:0")
    assert report["proof"].startswith("entry 6 of the first 7 of medaiflow/")


async def test_the_first_checkpoint_that_covers_it_is_taken(case: "Case") -> None:
    assert case.document["checkpoint"].split("\n")[1] == "7"
    assert case.document["entry"]["payload"]["seq"] == 6


async def test_a_refused_image_has_evidence_too(
    case: "Case", log: "Log", key: Ed25519PrivateKey, verdicts: dict[str, Any]
) -> None:
    event = log.site.inference(verdicts["failed"])
    await log.append(event)
    checkpointer = log.checkpointer(key)
    await checkpointer.open()
    await checkpointer.now()

    document = await EvidenceReader(log.database).of_result(event.event_id, with_subject=True)

    wrong, facts = case.check(document)
    assert wrong == []
    assert document["subject"] is None
    assert (facts["outcome"], facts["error_code"]) == ("rejected", "undecodable-image")
    assert facts["measurements"] is None


async def test_the_patient_is_named_only_where_asked_for(case: "Case") -> None:
    document = await EvidenceReader(case.log.database).of_result(case.result_id)

    assert case.document["subject"]["patient_id"] == "p1:00112233445566778899aabbccddeeff"
    assert document["subject"] is None
    assert "p1:" not in json.dumps(document)


async def test_after_the_patient_was_forgotten_the_evidence_still_holds(
    case: "Case", intruder: "Intruder"
) -> None:
    await intruder.run(delete(AuditSubject), update(InferenceResult).values(patient_id=None))

    document = await EvidenceReader(case.log.database).of_result(case.result_id, with_subject=True)

    assert document["subject"] is None
    assert case.check(document)[0] == []


async def test_a_result_that_does_not_exist_is_not_found(case: "Case") -> None:
    with pytest.raises(NotFound):
        await EvidenceReader(case.log.database).of_result(uuid7())


async def test_any_entry_has_evidence(case: "Case", verify: "Verify", tmp_path: Path) -> None:
    reader = EvidenceReader(case.log.database)
    for seq in range(1, 8):
        path = tmp_path / "entry.json"
        path.write_text(json.dumps(await reader.of_entry(seq)))

        code, report = verify("evidence", path, "--vkey", case.vkey)

        assert (code, report["findings"]) == (OK, [])
        assert report["proof"].startswith(f"entry {seq} of the first 7 of medaiflow/")
    with pytest.raises(NotFound):
        await reader.of_entry(99)


async def test_a_result_without_a_checkpoint_has_to_wait(case: "Case") -> None:
    event = case.log.site.inference()
    await case.log.append(event)

    with pytest.raises(AuditUnavailable, match="no checkpoint covers") as refused:
        await EvidenceReader(case.log.database).of_result(event.event_id)

    assert refused.value.retry_after_s == 10


async def test_a_changed_result_is_not_given_out(case: "Case", intruder: "Intruder") -> None:
    await intruder.change_result(confidence_score=0.5)

    with pytest.raises(AuditUnavailable, match="stored result is not what"):
        await EvidenceReader(case.log.database).of_result(case.result_id)


@pytest.mark.parametrize("payload", ["{}", "junk", '{ "action":"inference"}'])
async def test_a_changed_entry_is_not_given_out(
    payload: str, case: "Case", intruder: "Intruder"
) -> None:
    await intruder.run(
        update(AuditLog)
        .where(AuditLog.inference_result_id == case.result_id)
        .values(payload=payload)
    )

    with pytest.raises(AuditUnavailable):
        await EvidenceReader(case.log.database).of_result(case.result_id)


async def test_another_entry_is_not_given_out_in_its_place(
    case: "Case", intruder: "Intruder"
) -> None:
    ids = update(AuditLog).where(AuditLog.inference_result_id == case.result_id)
    await intruder.run(
        ids.values(inference_result_id=None),
        update(AuditLog).where(AuditLog.seq == 3).values(inference_result_id=case.result_id),
    )

    with pytest.raises(AuditUnavailable, match="entry is not what"):
        await EvidenceReader(case.log.database).of_result(case.result_id)


async def test_a_changed_card_is_found(case: "Case", intruder: "Intruder") -> None:
    await intruder.run(update(ModelVersion).values(card='{"input":{"height":16}}'))

    document = await EvidenceReader(case.log.database).of_result(case.result_id)

    assert case.check(document)[0] == ["card: not the one that was registered"]

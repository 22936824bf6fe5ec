"""The evidence of a result, fetched over HTTP and checked by the auditor's own program."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments import medai_verify
from storage.anchors import AnchorFile
from storage.audit import AuditRepository
from storage.checkpoints import Checkpointer
from storage.notes import VerifierKey
from tests.api.house import INFER, JPEG, House
from tests.api.test_matrix import IMAGE


async def signed(house: House, tmp_path: Path) -> str:
    """Sign the log's head; the key that verifies it."""
    key = Ed25519PrivateKey.generate()
    checkpointer = Checkpointer(
        house.database,
        key,
        AnchorFile(tmp_path / "anchors.jsonl"),
        now=lambda: datetime.now(UTC),
        report=lambda _: None,
        alarm=lambda _: None,
    )
    await checkpointer.open()
    await checkpointer.now()
    async with house.database.reading() as session:
        origin = (await AuditRepository(session).head()).origin
    return str(VerifierKey.of(origin, key))


async def test_the_auditors_program_accepts_it_and_finds_any_change(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = house.client("clara")
    answer = (await client.post(INFER, content=IMAGE, headers=JPEG)).json()
    vkey = await signed(house, tmp_path)

    response = await client.get(f"/results/{answer['result_id']}/evidence")

    assert response.status_code == 200
    whole, changed = tmp_path / "whole.json", tmp_path / "changed.json"
    whole.write_bytes(response.content)
    changed.write_text(response.text.replace(answer["prediction"], "SOMETHING ELSE"))
    verify: Callable[[list[str]], int] = medai_verify.main
    assert verify(["evidence", str(whole), "--vkey", vkey]) == 0
    assert verify(["evidence", str(changed), "--vkey", vkey]) == 1
    assert json.loads(response.text)
    capsys.readouterr()


async def test_before_a_checkpoint_covers_it_the_caller_is_told_to_come_again(
    house: House,
) -> None:
    client = house.client("clara")
    answer = (await client.post(INFER, content=IMAGE, headers=JPEG)).json()

    response = await client.get(f"/results/{answer['result_id']}/evidence")

    assert response.status_code == 503
    assert "Retry-After" in response.headers


async def test_anothers_evidence_does_not_exist(house: House) -> None:
    answer = (await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)).json()

    response = await house.client("carl").get(f"/results/{answer['result_id']}/evidence")

    assert response.status_code == 404

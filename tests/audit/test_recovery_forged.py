"""A recovery that was forged, or that speaks of another head, excuses no missing entry."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from deployments.medai_verify import TAMPERED, TRUNCATED, UNVERIFIABLE
from registry.errors import AuditUnavailable
from storage.anchors import AnchorFile, startup_check
from storage.appender import Appender
from storage.checkpoints import publish
from storage.entries import Draft
from storage.heads import read_head
from storage.tables import AuditState
from storage.verify import verify as verify_records
from tests.audit.recovery import ADA, DECISION, Hospital, hospital, restored

if TYPE_CHECKING:
    from conftest import Export, Verify

__all__ = ["hospital", "restored"]


async def forge(hospital: Hospital, **context: Any) -> None:
    """One who has the database writes a recovery with another context, and nobody signs it."""
    event = (await hospital.assess()).event(DECISION)
    event.context.update(context)
    appender = Appender(hospital.log.database, software_version="1.2.3", now=hospital.log.clock)
    async with hospital.log.database.reading() as session:
        size, tip = (await session.execute(select(AuditState.size, AuditState.tip_hash))).one()
    await appender.go_on(Draft(event), size=size, tip=tip)


async def test_a_recovery_that_nobody_signed_excuses_nothing(
    restored: Hospital, export: "Export", verify: "Verify", key: Ed25519PrivateKey
) -> None:
    await forge(restored)
    exported = await export()

    for anchors in (("--anchors", restored.log.path), ()):
        code, said = verify("log", exported, *anchors, "--vkey", restored.vkey)

        assert (code, said["missing"]) == (TRUNCATED, 6)
    with pytest.raises(AuditUnavailable):
        await startup_check(
            restored.log.database, restored.log.anchors, key.public_key().public_bytes_raw()
        )


async def test_nor_where_the_log_was_made_longer_than_the_lost_one(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    await forge(restored)
    await restored.log.site.record(*(restored.log.site.event() for _ in range(9)))

    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )

    assert code == TAMPERED
    assert [found["kind"] for found in said["findings"]] == ["recovery"]


@pytest.mark.parametrize(
    "lie",
    [
        {"lost_root": "ab" * 32},
        {"lost_size": 12, "lost": 6},
        {"lost_size": 9, "lost": 3},
        {"lost": 6},
        {"lost_size": 6, "lost": 0},
        {"size": 5},
        {"tip": "ab" * 32},
        {"approved_by": ADA},
        {"lost_root": None},
    ],
)
async def test_a_recovery_that_names_another_head_is_found_though_it_was_signed(
    lie: dict[str, Any], restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    await forge(restored, **lie)
    await _signs_all_the_same(restored)

    report = await verify_records(restored.log.database, AnchorFile(restored.log.path))
    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )

    assert {problem.flaw for problem in report.problems} <= {"recovery", "payload"}
    assert report.problems
    assert code == TAMPERED
    assert "recovery" in {found["kind"] for found in said["findings"]} or lie == {"lost_root": None}


async def _signs_all_the_same(hospital: Hospital) -> None:
    """A service that was made to sign: its key and its anchor file were in the wrong hands."""
    head = await read_head(hospital.log.database)
    assert head is not None
    await publish(
        *(hospital.log.database, AnchorFile(hospital.log.path), head, hospital.key),
        at=hospital.log.clock(),
        report=hospital.log.reported.append,
        recovers=hospital.anchored()[-1],
    )


async def test_with_anchors_that_end_before_the_lost_head_nothing_is_certain(
    restored: Hospital, export: "Export", verify: "Verify", tmp_path: Path
) -> None:
    early = tmp_path / "early.jsonl"
    early.write_text("".join(restored.log.path.read_text().splitlines(keepends=True)[:2]))
    await restored.recovers()

    code, said = verify("log", await export(), "--anchors", early, "--vkey", restored.vkey)

    assert (code, said["findings"]) == (UNVERIFIABLE, [])
    assert said["doubts"] == ["entry 7 gives up a head that is newer than the anchors"]


async def test_nor_with_anchors_that_end_between_two_recoveries(
    restored: Hospital, export: "Export", verify: "Verify", tmp_path: Path
) -> None:
    backup = await restored.backup()
    await restored.recovers()
    await restored.serves(9)
    early = tmp_path / "early.jsonl"
    early.write_bytes(restored.log.path.read_bytes())
    await restored.serves(3)
    await restored.restore(backup)
    await restored.recovers()
    await restored.serves(2)

    code, said = verify("log", await export(), "--anchors", early, "--vkey", restored.vkey)

    assert (code, said["findings"]) == (UNVERIFIABLE, [])
    assert said["doubts"] == ["entry 7 gives up a head that is newer than the anchors"]


async def test_an_anchor_goes_back_only_right_after_the_line_that_it_gives_up(
    restored: Hospital,
) -> None:
    head = await read_head(restored.log.database)
    assert head is not None
    before = restored.log.path.read_text()

    with pytest.raises(AuditUnavailable, match="another last line"):
        await publish(
            *(restored.log.database, AnchorFile(restored.log.path), head, restored.key),
            at=restored.log.clock(),
            report=restored.log.reported.append,
            recovers=9,
        )

    assert restored.log.path.read_text() == before


async def test_anchors_that_give_entries_up_need_an_entry_that_does(restored: Hospital) -> None:
    await restored.recovers()
    await restored.log.site.record(restored.log.site.event())
    await _signs_all_the_same(restored)

    report = await verify_records(restored.log.database, AnchorFile(restored.log.path))

    assert [(found.seq, found.flaw) for found in report.problems] == [(8, "recovery")]

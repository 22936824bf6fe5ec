"""The newer database is lost for ever: the log goes on, and everybody is told what is missing."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployments import medai_verify
from deployments.medai_verify import OK, TAMPERED, TRUNCATED
from registry.errors import AuditUnavailable, Forbidden
from storage.anchors import AnchorFile
from storage.recovery import Decision
from storage.verify import verify as verify_records
from tests.audit.recovery import (
    ADA,
    BEA,
    CLEO,
    DECISION,
    REASON,
    Hospital,
    hospital,
    restored,
)

if TYPE_CHECKING:
    from conftest import Export, Verify

__all__ = ["hospital", "restored"]


async def test_what_is_lost_is_told_before_anybody_decides(restored: Hospital) -> None:
    gap = await restored.assess()

    assert (gap.first, gap.lost_size, gap.begun) == (7, 13, None)
    assert gap.signed_at.startswith("2026-")


async def test_a_recovered_log_goes_on_and_both_verifiers_report_the_gap(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    seq = await restored.recovers()

    size = await restored.serves(4)
    assert (seq, size) == (7, 12)
    assert restored.anchored() == [6, 9, 13, 7, 12]
    report = await verify_records(restored.log.database, AnchorFile(restored.log.path))
    assert report.problems == ()
    (gap,) = report.recoveries
    assert str(gap) == (
        f"recovered: entries 7-13 are lost; accepted by {ADA} and {BEA} on {gap.recorded_at}"
        " (entry 7)"
    )
    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )
    assert (code, said["missing"], said["last_anchor"]) == (OK, 0, 12)
    assert said["recovered"] == [gap.document()]
    assert (said["recovered"][0]["reason"], said["recovered"][0]["last_lost"]) == (REASON, 13)


async def test_the_gap_is_reported_to_people_too(
    restored: Hospital, export: "Export", capsys: pytest.CaptureFixture[str]
) -> None:
    await restored.recovers()
    exported = await export()
    await restored.serves(1)

    arguments = ["log", str(exported), "--vkey", restored.vkey]
    assert medai_verify.main(arguments) == OK

    said = capsys.readouterr().out
    assert f"recovered  entries 7-13 are lost; accepted by {ADA} and {BEA} on 2026-" in said


async def test_also_when_the_log_has_outgrown_what_was_lost(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    await restored.recovers()
    await restored.serves(20)

    exported = await export()

    assert (await verify_records(restored.log.database, AnchorFile(restored.log.path))).intact
    arguments = ("log", exported, "--anchors", restored.log.path, "--vkey", restored.vkey)
    assert verify(*arguments)[0] == OK


async def test_the_reports_of_later_nights_still_name_the_gap(
    restored: Hospital, export: "Export", verify: "Verify", tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    await restored.recovers()
    await restored.serves(1)
    anchored = ("--anchors", restored.log.path, "--vkey", restored.vkey)
    size = await restored.size()
    first, _ = verify("log", await export(), *anchored, "--save-state", state)

    await restored.serves(9)
    later, said = verify(
        "log", await export(after=size), *anchored, "--from-state", state, "--save-state", state
    )

    assert (first, later) == (OK, OK)
    assert [gap["last_lost"] for gap in said["recovered"]] == [13]


async def test_a_second_restore_is_recovered_too(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    await restored.recovers()
    await restored.serves(1)
    backup = await restored.backup()
    await restored.serves(5)
    await restored.restore(backup)

    await restored.recovers()

    await restored.serves(1)
    report = await verify_records(restored.log.database, AnchorFile(restored.log.path))
    assert report.problems == ()
    assert [(gap.seq, gap.lost_size) for gap in report.recoveries] == [(7, 13), (10, 15)]
    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )
    assert (code, len(said["recovered"])) == (OK, 2)


async def test_the_same_backup_restored_again_loses_the_first_recovery_with_the_rest(
    hospital: Hospital, export: "Export", verify: "Verify"
) -> None:
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.serves(5)
    await hospital.restore(backup)
    await hospital.recovers()
    await hospital.serves(1)
    await hospital.restore(backup)

    await hospital.recovers()

    await hospital.serves(1)
    report = await verify_records(hospital.log.database, AnchorFile(hospital.log.path))
    assert report.problems == ()
    assert [(gap.seq, gap.lost_size) for gap in report.recoveries] == [(7, 9)]
    code, said = verify(
        "log", await export(), "--anchors", hospital.log.path, "--vkey", hospital.vkey
    )
    assert (code, len(said["recovered"])) == (OK, 1)


async def test_without_a_recovery_the_log_is_truncated(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    code, said = verify(
        "log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey
    )

    assert (code, said["missing"], said["recovered"]) == (TRUNCATED, 7, [])


async def test_a_clock_that_stood_earlier_than_the_backup_does_no_harm(
    restored: Hospital, export: "Export", verify: "Verify"
) -> None:
    restored.log.clock.time -= timedelta(hours=3)

    await restored.recovers()
    await restored.serves(1)

    report = await verify_records(restored.log.database, AnchorFile(restored.log.path))
    assert report.problems == ()
    arguments = ("log", await export(), "--anchors", restored.log.path, "--vkey", restored.vkey)
    assert verify(*arguments)[0] == OK


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_recovery_that_could_not_be_anchored_is_finished_by_the_next(
    lost: int,
    hospital: Hospital,
    monkeypatch: pytest.MonkeyPatch,
    export: "Export",
    verify: "Verify",
) -> None:
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.log.events(lost)  # with one, the recovery's entry has the lost one's number
    await hospital.signs()
    await hospital.restore(backup)
    last_anchor = hospital.anchored()[-1]
    with monkeypatch.context() as broken:
        broken.setattr(AnchorFile, "_append", _full)
        with pytest.raises(AuditUnavailable, match="cannot be written"):
            await hospital.recovers()
    size = await hospital.size()
    exported = await export()
    arguments = ("log", exported, "--anchors", hospital.log.path, "--vkey", hospital.vkey)
    assert verify(*arguments)[0] == (TAMPERED if lost == 1 else TRUNCATED)

    with pytest.raises(Forbidden, match="two others"):
        await hospital.recovers(Decision(REASON, DECISION.actor, ADA, CLEO))

    seq = await hospital.recovers(Decision(REASON, DECISION.actor, BEA, ADA))

    assert (seq, await hospital.size()) == (size, size)  # no second entry
    assert hospital.anchored()[-1] == seq
    await hospital.serves(2)
    report = await verify_records(hospital.log.database, AnchorFile(hospital.log.path))
    assert report.problems == ()
    assert [gap.lost_size for gap in report.recoveries] == [last_anchor]


def _full(*_: object) -> str:
    raise OSError(28, "No space left on device")

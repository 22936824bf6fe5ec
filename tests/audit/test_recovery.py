"""The newer database is lost for ever: the log goes on, and everybody is told what is missing."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, update

from deployments import medai_verify
from deployments.medai_verify import OK, TAMPERED, TRUNCATED, UNVERIFIABLE
from registry.contract import Role
from registry.errors import (
    AuditUnavailable,
    Conflict,
    Forbidden,
    ValidationFailed,
    is_read_only,
)
from registry.events import Actor
from storage.anchors import Anchor, AnchorFile, startup_check
from storage.appender import Appender
from storage.checkpoints import publish
from storage.entries import Draft
from storage.hashchain import Frontier
from storage.heads import read_head
from storage.ledger import Ledger
from storage.notes import Checkpoint, VerifierKey, sign
from storage.recovery import Decision, Gap, assess, recover
from storage.tables import AuditState, Table
from storage.verify import verify as verify_records

if TYPE_CHECKING:
    from conftest import Export, Intruder, Log, Verify

ADA, BEA = "user:01900000-0000-7000-8000-00000000000a", "user:01900000-0000-7000-8000-00000000000b"
CLEO = "user:01900000-0000-7000-8000-00000000000c"
REASON = "the disk of both copies burnt"
DECISION = Decision(REASON, Actor("cli", None, Role.ADMIN), ADA, BEA)
TABLES = Table.metadata.sorted_tables

Rows = dict[str, list[dict[str, Any]]]


class Hospital:
    """A log whose database can be backed up and put back, while its anchors stay."""

    def __init__(self, log: "Log", intruder: "Intruder", key: Ed25519PrivateKey) -> None:
        self.log = log
        self.key = key
        self.vkey = ""
        self._intruder = intruder

    async def serves(self, events: int) -> int:
        """A run of the service: so many events, and a checkpoint. Gives the log's size."""
        log = self.log
        checkpointer = log.checkpointer(self.key)
        await checkpointer.open()
        log.ledger = Ledger(log.database, software_version="1.2.3", now=log.clock)
        await log.ledger.open()
        checkpointer.observe(await log.events(events))
        made = await checkpointer.now()
        assert made is not None
        self.vkey = str(VerifierKey.of(made.origin, self.key))
        return made.size

    async def signs(self) -> None:
        """A checkpoint of what there is."""
        checkpointer = self.log.checkpointer(self.key)
        await checkpointer.open()
        await checkpointer.now()

    async def backup(self) -> Rows:
        """Every row of every table."""
        async with self.log.database.reading() as session:
            return {
                table.name: [dict(row) for row in (await session.execute(select(table))).mappings()]
                for table in TABLES
            }

    async def restore(self, backup: Rows) -> None:
        """Put a backup in the place of the database."""
        await self._intruder.run(
            *(delete(table) for table in reversed(TABLES)),
            *(insert(table).values(backup[table.name]) for table in TABLES if backup[table.name]),
        )

    async def assess(self) -> Gap:
        return await assess(self.log.database, AnchorFile(self.log.path), self.key)

    async def recovers(self, decision: Decision = DECISION) -> int:
        """Both administrators give up what is lost."""
        return await recover(
            self.log.database,
            AnchorFile(self.log.path),
            self.key,
            await self.assess(),
            decision,
            software_version="1.2.3",
            now=self.log.clock,
            report=self.log.reported.append,
        )

    async def size(self) -> int:
        async with self.log.database.reading() as session:
            return await session.scalar(select(AuditState.size)) or 0

    def anchored(self) -> list[int]:
        return [anchor.checkpoint.size for anchor in AnchorFile(self.log.path)]


@pytest.fixture
def hospital(log: "Log", intruder: "Intruder", key: Ed25519PrivateKey) -> Hospital:
    return Hospital(log, intruder, key)


@pytest.fixture
async def restored(hospital: Hospital) -> Hospital:
    """A backup of 6 entries was restored; there had been 13, two anchors more."""
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.serves(2)
    await hospital.serves(3)
    await hospital.restore(backup)
    assert (await hospital.size(), hospital.anchored()) == (6, [6, 9, 13])
    return hospital


async def test_a_restored_log_is_read_only_and_says_what_is_missing(restored: Hospital) -> None:
    with pytest.raises(AuditUnavailable, match="read-only") as refused:
        await restored.log.checkpointer(restored.key).open()

    assert is_read_only(refused.value)
    said = str(refused.value)
    for part in ("6 entries", "13 entries or more", "signed 2026-", "medai audit recover"):
        assert part in said


async def test_nothing_is_signed_while_the_log_is_read_only(restored: Hospital) -> None:
    checkpointer = restored.log.checkpointer(restored.key)
    with pytest.raises(AuditUnavailable):
        await checkpointer.open()
    before = await restored.backup()

    restored.log.seconds += 60  # several checkpoints are due
    assert await checkpointer.maybe() is None
    with pytest.raises(AuditUnavailable, match="not compared with its anchors"):
        await checkpointer.now()
    await checkpointer.close()

    assert restored.log.alarms == []  # nothing was tried that could fail
    assert await restored.backup() == before
    assert restored.anchored() == [6, 9, 13]


async def test_a_rewritten_log_is_not_signed_by_the_writer_that_refused_it(
    hospital: Hospital, intruder: "Intruder"
) -> None:
    await hospital.serves(1)
    await hospital.serves(2)
    rows = await intruder.rows()
    rows[3]["payload"] = rows[3]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 3))
    checkpointer = hospital.log.checkpointer(hospital.key)
    with pytest.raises(AuditUnavailable, match="rewritten"):
        await checkpointer.open()

    hospital.log.seconds += 60
    await checkpointer.maybe()

    with pytest.raises(AuditUnavailable, match="rewritten"):
        await hospital.log.checkpointer(hospital.key).open()


async def test_after_the_newer_database_came_back_it_opens_by_itself(hospital: Hospital) -> None:
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.serves(2)
    newest = await hospital.backup()
    await hospital.restore(backup)
    checkpointer = hospital.log.checkpointer(hospital.key)
    with pytest.raises(AuditUnavailable):
        await checkpointer.open()

    await hospital.restore(newest)

    await checkpointer.open()


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

    assert (code, said["missing"], said.get("recovered")) == (TRUNCATED, 7, None)


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


async def test_there_is_nothing_to_recover_where_the_log_is_not_behind(
    hospital: Hospital, restored: Hospital
) -> None:
    await restored.recovers()
    size = await restored.size()

    with pytest.raises(Conflict, match="nothing to recover"):
        await restored.recovers()

    assert await hospital.size() == size


async def test_a_log_that_never_was_anchored_has_nothing_to_recover(
    log: "Log", hospital: Hospital
) -> None:
    await log.events(1)

    with pytest.raises(Conflict, match="nothing to recover"):
        await hospital.assess()


async def test_an_empty_database_is_no_backup(restored: Hospital, intruder: "Intruder") -> None:
    await intruder.write([])

    with pytest.raises(Conflict, match="restore a backup first"):
        await restored.assess()


async def test_a_shorter_log_that_was_rewritten_is_not_recovered(
    restored: Hospital, intruder: "Intruder"
) -> None:
    rows = await intruder.rows()
    rows[3]["payload"] = rows[3]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 3))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*rewritten"):
        await restored.assess()


async def test_a_longer_log_that_was_rewritten_is_not_recovered(
    restored: Hospital, intruder: "Intruder"
) -> None:
    await restored.recovers()
    await restored.serves(3)
    rows = await intruder.rows()
    rows[6]["payload"] = rows[6]["payload"].replace('"success"', '"denied"')
    await intruder.write(await intruder.chained(rows, 6))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*rewritten"):
        await restored.assess()


async def test_another_log_is_not_recovered(restored: Hospital, intruder: "Intruder") -> None:
    await intruder.run(update(AuditState).values(origin="medaiflow/other"))

    with pytest.raises(AuditUnavailable, match=r"not an older copy of the log.*another"):
        await restored.assess()


async def test_with_another_key_nothing_is_recovered(restored: Hospital) -> None:
    restored.key = Ed25519PrivateKey.generate()

    with pytest.raises(AuditUnavailable, match="not signed by"):
        await restored.assess()


async def test_a_change_of_key_among_the_lost_entries_is_not_passed_over(
    restored: Hospital,
) -> None:
    """The last anchor is by a key that the database does not know."""
    old, new = restored.key, Ed25519PrivateKey.generate()
    lost = restored.anchored()[-1] + 1
    tree = Frontier()
    for _ in range(lost):
        tree.append(bytes(32))
    head = Checkpoint(restored.vkey.partition("+")[0], lost, tree.root())
    note = sign(head, new, at=restored.log.clock())
    AnchorFile(restored.log.path).append(Anchor(note, tree))

    for restored.key in (old, new):
        with pytest.raises(AuditUnavailable, match="key"):
            await restored.assess()


async def test_one_person_alone_recovers_nothing(restored: Hospital) -> None:
    with pytest.raises(Forbidden, match="two different administrators"):
        await restored.recovers(Decision(REASON, DECISION.actor, ADA, ADA))

    assert (await restored.size(), restored.anchored()) == (6, [6, 9, 13])


@pytest.mark.parametrize("reason", ["", "burnt", "x" * 201, "the disk\nburnt twice", "\x1b[2J" * 5])
async def test_a_reason_is_one_line_that_says_something(reason: str, restored: Hospital) -> None:
    with pytest.raises(ValidationFailed, match="reason"):
        await restored.recovers(Decision(reason, DECISION.actor, ADA, BEA))

    assert await restored.size() == 6


async def test_a_gap_that_was_shown_before_the_log_moved_is_not_given_up(
    restored: Hospital,
) -> None:
    gap = await restored.assess()
    await restored.log.site.record(restored.log.site.event())

    with pytest.raises(Conflict, match="moved meanwhile"):
        await recover(
            *(restored.log.database, AnchorFile(restored.log.path), restored.key, gap, DECISION),
            software_version="1",
            now=restored.log.clock,
            report=restored.log.reported.append,
        )


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

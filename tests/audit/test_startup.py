"""Before anything is recorded: the database must not be behind what was said of it outside."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from registry.errors import AuditUnavailable, DatabaseUnavailable
from storage.anchors import AnchorFile, startup_check
from storage.database import Database
from storage.tables import AuditLog, AuditState

if TYPE_CHECKING:
    from conftest import Audited, Intruder, Log


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def copy_sqlite(source: Path, target: Path) -> None:
    """Put one database in the place of another, with all that was committed."""
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        there.backup(here)


async def test_a_log_that_has_not_begun_may_begin(
    database: Database, anchors: AnchorFile, key: Ed25519PrivateKey
) -> None:
    assert await startup_check(database, anchors, public(key)) is None


async def test_a_log_that_continues_its_anchors_is_accepted(
    audited: "Audited", key: Ed25519PrivateKey
) -> None:
    head = await startup_check(audited.log.database, AnchorFile(audited.log.path), public(key))

    assert head is not None
    assert head.size == audited.SIZE


async def test_a_log_without_checkpoints_is_accepted_and_read_whole(
    log: "Log", anchors: AnchorFile
) -> None:
    receipt = await log.events(2)

    head = await startup_check(log.database, anchors)

    assert head is not None
    assert (head.size, head.tip) == (receipt.seq, receipt.entry_hash)


@pytest.mark.parametrize("kept", [0, 5, 11])
async def test_a_log_that_was_cut_is_refused(
    kept: int, audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.write((await intruder.rows())[:kept])

    with pytest.raises(AuditUnavailable, match="cut, or is an older copy") as refused:
        await startup_check(audited.log.database, audited.log.anchors)

    assert refused.value.retry_after_s is None  # nothing to wait for
    assert refused.value.violations[0].measured == f"{kept} entries"
    assert refused.value.violations[0].limit.startswith("12 entries or more")


async def test_a_state_that_was_put_back_is_refused(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditState).values(size=11))

    with pytest.raises(AuditUnavailable, match="was cut"):
        await startup_check(audited.log.database, audited.log.anchors)


async def test_a_log_that_was_removed_with_its_state_is_refused(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.write([])
    await intruder.run(delete(AuditState))

    with pytest.raises(AuditUnavailable, match="cut, or is an older copy"):
        await startup_check(audited.log.database, audited.log.anchors)


@pytest.mark.parametrize("start", [0, 8, 11, 13])
async def test_a_log_that_was_rewritten_is_refused(
    start: int, audited: "Audited", intruder: "Intruder"
) -> None:
    rows = await intruder.rows()
    rows[start]["payload"] = rows[start]["payload"].replace('"success"', '"denied"')
    chained = start < audited.SIGNED
    if chained:
        rows = await intruder.chained(rows, start)
    await intruder.write(rows)

    with pytest.raises(AuditUnavailable, match="rewritten" if chained else "not the one"):
        await startup_check(audited.log.database, audited.log.anchors)


@pytest.mark.parametrize("column", ["entry_hash", "previous_hash"])
async def test_a_hash_that_was_changed_after_the_last_anchor_is_refused(
    column: str, audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditLog).where(AuditLog.seq == 14).values({column: bytes(32)}))

    with pytest.raises(AuditUnavailable, match="not the one that was recorded"):
        await startup_check(audited.log.database, audited.log.anchors)


async def test_a_state_that_names_another_last_entry_is_refused(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditState).values(tip_hash=bytes(32)))

    with pytest.raises(AuditUnavailable, match="rewritten"):
        await startup_check(audited.log.database, audited.log.anchors)


async def test_a_missing_entry_after_the_last_anchor_is_refused(
    audited: "Audited", intruder: "Intruder"
) -> None:
    rows = await intruder.rows()
    await intruder.write(rows[:-1], agree=False)

    with pytest.raises(AuditUnavailable, match="an entry is missing"):
        await startup_check(audited.log.database, audited.log.anchors)


async def test_another_log_in_the_database_is_refused(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await intruder.run(update(AuditState).values(origin="medaiflow/other"))

    with pytest.raises(AuditUnavailable, match="another audit log"):
        await startup_check(audited.log.database, audited.log.anchors)


async def test_missing_anchors_are_told_where_there_are_checkpoints(audited: "Audited") -> None:
    audited.log.path.unlink()

    with pytest.raises(AuditUnavailable, match="anchor file is missing") as refused:
        await startup_check(audited.log.database, audited.log.anchors)

    assert refused.value.violations[0].limit == "anchors up to entry 12"


async def test_an_old_backup_is_refused(
    sqlite_url: str,
    open_database: Callable[..., Database],
    log_of: Callable[[Database], "Log"],
    tmp_path: Path,
    key: Ed25519PrivateKey,
) -> None:
    file = Path(sqlite_url.removeprefix("sqlite+aiosqlite:///"))
    for copy in ("first.db", "second.db"):  # two runs of the service, a backup after each
        log = log_of(open_database(sqlite_url))
        checkpointer = log.checkpointer(key)
        await checkpointer.open()
        await log.ledger.open()
        await checkpointer.now()
        await log.database.close()
        copy_sqlite(file, tmp_path / copy)
    copy_sqlite(tmp_path / "first.db", file)
    restored = log_of(open_database(sqlite_url))

    with pytest.raises(AuditUnavailable, match="older copy"):
        await restored.checkpointer(key).open()

    copy_sqlite(tmp_path / "second.db", file)
    newest = log_of(open_database(sqlite_url))
    await newest.checkpointer(key).open()


async def test_another_key_is_refused(audited: "Audited") -> None:
    other = Ed25519PrivateKey.generate()

    with pytest.raises(AuditUnavailable, match="not signed by this log's key"):
        await startup_check(audited.log.database, audited.log.anchors, public(other))


async def test_a_database_that_is_away_can_be_checked_later(
    anchors: AnchorFile, tmp_path: Path, open_database: Callable[..., Database]
) -> None:
    database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")

    with pytest.raises(DatabaseUnavailable):
        await startup_check(database, anchors)

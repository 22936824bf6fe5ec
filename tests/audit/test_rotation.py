"""The signing key is replaced between two runs of the writer, on both databases."""

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.contract import Receipt
from registry.errors import AuditUnavailable, Conflict
from registry.events import AuditAction, ContextValue
from storage.database import Database
from storage.notes import VerifierKey
from storage.rotation import first_key, rotate, writer_runs

if TYPE_CHECKING:
    from conftest import Export, Log, Verify

SECOND, THIRD = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (2, 3))


async def rotated(log: "Log", old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> VerifierKey:
    async def record(context: dict[str, ContextValue]) -> Receipt:
        [receipt] = await log.site.record(
            log.site.event(action=AuditAction.KEY_ROTATED, context=context)
        )
        return receipt

    return await rotate(log.database, log.checkpointer(old), new, record)


async def test_after_two_rotations_the_first_key_verifies_all(
    log: "Log", key: Ed25519PrivateKey, export: "Export", verify: "Verify"
) -> None:
    checkpointer = log.checkpointer(key)
    await log.events(2)
    await checkpointer.open()
    await checkpointer.now()
    first = await first_key(log.database, key)

    second = await rotated(log, key, SECOND)
    third = await rotated(log, SECOND, THIRD)

    assert await first_key(log.database, THIRD) == first == VerifierKey.of(third.name, key)
    assert len({first, second, third}) == 3
    code, report = verify("log", await export(), "--anchors", log.path, "--vkey", first)
    assert (code, report["not_yet_signed"]) == (0, 0)


async def test_given_again_it_records_nothing(log: "Log", key: Ed25519PrivateKey) -> None:
    vkey = await rotated(log, key, SECOND)

    async def never(context: dict[str, ContextValue]) -> Receipt:
        raise AssertionError(context)

    assert await rotate(log.database, log.checkpointer(key), SECOND, never) == vkey


@pytest.mark.parametrize("again", ["first", "second"])
async def test_a_key_that_has_signed_before_does_not_come_back(
    again: str, log: "Log", key: Ed25519PrivateKey
) -> None:
    await rotated(log, key, SECOND)
    await rotated(log, SECOND, THIRD)

    with pytest.raises(Conflict, match="signed for this log before"):
        await rotated(log, THIRD, {"first": key, "second": SECOND}[again])


async def test_with_another_key_than_the_present_one_nothing_is_rotated(
    log: "Log", key: Ed25519PrivateKey
) -> None:
    checkpointer = log.checkpointer(key)
    await checkpointer.open()
    await checkpointer.now()

    with pytest.raises(AuditUnavailable, match="not signed by this log's key"):
        await rotated(log, THIRD, SECOND)


async def test_a_writer_runs_until_it_says_that_it_stops(log: "Log") -> None:
    running = await writer_runs(log.database)
    await log.ledger.close()

    assert running
    assert not await writer_runs(log.database)


async def test_a_log_that_has_not_begun_has_no_key(
    database: Database, key: Ed25519PrivateKey
) -> None:
    assert not await writer_runs(database)
    with pytest.raises(AuditUnavailable, match="not begun"):
        await first_key(database, key)

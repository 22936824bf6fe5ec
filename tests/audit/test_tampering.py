"""What an intruder with the whole database can do, and what finds it, on both databases.

Each attack is verified twice. Alone: the intruder has removed the database's checkpoints, and there
are no anchors; what is found is found by the chain. Anchored: with the file outside the database.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, update

from registry.errors import AuditUnavailable
from storage.hashchain import canonical, entry_hash, leaf_hash
from storage.records import rfc3339
from storage.tables import AuditLog
from tests.audit.verifier import OK, TAMPERED, TRUNCATED, UNVERIFIABLE

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Rows, Verify

K = 9  # the entry that is attacked; the log was signed at 7 and at 12, and has 15


def edited(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The row with another payload, and the columns that show it."""
    payload = canonical({**json.loads(row["payload"]), **values}).decode()
    return {**row, "payload": payload, **values}


async def edit_payload(intruder: "Intruder", rows: "Rows") -> None:
    rows[K - 1] = edited(rows[K - 1], outcome="denied")
    await intruder.write(rows, agree=False)


async def edit_and_hash(intruder: "Intruder", rows: "Rows") -> None:
    row = edited(rows[K - 1], outcome="denied")
    row["leaf_hash"] = leaf_hash(row["payload"].encode())
    row["entry_hash"] = entry_hash(row["previous_hash"], K, row["leaf_hash"])
    rows[K - 1] = row
    await intruder.write(rows)


async def delete_in_the_middle(intruder: "Intruder", rows: "Rows") -> None:
    del rows[K - 1]
    await intruder.write(rows, agree=False)


async def swap(intruder: "Intruder", rows: "Rows") -> None:
    rows[K - 1], rows[K] = {**rows[K], "seq": K}, {**rows[K - 1], "seq": K + 1}
    await intruder.write(rows, agree=False)


async def insert_one(intruder: "Intruder", rows: "Rows") -> None:
    forged = {**rows[K - 1], "event_id": uuid4(), "entry_hash": bytes(32)}
    forged["previous_hash"] = rows[K - 1]["entry_hash"]
    later = [{**row, "seq": row["seq"] + 1} for row in rows[K:]]
    later[0]["previous_hash"] = bytes(32)
    await intruder.write([*rows[:K], {**forged, "seq": K + 1}, *later], agree=False)


async def cut_the_tail(intruder: "Intruder", rows: "Rows") -> None:
    await intruder.write(rows[: K - 1])


async def empty_the_table(intruder: "Intruder", rows: "Rows") -> None:
    del rows
    await intruder.write([])


async def rewrite_from_k(intruder: "Intruder", rows: "Rows") -> None:
    rows[K - 1] = edited(rows[K - 1], outcome="denied")
    await intruder.write(await intruder.chained(rows, K - 1))


async def drop_and_rechain(intruder: "Intruder", rows: "Rows") -> None:
    del rows[K - 1]
    await intruder.write(await intruder.chained(rows, K - 1))


async def append_back_dated(intruder: "Intruder", rows: "Rows") -> None:
    last = rows[-1]
    past = rfc3339(datetime.fromisoformat(last["created_at"]) - timedelta(hours=1))
    forged = edited(last, ts=past, event_id=str(uuid4()))
    del forged["ts"]
    forged |= {"created_at": past, "inference_result_id": None}
    forged["event_id"] = uuid4()
    forged["payload"] = edited(forged, event_id=str(forged["event_id"]))["payload"]
    await intruder.write(await intruder.chained([*rows, forged], len(rows)))


async def rewrite_the_unsigned_tail(intruder: "Intruder", rows: "Rows") -> None:
    rows[12] = edited(rows[12], outcome="denied")
    await intruder.write(await intruder.chained(rows, 12))


async def edit_a_column(intruder: "Intruder", rows: "Rows") -> None:
    del rows
    await intruder.run(update(AuditLog).where(AuditLog.seq == K).values(outcome="denied"))


async def edit_the_result(intruder: "Intruder", rows: "Rows") -> None:
    del rows
    await intruder.change_result(confidence_score=0.01)


@dataclass(frozen=True, slots=True)
class Case:
    """An attack, and the exit code and first finding it leads to, alone and anchored."""

    attack: Callable[["Intruder", "Rows"], Awaitable[None]]
    alone: int
    anchored: int
    finding: tuple[int, str] | None = None


CASES = (
    Case(edit_payload, TAMPERED, TAMPERED, (K, "payload")),
    Case(edit_and_hash, TAMPERED, TAMPERED, (K + 1, "chain")),
    Case(delete_in_the_middle, TAMPERED, TAMPERED, (K + 1, "gap")),
    Case(swap, TAMPERED, TAMPERED, (K, "chain")),
    Case(insert_one, TAMPERED, TAMPERED, (K + 1, "chain")),
    Case(edit_a_column, TAMPERED, TAMPERED, (K, "column")),
    Case(append_back_dated, TAMPERED, TAMPERED, (16, "clock")),
    Case(edit_the_result, TAMPERED, TAMPERED, (6, "record")),
    # Only a checkpoint that was kept finds these.
    Case(cut_the_tail, UNVERIFIABLE, TRUNCATED),
    Case(empty_the_table, UNVERIFIABLE, TRUNCATED),
    Case(rewrite_from_k, UNVERIFIABLE, TAMPERED, (8, "root")),
    Case(drop_and_rechain, UNVERIFIABLE, TAMPERED, (8, "root")),
    # Nothing finds this before the next checkpoint.
    Case(rewrite_the_unsigned_tail, UNVERIFIABLE, OK),
)


@pytest.fixture(params=CASES, ids=lambda case: case.attack.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


async def test_what_the_chain_finds_alone(
    case: Case, audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.forget_checkpoints()
    await case.attack(intruder, await intruder.rows())

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == case.alone
    assert bool(report["findings"]) == (case.alone == TAMPERED)


async def test_what_the_anchors_find(
    case: Case, audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.forget_checkpoints()
    await case.attack(intruder, await intruder.rows())

    code, report = verify(
        "log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey
    )

    assert code == case.anchored
    if case.finding is None:
        assert report["findings"] == []
    else:
        first = report["findings"][0]
        assert (first["seq"], first["kind"]) == case.finding


@pytest.mark.parametrize("kept", [5, 8, 11])
async def test_a_cut_log_is_told_with_what_is_missing(
    kept: int, audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.write((await intruder.rows())[:kept])

    _, report = verify("log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey)

    assert report["entries"] == kept
    assert report["missing"] == audited.SIGNED - kept


async def test_one_attack_is_one_finding(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    """What follows from the damage is not told again."""
    rows = await intruder.rows()
    arguments = ("--anchors", audited.log.path, "--vkey", audited.vkey)
    await intruder.write(rows[:4] + rows[5:], agree=False)
    _, deleted = verify("log", await export(), *arguments)
    rows[4] = edited(rows[4], outcome="denied")
    await intruder.write(await intruder.chained(rows, 4))
    _, rewritten = verify("log", await export(), *arguments)

    assert [finding["kind"] for finding in deleted["findings"]] == ["gap"]
    assert [finding["kind"] for finding in rewritten["findings"]] == ["root"]


async def test_a_tail_that_was_cut_without_its_state_is_found_without_any_checkpoint(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.run(delete(AuditLog).where(AuditLog.seq > K))
    await intruder.forget_checkpoints()

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TRUNCATED
    assert report["missing"] == audited.SIZE - K


async def test_the_unsigned_window_is_told(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    code, report = verify(
        "log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey
    )

    assert code == OK
    assert report["last_anchor"] == audited.SIGNED
    assert report["not_yet_signed"] == audited.SIZE - audited.SIGNED


async def test_the_writer_finds_a_rewritten_window_at_its_next_checkpoint(
    audited: "Audited", intruder: "Intruder"
) -> None:
    await rewrite_the_unsigned_tail(intruder, await intruder.rows())

    with pytest.raises(AuditUnavailable, match="not the one that was committed"):
        await audited.checkpointer.now()

    with pytest.raises(AuditUnavailable):  # for good
        audited.checkpointer.check()


@pytest.mark.parametrize(
    "attack", [cut_the_tail, empty_the_table, rewrite_from_k, drop_and_rechain]
)
async def test_no_head_is_signed_that_does_not_continue_the_last(
    attack: Callable[["Intruder", "Rows"], Awaitable[None]],
    audited: "Audited",
    intruder: "Intruder",
) -> None:
    before = audited.log.path.read_bytes()
    await attack(intruder, await intruder.rows())

    with pytest.raises(AuditUnavailable):
        await audited.checkpointer.now()

    assert audited.log.path.read_bytes() == before

"""Each fault of the writer and its database once; `make faults` does the same many times over."""

from functools import partial
from typing import Any

import pytest

from tests.faults import writer_faults as faults
from tests.faults.client_ledger import ClientLedger, balance
from tests.faults.place import Ground, Place
from tests.faults.trial import Trial
from tests.storage.conftest import Intruder
from tests.storage.relay import Line

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
ON_POSTGRES = {
    "postmaster-killed": partial(faults.killed_postmaster, times=1),
    "commit-lost": partial(faults.cut_commits, line=Line.CUT_QUESTION, times=2),
    "answer-lost": partial(faults.cut_commits, line=Line.CUT_ANSWER, times=2),
}
ON_BOTH = {
    "writer-killed": partial(faults.killed_writers, times=1),
    "zombie": partial(faults.zombies, times=1),
    "terminated": partial(faults.terminated_writers, times=1),
    "clock": faults.clock_steps,
}
ON_SQLITE = {
    "disk-full": partial(faults.full_disk, times=1),
    "old-backup": faults.old_backup,
}

pytestmark = pytest.mark.slow


def whole(trial: Trial) -> None:
    """Nothing failed, and something was done."""
    assert trial.failures == []
    assert trial.times > 0
    assert trial.acked > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ON_BOTH.values(), ids=ON_BOTH)
async def test_no_receipt_is_lost(ground: Ground, fault: Any, kind: str) -> None:
    whole(await fault(ground, kind))


@pytest.mark.postgres
@pytest.mark.parametrize("fault", ON_POSTGRES.values(), ids=ON_POSTGRES)
async def test_no_receipt_is_lost_on_postgresql(ground: Ground, fault: Any) -> None:
    whole(await fault(ground))


@pytest.mark.parametrize("fault", ON_SQLITE.values(), ids=ON_SQLITE)
async def test_no_receipt_is_lost_on_sqlite(ground: Ground, fault: Any) -> None:
    whole(await fault(ground))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_balance_counts_what_is_lost_twice_or_without_an_entry(
    ground: Ground, kind: str
) -> None:
    """The measure itself: records that are not whole must not balance."""
    async with ground.place(kind) as place:
        ledger = await recorded(place, 3)
        assert (await balance(place.database, ledger)).whole
        result_id, (seq, _) = next(iter(ledger.receipts.items()))
        ledger.receipts[result_id] = (seq, bytes(32))
        await forget_an_entry(place, max(seq for seq, _ in ledger.receipts.values()) - 1)

        found = await balance(place.database, ledger)

    assert (found.acked, found.lost, found.gaps, found.unaudited) == (3, 2, 1, 1)
    assert not found.whole
    assert found.problems


async def recorded(place: Place, count: int) -> ClientLedger:
    """So many results, and what a client would have been told of them."""
    for receipt in await place.site.record(*(place.site.inference() for _ in range(count))):
        place.ledger.hear(receipt.event_id, receipt.seq, receipt.entry_hash)
    return place.ledger


async def forget_an_entry(place: Place, seq: int) -> None:
    """Take one entry out of the log, as somebody could who may do everything."""
    async with place.database.transaction() as session:
        connection = await session.connection()
        await connection.run_sync(
            lambda sync: Intruder(sync).run(Intruder.log.delete().where(Intruder.log.c.seq == seq))
        )

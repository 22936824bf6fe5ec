"""The one row that remembers the tip is moved only from where it is."""

from typing import TYPE_CHECKING, Any

import pytest

from storage.chain import Chain, StaleTip, advance, lock
from storage.database import Database
from storage.hashchain import Frontier
from storage.ledger import Ledger

if TYPE_CHECKING:
    from conftest import Site


def moved(chain: Chain, **fields: Any) -> Chain:
    """`chain` with some of its fields changed."""
    other = chain.copy()
    for name, value in fields.items():
        setattr(other, name, value)
    return other


@pytest.mark.parametrize(
    "stale", [{"epoch": 99}, {"size": 99}, {"tip_hash": bytes(32)}], ids=["epoch", "size", "hash"]
)
async def test_a_tip_that_is_not_there_is_not_moved(
    database: Database, ledger: Ledger, stale: dict[str, Any]
) -> None:
    async with database.transaction() as session:
        tip = await lock(session)
        after = tip.copy()
        after.add(b"{}", "")

        with pytest.raises(StaleTip):
            await session.run_sync(advance, moved(tip, **stale), after)

    async with database.transaction() as session:
        assert (await lock(session)).size == tip.size


async def test_a_tip_that_was_moved_is_the_next_one_to_move(
    database: Database, site: "Site"
) -> None:
    [first] = await site.record(site.event())
    [second] = await site.record(site.event())

    async with database.transaction() as session:
        tip = await lock(session)

    assert (tip.size, tip.tip_hash) == (second.seq, second.entry_hash)
    assert second.seq == first.seq + 1
    assert tip.recorded_at == second.recorded_at


def test_a_chain_copied_goes_its_own_way() -> None:
    chain = Chain(bytes(32), Frontier(), epoch=1)

    link = chain.copy().add(b"{}", "2026-11-24T08:00:00.000000Z")

    assert (link.seq, link.previous_hash) == (1, bytes(32))
    assert (chain.size, chain.tip_hash, chain.recorded_at) == (0, bytes(32), "")
    assert chain.frontier_bytes() == b""

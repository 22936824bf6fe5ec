"""The tip of the audit log while it moves, and the one row that remembers it.

The row of `audit_state` is moved by compare-and-swap: `WHERE epoch = mine AND size = old AND
tip_hash = old`. Whoever moved it first wins, so the log has no forks, whatever the writers believe.
Moving the row also locks it until the commit, so everything after it in a transaction is done by
one appender at a time.
"""

from dataclasses import dataclass
from typing import Self
from uuid import uuid4

from sqlalchemy import CursorResult, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from registry.errors import AuditUnavailable
from storage.hashchain import Frontier, entry_hash, genesis_hash, leaf_hash
from storage.tables import AuditLog, AuditState, Table
from storage.upsert import insert_if_absent

_STATE = Table.metadata.tables["audit_state"]
# Built once: it is part of every transaction, and building it takes longer than running it.
_MOVE = (
    update(_STATE)
    .where(
        _STATE.c.id == 1,
        _STATE.c.epoch == bindparam("epoch_before"),
        _STATE.c.size == bindparam("size_before"),
        _STATE.c.tip_hash == bindparam("tip_before"),
    )
    .values({name: bindparam(name) for name in ("size", "tip_hash", "frontier", "epoch")})
)


class StaleTip(Exception):
    """Another appender has moved the tip. Never leaves the storage layer."""


@dataclass(frozen=True, slots=True)
class Link:
    """One entry's place in the chain."""

    seq: int
    previous_hash: bytes
    leaf_hash: bytes
    entry_hash: bytes


class Chain:
    """The tip of the log, moved in memory entry by entry.

    Attributes:
        size: How many entries there are.
        tip_hash: The hash of the last one, or the genesis hash.
        epoch: Which writer has taken the log over, counted from 1.
        recorded_at: The time of the last entry, RFC 3339, or "" while there is none.
    """

    __slots__ = ("_frontier", "epoch", "recorded_at", "size", "tip_hash")

    def __init__(
        self, tip_hash: bytes, frontier: Frontier, *, epoch: int, recorded_at: str = ""
    ) -> None:
        self.size = frontier.size
        self.tip_hash = tip_hash
        self.epoch = epoch
        self.recorded_at = recorded_at
        self._frontier = frontier

    def copy(self) -> Self:
        """Another tip at the same place."""
        return type(self)(
            self.tip_hash, self._frontier.copy(), epoch=self.epoch, recorded_at=self.recorded_at
        )

    def add(self, payload: bytes, recorded_at: str) -> Link:
        """Move by one entry."""
        leaf = leaf_hash(payload)
        seq = self.size + 1
        link = Link(seq, self.tip_hash, leaf, entry_hash(self.tip_hash, seq, leaf))
        self._frontier.append(leaf)
        self.size = seq
        self.tip_hash = link.entry_hash
        self.recorded_at = recorded_at
        return link

    def frontier_bytes(self) -> bytes:
        """The Merkle tree's frontier, as it is stored."""
        return self._frontier.to_bytes()


async def lock(session: AsyncSession) -> Chain:
    """Wait for the tip and hold it until the transaction ends; make it where there is none.

    The wait is what makes reading after a lost commit safe: the server may still be committing it,
    and holds this lock for as long.

    Raises:
        AuditUnavailable: The log's last entry is not the one its state names.
    """
    chain = await _locked(session)
    if chain is None:
        origin = f"medaiflow/{uuid4()}"
        await insert_if_absent(
            session,
            AuditState,
            id=1,
            origin=origin,
            size=0,
            tip_hash=genesis_hash(origin),
            frontier=b"",
            epoch=0,
            writer_id="",
        )
        chain = await _locked(session)
    assert chain is not None
    return chain


async def origin_of(session: AsyncSession) -> str:
    """The name of this log."""
    origin: str = await session.scalar(select(AuditState.origin)) or ""
    return origin


def advance(session: Session, before: Chain, after: Chain, *, writer_id: str | None = None) -> None:
    """Move the stored tip from `before` to `after`. Raises `StaleTip` where it is not there."""
    moved = session.execute(
        _MOVE if writer_id is None else _MOVE.values(writer_id=writer_id),
        {
            "size": after.size,
            "tip_hash": after.tip_hash,
            "frontier": after.frontier_bytes(),
            "epoch": after.epoch,
            "epoch_before": before.epoch,
            "size_before": before.size,
            "tip_before": before.tip_hash,
        },
    )
    assert isinstance(moved, CursorResult)
    if moved.rowcount != 1:
        raise StaleTip


async def _locked(session: AsyncSession) -> Chain | None:
    state = (
        await session.execute(
            select(
                AuditState.size, AuditState.tip_hash, AuditState.frontier, AuditState.epoch
            ).with_for_update()
        )
    ).first()
    if state is None:
        return None
    last = (
        await session.execute(
            select(AuditLog.seq, AuditLog.entry_hash, AuditLog.created_at)
            .order_by(AuditLog.seq.desc())
            .limit(1)
        )
    ).first()
    agree = (last.seq, last.entry_hash) == (state.size, state.tip_hash) if last else not state.size
    if not agree:
        raise AuditUnavailable("the audit log and its state disagree: run `medai audit verify`")
    try:
        frontier = Frontier.of_bytes(state.size, state.frontier)
    except ValueError:
        raise AuditUnavailable("the audit log's frontier is damaged") from None
    return Chain(
        state.tip_hash, frontier, epoch=state.epoch, recorded_at=last.created_at if last else ""
    )

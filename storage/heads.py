"""The head of the log, read so that it provably continues a head that is known.

Rules this file keeps:

- Nothing is taken from the database's word: every payload after the known head is hashed anew, and
  the tree over all of them must be the one that `audit_state` holds. Whoever changed an entry, cut
  the log, or wrote it anew from some entry on, is found here before the head is signed.
- The cost is that of the new entries. A log without a known head is read from its first entry.
- `Diverged` is for good: nobody may sign, and nothing may be added, until a person has looked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import Receipt
from registry.errors import READ_ONLY, AuditUnavailable, Violation
from registry.events import AuditAction
from storage.database import Database
from storage.hashchain import Frontier, entry_hash, genesis_hash, leaf_hash
from storage.notes import Note, VerifierKey, open_rotation
from storage.tables import AuditLog, AuditState

PAGE = 1000


class Diverged(Exception):
    """The log is not the one it was. Never leaves the storage layer."""

    def __init__(self, detail: str, measured: str = "", limit: str = "") -> None:
        super().__init__(detail, measured, limit)
        self._detail = detail
        self._violation = Violation(
            "audit log",
            measured,
            limit,
            "keep the database and the anchors as they are, and run medai-verify on both",
        )

    def refusal(self) -> AuditUnavailable:
        """What the outside hears. Nothing to wait for: it is for good."""
        return AuditUnavailable(self._detail, (self._violation,))


class Behind(Diverged):
    """The log ends before its last anchor: an old backup was restored, or its end was cut off.

    Args:
        size: How many entries the database has.
        anchored: How many the last anchor speaks of.
        signed: When that anchor says that it was signed; "" where it does not say.
        begun: The entry that gives up what is missing, and that no anchor confirms; None where
            there is none.
    """

    def __init__(self, size: int, anchored: int, signed: str, begun: int | None = None) -> None:
        when = f", signed {signed}" if signed else ""
        super().__init__(
            "the audit log is read-only: it was cut, or is an older copy; restore the newer backup,"
            " or give up what is lost by `medai audit recover`"
            if begun is None
            else f"the audit log is read-only: entry {begun} gives up what is lost, and was not"
            " anchored; give `medai audit recover` again",
            f"{size} entries",
            f"{anchored} entries or more, says the last anchor{when}",
        )

    def refusal(self) -> AuditUnavailable:
        """What the outside hears, and can tell from every other refusal (`is_read_only`)."""
        said = self._violation
        return AuditUnavailable(self._detail, (Violation(READ_ONLY, said.measured, said.limit),))


@dataclass(frozen=True, slots=True)
class Rotation:
    """The signing key changed in entry `seq`, which is the first that the new key vouches for."""

    seq: int
    old: VerifierKey
    new: VerifierKey


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log stands.

    Attributes:
        origin: The log's name.
        tip: The hash of its last entry, or the genesis hash.
        frontier: The Merkle tree over its entries; not to be appended to.
        rotations: The changes of the signing key among the entries that were read for this.
    """

    origin: str
    tip: bytes
    frontier: Frontier
    rotations: tuple[Rotation, ...] = ()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.frontier.size

    def key_after(self, key: VerifierKey) -> VerifierKey:
        """The key that signs for the log now, where `key` did before the rotations.

        Raises:
            Diverged: A rotation is not by the key before it.
        """
        for rotation in self.rotations:
            if rotation.old != key:
                raise Diverged("another key was brought in", f"entry {rotation.seq}")
            key = rotation.new
        return key


async def read_head(
    database: Database, known: Head | None = None, newest: Receipt | None = None
) -> Head | None:
    """The present head, None where the log has not begun.

    Args:
        database: Where the log is.
        known: The head it must continue, whose rotations are not repeated; None for the beginning.
        newest: An entry that was committed, which the log must therefore hold.

    Raises:
        Diverged: It does not continue `known`, or does not hold `newest`.
        DatabaseUnavailable: The database is away.
    """
    async with database.reading() as session:
        state = (await session.execute(_STATE)).first()
        if state is None:
            if known is not None or newest is not None:
                raise Diverged("the database has no audit log any longer")
            return None
        walk = _Walk(known or Head(state.origin, genesis_hash(state.origin), Frontier()), newest)
        walk.check_state(state)
    while walk.size < state.size:  # what is committed never changes: no need for one long moment
        walk.feed(await _page(database, walk.size, state.size))
    return walk.finish(state)


async def tip_at(session: AsyncSession, size: int) -> bytes | None:
    """The hash of entry `size`, from 1; None where there is no such entry."""
    found = await session.scalar(select(AuditLog.entry_hash).where(AuditLog.seq == size))
    return found or None


class _Walk:
    """From the known head over the entries after it."""

    def __init__(self, known: Head, newest: Receipt | None) -> None:
        self._origin = known.origin
        self._tip = known.tip
        self._frontier = known.frontier.copy()
        self._newest = newest
        self._rotations: list[Rotation] = []

    @property
    def size(self) -> int:
        return self._frontier.size

    def check_state(self, state: Any) -> None:
        if state.origin != self._origin:
            raise Diverged("the database holds another audit log", state.origin, self._origin)
        wanted = max(self.size, self._newest.seq if self._newest is not None else 0)
        if state.size < wanted:
            raise Diverged(
                "the audit log was cut", f"{state.size} entries", f"{wanted} entries or more"
            )

    def feed(self, rows: Sequence[Any]) -> None:
        """The next page. An empty one is a gap: the state says there is more."""
        if not rows:
            raise Diverged("an entry is missing", limit=f"entry {self.size + 1}")
        for row in rows:
            seq = self.size + 1
            leaf = leaf_hash(row.payload.encode())
            tip = entry_hash(self._tip, seq, leaf)
            if row.seq != seq or row.previous_hash != self._tip or row.entry_hash != tip:
                raise Diverged("an entry is not the one that was recorded", f"entry {row.seq}")
            if self._newest is not None and seq == self._newest.seq:
                self._check_newest(tip)
            if row.action == AuditAction.KEY_ROTATED:
                self._rotations.append(_rotation(seq, row.payload, self._origin))
            self._frontier.append(leaf)
            self._tip = tip

    def finish(self, state: Any) -> Head:
        if state.tip_hash != self._tip or state.frontier != self._frontier.to_bytes():
            raise Diverged("the audit log was rewritten before its last known head")
        return Head(self._origin, self._tip, self._frontier, tuple(self._rotations))

    def _check_newest(self, tip: bytes) -> None:
        assert self._newest is not None
        if self._newest.entry_hash != tip:
            raise Diverged("an entry is not the one that was committed", f"entry {self.size + 1}")


async def _page(database: Database, after: int, last: int) -> Sequence[Any]:
    wanted = _ROWS.where(AuditLog.seq > after, AuditLog.seq <= last)
    async with database.reading() as session:
        return (await session.execute(wanted.order_by(AuditLog.seq).limit(PAGE))).all()


def _rotation(seq: int, payload: str, origin: str) -> Rotation:
    try:
        old, new = open_rotation(Note.parse(json.loads(payload)["context"]["note"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Diverged("a change of the signing key is not signed", f"entry {seq}") from None
    if new.name != origin:
        raise Diverged("a change of the signing key is of another log", f"entry {seq}")
    return Rotation(seq, old, new)


_STATE = select(AuditState.origin, AuditState.size, AuditState.tip_hash, AuditState.frontier)
_ROWS = select(
    AuditLog.seq, AuditLog.previous_hash, AuditLog.entry_hash, AuditLog.action, AuditLog.payload
)

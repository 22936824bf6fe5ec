"""What a client was told, held against what the records say afterwards."""

import time
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select

from storage.database import Database
from storage.tables import AuditLog, InferenceResult
from storage.verify import verify


@dataclass
class ClientLedger:
    """Every receipt a client holds: seq and entry hash by result id, and when it came."""

    receipts: dict[UUID, tuple[int, bytes]] = field(default_factory=dict)
    heard_at: list[float] = field(default_factory=list)  # by `time.monotonic`

    def hear(self, result_id: UUID, seq: int, entry_hash: bytes) -> None:
        """Note a receipt. A second one for the same result must say the same."""
        known = self.receipts.setdefault(result_id, (seq, entry_hash))
        assert known == (seq, entry_hash), "two receipts for one result"
        self.heard_at.append(time.monotonic())

    def heard_between(self, start: float, end: float) -> int:
        """How many receipts came in this time."""
        return sum(start <= at < end for at in self.heard_at)

    def first_after(self, moment: float) -> float | None:
        """When the first receipt after `moment` came."""
        return next((at for at in self.heard_at if at >= moment), None)


@dataclass(frozen=True, slots=True)
class Balance:
    """The records against the client's ledger. All but the first two must be 0 or empty.

    Attributes:
        acked: Receipts the client holds.
        entries: Entries the log has.
        lost: Receipts whose entry or result is not there, or is another.
        gaps: Numbers that no entry has.
        forks: Entries that follow an entry that another one follows, too.
        duplicates: Events that were recorded twice.
        unaudited: Results without an entry.
        problems: What the verifier found.
    """

    acked: int
    entries: int
    lost: int
    gaps: int
    forks: int
    duplicates: int
    unaudited: int
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        counts = (self.lost, self.gaps, self.forks, self.duplicates, self.unaudited)
        return not any(counts) and not self.problems


async def balance(database: Database, ledger: ClientLedger) -> Balance:
    """Read everything and compare. Raises `DatabaseUnavailable`."""
    acked = dict(ledger.receipts)  # what is told later may be committed later
    async with database.reading() as session:
        rows = (
            await session.execute(
                select(
                    AuditLog.seq,
                    AuditLog.event_id,
                    AuditLog.previous_hash,
                    AuditLog.entry_hash,
                    AuditLog.inference_result_id,
                ).order_by(AuditLog.seq)
            )
        ).all()
        results = set(await session.scalars(select(InferenceResult.id)))
    report = await verify(database)
    recorded = {row.inference_result_id: (row.seq, row.entry_hash) for row in rows}
    kept = {key: place for key, place in recorded.items() if key in results}
    return Balance(
        acked=len(acked),
        entries=len(rows),
        lost=sum(kept.get(result_id) != place for result_id, place in acked.items()),
        gaps=(rows[-1].seq if rows else 0) - len({row.seq for row in rows}),
        forks=len(rows) - len({row.previous_hash for row in rows}),
        duplicates=len(rows) - len({row.event_id for row in rows}),
        unaudited=len(results - recorded.keys()),
        problems=tuple(f"{one.flaw}: {one.message}" for one in report.problems),
    )

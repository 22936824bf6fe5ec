"""Whether the log is one chain, and its columns say what its payloads say. Pure: fed with rows.

The stored bytes are hashed as they are; a payload is parsed only to compare it with the columns
beside it, never to be written again. After a finding the walk goes on from what is stored, so that
one edit is one or two findings and not one for every entry after it.

What a chain in a database cannot show by itself, because whoever can write everything can compute
everything: a tail that was cut, or a log rewritten from some entry on, where `audit_state` and the
rows of results were made to agree. For these there are signed checkpoints kept elsewhere.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import orjson

from registry.events import AuditAction
from storage.findings import Findings, Flaw
from storage.hashchain import Frontier, entry_hash, genesis_hash, leaf_hash
from storage.recovered import Recovery
from storage.verify_heads import SignedHeads

CLOCK_TOLERANCE = timedelta(seconds=5)

# The columns a row has, in this order; ids as text.
COLUMNS = (
    "seq",
    "event_id",
    "created_at",
    "epoch",
    "action",
    "outcome",
    "description",
    "context",
    "user_id",
    "model_version_id",
    "inference_result_id",
    "previous_hash",
    "entry_hash",
    "leaf_hash",
    "payload",
)


class LogWalk:
    """Walks the log from its first entry. Feed it every row, in order, then `finish`.

    Attributes:
        seq: The number of the last entry seen.
        tip: Its hash.
        frontier: The Merkle tree over the entries seen.
        changes: What the entries say was changed beside results, in order, with their numbers.
        recoveries: Where entries were given up as lost, in order.
        heads: Checks what was signed, where the keys are known.
        written_since: When a writer first opened the log, RFC 3339; "" where none has.
    """

    def __init__(self, origin: str, findings: Findings, heads: SignedHeads | None = None) -> None:
        self.heads = heads
        self.written_since = ""
        self.seq = 0
        self.tip = genesis_hash(origin)
        self.frontier = Frontier()
        self.changes: list[tuple[int, dict[str, Any]]] = []
        self.recoveries: list[Recovery] = []
        self.origin = origin
        self._recorded_at = ""
        self._findings = findings

    def feed(self, rows: Iterable[Any]) -> None:
        """The next rows, each a sequence in the order of `COLUMNS`."""
        for row in rows:
            seq = row[0]
            previous, entry, leaf, text = row[11:15]
            computed = leaf_hash(text.encode())
            if (
                seq != self.seq + 1
                or previous != self.tip
                or computed != leaf
                or entry_hash(previous, seq, computed) != entry
            ):
                self._explain(seq, previous, entry, leaf, computed)
            self.frontier.append(computed)
            self.seq, self.tip = seq, entry
            try:
                self._read(row, orjson.loads(text))
            except (ValueError, KeyError, TypeError, AttributeError):
                self._add(seq, Flaw.PAYLOAD, "the payload or the context cannot be read")
            self._recorded_at = row[2]
            if self.heads is not None and seq >= self.heads.due:
                self.heads.reached(self.frontier)

    def finish(self, *, size: int, tip_hash: bytes, frontier: bytes) -> None:
        """Compare the end of the log with what `audit_state` says of it."""
        end = max(self.seq, size)
        if self.seq != size:
            self._add(end, Flaw.STATE, f"the log ends at {self.seq}, its state says {size}")
        elif self.tip != tip_hash:
            self._add(end, Flaw.STATE, "the last entry is not the one its state names")
        if self.frontier.to_bytes() != frontier:
            self._add(end, Flaw.STATE, "the Merkle tree is not the one its state holds")
        if self.heads is not None:
            self.heads.finish(end)

    def _explain(
        self, seq: int, previous: bytes, entry: bytes, leaf: bytes, computed: bytes
    ) -> None:
        if seq != self.seq + 1:
            self._add(seq, Flaw.GAP, f"entry {self.seq} is followed by {seq}")
        if previous != self.tip:
            self._add(seq, Flaw.CHAIN, "does not follow the entry before it")
        if computed != leaf:
            self._add(seq, Flaw.PAYLOAD, "the payload is not the one that was hashed")
        elif entry_hash(previous, seq, computed) != entry:
            self._add(seq, Flaw.CHAIN, "the entry's own hash is wrong")

    def _read(self, row: Any, payload: dict[str, Any]) -> None:
        said, shown = _said(payload), _shown(row)
        if said != shown:
            for name, there, here in zip(_COMPARED, said, shown, strict=True):
                if there != here:
                    self._add(row[0], Flaw.COLUMN, f"{name} is not what the payload says")
        if row[2] < self._recorded_at:
            self._check_clock(row[0], row[2], payload["action"])
        if row[0] == 1:
            self._check_genesis(payload)
        if not self.written_since and payload["action"] == AuditAction.WRITER_START:
            self.written_since = row[2]
        if payload["action"] == AuditAction.LOG_RECOVERY:
            self._read_recovery(row, payload)
        if self.heads is not None and payload["action"] == AuditAction.KEY_ROTATED:
            self.heads.rotated(row[0], payload["context"])
        self.changes.extend((row[0], dict(change)) for change in payload.get("changes", ()))

    def _read_recovery(self, row: Any, payload: dict[str, Any]) -> None:
        try:
            recovery = Recovery.of(payload, row[11])
        except ValueError as fault:
            self._add(row[0], Flaw.RECOVERY, str(fault))
            return
        self.recoveries.append(recovery)
        if self.heads is not None:
            self.heads.gave_up(recovery)

    def _check_clock(self, seq: int, recorded_at: str, action: str) -> None:
        try:
            behind = datetime.fromisoformat(self._recorded_at) - datetime.fromisoformat(recorded_at)
        except ValueError:
            self._add(seq, Flaw.CLOCK, "the time cannot be read")
            return
        if behind > CLOCK_TOLERANCE and action not in _CLOCK_TOLD:
            self._add(seq, Flaw.CLOCK, f"time went back by {behind}")

    def _check_genesis(self, payload: dict[str, Any]) -> None:
        context = payload["context"]
        if payload["action"] != AuditAction.LOG_GENESIS or context.get("origin") != self.origin:
            self._add(1, Flaw.CHAIN, "the first entry does not begin this log")

    def _add(self, seq: int, flaw: Flaw, message: str) -> None:
        self._findings.add(seq, flaw, message)


_COMPARED = COLUMNS[:11]
_CLOCK_TOLD = (AuditAction.CLOCK_STEP, AuditAction.LOG_RECOVERY)  # they say that it went back


def _said(payload: dict[str, Any]) -> tuple[object, ...]:
    """What the columns should hold."""
    result = payload.get("result")
    return (
        payload["seq"],
        _hex(payload["event_id"]),
        payload["ts"],
        payload["epoch"],
        payload["action"],
        payload["outcome"],
        payload["description"],
        payload["context"],
        _hex(payload["actor"]["id"]),
        _hex(payload["model_version_id"]),
        None if result is None else _hex(result["id"]),
    )


def _shown(row: Any) -> tuple[object, ...]:
    """What they hold."""
    return (
        row[0],
        _hex(row[1]),
        *row[2:7],
        orjson.loads(row[7]),
        _hex(row[8]),
        _hex(row[9]),
        _hex(row[10]),
    )


def _hex(uuid: str | None) -> str | None:
    """The same text for an id, however the database spells it."""
    return None if uuid is None else uuid.replace("-", "")

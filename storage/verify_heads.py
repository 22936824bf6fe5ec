"""The signed heads of the log, its checkpoints and the anchors outside, along a walk over it.

A head says what the root of the Merkle tree over the first so many entries is (RFC 6962), and is
signed by the key that was the log's then. Whoever wrote the log anew from some entry on can make
every hash and every head fit again, but not the signatures. Pure.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from storage.findings import Findings, Flaw
from storage.hashchain import Frontier
from storage.notes import Note, VerifierKey, open_checkpoint, open_rotation
from storage.recovered import Recovery

if TYPE_CHECKING:  # which would bring the database along
    from storage.anchors import Anchor


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys that sign for the log: the first that ever did, and the present one.

    The present one must be known from elsewhere than the database. The first may come from there:
    each change of key is signed by both keys, so it leads to the present one only if that one, or
    one that it vouches for, says so (`storage.notes.sign_rotation`).
    """

    first: VerifierKey
    present: VerifierKey


Stored: TypeAlias = tuple[int, bytes, str]  # a row of `audit_checkpoints`: size, root, note


class SignedHeads:
    """Checks each head where the walk comes to it.

    Args:
        keys: Whose signatures count.
        anchors: Every anchor, in order. Those beyond the log's end are left to
            `storage.anchors.startup_check`.
        findings: Where what does not fit is written.

    Attributes:
        due: The size of the next head; nothing is to be told before the walk has come to it.
        anchored: The largest size that a good anchor by the present key speaks of.
        succeeded_in: The entry in which the present key handed over to another, 0 where it did not.
    """

    def __init__(self, keys: LogKeys, anchors: "Iterable[Anchor]", findings: Findings) -> None:
        self.due: float = math.inf
        self.anchored = 0
        self.succeeded_in = 0
        self._key = keys.first
        self._present = keys.present
        self._anchors = iter(anchors)
        self._anchor = next(self._anchors, None)
        self._stored: deque[Stored] = deque()
        self._findings = findings
        self._plan()

    def expect(self, stored: Iterable[Stored]) -> None:
        """The checkpoints of the entries that come next, in order."""
        self._stored.extend(stored)
        self._plan()

    def reached(self, frontier: Frontier) -> None:
        """The walk has come to `due`: check the heads of this size."""
        size = frontier.size
        while self._stored and self._stored[0][0] <= size:
            _, root, text = self._stored.popleft()
            self._check_stored(root, text, frontier)
        while self._anchor is not None and self._anchor.checkpoint.size <= size:
            good = self._is_good(self._anchor.note, frontier, "anchor")
            if good and self._key == self._present:
                self.anchored = size
            self._anchor = next(self._anchors, None)
        self._plan()

    def rotated(self, seq: int, context: Mapping[str, Any]) -> None:
        """Entry `seq` changes the key; it is the first that the new one signs for."""
        try:
            old, new = open_rotation(Note.parse(context["note"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._findings.add(seq, Flaw.SIGNATURE, "the change of key is not signed by both keys")
            return
        if old != self._key or new.name != self._key.name:
            self._findings.add(seq, Flaw.SIGNATURE, "the change of key is not by the key before it")
        elif old == self._present:
            self.succeeded_in = seq
        self._key = new

    def gave_up(self, recovery: Recovery) -> None:
        """Pass over the anchors that an entry gives up: `storage.recovered` looks at those."""
        while self._anchor is not None:
            anchor, self._anchor = self._anchor, next(self._anchors, None)
            if recovery.names(anchor.checkpoint):
                break
        self._plan()

    def finish(self, seq: int) -> None:
        """The walk is over, after entry `seq`."""
        if self._key != self._present and not self.succeeded_in:
            self._findings.add(seq, Flaw.SIGNATURE, "the log's key was replaced by another")

    def _plan(self) -> None:
        stored = self._stored[0][0] if self._stored else math.inf
        anchor = math.inf if self._anchor is None else self._anchor.checkpoint.size
        self.due = min(stored, anchor)

    def _check_stored(self, root: bytes, text: str, frontier: Frontier) -> None:
        if root != frontier.root():
            self._findings.add(
                frontier.size, Flaw.COLUMN, "the checkpoint's root is not that of the entries"
            )
        try:
            note = Note.parse(text)
        except ValueError:
            self._findings.add(frontier.size, Flaw.SIGNATURE, "a checkpoint cannot be read")
        else:
            self._is_good(note, frontier, "checkpoint")

    def _is_good(self, note: Note, frontier: Frontier, what: str) -> bool:
        size = frontier.size
        try:
            checkpoint, _ = open_checkpoint(note, self._key)
        except ValueError:
            self._findings.add(size, Flaw.SIGNATURE, f"the {what} is not signed by the log's key")
            return False
        if (checkpoint.size, checkpoint.root) != (size, frontier.root()):
            self._findings.add(size, Flaw.ROOT, f"the entries are not those that the {what} signs")
            return False
        return True

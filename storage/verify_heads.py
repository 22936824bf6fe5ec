"""The signed heads of the log, its checkpoints and the anchors outside, along a walk over it.

A head says what the root of the Merkle tree over the first so many entries is (RFC 6962), and is
signed by the key that was the log's then. Whoever wrote the log anew from some entry on can make
every hash and every head fit again, but not the signatures. Pure.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.anchors import Anchor
from storage.findings import Findings, Flaw
from storage.hashchain import Frontier
from storage.notes import Note, VerifierKey, open_checkpoint, open_rotation
from storage.recovered import Recovery


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys that sign for the log: the first that ever did, and the present one.

    The present one must be known from elsewhere than the database; the first one is of no more use
    to a forger than the changes of key that lead from it to the present one.
    """

    first: VerifierKey
    present: VerifierKey


class SignedHeads:
    """Checks each head where the walk comes to it.

    Args:
        keys: Whose signatures count.
        anchors: Every anchor, in order. Those beyond the log's end are left to
            `storage.anchors.startup_check`.
        findings: Where what does not fit is written.

    Attributes:
        due: The size of the next head; nothing is to be told before the walk has come to it.
        anchored: The largest size that a good anchor speaks of.
    """

    def __init__(self, keys: LogKeys, anchors: Iterable[Anchor], findings: Findings) -> None:
        self.due: float = math.inf
        self.anchored = 0
        self._key = keys.first
        self._present = keys.present
        self._anchors = iter(anchors)
        self._anchor = next(self._anchors, None)
        self._stored: deque[tuple[int, str]] = deque()
        self._findings = findings
        self._plan()

    def expect(self, stored: Iterable[tuple[int, str]]) -> None:
        """The checkpoints (size, note) of the entries that come next, in order."""
        self._stored.extend(stored)
        self._plan()

    def reached(self, frontier: Frontier) -> None:
        """The walk has come to `due`: check the heads of this size."""
        size = frontier.size
        while self._stored and self._stored[0][0] <= size:
            self._check_stored(self._stored.popleft()[1], frontier)
        while self._anchor is not None and self._anchor.checkpoint.size <= size:
            if self._is_good(self._anchor.note, frontier, "anchor"):
                self.anchored = size
            self._anchor = next(self._anchors, None)
        self._plan()

    def rotated(self, seq: int, context: Mapping[str, Any]) -> None:
        """Entry `seq` changes the key; it is the first that the new one signs for.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It holds no such statement.
        """
        old, new = open_rotation(Note.parse(context["note"]))
        if old != self._key or new.name != self._key.name:
            self._findings.add(
                seq, Flaw.SIGNATURE, "the change of key is not signed by the key before it"
            )
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
        if self._key != self._present:
            self._findings.add(seq, Flaw.SIGNATURE, "the log's key was replaced by another")

    def _plan(self) -> None:
        stored = self._stored[0][0] if self._stored else math.inf
        anchor = math.inf if self._anchor is None else self._anchor.checkpoint.size
        self.due = min(stored, anchor)

    def _check_stored(self, text: str, frontier: Frontier) -> None:
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

"""What a log says of entries that it lost and goes on without. Pure.

An old backup was restored, the newer one is lost for ever, and two administrators gave the entries
between the two up (`storage.recovery`). From then on the log holds an entry `log.recovery`, which
names the head that was lost as the anchors have it. Numbers after it were used before. That entry
is why anchors of the lost part do not fit, and the only thing that may be.

The context of such an entry:

    size, tip               where the log goes on: the entry before this one, its hash (hex)
    last                    the time of that entry; also why this one may be earlier
    lost_size, lost_root    the last anchor: a size and the root of the Merkle tree (hex)
    lost_at                 when that anchor says that it was signed; "" where it does not say
    lost                    lost_size - size
    reason                  one line, by the one who asked
    requested_by, approved_by    two administrators, as `user:` and the id
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from storage.findings import Findings, Flaw
from storage.notes import Checkpoint

if TYPE_CHECKING:  # which would bring the database along
    from storage.anchors import Anchor


@dataclass(frozen=True, slots=True)
class Recovery:
    """One entry `log.recovery`.

    Attributes:
        seq: Its number.
        size: How many entries were left.
        lost_size: How many there had been, says the anchor that it gives up.
        lost_root: The root of the tree over those, 32 bytes.
        lost_at: When that anchor was signed, or "".
        recorded_at: When the entry was.
        reason: What was said.
        accepted_by: Who asked and who approved.
    """

    seq: int
    size: int
    lost_size: int
    lost_root: bytes
    lost_at: str
    recorded_at: str
    reason: str
    accepted_by: tuple[str, str]

    @classmethod
    def of(cls, payload: Mapping[str, Any], previous: bytes) -> Self:
        """Read an entry's payload, which follows the entry with the hash `previous`.

        Raises:
            ValueError: It contradicts itself or the log, or one person gave the entries up alone.
            KeyError, TypeError: Something is missing, or is of another kind.
        """
        context = payload["context"]
        recovery = cls(
            seq=payload["seq"],
            size=context["size"],
            lost_size=context["lost_size"],
            lost_root=bytes.fromhex(context["lost_root"]),
            lost_at=context["lost_at"],
            recorded_at=payload["ts"],
            reason=context["reason"],
            accepted_by=(context["requested_by"], context["approved_by"]),
        )
        if recovery.size != recovery.seq - 1 or context["tip"] != previous.hex():
            raise ValueError("it names another end of the log than the entry before it")
        if not 0 < recovery.lost == context["lost"]:
            raise ValueError("it gives up no entries, or not as many as it says")
        if recovery.accepted_by[0] == recovery.accepted_by[1]:
            raise ValueError("one person alone gave the entries up")
        if not all(map(str.isprintable, (recovery.lost_at, *recovery.accepted_by))):
            raise ValueError("it holds what cannot be shown")
        return recovery

    @property
    def lost(self) -> int:
        """How many entries are lost."""
        return self.lost_size - self.size

    def names(self, checkpoint: Checkpoint) -> bool:
        """Whether this is the head that was given up."""
        return (checkpoint.size, checkpoint.root) == (self.lost_size, self.lost_root)

    def document(self) -> dict[str, Any]:
        """The gap, for a program."""
        return {
            "seq": self.seq,
            "first_lost": self.size + 1,
            "last_lost": self.lost_size,
            "anchored_at": self.lost_at or None,
            "accepted_by": list(self.accepted_by),
            "accepted_at": self.recorded_at,
            "reason": self.reason,
            "lost_root": self.lost_root.hex(),
        }

    def __str__(self) -> str:
        one, other = self.accepted_by
        return (
            f"recovered: entries {self.size + 1}-{self.lost_size} are lost; accepted by {one} and"
            f" {other} on {self.recorded_at} (entry {self.seq})"
        )


def check_anchored(
    recoveries: Sequence[Recovery], anchors: "Iterable[Anchor]", findings: Findings
) -> None:
    """Whether exactly those heads were given up that the entries name.

    An anchor that gives another up must hold the entry that does: who has no key can repeat an old
    one after it, and nothing newer.

    Args:
        recoveries: Those of the log, in order.
        anchors: Every anchor, in order. After a second restore an earlier recovery may be among the
            lost entries itself: lost is all from the first head beyond the log to the named one.
        findings: Where what does not fit is written.
    """
    waiting = list(recoveries)
    lost, given_up = False, 0  # the entry that gives the anchor before this one up
    for anchor in anchors:
        size = anchor.checkpoint.size
        if not lost and anchor.recovers is not None and not 0 < given_up <= size:
            message = f"the anchors give up entries up to {anchor.recovers}, and no entry does"
            if given_up:
                message = f"the anchor of {size} entries was signed before entry {given_up}"
            findings.add(given_up or size, Flaw.RECOVERY, message)
        given_up = 0
        lost = lost or bool(waiting and size > waiting[0].size)
        if lost and waiting[0].names(anchor.checkpoint):
            lost, given_up = False, waiting.pop(0).seq
    for recovery in waiting:
        findings.add(recovery.seq, Flaw.RECOVERY, "it gives up a head that was not anchored")

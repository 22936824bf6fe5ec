"""What a verification of the records can find, and the list it is written to."""

from dataclasses import dataclass
from enum import StrEnum

MOST = 1000  # a log rewritten from the start would else be one finding an entry


class Flaw(StrEnum):
    """The kinds of damage. Each is what the verifier saw, not what somebody meant to do."""

    GAP = "gap"  # a number is missing, or comes twice
    PAYLOAD = "payload"  # a payload is not the one that was hashed, or cannot be read
    CHAIN = "chain"  # an entry does not follow the one before it
    STATE = "state"  # the log does not end where its state says
    COLUMN = "column"  # a column says something else than the payload beside it
    CLOCK = "clock"  # time went back without an entry that says so
    RECORD = "record"  # a row is not the one that was recorded
    MISSING = "missing"  # an entry's row is gone
    UNRECORDED = "unrecorded"  # a row has no entry
    RECOVERY = "recovery"  # entries were given up as lost, but not those that were anchored
    ROOT = "root"  # the entries are not those that were signed: the log was written anew
    SIGNATURE = "signature"  # a checkpoint or a change of key is not signed by the log's key
    SUBJECT = "subject"  # a result's patient is not the one that was recorded


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `seq` is the entry's number, 0 where there is none to name."""

    seq: int
    flaw: Flaw
    message: str


class Findings:
    """The findings, in the order they were made; the first `MOST` are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Problem] = []

    def add(self, seq: int, flaw: Flaw, message: str) -> None:
        """Write one finding down."""
        self.count += 1
        if len(self.kept) < MOST:
            self.kept.append(Problem(seq, flaw, message))

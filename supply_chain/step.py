"""What a step of the audit says."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    UNREACHABLE = "not checked"  # a service it needs does not answer: nothing is known


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `lines` are what was found, one fault each; the first may be a summary."""

    name: str
    state: State
    lines: tuple[str, ...]

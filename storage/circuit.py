"""Whether it is worth asking the database for a connection.

    closed ──(failures in a row)──► open ──(a pause)──► half-open ──(success)──► closed
                                     ▲                      │
                                     └──────(failure)───────┘

While the circuit is open, callers hear at once that the database is away, where each would else
wait for its own time-out. After a pause, one caller is let through to look; if he is never heard of
again, the next may look after another pause, so that nothing can leave the circuit stuck. It stands
around connecting only: a commit whose outcome is unknown is settled by reading, not by a circuit.
"""

import math
import time
from collections.abc import Callable
from enum import StrEnum

from registry.errors import DatabaseUnavailable


class CircuitState(StrEnum):
    """Where the circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    """Counts failures in a row; see the module's docstring.

    Args:
        threshold: How many failures in a row open the circuit.
        pause_s: How long it stays open before one caller may look.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        threshold: int = 2,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._retry_at = -math.inf

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands now."""
        if self._failures < self._threshold:
            return CircuitState.CLOSED
        waiting = self._clock() < self._retry_at
        return CircuitState.OPEN if waiting else CircuitState.HALF_OPEN

    def enter(self) -> None:
        """Let the caller through, or raise `DatabaseUnavailable`."""
        match self.state:
            case CircuitState.OPEN:
                wait_s = max(1, math.ceil(self._retry_at - self._clock()))
                raise DatabaseUnavailable("the database is away", retry_after_s=wait_s)
            case CircuitState.HALF_OPEN:
                self._retry_at = self._clock() + self._pause_s  # one at a time

    def succeeded(self) -> None:
        """A connection was made."""
        self._failures = 0

    def failed(self) -> None:
        """No connection was made."""
        self._failures += 1
        self._retry_at = self._clock() + self._pause_s

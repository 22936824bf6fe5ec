"""What the database is asked once more, how often, and for how long.

A lost or refused connection, a server that is starting or has no connection free, a lock: these
pass by themselves, mostly within a fraction of a second. The pauses grow, and are random in part,
so that callers who failed together do not come back together.

Around connecting and around reads only. What was committed is never offered again from here: the
outcome of a commit may be unknown, and `storage.ledger` reads before it writes again.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import DBAPIError
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential_jitter,
)

ATTEMPTS: Final = 4
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.4
JITTER_S: Final = 0.05

# Connection, rollback (deadlock, a standby's conflict), too many connections, shutting down or
# starting (PostgreSQL 18, appendix A).
_PASSING: Final = ("08", "40", "53300", "57P01", "57P02", "57P03")
_SQLITE_PASSING: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
)
_SQLITE_PRIMARY: Final = 0xFF  # the primary code is the lowest byte of an extended one


def passes(error: BaseException) -> bool:
    """Whether the same may succeed a moment later.

    Not so wrong credentials, a missing database or file, or a full disk: a person mends those. Nor
    a time-out: the caller has waited for it already.
    """
    if isinstance(error, TimeoutError):
        return False
    if isinstance(error, OSError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    sqlite_code = getattr(cause, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & _SQLITE_PRIMARY in _SQLITE_PASSING
    return str(getattr(cause, "sqlstate", None)).startswith(_PASSING)


def retrying(*, within_s: float, worth_while: Callable[[], bool] = lambda: True) -> AsyncRetrying:
    """Asks again while the fault is one that `passes`. Raises the last one as it is.

    Args:
        within_s: No attempt begins later than this after the first.
        worth_while: Looked at after every attempt that failed.
    """
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: passes(error) and worth_while()),
        stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(within_s),
        wait=wait_exponential_jitter(
            multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=JITTER_S
        ),
        sleep=asyncio.sleep,
        reraise=True,
    )

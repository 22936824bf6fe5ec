"""What leaves the storage layer when something fails: our errors, never a driver's text.

A driver's message can carry a parameter, and a parameter can be a patient's; so an error is told by
its class, its SQLSTATE or its SQLite code alone (PostgreSQL 18, appendix A; sqlite.org/rescode).

    the database is away, full, locked or shutting down   DatabaseUnavailable
    a constraint of ours refuses the change               Conflict, naming the rule
    anything else is a mistake of ours                    Internal
"""

import re
import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from registry.errors import Conflict, DatabaseUnavailable, Internal, MedAIError, Violation

RETRY_AFTER_S = 1

# Classes of SQLSTATE that pass by themselves or by an operator's hand: connection, credentials,
# no such database, read-only standby, idle transaction ended, rollback (deadlock), resources,
# lock not available, shutting down or cancelled, system error.
_AWAY = ("08", "28", "3D", "25006", "25P03", "40", "53", "55P03", "57", "58")
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
_SQLITE_PRIMARY = 0xFF  # the primary code is the lowest byte of an extended one

_USERNAME = Violation("username", "taken", advice="choose another")
_EMAIL = Violation("email", "taken", advice="choose another")
_VERSION = Violation("version", "taken", advice="raise the version")
_KEY = Violation("idempotency_key", "used before", advice="read the first result, or use a new key")

# The rules a caller can break, by the constraint's name (PostgreSQL) and columns (SQLite).
_RULES = {
    "uq_users_username": _USERNAME,
    "users.username": _USERNAME,
    "uq_users_email": _EMAIL,
    "users.email": _EMAIL,
    "uq_model_versions_name_version": _VERSION,
    "model_versions.model_name, model_versions.version": _VERSION,
    "uq_inference_results_idempotency": _KEY,
    "inference_results.created_by, inference_results.idempotency_key": _KEY,
}
_COLUMNS = re.compile(r"UNIQUE constraint failed: ([a-z_., ]+)")


def unavailable() -> DatabaseUnavailable:
    """The one way the storage layer says that the database is away."""
    return DatabaseUnavailable("the database did not answer", retry_after_s=RETRY_AFTER_S)


def translated(error: Exception) -> MedAIError:
    """What leaves the house for `error`, which SQLAlchemy, a driver or the system raised."""
    if isinstance(error, IntegrityError):
        return _conflict(error)
    if _is_away(error):
        return unavailable()
    cause = code(error)
    return Internal(f"the database refused a statement ({type(error).__name__}, {cause})")


def code(error: BaseException) -> str:
    """The SQLSTATE or SQLite code of `error`, else its class: all an operator needs."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate:
        return f"SQLSTATE {sqlstate}"
    return getattr(cause, "sqlite_errorname", None) or type(cause).__name__


def _is_away(error: Exception) -> bool:
    if isinstance(error, (OSError, PoolTimeout)):  # TimeoutError is an OSError
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    sqlite_code = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & _SQLITE_PRIMARY in _SQLITE_AWAY
    return sqlstate is not None and sqlstate.startswith(_AWAY)


def _conflict(error: IntegrityError) -> Conflict:
    name = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
    columns = _COLUMNS.search(str(error.orig))
    rule = _RULES.get(name or (columns.group(1) if columns else ""))
    return Conflict("the change breaks a rule of the records", (rule,) if rule else ())

"""What may stand in a log line: the events' names and the keys' types. Nothing else is written.

A masking pattern forgets; a list of permitted keys cannot. So an event is a constant of `LogEvent`,
and a value is written only where its key is in `KEYS` and the value has the key's form. No form
admits free text: none can hold a name, a sentence or a file's name from outside. To log something
new, add the key here, with the narrowest form that fits.
"""

import math
import re
from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias
from uuid import UUID

LogValue: TypeAlias = str | int | float
Form: TypeAlias = Callable[[object], LogValue | None]

MAX_TEXT: Final = 256  # characters of one value


class LogEvent(StrEnum):
    """Every line's name. Constant: values go into keys."""

    # One request
    REQUEST = "request"  # the access log: one line for each request
    REQUEST_FAILED = "request_failed"  # unforeseen: answered 500
    LOGIN = "login"
    AUDIT_FAILED = "audit_failed"  # an entry that nothing waits for could not be committed

    # The process
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    READY = "ready"
    NOT_READY = "not_ready"
    RECONFIGURED = "reconfigured"
    KEY_CREATED = "key_created"
    AUTH_STATE_STALE = "auth_state_stale"
    AUTH_STATE_FRESH = "auth_state_fresh"
    RATE_LIMITS_LOCAL = "rate_limits_local"  # Redis is away: each gateway counts by itself
    RATE_LIMITS_SHARED = "rate_limits_shared"
    TRACES_LOST = "traces_lost"  # the collector does not take spans; requests go on
    TRACES_DELIVERED = "traces_delivered"

    # Models and images
    MODEL_LOADED = "model_loaded"
    MODEL_REFUSED = "model_refused"
    MODEL_SWAPPED = "model_swapped"
    MODEL_FAILED = "model_failed"
    CATALOGUE_CHANGED = "catalogue_changed"
    DECODER_RESTARTED = "decoder_restarted"

    # Storage
    DATABASE_LOST = "database_lost"
    DATABASE_BACK = "database_back"
    WRITER_STARTED = "writer_started"
    WRITER_FENCED = "writer_fenced"
    WRITER_STOPPED = "writer_stopped"
    GROUP_FAILED = "group_failed"  # a transaction of the audit writer that did not commit

    # Of this log itself
    LIBRARY = "library"  # a line of a library; its text stays behind
    UNKNOWN_EVENT = "unknown_event"  # logged under a name that is not in this list


def text(pattern: str) -> Form:
    """A string that matches the whole `pattern`, of at most `MAX_TEXT` characters."""
    match = re.compile(pattern, re.ASCII).fullmatch

    def form(value: object) -> str | None:
        return (
            str(value)
            if isinstance(value, str) and len(value) <= MAX_TEXT and match(value)
            else None
        )

    return form


def integer(value: object) -> int | None:
    """A whole number; true and false are none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """A finite number, to three decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(value, 3)


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def uuid(value: object) -> str | None:
    """A UUID, as such or in its usual lower-case text form."""
    if isinstance(value, UUID):
        return str(value)
    return value if isinstance(value, str) and _UUID(value) else None


_WORD = text(r"[a-z][a-z0-9]*(?:[-_.][a-z0-9]+){0,7}")  # a constant of ours, never a person's word
_DOTTED = text(r"[A-Za-z_<][A-Za-z0-9_<>]*(?:\.[A-Za-z_<][A-Za-z0-9_<>]*)*")
_PLACE = r"[A-Za-z_<][A-Za-z0-9_.<>]*:\d+"

KEYS: Final[MappingProxyType[str, Form]] = MappingProxyType(
    {
        # Every line
        "time": text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z"),
        "level": text(r"debug|info|warning|error|critical"),
        "component": text(r"[a-z][a-z-]*(?::[a-z0-9][a-z0-9-]{0,62})?"),
        "pid": integer,
        "replica": text(r"[A-Za-z0-9:_#-]{1,128}"),
        "logger": _DOTTED,
        "dropped_keys": integer,
        "dropped_lines": integer,
        # Exceptions: the type and where it was raised, never its text
        "error": _DOTTED,
        "place": text(_PLACE),
        "trace": text(rf"{_PLACE}(?: < {_PLACE})*"),
        # One request
        "request_id": uuid,
        "forwarded_request_id": uuid,
        "trace_id": text(r"[0-9a-f]{32}"),
        "method": text(r"GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|OTHER"),
        "route": text(r"(?:/[a-z0-9._-]*|/\{[a-z_]+\})+|none"),  # the template, never the path
        "status": integer,
        "code": _WORD,
        "duration_ms": number,
        "bytes_in": integer,
        "bytes_out": integer,
        # Who
        "user_id": uuid,
        "role": text(r"admin|clinician|viewer"),
        "permission": _WORD,
        "reason": _WORD,
        "action": _WORD,
        # What
        "model": text(r"[a-z0-9][a-z0-9-]{0,62}"),
        "version": text(r"\d{1,5}\.\d{1,5}\.\d{1,5}"),
        "sha256": text(r"[0-9a-f]{64}"),
        "result_id": uuid,
        "outcome": _WORD,
        "seq": integer,
        "epoch": integer,
        "kid": text(r"[A-Za-z0-9_-]{1,64}"),
        # Measures
        "count": integer,
        "size": integer,
        "batch_size": integer,
        "queue": integer,
        "limit": number,
        "attempt": integer,
        "age_s": number,
        "port": integer,
        "signal": text(r"SIG[A-Z0-9]{2,8}"),
        "check": _WORD,
        "backend": _WORD,
        "software": text(r"[0-9][0-9A-Za-z.+-]{0,31}"),
    }
)

"""The log: one line an event, one chain of processors for our lines and for every library's.

Rules this file keeps:

- Only what `telemetry.events` permits is written; anything else is dropped, and the line says so.
- An exception is its type and the places it came through. Its text may hold the input, so it is
  never written; nor is the text of a library's line, for the same reason: its logger and its place
  in the source say which line it was.
- Access lines are ours alone: uvicorn's and Serve's are off.
"""

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TypeAlias, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from configs.settings import LogSettings
from deployments.telemetry.events import KEYS, LogEvent
from deployments.telemetry.sink import MAX_LINE, LineSink
from deployments.telemetry.tracing_context import trace_id

Render: TypeAlias = Callable[[EventDict], str]

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("medai_request_id", default=None)
"""The id of the request being answered: every line of its context carries it."""

MAX_PLACES: Final = 6  # of an exception's way
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_ESSENTIAL: Final = (
    "time",
    "level",
    "component",
    "event",
    "request_id",
    "trace_id",
    "error",
    "place",
)
_SILENT: Final = ("uvicorn.access",)


class LogChain:
    """The processors of one process, and what they have dropped.

    Args:
        settings: Level and form of the lines.
        component: Which part of the service speaks, such as `gateway`.
        sink: Where the lines go.
    """

    def __init__(self, settings: LogSettings, component: str, sink: LineSink) -> None:
        self.dropped_keys = 0  # since the start
        self.sink = sink
        self._threshold = LEVELS[settings.level.lower()]
        self._component = component
        text = settings.format == "text" or (settings.format == "auto" and _on_terminal(settings))
        self._render: Render = _as_text if text else _as_json
        self._steps: tuple[Processor, ...] = (self._filter, _describe, self._permit)

    def __call__(self, logger: WrappedLogger, level: str, fields: EventDict) -> str:
        """The line of one event. Raises `structlog.DropEvent` below the level."""
        for step in self._steps:
            fields = cast("EventDict", step(logger, level, fields))
        text = self._render(fields)
        if len(text.encode()) > MAX_LINE:
            text = self._render({key: fields[key] for key in _ESSENTIAL if key in fields})
        return text

    def _filter(self, _: WrappedLogger, level: str, fields: EventDict) -> EventDict:
        if LEVELS[level] < self._threshold:
            raise structlog.DropEvent
        return fields

    def _permit(self, _: WrappedLogger, level: str, fields: EventDict) -> EventDict:
        """The allow-list. What every line has comes first, from here and not from the caller."""
        event = fields.pop("event", None)
        known = isinstance(event, LogEvent)
        dropped = 0 if known else 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        line: EventDict = {
            "time": f"{now}Z",
            "level": level,
            "component": self._component,
            "event": str(event) if known else str(LogEvent.UNKNOWN_EVENT),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if (trace := trace_id()) is not None:
            line["trace_id"] = trace
        for key, value in fields.items():
            form = KEYS.get(key)
            permitted = None if form is None else form(value)
            if permitted is not None:
                line[key] = permitted
            elif value is not None:
                dropped += 1
        if dropped:
            self.dropped_keys += dropped
            line["dropped_keys"] = dropped
        if self.sink.dropped:
            line["dropped_lines"] = self.sink.dropped
        return line


def _describe(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Replace `exc_info` by the exception's type and way, innermost place first."""
    error = fields.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        fields["error"] = f"{module}{kind.__qualname__}"
        if places := _places(error.__traceback__):
            fields["place"] = places[0]
            fields["trace"] = " < ".join(places)
    return fields


def _places(traceback: TracebackType | None) -> list[str]:
    places = []
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "unknown")
        places.append(f"{module}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return places[: -MAX_PLACES - 1 : -1]


def _as_json(line: EventDict) -> str:
    return orjson.dumps(line).decode() + "\n"


def _as_text(line: EventDict) -> str:
    head = ("time", "level", "component", "event")
    rest = " ".join(f"{key}={value}" for key, value in line.items() if key not in head)
    start = f"{line['time'][11:23]} {line['level']:<7} {line['component']} {line['event']}"
    return f"{start} {rest}".rstrip() + "\n"


def _on_terminal(settings: LogSettings) -> bool:
    return settings.pipe is None and sys.stderr is not None and sys.stderr.isatty()


class _Output:
    """What structlog calls with the finished line, whatever the level."""

    def write(self, line: str) -> None:
        _process.chain.sink.write(line)

    debug = info = warning = error = critical = msg = write


class LibraryHandler(logging.Handler):
    """The standard library's loggers end here: level, logger, place and exception; no text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line through the chain."""
        level = record.levelname.lower()
        fields: EventDict = {
            "event": LogEvent.LIBRARY,
            "logger": record.name,
            "place": f"{record.module}:{record.lineno}",
            "exc_info": record.exc_info,
        }
        try:
            line = _process.chain(None, level if level in LEVELS else "info", fields)
        except structlog.DropEvent:
            return
        _process.chain.sink.write(line)


class _Process:
    """The one chain of this process; it can be replaced while loggers are in use."""

    def __init__(self) -> None:
        self.chain = LogChain(LogSettings(), "medai", LineSink())


_process = _Process()


def _through(logger: WrappedLogger, level: str, fields: EventDict) -> str:
    return _process.chain(logger, level, fields)


def get_logger() -> FilteringBoundLogger:
    """A logger: `log.info(LogEvent.STARTED, port=8000)`. Works before `configure_logs` as well."""
    logger = structlog.wrap_logger(
        _Output(),
        processors=[_through],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("FilteringBoundLogger", logger)


def configure_logs(settings: LogSettings, *, component: str) -> LogChain:
    """Send every line of this process, ours and the libraries', through one chain.

    Args:
        settings: Level, form and pipe.
        component: Which part of the service speaks: `gateway`, `validator`, `model:<name>`, ...
    """
    _process.chain.sink.close()
    _process.chain = LogChain(settings, component, LineSink(settings.pipe))
    root = logging.getLogger()
    root.handlers = [LibraryHandler()]
    root.setLevel(logging.DEBUG if settings.level == "DEBUG" else logging.WARNING)
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()  # uvicorn and Ray bring handlers of their own, with all text
            logger.propagate = True
    for name in _SILENT:
        logging.getLogger(name).disabled = True
    logging.captureWarnings(capture=True)  # pydicom's warnings quote the header
    return _process.chain

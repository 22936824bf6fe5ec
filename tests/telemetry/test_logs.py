"""What stands in a log line, and what never does."""

import json
import logging
import warnings
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from configs.settings import LogSettings
from deployments.telemetry import logs
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import REQUEST_ID, LogChain, configure_logs, get_logger
from deployments.telemetry.sink import LineSink

Lines = Callable[[], list[dict[str, Any]]]

CANARY = "DOE^JOHN^19560304"


def fail() -> None:
    raise ValueError(CANARY)


def test_a_line_says_when_where_and_what(lines: Lines) -> None:
    get_logger().info(LogEvent.STARTED, port=8000)

    (line,) = lines()

    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "component": "test", "event": "started", "port": 8000}


def test_unknown_keys_and_values_of_the_wrong_form_are_dropped_and_counted(lines: Lines) -> None:
    get_logger().warning(LogEvent.NOT_READY, patient=CANARY, status=CANARY, port=1)

    (line,) = lines()

    assert line["dropped_keys"] == 2
    assert line["port"] == 1
    assert CANARY not in json.dumps(line)


def test_a_key_without_a_value_is_left_out_and_not_counted(lines: Lines) -> None:
    get_logger().info(LogEvent.REQUEST, code=None)

    (line,) = lines()

    assert "code" not in line
    assert "dropped_keys" not in line


def test_an_event_that_is_no_constant_is_not_written(lines: Lines) -> None:
    get_logger().info(f"read {CANARY}")

    (line,) = lines()

    assert line["event"] == "unknown_event"
    assert line["dropped_keys"] == 1
    assert CANARY not in json.dumps(line)


def test_an_exception_is_its_type_and_its_way_but_not_its_text(lines: Lines) -> None:
    try:
        fail()
    except ValueError:
        get_logger().error(LogEvent.REQUEST_FAILED, exc_info=True)

    (line,) = lines()

    assert line["error"] == "ValueError"
    innermost, outer = line["trace"].split(" < ")
    assert line["place"] == innermost
    assert innermost.split(":")[0] == outer.split(":")[0] == __name__
    assert CANARY not in json.dumps(line)


def test_an_exception_that_was_never_raised_has_no_place(lines: Lines) -> None:
    get_logger().error(LogEvent.REQUEST_FAILED, exc_info=KeyError(CANARY))

    (line,) = lines()

    assert line["error"] == "KeyError"
    assert "place" not in line


def test_exc_info_without_an_exception_adds_nothing(lines: Lines) -> None:
    get_logger().error(LogEvent.REQUEST_FAILED, exc_info=True)

    (line,) = lines()

    assert "error" not in line


def test_an_exception_of_a_module_is_named_with_it(lines: Lines) -> None:
    get_logger().error(LogEvent.REQUEST_FAILED, exc_info=json.JSONDecodeError(CANARY, CANARY, 0))

    (line,) = lines()

    assert line["error"] == "json.decoder.JSONDecodeError"


def test_every_line_of_a_request_has_its_id(lines: Lines) -> None:
    identity = UUID(int=7)
    token = REQUEST_ID.set(str(identity))
    get_logger().info(LogEvent.LOGIN)
    REQUEST_ID.reset(token)
    get_logger().info(LogEvent.LOGIN)

    first, second = lines()

    assert first["request_id"] == str(identity)
    assert "request_id" not in second


def test_a_librarys_line_keeps_its_place_and_loses_its_text(lines: Lines) -> None:
    logging.getLogger("ray.serve").warning("request of %s failed", CANARY)

    (line,) = lines()

    assert line.keys() == {"time", "level", "component", "event", "logger", "place"}
    assert line["event"] == "library"
    assert line["level"] == "warning"
    assert line["logger"] == "ray.serve"
    assert line["place"].startswith("test_logs:")
    assert CANARY not in json.dumps(line)


def test_a_librarys_exception_loses_its_text(lines: Lines) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("uvicorn.error").exception(CANARY)

    (line,) = lines()

    assert line["error"] == "ValueError"
    assert CANARY not in json.dumps(line)


def test_a_librarys_own_handlers_are_taken_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    configure_logs(LogSettings(format="json"), component="test")

    logger.error(CANARY)

    assert CANARY not in capsys.readouterr().err


def test_uvicorns_access_lines_are_off(lines: Lines) -> None:
    logging.getLogger("uvicorn.access")
    configure_logs(LogSettings(format="json", level="DEBUG"), component="test")

    logging.getLogger("uvicorn.access").info("GET /%s", CANARY)

    assert lines() == []


def test_a_level_of_a_librarys_own_is_told_as_info(lines: Lines) -> None:
    logging.getLogger("some.library").log(35, CANARY)

    (line,) = lines()

    assert line["level"] == "info"


def test_a_librarys_lines_below_warning_are_dropped(lines: Lines) -> None:
    logging.getLogger("sqlalchemy.engine").info("SELECT %s", CANARY)

    assert lines() == []


def test_lines_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(format="json", level="ERROR"), component="test")

    get_logger().info(LogEvent.STARTED)
    logging.getLogger("some.library").warning("text")
    get_logger().error(LogEvent.STOPPED)

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "stopped"
    ]


def test_a_warning_of_a_library_does_not_reach_the_terminal(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(CANARY, UserWarning, stacklevel=1)

    (line,) = lines()

    assert line["logger"] == "py.warnings"
    assert CANARY not in json.dumps(line)


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(format="text"), component="gateway")

    get_logger().info(LogEvent.STARTED, port=8000)
    get_logger().info(LogEvent.STOPPED)

    first, second = capsys.readouterr().err.splitlines()
    assert first[12:] == " info    gateway started port=8000"
    assert second[12:] == " info    gateway stopped"


def test_a_line_that_would_not_fit_keeps_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LINE", 160)
    chain = LogChain(LogSettings(format="json"), "test", LineSink())
    fields = {"event": LogEvent.STARTED, "replica": "r" * 128, "place": "module:1"}

    line = json.loads(chain(None, "info", fields))

    assert line.keys() == {"time", "level", "component", "event", "place"}


def test_a_dropped_line_is_told_by_the_next(lines: Lines) -> None:
    logs._process.chain.sink.dropped = 3

    get_logger().info(LogEvent.STARTED)

    assert lines()[0]["dropped_lines"] == 3


def test_a_logger_works_before_logs_are_configured(capsys: pytest.CaptureFixture[str]) -> None:
    logs._process.chain = LogChain(LogSettings(), "medai", LineSink())

    get_logger().info(LogEvent.STARTED, patient=CANARY)

    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "started"
    assert CANARY not in json.dumps(line)

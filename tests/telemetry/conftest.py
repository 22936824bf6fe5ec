"""A log whose lines a test can read, and the process's own logging put back afterwards."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configs.settings import LogSettings
from deployments.telemetry import logs
from deployments.telemetry.sink import LineSink

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """`configure_logs` takes over the whole process; give it back."""
    root = logging.getLogger()
    chain, handlers, level = logs._process.chain, root.handlers[:], root.level
    known = {
        name: (logger.handlers[:], logger.propagate, logger.disabled)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(capture=False)
    logs._process.chain = chain
    root.handlers, root.level = handlers, level
    for name, (own, propagate, disabled) in known.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.disabled = own, propagate, disabled


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Configure JSON lines on the standard error stream; calling the fixture reads them."""
    logs.configure_logs(LogSettings(format="json"), component="test")
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def sink() -> LineSink:
    """A sink of the standard error stream."""
    return LineSink()

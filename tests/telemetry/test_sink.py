"""Where lines go, and what happens while nobody reads."""

import os
import sys
from pathlib import Path

import pytest

from deployments.telemetry import sink as sinks
from deployments.telemetry.sink import MAX_LINE, LineSink


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "log.pipe"
    os.mkfifo(path)
    return path


def test_a_line_reaches_the_reader_of_the_pipe(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)

    written = sink.write("one\n")

    assert written
    assert os.read(reader, 100) == b"one\n"
    sink.close()
    os.close(reader)


def test_lines_are_dropped_and_counted_while_the_reader_is_slow(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)
    line = "x" * (MAX_LINE - 1) + "\n"

    written = [sink.write(line) for _ in range(64)]  # a pipe holds 16 of them

    assert written.count(False) == sink.dropped > 0
    os.read(reader, 1 << 20)
    assert sink.write(line)
    sink.close()
    os.close(reader)


def test_lines_go_to_stderr_while_there_is_no_reader(
    pipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = LineSink(pipe)

    assert sink.write("one\n")

    assert capsys.readouterr().err == "one\n"
    assert sink.dropped == 0


def test_lines_go_to_stderr_once_the_reader_is_gone(
    pipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)
    sink.write("one\n")
    os.close(reader)

    assert sink.write("two\n")
    assert sink.write("three\n")

    assert capsys.readouterr().err == "two\nthree\n"


def test_a_new_reader_is_found_again(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "RETRY_S", 0.0)
    sink = LineSink(pipe)
    sink.write("lost to stderr\n")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    sink.write("one\n")

    assert os.read(reader, 100) == b"one\n"
    sink.close()
    os.close(reader)


def test_a_pipe_that_was_removed_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = LineSink(tmp_path / "gone")

    assert sink.write("one\n")

    assert capsys.readouterr().err == "one\n"


def test_a_closed_stderr_drops_the_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    sink = LineSink()

    assert not sink.write("one\n")

    assert sink.dropped == 1


def test_a_process_without_stderr_drops_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    assert not LineSink().write("one\n")


def test_closing_twice_is_no_error(pipe: Path) -> None:
    sink = LineSink(pipe)

    sink.close()
    sink.close()

"""Where lines go, and what happens while nobody reads."""

import asyncio
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


async def test_lines_of_one_turn_of_the_loop_go_into_the_pipe_together(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)

    assert sink.write("one\n")
    assert sink.write("two\n")

    assert os.read(reader, 100) == b""  # the turn has not ended
    await asyncio.sleep(0)
    assert os.read(reader, 100) == b"one\ntwo\n"
    sink.close()
    os.close(reader)


async def test_no_more_lines_go_together_than_one_write_keeps_whole(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sizes = []
    write = os.write

    def measured(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", measured)
    sink = LineSink(pipe)
    lines = [f"{number:099}\n" for number in range(100)]

    for line in lines:
        sink.write(line)
    await asyncio.sleep(0)

    assert os.read(reader, 1 << 20).decode() == "".join(lines)
    assert max(sizes) <= MAX_LINE
    assert len(sizes) == 3  # 40 lines of 100 bytes fit into one write
    sink.close()
    os.close(reader)


async def test_gathered_lines_are_counted_where_they_are_dropped(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)
    await asyncio.to_thread(_fill, sink)
    before = sink.dropped

    for _ in range(3):
        sink.write("late\n")
    await asyncio.sleep(0)

    assert sink.dropped == before + 3
    sink.close()
    os.close(reader)


async def test_what_was_gathered_is_written_when_the_sink_is_closed(pipe: Path) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(pipe)
    sink.write("last\n")

    sink.close()

    assert os.read(reader, 100) == b"last\n"
    os.close(reader)


def _fill(sink: LineSink) -> None:
    """Write, from a thread without a loop, until the pipe takes no more."""
    while sink.write("x" * (MAX_LINE - 1) + "\n"):
        pass

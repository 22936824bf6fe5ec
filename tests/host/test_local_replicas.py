"""The replicas of one machine: which is called, and what is left where one ends."""

import asyncio
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deployments import local_calls, local_replicas
from deployments.local_calls import Gone
from deployments.local_replicas import LocalReplica, LocalReplicas, folder_of, remove_folder
from registry.errors import Internal
from tests.host.local import NAME, SOON_S, connected, double, found, sockets, until


async def test_a_replica_that_hangs_is_not_taken_for_an_idle_one(
    folder: Path, process: "subprocess.Popen[bytes]"
) -> None:
    replicas = LocalReplicas(folder, NAME)
    async with asyncio.timeout(30):
        hanging = await found(replicas)
    replica = LocalReplica(folder, NAME, double)
    await until(lambda: len(replicas) == 2)
    process.send_signal(signal.SIGSTOP)
    try:
        answers = []
        for number in range(6):
            connection = replicas.pick()
            assert connection is not None
            try:
                async with asyncio.timeout(0.2):
                    answers.append(await connection.call(number))
            except TimeoutError:
                answers.append(None)
    finally:
        process.send_signal(signal.SIGCONT)
        await replica.close()

    assert answers.count(None) <= 1
    await until(lambda: not hanging.ongoing)  # it goes on, and counts as idle again
    await replicas.close()


async def test_a_replica_that_reads_no_more_is_sent_no_more(
    folder: Path, process: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_calls, "CLOGGED_BYTES", 2**20)
    replicas = LocalReplicas(folder, NAME)
    async with asyncio.timeout(30):
        connection = await found(replicas)
    process.send_signal(signal.SIGSTOP)
    try:
        call = asyncio.ensure_future(connection.call(bytes(4 * 2**20)))
        await asyncio.sleep(0.05)

        assert replicas.pick() is None
    finally:
        process.send_signal(signal.SIGCONT)
    with pytest.raises(Internal):
        await call
    await until(replicas.pick)
    await replicas.close()


async def test_a_replica_that_ends_answers_what_it_got_and_gets_nothing_more(folder: Path) -> None:
    go = asyncio.Event()

    async def wait(argument: object) -> object:
        await go.wait()
        return argument

    async with connected(folder, wait) as (replica, replicas):
        connection = await found(replicas)
        call = asyncio.ensure_future(connection.call(1))
        await until(lambda: replica.ongoing)
        closing = asyncio.ensure_future(replica.close())
        await until(lambda: not connection.open)

        assert replicas.pick() is None
        assert not sockets(folder)
        with pytest.raises(Gone) as gone:
            await connection.call(2)
        assert not gone.value.sent
        assert not closing.done()
        go.set()
        assert await call == 1
        await asyncio.wait_for(closing, SOON_S)


async def test_a_caller_that_does_not_close_is_waited_for_so_long_and_no_longer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_replicas, "GOODBYE_S", 0.2)
    forever = asyncio.Event()

    async def wait(_: object) -> object:
        await forever.wait()
        return None

    async with connected(folder, wait) as (replica, replicas):
        call = asyncio.ensure_future((await found(replicas)).call(1))
        await until(lambda: replica.ongoing)
        await asyncio.wait_for(replica.close(), SOON_S)

        with pytest.raises(Gone) as gone:
            await asyncio.wait_for(call, SOON_S)

    assert gone.value.sent


async def test_a_killed_replica_fails_its_calls_at_once_and_its_socket_is_removed(
    folder: Path, process: "subprocess.Popen[bytes]"
) -> None:
    replicas = LocalReplicas(folder, NAME)
    try:
        async with asyncio.timeout(30):
            connection = await found(replicas)
        assert await connection.call(21) == 42
        waiting = asyncio.ensure_future(connection.call("wait"))
        await until(lambda: connection.ongoing)
        process.send_signal(signal.SIGKILL)

        with pytest.raises(Gone) as gone:
            await asyncio.wait_for(waiting, SOON_S)

        assert gone.value.sent
        assert replicas.pick() is None
        await until(lambda: not sockets(folder))
    finally:
        await replicas.close()


async def test_the_least_busy_replica_is_called_and_of_idle_ones_each_in_turn(
    folder: Path,
) -> None:
    async with several(folder) as (asked, go):
        replicas = LocalReplicas(folder, NAME)
        await until(lambda: len(replicas) == 2)
        calls = []
        for _ in range(4):
            connection = replicas.pick()
            assert connection is not None
            calls.append(asyncio.ensure_future(connection.call(None)))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*calls)
        await replicas.close()

    assert sorted(asked) == [0, 0, 1, 1]


async def test_where_one_replica_is_meant_the_newest_is_called_and_no_other(folder: Path) -> None:
    async with several(folder) as (asked, go):
        go.set()
        replicas = LocalReplicas(folder, NAME, only_newest=True)
        await until(lambda: len(replicas) == 2)
        for _ in range(3):
            await (await found(replicas)).call(None)
        await replicas.close()

    assert asked == [1, 1, 1]


@asynccontextmanager
async def several(folder: Path) -> AsyncIterator[tuple[list[int], asyncio.Event]]:
    """Two replicas, the second newer, and one of another deployment; which of them was called."""
    go = asyncio.Event()
    asked: list[int] = []

    def answering(number: int) -> Callable[[object], Awaitable[object]]:
        async def answer(_: object) -> object:
            asked.append(number)
            await go.wait()
            return number

        return answer

    replicas = []
    for number, name in enumerate((NAME, NAME, "AuditWriter")):
        replicas.append(LocalReplica(folder, name, answering(number)))
        await asyncio.sleep(0.005)  # their names are of milliseconds
    try:
        yield asked, go
    finally:
        for replica in replicas:
            await replica.close()


async def test_without_a_folder_or_with_too_long_a_path_there_are_no_local_calls(
    folder: Path,
) -> None:
    long = folder / ("x" * 100)
    long.mkdir()
    for place in (None, long):
        replica, replicas = LocalReplica(place, NAME, double), LocalReplicas(place, NAME)
        await asyncio.sleep(0.05)

        assert replicas.pick() is None
        await replicas.close()
        await replica.close()


def test_the_folder_of_a_home_is_closed_to_others_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = folder_of(tmp_path / "home")
    assert made is not None
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert folder_of(tmp_path / "home") == made != folder_of(tmp_path / "another")

    assert folder_of(tmp_path / "home", wanted=False) is None
    made.chmod(0o2700)  # as a Kubernetes volume with fsGroup has it
    assert folder_of(tmp_path / "home") == made
    made.chmod(0o755)
    assert folder_of(tmp_path / "home") is None


def test_where_no_temporary_directory_can_be_written_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])

    assert folder_of(tmp_path) is None


def test_what_killed_replicas_have_left_is_removed_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = folder_of(tmp_path / "home")
    assert made is not None
    (made / "Validator.1").touch()

    remove_folder(tmp_path / "home")
    remove_folder(tmp_path / "home")

    assert not made.exists()


async def test_two_that_start_in_one_moment_do_not_remove_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_replicas.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    one, other = (LocalReplica(folder, NAME, double) for _ in range(2))
    replicas = LocalReplicas(folder, NAME)

    assert await (await found(replicas)).call(4) == 8
    await replicas.close()
    await one.close()
    await other.close()


def test_a_folder_that_somebody_else_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = folder_of(tmp_path / "home")
    assert made is not None
    made.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    made.symlink_to(elsewhere)
    assert folder_of(tmp_path / "home") is None
    made.unlink()

    made.mkdir(mode=0o700)
    assert folder_of(tmp_path / "home") == made
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert folder_of(tmp_path / "home") is None

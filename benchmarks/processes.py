"""Servers as processes: started in a session of their own, measured by role, gone afterwards.

Every server gets a mark in its environment. Processes are found by it and by descent, because
Ray's workers overwrite the memory their environment is shown from, and an orphan has no parent to
be found by. Nothing is ever ended by name: only what carries the mark or came from such a process.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "BENCH_SERVER"
STOP_S = 60.0
KILL_S = 5.0

Roles = tuple[tuple[str, re.Pattern[str]], ...]

# What a process of a Ray Serve is, by its title or command line; the first that matches.
RAY_ROLES: Roles = (
    ("haproxy", re.compile(r"haproxy .*-f |/haproxy$")),
    ("gateway", re.compile(r"ServeReplica:[^ ]*Gateway")),
    ("validator", re.compile(r"ServeReplica:[^ ]*Validator")),
    ("model", re.compile(r"ServeReplica:[^ ]*OnnxModel")),
    ("audit-writer", re.compile(r"ServeReplica:[^ ]*AuditWriter")),
    ("controller", re.compile(r"ServeController")),
    ("haproxy-manager", re.compile(r"HAProxyManager")),
    ("proxy", re.compile(r"ray::ProxyActor")),
    ("gcs", re.compile(r"gcs_server")),
    ("raylet", re.compile(r"raylet/raylet|/raylet ")),
    (
        "ray-agents",
        re.compile(r"ray::\w*Agent|ray::IDLE|agent\.py|monitor\.py|dashboard\.py"),
    ),
    ("driver", re.compile(r"deployments\.cli|medai serve")),
    ("decoder", re.compile(r"inference\.guarded")),
    ("postgres", re.compile(r"postgres")),
)


class Started(NamedTuple):
    """One process, told from a later one with the same id by its start time."""

    pid: int
    since: float
    role: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size (Linux `smaps_rollup`) by role, in bytes."""

    by_role: dict[str, int]

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self.by_role.values())


@dataclass(slots=True)
class Processes:
    """The processes of one server, now and at each later look.

    Args:
        mark: The value of `MARK` in their environment.
        default_role: The role of a process that `roles` does not know.
        roles: The roles by title.
        also: More roots, whose descendants count too (a database).
    """

    mark: str
    default_role: str
    roles: Roles = ()
    also: tuple[int, ...] = ()
    _seen: dict[tuple[int, float], str] = field(default_factory=dict)
    _known: dict[int, psutil.Process] = field(default_factory=dict)

    def own(self) -> list[psutil.Process]:
        """Every process of the server that runs at this moment, without those of `also`."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self._known.get(process.pid) == process or self._marked(process):
                    found[process.pid] = process
        for process in tuple(found.values()):
            with contextlib.suppress(psutil.Error):
                if process.ppid() not in found:  # a root: looking for children is not cheap
                    found |= _descendants(process)
        self._known = found
        return list(found.values())

    def look(self) -> list[psutil.Process]:
        """Every process that is measured with the server."""
        others: dict[int, psutil.Process] = {}
        for pid in self.also:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                others |= {pid: root} | _descendants(root)
        return [*self.own(), *others.values()]

    def cpu(self) -> dict[Started, float]:
        """CPU seconds of each process since its start."""
        used = {}
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                started = Started(process.pid, process.create_time(), self.role(process))
                used[started] = times.user + times.system
        return used

    def memory(self) -> Memory:
        """Proportional set sizes now. Takes some ms a process: not while something is measured."""
        by_role: dict[str, int] = {}
        for process in self.look():
            with contextlib.suppress(psutil.Error, OSError):
                role = self.role(process)
                by_role[role] = by_role.get(role, 0) + pss(process.pid)
        return Memory(by_role)

    def count(self, role: str) -> int:
        """How many processes of a role there are."""
        found = 0
        for process in self.own():
            with contextlib.suppress(psutil.Error):
                found += self.role(process) == role
        return found

    def end(self) -> list[str]:
        """End whatever is left. Returns the roles of what had to be ended."""
        left, roles = [], []
        for process in self.own():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    roles.append(self.role(process))
                    left.append(process)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=KILL_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=KILL_S)
        return roles

    def _marked(self, process: psutil.Process) -> bool:
        return process.environ().get(MARK) == self.mark

    def role(self, process: psutil.Process) -> str:
        """What a process is. Raises `psutil.Error` where it is gone."""
        key = (process.pid, process.create_time())
        title = " ".join(process.cmdline()) or process.name()
        role = role_of(title, self.roles, self.default_role)
        if role != self.default_role or key not in self._seen:
            self._seen[key] = role  # a Ray worker gets its title some time after its start
        return self._seen[key]


def _descendants(process: psutil.Process) -> dict[int, psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return {each.pid: each for each in process.children(recursive=True)}
    return {}


def role_of(title: str, roles: Roles, default: str) -> str:
    """The role of a process by its title or command line."""
    return next((role for role, pattern in roles if pattern.search(title)), default)


def cpu_by_role(
    before: Mapping[Started, float], after: Mapping[Started, float]
) -> dict[str, float]:
    """CPU seconds between two looks, by role, the largest first."""
    earlier = {(each.pid, each.since): used for each, used in before.items()}
    spent: dict[str, float] = {}
    for each, used in after.items():
        since = used - earlier.get((each.pid, each.since), 0.0)
        spent[each.role] = spent.get(each.role, 0.0) + since
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def pss(pid: int) -> int:
    """The proportional set size of a process in bytes. Raises `OSError` where it is gone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class Left(RuntimeError):
    """A server left processes behind, or did not start or stop in time."""


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    default_role: str,
    roles: Roles = (),
    environment: Mapping[str, str] | None = None,
    also: tuple[int, ...] = (),
    strict: bool = False,
) -> Iterator[tuple["subprocess.Popen[bytes]", Processes]]:
    """A server process; ended with all its children afterwards.

    Args:
        command: What to run.
        log: Where its output goes.
        default_role: The role of its processes where the title does not say.
        roles: The roles of its processes by title.
        environment: Added to our own.
        also: Roots of other processes that are measured with it and stay.
        strict: Complain of processes that are left behind. They are ended in any case.

    Raises:
        Left: It did not stop within `STOP_S`, or left processes behind.
    """
    processes = Processes(secrets.token_hex(8), default_role, roles, also)
    with log.open("ab") as output:
        server = subprocess.Popen(
            [*command],
            env={**os.environ, **(environment or {}), MARK: processes.mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stopped = False
    try:
        yield server, processes
    finally:
        processes.look()
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
            stopped = True
        left = processes.end()
        server.wait(KILL_S)
    if not stopped:
        raise Left(f"{default_role} did not stop within {STOP_S:g} s; see {log}")
    if left and strict:
        raise Left(f"the server left processes behind: {', '.join(sorted(left))}; see {log}")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def free_range(count: int, first: int = 20_000, last: int = 30_000) -> int:
    """The first of `count` free ports in a row, outside the range the kernel gives out itself."""
    listening = (
        each.laddr
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr
    )
    taken = {int(address.port) for address in listening}
    start = first + secrets.randbelow(last - first - count)
    for begin in chain(range(start, last - count), range(first, start)):
        if taken.isdisjoint(range(begin, begin + count)):
            return begin
    raise Left("no range of free ports")


def wait_until(
    is_ready: Callable[[], bool], server: "subprocess.Popen[bytes]", *, within_s: float, log: Path
) -> None:
    """Ask until the server is ready. Raises `Left` where it ends or takes too long."""
    deadline = time.monotonic() + within_s
    while not is_ready():
        if server.poll() is not None:
            raise Left(f"a server ended while starting; see {log}")
        if time.monotonic() > deadline:
            raise Left(f"a server was not ready within {within_s:g} s; see {log}")
        time.sleep(0.1)

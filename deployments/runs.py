"""One run of the server on this machine: its private directory, its record, its leftovers.

A server that is killed cannot clean up. So each run writes down who it is, and the next one ends
what the last one left: Ray's agents hold ports for a minute or more. Processes are recognised by
the run's directory in their environment, so nobody else's Ray is ever touched.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from registry.errors import InvalidConfiguration

# HAProxy takes socket paths of 97 bytes; Ray's part of one has 68. A home may be deeper.
SHORT = "/tmp"  # noqa: S108  # only private directories are made in it
MARK = "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"  # a switch of ours that holds the run's directory
GRACE_S = 3.0

HAPROXY_WRAPPER = """#!{python}
# Starts HAProxy so that it ends with the Ray process that started it: an abrupt end of Ray would
# otherwise leave it on the port, answering errors for ever.
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execv({binary!r}, [{binary!r}, *sys.argv[1:]])
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A run: its directory, and the record of it in the home directory."""

    directory: Path
    record: Path

    def close(self) -> None:
        """End what outlived the run and forget it. The directory holds no state, only sockets."""
        end_processes(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.record.unlink(missing_ok=True)


def begin(home: Path) -> Run:
    """Start a run, after ending what a killed one left.

    Raises:
        InvalidConfiguration: A server with this home directory is running.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = home / "server.json"
    _end_last(record)
    directory = Path(tempfile.mkdtemp(prefix="medai-", dir=SHORT))
    me = psutil.Process()
    record.write_text(
        json.dumps({"pid": me.pid, "started": me.create_time(), "directory": str(directory)})
    )
    return Run(directory, record)


def shared_directory() -> Path:
    """The private directory for whoever starts Ray by other means; see `medai env`.

    Raises:
        InvalidConfiguration: Somebody else has made it.
    """
    directory = Path(SHORT) / f"medai-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    owner = directory.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or directory.is_symlink():
        raise InvalidConfiguration(f"{directory} is not yours alone: remove it and try again")
    return directory


def _end_last(record: Path) -> None:
    try:
        last = json.loads(record.read_text())
        pid, started, directory = last["pid"], last["started"], Path(last["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).create_time() == started:
            raise InvalidConfiguration(
                f"a server with this home directory is running (pid {pid}); "
                f"stop it with: kill {pid}"
            )
    Run(directory, record).close()


def end_processes(directory: Path) -> int:
    """End every process of a run. Returns how many there were."""
    ours = [process for process in psutil.process_iter() if _belongs(process, directory)]
    for process in ours:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(ours, timeout=GRACE_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(ours)


def _belongs(process: psutil.Process, directory: Path) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return process.environ().get(MARK, "").startswith(f"{directory}/")
    except (psutil.Error, OSError):
        return False


def wrap_haproxy(directory: Path, binary: Path) -> Path:
    """Write the program that Ray shall start in place of HAProxy; see `HAPROXY_WRAPPER`."""
    wrapper = directory / "haproxy"
    wrapper.write_text(HAPROXY_WRAPPER.format(python=sys.executable, binary=str(binary)))
    wrapper.chmod(0o700)
    return wrapper

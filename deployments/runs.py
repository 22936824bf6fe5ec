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

from configs.settings import LimitSettings
from registry.errors import InvalidConfiguration

# HAProxy takes socket paths of 97 bytes; Ray's part of one has 68. A home may be deeper.
SHORT = "/tmp"  # noqa: S108  # only private directories are made in it
MARK = "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"  # a switch of ours that holds the run's directory
GRACE_S = 3.0
RECORD = "server.json"  # in the home directory

HEADER_TIMEOUT = "MEDAI_LIMITS__HEADER_TIMEOUT_S"

HAPROXY_WRAPPER = """#!{python}
# Starts HAProxy so that it ends with the Ray process that started it: an abrupt end of Ray would
# otherwise leave it on the port, answering errors for ever. Before, adds to the configuration how
# long a request's headers may take, else HAProxy answers 408 with its own page. Ray has no switch
# for it; it writes the file anew, and comes here, for every start and reload.
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if "-f" in sys.argv:
    path = sys.argv[sys.argv.index("-f") + 1]
    with open(path) as file:
        before, defaults, after = file.read().partition("\\ndefaults\\n")
    if not defaults:
        sys.exit("the configuration has no section 'defaults': no limit for headers can be set")
    limit = round(float(os.environ.get({setting!r}, {default})) * 1000)
    line = f"    timeout http-request {{limit}}ms\\n"
    with open(path + ".new", "w") as file:
        file.write(before + defaults + line + after)
    os.replace(path + ".new", path)
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
    record = home / RECORD
    _end_last(home)
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


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the record says of the last run that was not closed. `pid`: None once it has ended."""

    directory: Path
    pid: int | None


def last_run(home: Path) -> LastRun | None:
    """The run that is going on, or that was killed; None where the last one was closed."""
    try:
        last = json.loads((home / RECORD).read_text())
        pid, started, directory = last["pid"], last["started"], Path(last["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(pid).create_time() == started:
            return LastRun(directory, pid)
    return LastRun(directory, None)


def _end_last(home: Path) -> None:
    last = last_run(home)
    if last is None:
        return
    if last.pid is not None:
        raise InvalidConfiguration(
            f"a server with this home directory is running (pid {last.pid}); "
            f"stop it with: kill {last.pid}"
        )
    Run(last.directory, home / RECORD).close()


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every process of a run but this one."""
    return [process for process in psutil.process_iter() if _belongs(process, directory)]


def end_processes(directory: Path) -> int:
    """End every process of a run. Returns how many there were."""
    ours = processes_of(directory)
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
    wrapper.write_text(
        HAPROXY_WRAPPER.format(
            python=sys.executable,
            binary=str(binary),
            setting=HEADER_TIMEOUT,
            default=LimitSettings().header_timeout_s,
        )
    )
    wrapper.chmod(0o700)
    return wrapper

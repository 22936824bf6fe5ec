"""Which replicas are on this machine, and the way to each: a socket in a folder both ends know.

    replica    binds <folder>/<deployment>.<when, ms> once it is ready, and removes it when it ends
    caller     looks into the folder twice a second, and keeps a connection to each replica
    call       goes to the replica with the fewest calls of this caller on their way

Serve places, starts, checks, scales and ends the replicas as ever, and every call can be made by
its handle instead: where no replica is on this machine, or none has been found yet, `pick` gives
None (docs/adr/0016).

The folder is in the directory for temporary files, because a socket's path may have 107 bytes and
a node's home may be on a network, where sockets do not work. It belongs to one user and one home,
mode 0700; where somebody else has made it, there are no local calls.
"""

import asyncio
import contextvars
import hashlib
import os
import shutil
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from deployments.local_calls import Answering, Calling, Handler

LOOK_EVERY_S: Final = 0.5
GOODBYE_S: Final = 10.0  # how long callers may take to close once they have been told


def folder_of(home: Path, *, wanted: bool = True) -> Path | None:
    """The folder of the sockets of one home, made where it is missing; None where it is not ours.

    Args:
        home: The home of the application (`MEDAI_HOME`).
        wanted: Whether there shall be local calls (`MEDAI_SERVER__LOCAL_CALLS`); else None.
    """
    if not wanted:
        return None
    try:
        digest = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]
        folder = Path(tempfile.gettempdir()) / f"medai-{digest}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # A setgid bit may be on it: a Kubernetes volume with fsGroup hands it down
    private = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o777 == 0o700  # noqa: PLR2004
    return folder if private and found.st_uid == os.geteuid() else None


def remove_folder(home: Path) -> None:
    """Remove the folder and what killed replicas have left in it, once all of them have ended."""
    folder = folder_of(home)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


class LocalReplica:
    """A replica's side: listens until it is closed. Needs a running loop.

    Args:
        folder: See `folder_of`; None listens nowhere.
        deployment: Its name in Serve.
        handler: Answers one call.
    """

    def __init__(self, folder: Path | None, deployment: str, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[Answering] = set()
        self._path: Path | None = None
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        if folder is not None:
            when_ms = time.time_ns() // 1_000_000
            # A part of the process id tells two of one moment apart; all of it would be too long
            path = folder / f"{deployment}.{when_ms:x}{os.getpid() & 0xFFF:03x}"
            loop = asyncio.get_running_loop()
            # An empty context, which all calls then run in
            self._starting = loop.create_task(self._start(path), context=contextvars.Context())

    @property
    def ongoing(self) -> int:
        """How many calls are being answered."""
        return sum(connection.ongoing for connection in self._connections)

    async def close(self) -> None:
        """Take no new caller, have those that are there finish, and end."""
        if self._starting is not None:
            await self._starting
        if self._server is None or self._path is None:
            return
        self._path.unlink(missing_ok=True)
        self._server.close()
        for connection in self._connections:
            connection.say_goodbye()
        leaving = [connection.closed for connection in self._connections]
        if leaving:
            await asyncio.wait(leaving, timeout=GOODBYE_S)
        for connection in tuple(self._connections):
            connection.close()

    async def _start(self, path: Path) -> None:
        # Under a name nobody looks for until it accepts: who finds a socket that refuses removes it
        hidden = path.with_name(path.suffix)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(hidden))
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._accept, sock=listener)
            hidden.rename(path)
        except OSError:  # no room, or a path too long: Serve's own way remains
            listener.close()
        else:
            self._path = path

    def _accept(self) -> Answering:
        connection = Answering(self._handler)
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection


class LocalReplicas:
    """A caller's side: the replicas of one deployment on this machine. Needs a running loop.

    Args:
        folder: See `folder_of`; None finds none.
        deployment: Its name in Serve.
        only_newest: Give the replica that started last and no other: for a deployment that has one
            replica, whose predecessor may not know yet that it has been replaced.
    """

    def __init__(self, folder: Path | None, deployment: str, *, only_newest: bool = False) -> None:
        self._folder = folder
        self._prefix = f"{deployment}."
        self._only_newest = only_newest
        self._found: dict[str, Calling] = {}
        self._watch: asyncio.Task[None] | None = None
        if folder is not None:
            loop = asyncio.get_running_loop()
            self._watch = loop.create_task(self._look(folder), context=contextvars.Context())

    def __len__(self) -> int:
        """How many replicas are here and accept calls."""
        return sum(connection.open for connection in self._found.values())

    def pick(self) -> Calling | None:
        """The replica to call, or None where none is here."""
        there = [
            name
            for name, connection in self._found.items()
            if connection.open and not connection.is_clogged
        ]
        if not there:
            return None
        if self._only_newest:
            return self._found[max(there)]
        least = min(there, key=lambda name: self._found[name].ongoing)
        # To the end, so that of two that are idle each has its turn
        connection = self._found[least] = self._found.pop(least)
        return connection

    async def close(self) -> None:
        """Stop looking, and let the connections go."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        for connection in self._found.values():
            connection.abort()
        for connection in self._found.values():
            await connection.closed

    async def _look(self, folder: Path) -> None:
        while True:
            self._found = {name: there for name, there in self._found.items() if there.open}
            for path in self._unknown(folder):
                await self._connect(path)
            await asyncio.sleep(LOOK_EVERY_S)

    def _unknown(self, folder: Path) -> list[Path]:
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError:
            return []
        mine = [name for name in names if name.startswith(self._prefix)]
        return [folder / name for name in mine if name not in self._found]

    async def _connect(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(Calling, str(path))
        except ConnectionRefusedError:  # its process was killed
            _remove(path)
        except OSError:
            return
        else:
            self._found[path.name] = connection


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)

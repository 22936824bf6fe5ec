"""A site for a fault to happen at: a database, a home with keys and anchors, writers, a client."""

import asyncio
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import anyio
from sqlalchemy import make_url

from configs.settings import DatabaseSettings
from registry.errors import MedAIError
from storage.anchors import AnchorFile, startup_check
from storage.database import Database
from storage.signing_keys import load_keys
from tests.faults.client_ledger import Balance, ClientLedger, balance
from tests.postgres import PostgresServer
from tests.storage.conftest import Site, TestClock
from tests.storage.relay import Relay

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("writer_process.py")
CLIENTS = 8
READY_S = 30.0


class Writer:
    """A writer in a process of its own, and what it tells.

    Attributes:
        refusals: Why it did not record.
        fenced: Whether it was told that another writer has taken over.
    """

    def __init__(self, place: "Place", *, clients: int = CLIENTS, url: str = "", limit: int = 0):
        self.refusals: list[str] = []
        self.fenced = False
        self._ready = threading.Event()
        self._ledger = place.ledger
        arguments = [url or place.url, place.home, place.site.user_id, place.site.model.id, clients]
        if limit:
            arguments.append(limit)
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_ready(self) -> bool:
        """Whether it has said so."""
        return self._ready.is_set()

    async def until_refused(self, reason: str, within_s: float = 60) -> None:
        """Wait until something is refused for this reason from now on. Raises `TimeoutError`."""
        heard = len(self.refusals)
        await until(lambda: any(reason in said for said in self.refusals[heard:]), within_s)

    async def until_ready(self, within_s: float = READY_S) -> None:
        """Wait for the writer to be able to record. Raises `TimeoutError`."""
        await until(self._ready.is_set, within_s)

    def may_write_again(self) -> None:
        """Lift the limit on the size of its files."""
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, unlimited)

    def send(self, signal_: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(signal_)

    async def end(self, signal_: signal.Signals = signal.SIGKILL, within_s: float = 30) -> int:
        """End it by a signal; gives its exit code once all it told was heard."""
        self.process.send_signal(signal_)
        return await self.ended(within_s)

    async def ended(self, within_s: float) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        code = await asyncio.to_thread(self.process.wait, within_s)
        await asyncio.to_thread(self._reader.join)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):  # it was killed in mid-line
                return
            match line.split():
                case ["ready"]:
                    self._ready.set()
                case ["fenced"]:
                    self.fenced = True
                case ["refused" | "alarm", *words]:
                    self.refusals.append(" ".join(words))
                case [result_id, seq, entry_hash]:
                    self._ledger.hear(UUID(result_id), int(seq), bytes.fromhex(entry_hash))


@dataclass
class Place:
    """One database with a clinician and a model, and everything a client was told of it."""

    url: str
    home: Path
    database: Database
    site: Site
    server: PostgresServer | None  # None: SQLite
    ledger: ClientLedger = field(default_factory=ClientLedger)
    writers: list[Writer] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite+aiosqlite:///"))

    async def writer(self, **options: int | str) -> Writer:
        """Start a writer and wait until it is ready."""
        writer = self.start_writer(**options)
        await writer.until_ready()
        return writer

    def start_writer(self, **options: int | str) -> Writer:
        """Start a writer."""
        writer = Writer(self, **options)  # type: ignore[arg-type]  # its own options
        self.writers.append(writer)
        return writer

    async def receipts(self, more: int = 1, *, within_s: float = 20) -> None:
        """Wait until the client has so many more receipts. Raises `TimeoutError`."""
        wanted = len(self.ledger.receipts) + more
        await until(lambda: len(self.ledger.receipts) >= wanted, within_s)

    async def balance(self) -> Balance:
        """The records against the client's ledger, and the log against its anchors."""
        await until_it_answers(self.database)
        found = await balance(self.database, self.ledger)
        public = load_keys(self.home / "log", generate=True).private.public_key()
        try:
            await startup_check(
                self.database,
                AnchorFile(self.home / "anchors.jsonl"),
                public.public_bytes_raw(),
            )
        except MedAIError as error:
            found = Balance(**{**_fields(found), "problems": (*found.problems, str(error))})
        return found


def _fields(found: Balance) -> dict[str, object]:
    return {name: getattr(found, name) for name in Balance.__slots__}


class Ground:
    """Where places are made: a PostgreSQL and a SQLite template.

    Args:
        server: A running PostgreSQL with a migrated template; None for SQLite alone.
        template: A migrated SQLite file.
    """

    def __init__(self, server: PostgresServer | None, template: Path) -> None:
        self.server = server
        self._template = template

    @asynccontextmanager
    async def place(self, kind: str, *, volume: Path | None = None) -> AsyncIterator[Place]:
        """A place of its own.

        Args:
            kind: `sqlite` or `postgres`.
            volume: Where the database's files shall be; default: wherever others are.
        """
        home = Path(tempfile.mkdtemp(prefix="medai-fault-", dir="/tmp"))
        server = self.server if kind == "postgres" else None
        name = f"f{uuid4().hex}"
        if server is None:
            file = (volume or home) / "medai.db"
            shutil.copy(self._template, file)
            url = f"sqlite+aiosqlite:///{file}"
        else:
            space = server.tablespace(name, volume) if volume else "pg_default"
            url = server.copy_template(name, space)
        database = Database(DatabaseSettings(), url)
        clock = TestClock()
        site = Site(database, clock)
        await site.found()
        place = Place(url, home, database, site, server)
        try:
            yield place
        finally:
            for writer in place.writers:
                if writer.process.poll() is None:
                    writer.process.kill()
                    await writer.ended(10)
            await database.close()
            if server is not None:
                server.drop(name)
                if volume is not None:
                    server.execute(f"DROP TABLESPACE {name}")
            shutil.rmtree(home)


@asynccontextmanager
async def relayed(place: Place) -> AsyncIterator[tuple[Relay, str]]:
    """A relay in front of the place's PostgreSQL, and the URL that goes through it."""
    assert place.server is not None
    relay = Relay(place.server.socket_dir / ".s.PGSQL.5432")
    server = await asyncio.start_unix_server(relay.accept, place.home / ".s.PGSQL.5432")
    url = make_url(place.url).update_query_dict({"host": str(place.home)})
    try:
        yield relay, url.render_as_string()
    finally:
        server.close()
        await relay.stop()
        await server.wait_closed()


class Volume:
    """A small file system of its own that can be filled to the last byte. Needs root.

    Raises:
        PermissionError: This process may not mount one.
    """

    def __init__(self, size_mib: int) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="medai-volume-", dir="/tmp"))
        mount = ("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0777", "tmpfs", self.path)
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            self.path.rmdir()
            raise PermissionError("mounting a file system needs root") from None
        self._ballast = self.path / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def close(self) -> None:
        """Unmount and remove it."""
        subprocess.run(("umount", "--lazy", self.path), check=True)
        self.path.rmdir()


async def until(there: Callable[[], bool], within_s: float) -> float:
    """Wait for something; gives how long it took in s. Raises `TimeoutError`."""
    started = time.monotonic()
    with anyio.fail_after(within_s):
        while not there():  # noqa: ASYNC110  # other threads and processes bring it about
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def until_it_answers(database: Database, within_s: float = 20) -> None:
    """Wait for the database. Raises `TimeoutError`."""
    with anyio.fail_after(within_s):
        while True:
            try:
                await database.ping()
            except MedAIError:
                await asyncio.sleep(0.05)
            else:
                return

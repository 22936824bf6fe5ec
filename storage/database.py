"""Transactions, on SQLite and on PostgreSQL alike; `storage.engine` makes the connections.

Rules this file keeps:

- `Database.transaction` and `Database.in_one_go` are the only commits there are.
- `Database.reading` sees one moment (SQLite: WAL; PostgreSQL: REPEATABLE READ READ ONLY) and cannot
  write.
- Whoever waits for a connection hears within the connect time-out, and at once while the database
  is known to be away; see `storage.circuit`. `in_one_go` on SQLite has a connection of its own and
  asks no circuit: a file that is not there says so at once.
- What passes by itself is tried again, within the same time: connecting, and what is asked by
  `Database.read`; a commit never. See `storage.retries`.
- What leaves are our errors; see `storage.faults`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session as BlockingSession
from sqlalchemy.pool import QueuePool

from configs.settings import DatabaseSettings
from storage.circuit import Circuit, CircuitState
from storage.engine import SQLITE, engine_of, parse_url, reading, writing
from storage.faults import code, translated, unavailable
from storage.retries import retrying
from storage.sqlite_thread import WritingThread

Session: TypeAlias = AsyncSession  # what those who ask by `Database.read` are given
T = TypeVar("T")

# The caller hears a little before the driver gives up, so that he hears within the time set. A
# read hears of its connection first, so that the circuit counts the failure.
_PATIENCE = 0.9
_READ_PATIENCE = 0.95


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """How the connections stand. `size` and `checked_out` count connections; `fault` is a code."""

    circuit: CircuitState
    size: int
    checked_out: int
    fault: str | None


class Database:
    """One database and the connections to it. Belongs to one event loop.

    Args:
        settings: Sizes and time-outs.
        url: A SQLAlchemy URL, `sqlite+aiosqlite:///file` or `postgresql+asyncpg://...`.

    Raises:
        InvalidConfiguration: The URL is not one of these.
    """

    def __init__(self, settings: DatabaseSettings, url: str) -> None:
        parsed = parse_url(url)
        self.is_sqlite = parsed.drivername == SQLITE
        self._engine = engine_of(settings, parsed)
        self._thread = WritingThread(settings, parsed) if self.is_sqlite else None
        self._writing = writing(self._engine)
        self._reading = reading(self._engine)
        self._patience_s = settings.connect_timeout_s * _PATIENCE
        self._read_patience_s = settings.connect_timeout_s * _READ_PATIENCE
        self._capacity = settings.pool_size + settings.max_overflow
        self._in_use = 0
        self._circuit = Circuit()
        self._fault: str | None = None
        self._late: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work is committed at the end, or not at all.

        Raises:
            DatabaseUnavailable: No connection, or it was lost. If that happened while committing,
                the work may have been committed: read before doing it again.
            Conflict: A constraint refused the work.
            Internal: The database refused a statement.
        """
        async with self._session(self._writing) as session:
            yield session
            await session.commit()

    async def in_one_go(self, work: Callable[[BlockingSession], None]) -> None:
        """Commit what `work` does, or nothing. It must wait for nothing but its statements.

        On SQLite all of it is one trip to a thread, which takes half the time of `transaction`.

        Raises:
            DatabaseUnavailable, Conflict, Internal: As `transaction` does.
        """
        if self._thread is None:
            async with self.transaction() as session:
                await session.run_sync(work)
            return
        try:
            await self._thread.commit(work)
        except (SQLAlchemyError, OSError) as error:
            raise translated(error) from None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the database and cannot write.

        For long work. A question that a caller waits for is asked by `read`.

        Raises:
            DatabaseUnavailable: No connection, or it was lost.
            Internal: The database refused a statement.
        """
        async with self._session(self._reading) as session:
            yield session

    async def read(
        self, work: Callable[[AsyncSession], Awaitable[T]], *, within_s: float | None = None
    ) -> T:
        """What `work` finds in one moment of the database.

        Where the connection is lost meanwhile, `work` is done again on another one; it must do
        nothing but read.

        Args:
            work: What to read.
            within_s: How long all of it may take; by default `connect_timeout_s`.

        Raises:
            DatabaseUnavailable: No connection, lost ones, or no answer in time.
            Internal: The database refused a statement.
            MedAIError: What `work` raises.
        """

        async def once() -> T:
            async with self._lent(self._reading) as session:
                return await work(session)

        try:
            async with asyncio.timeout(within_s or self._read_patience_s):
                found: T = await retrying(within_s=self._read_patience_s)(once)
                return found
        except (SQLAlchemyError, OSError) as error:
            raise translated(error) from None

    async def ping(self) -> float:
        """How long a question and its answer take, in ms. Raises `DatabaseUnavailable`."""
        started = time.perf_counter()
        async with self.reading() as session:
            await session.execute(text("SELECT 1"))
        return (time.perf_counter() - started) * 1e3

    def state(self) -> DatabaseState:
        """How the connections stand."""
        pool = self._pool
        return DatabaseState(
            circuit=self._circuit.state,
            size=pool.checkedin() + pool.checkedout(),
            checked_out=pool.checkedout(),
            fault=self._fault,
        )

    async def close(self) -> None:
        """End every connection. Sessions must have ended before."""
        if not self.is_sqlite:  # a file answers soon, and a thread that opens it cannot be ended
            for task in self._late:
                task.cancel()
        await asyncio.gather(*self._late, *self._closing, return_exceptions=True)
        try:
            if self._thread is not None:
                await self._thread.close()
        finally:
            await self._engine.dispose()

    @property
    def _pool(self) -> QueuePool:
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        return pool

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        try:
            async with self._lent(engine) as session:
                yield session
        except (SQLAlchemyError, OSError) as error:
            raise translated(error) from None

    @asynccontextmanager
    async def _lent(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        """A session whose faults are the driver's own."""
        connection = await self._connect(engine)
        session = AsyncSession(connection, expire_on_commit=False)
        self._in_use += 1
        try:
            yield session
        finally:
            self._in_use -= 1
            # As one task, which no cancellation can cut in two: what stays open holds a lock.
            await asyncio.shield(_kept(self._closing, _closed(session, connection)))

    async def _connect(self, engine: AsyncEngine) -> AsyncConnection:
        """A connection from the pool, within the patience; it may take several attempts.

        It is made in a task of its own, because a driver that waits for a silent server cannot be
        interrupted in time; what comes too late goes back to the pool.
        """
        self._circuit.enter()
        task = asyncio.create_task(self._opened(engine))
        try:
            await asyncio.wait({task}, timeout=self._patience_s)
            if not task.done():
                raise TimeoutError  # noqa: TRY301  # handled like the driver's own
            connection = task.result()
        except asyncio.CancelledError:
            _kept(self._late, _given_back(task))
            raise
        except Exception as error:  # noqa: BLE001  # drivers raise what they like here
            _kept(self._late, _given_back(task))
            if self._in_use < self._capacity:  # else all are in use, and the database is there
                self._fault = code(error)
                self._circuit.failed()
            raise unavailable() from None
        self._circuit.succeeded()
        self._fault = None
        return connection

    async def _opened(self, engine: AsyncEngine) -> AsyncConnection:
        """Try for a connection. Who looks whether an open circuit can be closed tries once."""

        async def once() -> AsyncConnection:
            return await engine.connect()

        attempts = retrying(
            within_s=self._patience_s,
            worth_while=lambda: self._circuit.state is CircuitState.CLOSED,
        )
        return await attempts(once)


async def _closed(session: AsyncSession, connection: AsyncConnection) -> None:
    """End both. A connection that cannot be rolled back is dead, and its work with it."""
    with suppress(SQLAlchemyError, OSError):
        await session.close()
    await connection.close()


async def _given_back(task: asyncio.Task[AsyncConnection]) -> None:
    """Return a connection nobody waits for any longer. It must not stay checked out."""
    try:
        connection = await task
    except Exception:  # noqa: BLE001  # it has been told already, or nobody wants to know
        return
    await connection.close()


def _kept(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task for `work`, held in `tasks` until it is done: the loop alone would forget it."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task

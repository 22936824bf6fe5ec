"""How a connection is made, on SQLite and on PostgreSQL; `storage.database` says when.

Rules this file keeps:

- Durable means on the disk: SQLite runs with synchronous=FULL, PostgreSQL as its operator says
  (`storage.schema.check` refuses `synchronous_commit=off`).
- A transaction that writes takes its lock at the start (SQLite: BEGIN IMMEDIATE). Two that read
  first and write later would each wait for the other, and SQLite answers that with an error.
- A missing SQLite file is an outage. Only `storage.schema.upgrade` makes one: a server that lost
  its records must not go on with an empty log.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from configs.settings import DatabaseSettings
from registry.errors import InvalidConfiguration, Violation
from storage import sqlite_trips

SQLITE = "sqlite+aiosqlite"
POSTGRESQL = "postgresql+asyncpg"

PING_AFTER_S = 0.1  # a connection that lay idle for longer is tried before it is handed out

_WRITES = "medai_writes"
_IDLE_SINCE = "medai_idle_since"


def parse_url(url: str) -> URL:
    """The parts of a database URL. Raises `InvalidConfiguration` where no driver here reads it."""
    try:
        parsed = make_url(url)
        if parsed.drivername == POSTGRESQL:
            return parsed
        if parsed.drivername == SQLITE and parsed.database not in {None, "", ":memory:"}:
            return parsed
    except ArgumentError:
        pass  # its text holds the URL, and the URL a password
    raise InvalidConfiguration(
        "the database URL cannot be used",
        (
            Violation(
                "MEDAI_DATABASE__URL",
                limit=f"{SQLITE}:///file or {POSTGRESQL}://user:password@host/name",
            ),
        ),
    )


def engine_of(settings: DatabaseSettings, url: URL) -> AsyncEngine:
    """The engine of one database, with its pool. Connects to nothing yet."""
    sqlite = url.drivername == SQLITE
    engine = create_async_engine(
        _existing_file(url) if sqlite else url,
        connect_args=_sqlite_args(settings) if sqlite else _postgresql_args(settings),
        hide_parameters=True,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout_s,
        pool_recycle=int(settings.pool_recycle_s),
        pool_use_lifo=True,  # what is not needed stays idle, and the server may end it
    )
    if sqlite:
        _set_pragmas(engine.sync_engine)
        _begin(engine.sync_engine)
    else:
        _ping_idle_connections(engine)
        _cut_dead_connections(engine)
    return engine


def blocking_engine_of(settings: DatabaseSettings, url: URL) -> Engine:
    """The engine of one SQLite file for one thread that writes. Connects to nothing yet."""
    engine = create_engine(
        _existing_file(url).set(drivername="sqlite+pysqlite"),
        connect_args=_sqlite_options(settings),
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        pool_recycle=int(settings.pool_recycle_s),
    )
    _set_pragmas(engine)
    _begin(engine)
    return engine.execution_options(**{_WRITES: True})


def writing(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, for transactions that write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_WRITES: True})
    return engine.execution_options(isolation_level="READ COMMITTED")


def reading(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, for transactions that see one moment and cannot write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_WRITES: False})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _existing_file(url: URL) -> URL:
    """Open what is there, never make a file (sqlite.org/uri.html)."""
    path = quote(str(Path(str(url.database)).absolute()))
    return url.set(database=f"file:{path}", query={"mode": "rw", "uri": "true"})


class RollingBack(sqlite3.Connection):
    """A connection that ends its transaction when it is closed.

    SQLite closes a connection only once its last statement is gone, and keeps the transaction and
    its lock until then (sqlite.org/c3ref/close.html, "zombie"). A cancelled task's cursor can live
    until the next garbage collection.
    """

    def close(self) -> None:
        """Roll back, then close."""
        try:
            self.rollback()
        finally:
            super().close()


def _sqlite_options(settings: DatabaseSettings) -> dict[str, Any]:
    # isolation_level None: the BEGINs are ours, see _begin. The time-out is that of the lock.
    return {
        "isolation_level": None,
        "timeout": settings.command_timeout_s,
        "factory": RollingBack,
    }


def _sqlite_args(settings: DatabaseSettings) -> dict[str, Any]:
    return _sqlite_options(settings) | {"async_creator_fn": sqlite_trips.connect}


def _postgresql_args(settings: DatabaseSettings) -> dict[str, Any]:
    command_ms = int(settings.command_timeout_s * 1e3)
    return {
        "timeout": settings.connect_timeout_s,
        "command_timeout": settings.command_timeout_s,
        "server_settings": {
            "application_name": "medai-flow",
            "jit": "off",  # the statements are small and many
            "statement_timeout": str(command_ms),
            # A writer that was stopped in mid-transaction holds the lock of the log. It must lose
            # it before its successor loses patience.
            "idle_in_transaction_session_timeout": str(command_ms * 4 // 5),
        },
    }


def _set_pragmas(engine: Engine) -> None:
    # recursive_triggers: else INSERT OR REPLACE would pass by the triggers of the audit log.
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON")

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _begin(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options()[_WRITES]
        if connection.info.get(_WRITES) != writes:
            connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
            connection.info[_WRITES] = writes
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _ping_idle_connections(engine: AsyncEngine) -> None:
    """SQLAlchemy's own pre-ping asks every time, which costs three round trips a transaction."""
    dialect = engine.dialect

    @event.listens_for(engine.sync_engine, "checkin")
    def remember(_: object, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def ping(connection: Any, record: Any, _: object) -> None:
        if time.monotonic() - record.info.get(_IDLE_SINCE, time.monotonic()) < PING_AFTER_S:
            return
        try:
            dialect.do_ping(connection)
        except Exception:  # noqa: BLE001  # whatever it is, this connection is of no more use
            raise InvalidatePoolError from None


def _cut_dead_connections(engine: AsyncEngine) -> None:
    """Asyncpg would say goodbye first, and wait two seconds for a silent server to answer."""

    @event.listens_for(engine.sync_engine, "invalidate")
    def cut(connection: Any, _: object, __: object) -> None:
        connection.driver_connection.terminate()

"""The schema's history, and the only way to move it.

`upgrade` is called by an operator's hand (`medai db upgrade`), never by a server that starts: a
server runs with a role that cannot change tables. On PostgreSQL there are two roles:

    owner       runs `upgrade`, owns the tables
    medai_app   what the server connects as; if the role exists, `upgrade` gives it what `GRANTS`
                says and nothing else. It can add to the audit log, never change it.

A table without a line in `GRANTS` cannot be used by the server, so that forgetting one shows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text

from configs.settings import DatabaseSettings
from registry.errors import InvalidConfiguration, Violation
from storage.database import Database
from storage.engine import SQLITE, parse_url
from storage.shadow_tables import ModelShadow as _ModelShadow  # noqa: F401  # declares its tables

APP_ROLE = "medai_app"
GRANTS = {
    "alembic_version": "SELECT",
    "audit_checkpoints": "SELECT, INSERT",
    "audit_logs": "SELECT, INSERT",
    "audit_state": "SELECT, INSERT, UPDATE",
    "audit_subjects": "SELECT, INSERT, DELETE",
    "inference_results": "SELECT, INSERT, UPDATE (patient_id, request_digest)",  # to erase
    "model_replicas": "SELECT, INSERT, UPDATE, DELETE",
    "model_services": "SELECT, INSERT, UPDATE",
    "model_versions": "SELECT, INSERT, UPDATE",
    "model_shadows": "SELECT, INSERT, UPDATE",
    "password_resets": "SELECT, INSERT, DELETE",
    "refresh_tokens": "SELECT, INSERT, UPDATE, DELETE",
    "revoked_tokens": "SELECT, INSERT, DELETE",
    "shadow_counts": "SELECT, INSERT, UPDATE",
    "users": "SELECT, INSERT, UPDATE",
    "validation_results": "SELECT, INSERT",
}

Result = TypeVar("Result")

_UPGRADE_LOCK = 0x6D65646169  # "medai": two operators upgrade one after the other
_PATIENT = DatabaseSettings(command_timeout_s=3600.0)  # a migration may rewrite a large table


async def upgrade(url: str) -> None:
    """Bring the schema to what this release needs; make the SQLite file where there is none.

    All in one transaction on both databases, so that a migration that fails changes nothing.

    Raises:
        InvalidConfiguration: The URL cannot be used.
        DatabaseUnavailable: The database cannot be reached.
    """
    parsed = parse_url(url)
    if parsed.drivername == SQLITE:
        _make_file(parsed)
    await _run(_PATIENT, url, writes=True, work=_upgrade)


async def check(url: str, settings: DatabaseSettings | None = None) -> None:
    """See that the schema is the one this release needs, and that commits are durable.

    Raises:
        InvalidConfiguration: It is not; the violation's advice is the command that mends it.
        DatabaseUnavailable: The database cannot be reached.
    """
    parsed = parse_url(url)
    if parsed.drivername == SQLITE and not _has_file(parsed):
        raise _unfit("there is no database yet", None, None, "run `medai db upgrade`")
    await _run(settings or DatabaseSettings(), url, writes=False, work=_check)


def config(connection: Connection) -> Config:
    """Alembic's configuration: the scripts of this package, on `connection`."""
    configuration = Config()
    configuration.set_main_option("script_location", "storage:migrations")
    configuration.attributes["connection"] = connection
    return configuration


async def _run(
    settings: DatabaseSettings, url: str, *, writes: bool, work: Callable[[Connection], Result]
) -> Result:
    database = Database(settings, url)
    try:
        async with database.transaction() if writes else database.reading() as session:
            return await (await session.connection()).run_sync(work)
    finally:
        await database.close()


def _has_file(url: URL) -> bool:
    return Path(str(url.database)).is_file()


def _make_file(url: URL) -> None:
    """An empty file, readable by its owner alone: patients' records will be in it."""
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    command.upgrade(config(connection), "head")
    if connection.dialect.name == "postgresql":
        _grant(connection)


def _grant(connection: Connection) -> None:
    known = connection.scalar(
        text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": APP_ROLE}
    )
    if not known:
        return
    connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {APP_ROLE}"))
    for table, privileges in GRANTS.items():
        connection.execute(text(f"REVOKE ALL ON {table} FROM {APP_ROLE}"))
        connection.execute(text(f"GRANT {privileges} ON {table} TO {APP_ROLE}"))


def _check(connection: Connection) -> None:
    script = ScriptDirectory.from_config(config(connection))
    needed = script.get_current_head()
    found = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if found is not None and found not in known:
        raise _unfit("the database is of a newer release", found, needed, "upgrade the software")
    if found != needed:
        raise _unfit("the database is not up to date", found, needed, "run `medai db upgrade`")
    if connection.dialect.name == "postgresql":
        durable = connection.scalar(text("SHOW synchronous_commit"))
        if durable == "off":
            raise InvalidConfiguration(
                "commits are not durable",
                (Violation("synchronous_commit", "off", "on", "set it to on for this role"),),
            )


def _unfit(detail: str, found: str | None, needed: str | None, advice: str) -> InvalidConfiguration:
    return InvalidConfiguration(
        detail, (Violation("schema", found or "absent", needed or "", advice),)
    )

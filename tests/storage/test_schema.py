"""The schema on both databases: made by migrations alone, and guarded."""

import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import IntegrityError

from registry.errors import (
    DatabaseUnavailable,
    Internal,
    InvalidConfiguration,
    MedAIError,
)
from storage import schema
from storage.audit import AuditRepository
from storage.database import Database
from storage.ledger import Ledger
from storage.tables import Table

if TYPE_CHECKING:
    from conftest import OpenDatabase, Site, TestClock

    from tests.postgres import PostgresServer

ROOT = Path(schema.__file__).parents[1]


async def test_alembic_finds_no_drift_between_tables_and_migrations(database: Database) -> None:
    async with database.transaction() as session:
        connection = await session.connection()

        await connection.run_sync(lambda sync: command.check(schema.config(sync)))


async def test_migrations_make_what_the_tables_declare(database: Database, tmp_path: Path) -> None:
    """Alembic compares neither checks nor names; this does."""
    async with database.reading() as session:
        migrated = await (await session.connection()).run_sync(described)
    async with database.transaction() as session:
        connection = await session.connection()
        await connection.run_sync(drop_everything)
        await connection.run_sync(Table.metadata.create_all)
        declared = await connection.run_sync(described)

    assert migrated == declared


def drop_everything(connection: Connection) -> None:
    Table.metadata.drop_all(connection)
    connection.execute(text("DROP TABLE alembic_version"))


def described(connection: Connection) -> dict[str, object]:
    """Every table's columns, constraints and indexes, as the database itself tells them."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(map(str, inspector.get_foreign_keys(table))),
            "unique": sorted(map(str, inspector.get_unique_constraints(table))),
            "checks": sorted(map(str, inspector.get_check_constraints(table))),
            "indexes": sorted(
                f"{index['name']} {index['column_names']} {index['unique']}"
                f" {[str(option) for option in index['dialect_options'].values()]}"
                for index in inspector.get_indexes(table)
            ),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_upgrading_twice_changes_nothing(url: str) -> None:
    await schema.upgrade(url)

    await schema.check(url)


async def test_a_new_sqlite_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "medai.db"

    await schema.upgrade(f"sqlite+aiosqlite:///{path}")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_missing_sqlite_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        await schema.check(f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")

    assert caught.value.violations[0].advice == "run `medai db upgrade`"
    assert not (tmp_path / "none.db").exists()


async def test_an_empty_database_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()

    with pytest.raises(InvalidConfiguration, match="run `medai db upgrade`"):
        await schema.check(f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")


async def test_the_schema_of_a_newer_release_is_refused(database: Database, url: str) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(InvalidConfiguration, match="upgrade the software"):
        await schema.check(url)


@pytest.mark.postgres
async def test_commits_that_are_not_durable_are_refused(
    postgres: "PostgresServer", postgres_url: str
) -> None:
    name = make_url(postgres_url).database
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    with pytest.raises(InvalidConfiguration, match="synchronous_commit"):
        await schema.check(postgres_url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite:///file.db",
        "postgresql://user:secret@host/name",
        "no url with a secret",
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        await schema.upgrade(url)

    assert "secret" not in str(caught.value)
    assert caught.value.violations[0].rule == "MEDAI_DATABASE__URL"


async def test_an_absent_server_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await schema.check(f"postgresql+asyncpg://u@/d?host={tmp_path}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_logs SET outcome = 'denied' WHERE seq = 1",
        "DELETE FROM audit_logs WHERE seq = 1",
    ],
    ids=["update", "delete"],
)
async def test_the_audit_log_cannot_be_changed(
    site: "Site", database: Database, statement: str
) -> None:
    with pytest.raises(MedAIError):
        async with database.transaction() as session:
            await session.execute(text(statement))

    async with database.reading() as session:
        assert (await AuditRepository(session).entry(1)).outcome == "success"


async def test_sqlite_rows_cannot_be_replaced(
    open_database: "OpenDatabase", sqlite_url: str, clock: "TestClock"
) -> None:
    database = open_database(sqlite_url)
    await Ledger(database, software_version="1", now=clock).open()

    with pytest.raises(MedAIError):
        async with database.transaction() as session:
            await session.execute(
                text("INSERT OR REPLACE INTO audit_logs SELECT * FROM audit_logs WHERE seq = 1")
            )


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("before", "statement"),
    [
        ("SELECT 1", "TRUNCATE audit_logs"),
        ("SELECT 1", "TRUNCATE users CASCADE"),
        ("SET LOCAL session_replication_role = replica", "DELETE FROM audit_logs"),
    ],
    ids=["truncate", "cascade", "replica-role"],
)
async def test_the_audit_log_cannot_be_emptied(
    open_database: "OpenDatabase",
    postgres_url: str,
    clock: "TestClock",
    before: str,
    statement: str,
) -> None:
    database = open_database(postgres_url)
    await Ledger(database, software_version="1", now=clock).open()

    async with database.transaction() as session:
        await session.execute(text(before))
        with pytest.raises(IntegrityError, match="append-only"):
            await session.execute(text(statement))
        await session.rollback()


@pytest.mark.postgres
async def test_the_server_s_role_can_do_its_work_and_not_touch_the_log(
    open_database: "OpenDatabase",
    postgres_url: str,
    clock: "TestClock",
    site_of: "Callable[[Database], Awaitable[Site]]",
) -> None:
    url = postgres_url.replace("//postgres@", f"//{schema.APP_ROLE}@")
    await schema.check(url)
    database = open_database(url)
    site = await site_of(database)
    ledger = Ledger(database, software_version="1", now=clock)
    await ledger.open()

    recorded = await ledger.append([site.inference(), site.event()])

    assert not any(isinstance(ended, MedAIError) for ended in recorded)
    for statement in (
        "UPDATE audit_logs SET outcome = 'denied'",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "DELETE FROM inference_results",
        "UPDATE inference_results SET prediction = 'normal'",
        "DROP TABLE audit_logs",
        "ALTER TABLE audit_logs DISABLE TRIGGER ALL",
    ):
        with pytest.raises(Internal, match="42501"):  # insufficient_privilege
            async with database.transaction() as session:
                await session.execute(text(statement))


@pytest.mark.postgres
async def test_one_role_is_enough_where_nobody_made_a_second(postgres: "PostgresServer") -> None:
    postgres.execute(
        f"ALTER ROLE {schema.APP_ROLE} RENAME TO elsewhere", "CREATE DATABASE single_role"
    )
    try:
        await schema.upgrade(postgres.url("single_role"))
    finally:
        postgres.execute(f"ALTER ROLE elsewhere RENAME TO {schema.APP_ROLE}")

    await schema.check(postgres.url("single_role"))


def test_every_table_has_its_grants() -> None:
    assert set(schema.GRANTS) == {*Table.metadata.tables, "alembic_version"}


def test_a_new_revision_can_be_written_from_the_command_line(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Shown by `alembic check`, which goes the same way and writes nothing."""
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = storage:migrations\n")
    alembic: list[str | Path] = [sys.executable, "-m", "alembic", "-c", tmp_path / "alembic.ini"]

    checked = subprocess.run(
        [*alembic, "-x", f"url={sqlite_url}", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr
    assert "No new upgrade operations detected" in checked.stdout

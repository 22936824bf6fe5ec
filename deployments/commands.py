"""The commands an administrator gives on the host: users, database, audit log, configuration.

Whoever may run them owns the home directory. What they change is recorded like everything else,
with the actor `cli`; they join the chain of a running server without disturbing it. Like the
writer, they add nothing to a log that is not the one its anchors speak of: an entry more would
understate what is missing, or make a forged log longer.
"""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from uuid_utils.compat import uuid7

from configs.settings import Settings
from deployments.api.passwords import Passwords
from deployments.inference.log_check import check_log
from deployments.inference.recorder import SOFTWARE, utc_now
from registry.contract import Role
from registry.errors import MedAIError
from registry.events import CLI, AuditAction, AuditEvent, NewUser
from storage import schema
from storage.database import Database
from storage.ledger import append_once

T = TypeVar("T")

console = Console(highlight=False)
users = typer.Typer(no_args_is_help=True, help="User accounts.")
db = typer.Typer(no_args_is_help=True, help="The database's schema.")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end."""
    return asyncio.run(work)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The settings' database, of the schema this release needs."""
    await schema.check(settings.database_url, settings.database)
    database = Database(settings.database, settings.database_url)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def recording(settings: Settings) -> AsyncIterator[Database]:
    """The settings' database, whose log was found to continue its anchors: it may be added to.

    One check a command, at the cost of the entries after the last anchor.

    Raises:
        AuditUnavailable: Nothing may be recorded: see `check_log`.
    """
    async with opened(settings) as database:
        await check_log(settings, database)
        yield database


async def record(settings: Settings, events: list[AuditEvent]) -> None:
    """Commit events from the command line. Raises the first error, after all were tried."""
    async with recording(settings) as database:
        await append(database, *events)


async def append(database: Database, *events: AuditEvent) -> None:
    """Commit events to what `recording` gave. Raises the first error, after all were tried."""
    outcomes = await append_once(database, events, software_version=SOFTWARE, now=utc_now)
    for outcome in outcomes:
        if isinstance(outcome, MedAIError):
            raise outcome


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The user's name, in lower case.")],
    role: Annotated[Role, typer.Option(help="What the user may do.")],
    email: Annotated[str | None, typer.Option(help="Where to reach the person.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Add a user. Without --password-stdin a password is made and shown once."""
    settings = Settings.load()
    given = sys.stdin.readline().rstrip("\n") if password_stdin else None
    password = given or secrets.token_urlsafe(18)
    event = new_user(settings, name, role, password, email=email, temporary=given is None)
    complete(record(settings, [event]))
    console.print(f"added {role} {name}")
    if given is None:
        console.print(f"password (shown once): [bold]{password}[/bold]")


def new_user(
    settings: Settings,
    name: str,
    role: Role,
    password: str,
    *,
    email: str | None = None,
    temporary: bool,
) -> AuditEvent:
    """The event that adds a user.

    Raises:
        ValidationFailed: The name or password is not accepted.
    """
    passwords = Passwords(settings.auth)
    username = name.strip().lower()
    user = NewUser(
        user_id=uuid7(),
        username=username,
        role=role,
        password_hash=passwords.hash_now(password, username=username),
        email=email,
        must_change_password=temporary,
    )
    passwords.close()
    return AuditEvent(
        event_id=uuid7(),
        action=AuditAction.USER_CREATED,
        description="A user account was created.",
        actor=CLI,
        changes=(user,),
    )


@db.command("upgrade")
def upgrade() -> None:
    """Bring the database to this release's schema; make the SQLite file where there is none."""
    settings = Settings.load()
    complete(schema.upgrade(settings.database_url))
    console.print("the database is up to date")


@db.command("check")
def check() -> None:
    """See that the database has this release's schema."""
    settings = Settings.load()
    complete(schema.check(settings.database_url, settings.database))
    console.print("the database is up to date")

"""The commands an administrator gives on the host: users, database, audit log, configuration.

Whoever may run them owns the home directory. What they change is recorded like everything else,
with the actor `cli`; they join the chain of a running server without disturbing it.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from uuid_utils.compat import uuid7

from configs.settings import Settings
from deployments.api.passwords import Passwords
from deployments.inference.recorder import SOFTWARE, utc_now
from registry.contract import Role
from registry.errors import AuditUnavailable, BadRequest, MedAIError
from registry.events import CLI, AuditAction, AuditEvent, NewUser
from storage import schema
from storage.anchors import AnchorFile, startup_check
from storage.audit import AuditRepository
from storage.database import Database
from storage.export import export_log
from storage.fhir import export_fhir
from storage.ledger import append_once
from storage.notes import VerifierKey
from storage.signing_keys import load_keys
from storage.verify import Report, verify

T = TypeVar("T")

EXIT_TAMPERED = 1
EXIT_BEHIND_ANCHOR = 2

console = Console(highlight=False)
users = typer.Typer(no_args_is_help=True, help="User accounts.")
db = typer.Typer(no_args_is_help=True, help="The database's schema.")
audit = typer.Typer(no_args_is_help=True, help="The audit log.")


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


async def record(settings: Settings, events: list[AuditEvent]) -> None:
    """Commit events from the command line. Raises the first error, after all were tried."""
    async with opened(settings) as database:
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


@audit.command("verify")
def verify_log(
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Check every entry of the log, and every record against the log.

    Exit codes: 0 all right, 1 tampered with (or the database cannot be read), 2 the log is not the
    one its anchors speak of: entries were cut off or rewritten.
    """
    settings = Settings.load()

    async def work() -> tuple[Report, MedAIError | None]:
        async with opened(settings) as database:
            report = await verify(database)
            try:
                await startup_check(database, AnchorFile(settings.anchor_file))
            except AuditUnavailable as behind:
                return report, behind
            return report, None

    with Console(stderr=True).status("verifying"):
        report, behind = complete(work())
    if as_json:
        print(json.dumps(_document(report)))  # noqa: T201  # a program reads it
    else:
        _print(report)
    if not report.intact:
        raise typer.Exit(EXIT_TAMPERED)
    if behind is not None:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"medai: {behind}", style="red")
        raise typer.Exit(EXIT_BEHIND_ANCHOR)


@audit.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    fhir: Annotated[
        bool, typer.Option("--fhir", help="FHIR AuditEvent resources instead (NDJSON).")
    ] = False,
) -> None:
    """Write the log to a file that `medai-verify log FILE --vkey KEY` checks without this service.

    It holds what was recorded of every result: keep it as you keep the database.
    """
    settings = Settings.load()

    async def work() -> int:
        async with opened(settings) as database:
            pieces = export_fhir(database) if fhir else export_log(database, software=SOFTWARE)
            with open(file, "xb", opener=private) as stream:  # noqa: ASYNC230  # an opener; nothing else runs here
                async for piece in pieces:
                    stream.write(piece)
                return stream.tell()

    try:
        size = complete(work())
    except FileExistsError:
        raise BadRequest(f"{file.name} exists: name another file") from None
    except OSError as error:
        raise BadRequest(f"{file.name} cannot be written: {error.strerror}") from None
    console.print(f"wrote {size} bytes")


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


@audit.command("vkey")
def vkey() -> None:
    """Print the public key that verifies the log's checkpoints, as `--vkey` takes it."""
    settings = Settings.load()

    async def work() -> str:
        async with opened(settings) as database, database.reading() as session:
            return (await AuditRepository(session).head()).origin

    key = load_keys(settings.log_key_dir, generate=settings.auth.generate_keys).private
    print(VerifierKey.of(complete(work()), key))  # noqa: T201  # for a shell


def _print(report: Report) -> None:
    for problem in report.problems:
        console.print(f"[red]entry {problem.seq}: {problem.flaw}: {problem.message}[/red]")
    hidden = report.problem_count - len(report.problems)
    if hidden:
        console.print(f"[red]and {hidden} more[/red]")
    console.print(f"log       {report.origin}")
    console.print(f"entries   {report.entries}")
    console.print(f"tip       {report.tip.hex()}")
    verdict = "[green]whole[/green]" if report.intact else "[red]broken[/red]"
    console.print(f"the chain and the records are {verdict}")


def _document(report: Report) -> dict[str, Any]:
    return {
        "origin": report.origin,
        "entries": report.entries,
        "tip": report.tip.hex(),
        "root": report.root.hex(),
        "intact": report.intact,
        "problem_count": report.problem_count,
        "problems": [asdict(problem) for problem in report.problems],
    }

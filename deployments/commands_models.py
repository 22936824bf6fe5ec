"""The commands for models, and the first set-up of a home directory."""

import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from configs.settings import Settings
from deployments.commands import (
    append,
    complete,
    console,
    new_user,
    opened,
    record,
    recording,
)
from deployments.commands_identity import As, PasswordStdin, asked_password, identified, operator
from deployments.inference.model_life import By, ModelLife
from deployments.inference.registration import (
    BUNDLED_BY,
    bundled_directories,
    examine,
    install,
    read_candidate,
    registration_events,
    step,
)
from registry.contract import Role
from registry.errors import Conflict, NotFound
from registry.events import AuditEvent
from registry.lifecycle import ModelStatus
from storage import schema
from storage.models import ModelRepository, RegisteredModel
from storage.signing_keys import load_keys

ADMINISTRATOR = "admin"

models = typer.Typer(no_args_is_help=True, help="Model versions.")

Directory = Annotated[
    Path, typer.Argument(help="A directory with card.yaml and the model file.", exists=True)
]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="The version, such as 1.0.0.")]
Timeout = Annotated[
    float | None, typer.Option(help="How long replicas may take to load it, in seconds.", min=1)
]
T = TypeVar("T")


@models.command("register")
def register(directory: Directory, user: As = None, password_stdin: PasswordStdin = False) -> None:
    """Check a model, store its file and record it. It serves only once approved and activated."""
    password = asked_password(user, from_stdin=password_stdin)
    candidate = read_candidate(directory)
    found = complete(
        _act(lambda life, by: life.register(candidate, by), user=user, password=password)
    )
    model = found.model
    console.print(
        f"registered {model.name} {model.version}; next, somebody else: medai models approve "
        f"{model.name} {model.version}"
    )


@models.command("approve")
def approve(
    name: Name, version: Version, user: As = None, password_stdin: PasswordStdin = False
) -> None:
    """Sign a validated version off. Not for who registered it: two people see each version."""
    password = asked_password(user, from_stdin=password_stdin)
    found = complete(
        _act(lambda life, by: life.approve(name, version, by), user=user, password=password)
    )
    console.print(f"{name} {version} is {found.status}")


@models.command("activate")
def activate(name: Name, version: Version, timeout_s: Timeout = None) -> None:
    """Put an approved version in service; the one it replaces goes back to approved.

    Every running replica loads it first, tests it and warms it up. Where one cannot, nothing
    changes.
    """
    complete(_act(lambda life, by: life.activate(name, version, by), timeout_s=timeout_s))
    console.print(f"{name} {version} is active")


@models.command("rollback")
def rollback(name: Name, timeout_s: Timeout = None) -> None:
    """Put the version in service again that served before the present one."""
    found = complete(_act(lambda life, by: life.rollback(name, by), timeout_s=timeout_s))
    console.print(f"{name} {found.model.version} is active")


@models.command("halt")
def halt(
    name: Name,
    reason: Annotated[str, typer.Option(help="A code, such as wrong-answers.")],
) -> None:
    """Have a model answer nothing from now on: 503 `model-halted`, within a second."""
    complete(_act(lambda life, by: life.halt(name, reason, by)))
    console.print(f"{name} is halted; to end it: medai models resume {name}")


@models.command("resume")
def resume(name: Name) -> None:
    """Let a halted model answer again."""
    complete(_act(lambda life, by: life.resume(name, by)))
    console.print(f"{name} answers again")


@models.command("retire")
def retire(name: Name, version: Version) -> None:
    """Take a version out of use."""
    complete(_act(lambda life, by: life.retire(name, version, by)))
    console.print(f"{name} {version} is retired")


@models.command("replicas")
def replicas(name: Name) -> None:
    """What the running replicas of a model hold."""
    table = Table("replica", "version", "state", "reason")
    for one in complete(_act(lambda life, _: life.replicas(name), records=False)):
        holding = one.holding
        table.add_row(one.replica_id, one.model.version, holding.state, holding.reason or "")
    console.print(table)


@models.command("list")
def list_models() -> None:
    """Every registered version; an active one of a halted model is shown as halted."""
    settings = Settings.load()

    async def read() -> Table:
        table = Table("name", "version", "status", "domain", "sha256")
        async with opened(settings) as database, database.reading() as session:
            repository = ModelRepository(session)
            halts = (await repository.catalogue(settings.model_dir)).halts
            for known in await repository.listed():
                active = known.status is ModelStatus.ACTIVE
                status = "halted" if active and known.model.name in halts else known.status
                row = (known.model.name, known.model.version, status)
                table.add_row(*row, known.card.clinical_domain, known.model.sha256[:16])
        return table

    console.print(complete(read()))


def initialise(*, admin: bool) -> None:
    """Make what a first start needs; what is there already stays as it is."""
    settings = Settings.load()
    complete(schema.upgrade(settings.database_url))
    console.print("database  up to date")
    keys = load_keys(settings.key_dir, generate=settings.auth.generate_keys)
    load_keys(settings.log_key_dir, generate=settings.auth.generate_keys)
    _make_pseudonym_key(settings)
    console.print(f"keys      {'made' if keys.created else 'present'}")
    for directory in bundled_directories():
        console.print(f"model     {_add_bundled(settings, directory)}")
    if admin:
        _add_administrator(settings)


def _add_bundled(settings: Settings, directory: Path) -> str:
    """Register and activate a bundled model: who ships it registers, the operator approves."""
    candidate = read_candidate(directory)
    name = f"{candidate.card.name} {candidate.card.version}"
    with contextlib.suppress(NotFound):
        complete(_version(settings, candidate.card.name, candidate.card.version))
        return f"{name} present"
    examine(candidate)
    install(candidate, settings.model_dir)
    model, events = registration_events(candidate, by=BUNDLED_BY)
    events.append(step(model, ModelStatus.VALIDATED, ModelStatus.APPROVED, by=operator().name))
    events.append(step(model, ModelStatus.APPROVED, ModelStatus.ACTIVE, by=operator().name))
    complete(record(settings, events))
    return f"{name} active"


def _make_pseudonym_key(settings: Settings) -> None:
    """The key of the patients' pseudonyms, where there is none and the profile lets us make one."""
    path = settings.pseudonym_key_file
    if path.exists() or not settings.auth.generate_keys:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))


def _add_administrator(settings: Settings) -> None:
    password = secrets.token_urlsafe(18)
    event = new_user(settings, ADMINISTRATOR, Role.ADMIN, password, temporary=True)
    try:
        complete(record(settings, [event]))
    except Conflict:
        console.print(f"user      {ADMINISTRATOR} present")
        return
    console.print(f"user      {ADMINISTRATOR}, password (shown once): [bold]{password}[/bold]")


async def _version(settings: Settings, name: str, version: str) -> RegisteredModel:
    async with opened(settings) as database, database.reading() as session:
        return await ModelRepository(session).version(name, version)


async def _act(
    act: Callable[[ModelLife, By], Awaitable[T]],
    *,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float | None = None,
    records: bool = True,
) -> T:
    """Do one act against the settings' database, as the operator or as `user`."""
    settings = Settings.load()
    async with recording(settings) if records else opened(settings) as database:
        by = await identified(settings, database, user, password)

        async def record(event: AuditEvent) -> None:
            await append(database, event)

        life = ModelLife(
            database,
            settings.model_dir,
            record,
            timeout_s=timeout_s or settings.models.activation_timeout_s,
            progress=_Progress(),
        )
        return await act(life, by)


class _Progress:
    """Says how many replicas are ready, whenever that changes."""

    def __init__(self) -> None:
        self._said: tuple[int, int] | None = None

    def __call__(self, ready: int, replicas: int) -> None:
        if (ready, replicas) != self._said:
            self._said = (ready, replicas)
            console.print(f"{ready} of {replicas} replicas ready")

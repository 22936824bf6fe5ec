"""The commands for models, and the first set-up of a home directory."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from configs.settings import Settings
from deployments.commands import complete, console, new_user, opened, record
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
from registry.lifecycle import ModelStatus
from storage import schema
from storage.models import ModelRepository, RegisteredModel
from storage.signing_keys import load_keys

ADMINISTRATOR = "admin"
OPERATOR = "operator on the host"

models = typer.Typer(no_args_is_help=True, help="Model versions.")

Directory = Annotated[
    Path, typer.Argument(help="A directory with card.yaml and the model file.", exists=True)
]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str, typer.Argument(help="The version, such as 1.0.0.")]


@models.command("check")
def check(directory: Directory) -> None:
    """Say whether a model is fit to be registered; change nothing."""
    candidate = read_candidate(directory)
    examine(candidate)
    console.print(f"{candidate.card.name} {candidate.card.version} is fit to be registered")


@models.command("register")
def register(directory: Directory) -> None:
    """Check a model, store its file and record it. It serves only once approved and activated."""
    settings = Settings.load()
    candidate = read_candidate(directory)
    examine(candidate)
    install(candidate, settings.model_dir)
    model, events = registration_events(candidate, by=OPERATOR)
    complete(record(settings, events))
    console.print(
        f"registered {model.name} {model.version}; next: medai models approve "
        f"{model.name} {model.version}"
    )


@models.command("approve")
def approve(name: Name, version: Version) -> None:
    """Sign a validated version off."""
    _move(name, version, ModelStatus.APPROVED)


@models.command("activate")
def activate(name: Name, version: Version) -> None:
    """Put an approved version in service; the one it replaces goes back to approved."""
    _move(name, version, ModelStatus.ACTIVE)


@models.command("retire")
def retire(name: Name, version: Version) -> None:
    """Take a version out of use."""
    _move(name, version, ModelStatus.RETIRED)


@models.command("list")
def list_models() -> None:
    """Every registered version."""
    settings = Settings.load()

    async def read() -> Table:
        table = Table("name", "version", "status", "domain", "sha256")
        async with opened(settings) as database, database.reading() as session:
            for known in await ModelRepository(session).listed():
                row = (known.model.name, known.model.version, known.status)
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
    events.append(step(model, ModelStatus.VALIDATED, ModelStatus.APPROVED, by=OPERATOR))
    events.append(step(model, ModelStatus.APPROVED, ModelStatus.ACTIVE, by=OPERATOR))
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


def _move(name: str, version: str, after: ModelStatus) -> None:
    settings = Settings.load()
    known = complete(_version(settings, name, version))
    complete(record(settings, [step(known.model, known.status, after, by=OPERATOR)]))
    console.print(f"{name} {version}: {known.status} → {after}")

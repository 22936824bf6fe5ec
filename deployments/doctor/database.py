"""The database: there, of this release's schema, with just the rights the server needs.

And what it is the witness of: the clock, the models' files, the end of the audit log.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.doctor.configuration import read_topology, wanted_models
from deployments.doctor.files import digest_of
from deployments.doctor.finding import Check, Finding, Installation, State, graded, refusals
from registry.errors import MedAIError
from registry.lifecycle import ModelStatus
from storage import schema
from storage.anchors import AnchorFile, startup_check
from storage.condition import Condition, condition
from storage.database import Database
from storage.models import ModelRepository, RegisteredModel

SLOW_MS = 20.0  # two round trips stand between an image and its answer
SKEW_S = 1.0
BACKWARDS_S = 1.0
SHOWN = 3  # rights named in one line

Found = Coroutine[Any, Any, list[Finding]]


def examine(installation: Installation) -> Iterator[Finding]:
    """All that the database can be asked, over one set of connections."""
    yield from asyncio.run(_examine(installation))


async def _examine(installation: Installation) -> list[Finding]:
    settings = installation.settings
    try:
        await schema.check(settings.database_url, settings.database)
    except MedAIError as error:
        kind = "SQLite" if settings.database_url.startswith("sqlite") else "PostgreSQL"
        advice = "start it, or mend MEDAI_DATABASE__URL"
        return refusals("database", error) if error.violations else [
            Finding("database", State.FAIL, f"{kind}: {error.detail or error.title}", advice)
        ]  # fmt: skip
    findings: list[Finding] = []
    async with _opened(installation) as database:
        for name, look in PARTS:
            try:
                findings += await look(installation, database)
            except MedAIError as error:
                findings += refusals(name, error)
    return findings


@asynccontextmanager
async def _opened(installation: Installation) -> AsyncIterator[Database]:
    settings = installation.settings
    database = Database(settings.database, settings.database_url)
    try:
        yield database
    finally:
        await database.close()


async def _condition(installation: Installation, database: Database) -> list[Finding]:
    found = await condition(database)
    state = graded(found.answer_ms, warn=SLOW_MS, fail=float("inf"))
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    said = f"{kind}, schema of this release, answers in {found.answer_ms:.1f} ms"
    advice = f"bring it nearer: above {SLOW_MS:g} ms every answer waits" if state != "ok" else ""
    leeway_s = installation.settings.auth.clock_leeway_s
    return [
        Finding("database", state, said, advice),
        *_rights(found, sqlite=database.is_sqlite),
        *_clock(found, leeway_s, datetime.now(UTC)),
    ]


def _rights(found: Condition, *, sqlite: bool) -> Iterator[Finding]:
    name = "database rights"
    if sqlite:
        yield Finding(name, State.OK, "SQLite has no roles: whoever owns the file owns the records")
        return
    if found.missing:
        advice = "run `medai db upgrade` as the owner, and connect as medai_app"
        yield Finding(name, State.FAIL, f"missing: {_some(found.missing)}", advice)
    if found.excess:
        said = f"too many: {_some(found.excess)}"
        advice = "connect as medai_app (docs/operations.md, PostgreSQL)"
        yield Finding(name, State.WARN, said, advice)
    if not found.missing and not found.excess:
        yield Finding(name, State.OK, "just those that the server needs")


def _some(rights: tuple[str, ...]) -> str:
    more = len(rights) - SHOWN
    return ", ".join(rights[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _clock(found: Condition, leeway_s: float, now: datetime) -> Iterator[Finding]:
    state = graded(abs(found.skew_s), warn=SKEW_S, fail=max(leeway_s, SKEW_S))
    said = f"{found.skew_s:+.3f} s, allowed is {SKEW_S:g} s either way"
    advice = "" if state == State.OK else "let both machines follow one time source (NTP)"
    yield Finding("clock against the database", state, said, advice)
    if found.last_entry is None:
        yield Finding("clock against the log", State.OK, "the audit log has not begun")
        return
    behind_s = (found.last_entry - now).total_seconds()
    if behind_s > BACKWARDS_S:
        said = f"{behind_s:.0f} s before the log's last entry, allowed is {BACKWARDS_S:g} s"
        yield Finding(
            "clock against the log", State.FAIL, said, "set the clock; do not start before"
        )
    else:
        said = f"{max(-behind_s, 0):.0f} s after the log's last entry"
        yield Finding("clock against the log", State.OK, said)


async def _anchors(installation: Installation, database: Database) -> list[Finding]:
    head = await startup_check(database, AnchorFile(installation.settings.anchor_file))
    said = "nothing is recorded yet" if head is None else "the log is not behind its anchors"
    return [Finding("audit log", State.OK, said)]


async def _models(installation: Installation, database: Database) -> list[Finding]:
    async with database.reading() as session:
        listed = await ModelRepository(session).listed()
    directory = installation.settings.model_dir
    findings = [
        finding
        for one in listed
        if one.status != ModelStatus.RETIRED and (finding := _file_fault(one, directory))
    ]
    if not findings:
        findings = [Finding("model files", State.OK, f"{len(listed)}, each of its registered hash")]
    return findings + _unserved(installation, listed)


def _file_fault(one: RegisteredModel, directory: Path) -> Finding | None:
    title = f"{one.model.name} {one.model.version} ({one.status})"
    state = State.FAIL if one.status == ModelStatus.ACTIVE else State.WARN
    try:
        digest = digest_of(directory / one.path)
    except OSError as error:
        said = f"{title}: its file cannot be read: {error.strerror}"
        return Finding("model files", state, said, "restore it from the backup")
    if digest == one.model.sha256:
        return None
    said = f"{title}: SHA-256 is {digest[:12]}…, registered is {one.model.sha256[:12]}…"
    return Finding(
        "model files", state, said, "restore it from the backup; find out who changed it"
    )


def _unserved(installation: Installation, listed: tuple[RegisteredModel, ...]) -> list[Finding]:
    active = {one.model.name for one in listed if one.status == ModelStatus.ACTIVE}
    wanted = wanted_models(read_topology(installation))
    missing = sorted(set(wanted) - active)
    if missing:
        said = f"no active version of {', '.join(missing)}, which the topology wants"
        return [Finding("models served", State.FAIL, said, "activate one: `medai models list`")]
    return [Finding("models served", State.OK, f"{len(wanted)} wanted, each has an active version")]


PARTS: tuple[tuple[str, Callable[[Installation, Database], Found]], ...] = (
    ("database", _condition),
    ("audit log", _anchors),
    ("model files", _models),
)
CHECK = Check("database", examine)

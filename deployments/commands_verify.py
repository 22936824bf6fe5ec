"""`medai audit verify`: the log, what was signed of it, and the records, on a live database."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from configs.settings import Settings
from deployments.commands import complete, console, opened
from deployments.inference.recorder import utc_now
from registry.errors import AuditUnavailable, MedAIError, NotFound
from storage.anchors import AnchorFile, startup_check
from storage.audit import AuditRepository
from storage.checkpoints import CheckpointPolicy
from storage.database import Database
from storage.notes import VerifierKey
from storage.rotation import first_key
from storage.signing_keys import load_keys
from storage.verify import Report, verify
from storage.verify_heads import LogKeys

EXIT_TAMPERED: Final = 1
EXIT_BEHIND_ANCHOR: Final = 2
EXIT_UNSIGNED: Final = 3
# A service signs every 10 seconds, and records nothing more once it could not for so long, or for
# so many entries: what is unsigned beyond that was not left so by a service.
POLICY: Final = CheckpointPolicy()


def verify_log(
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Check every entry of the log, what was signed of it, and every record against the log.

    Entries that were given up as lost after a restore are named, and are all right. Exit codes:
    0 all right, 1 tampered with (or database, anchors or key cannot be read), 2 the log is not the
    one its anchors speak of: entries were cut off or rewritten, 3 nothing contradicts, but what
    should be signed is not, or the key here is not the present one any longer.
    """
    settings = Settings.load()

    async def work() -> tuple[Report, MedAIError | None]:
        async with opened(settings) as database:
            anchors = AnchorFile(settings.anchor_file)
            report = await verify(database, anchors, await _keys(settings, database))
            try:
                await startup_check(database, anchors)
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
    if _is_unsigned(report):
        raise typer.Exit(EXIT_UNSIGNED)


async def _keys(settings: Settings, database: Database) -> LogKeys | None:
    """The log's keys; None on a host that holds none, or where nothing has been signed.

    Raises:
        InvalidConfiguration: There are keys, and none that can be used.
    """
    if not any(settings.log_key_dir.glob("*.pem")):
        return None
    private = load_keys(settings.log_key_dir, generate=False).private
    try:
        async with database.reading() as session:
            origin = (await AuditRepository(session).head()).origin
    except NotFound:
        return None
    try:
        present = VerifierKey.of(origin, private)
    except ValueError:  # no name of a log: no entry begins one of that name, which is a finding
        return None
    try:
        return LogKeys(await first_key(database, private), present)
    except AuditUnavailable:  # a change of key cannot be read: the verification says where
        return LogKeys(present, present)


def _is_unsigned(report: Report) -> bool:
    if report.anchored is None:
        return False
    return (
        report.unsigned > POLICY.at_most
        or report.succeeded_in > 0
        or (report.anchored == 0 and _is_long_ago(report.written_since))
    )


def _is_long_ago(moment: str) -> bool:
    if not moment:
        return False
    try:
        return utc_now() - datetime.fromisoformat(moment) > POLICY.patience
    except (ValueError, TypeError):  # no time, or without its zone: a finding already
        return True


def _print(report: Report) -> None:
    for problem in report.problems:
        console.print(f"[red]entry {problem.seq}: {problem.flaw}: {problem.message}[/red]")
    hidden = report.problem_count - len(report.problems)
    if hidden:
        console.print(f"[red]and {hidden} more[/red]")
    for recovery in report.recoveries:
        console.print(str(recovery), style="yellow", markup=False, soft_wrap=True)
    console.print(f"log       {report.origin}")
    console.print(f"entries   {report.entries}")
    console.print(f"tip       {report.tip.hex()}")
    if report.anchored is None:
        console.print("[yellow]the log's key is not here: no signature was checked[/]")
    else:
        colour = "yellow" if _is_unsigned(report) else "default"
        tail = f"{report.unsigned} since then"
        console.print(f"[{colour}]anchored  {report.anchored}, by the log's key; {tail}[/]")
    if report.succeeded_in:
        console.print(
            f"[yellow]the key here handed over to another in entry {report.succeeded_in}: put that"
            " one in its place, and verify again[/]"
        )
    verdict = "[green]whole[/green]" if report.intact else "[red]broken[/red]"
    console.print(f"the chain and the records are {verdict}")


def _document(report: Report) -> dict[str, Any]:
    return {
        "origin": report.origin,
        "entries": report.entries,
        "tip": report.tip.hex(),
        "root": report.root.hex(),
        "anchored": report.anchored,
        "unsigned": None if report.anchored is None else report.unsigned,
        "intact": report.intact,
        "problem_count": report.problem_count,
        "problems": [asdict(problem) for problem in report.problems],
        "recovered": [recovery.document() for recovery in report.recoveries],
    }

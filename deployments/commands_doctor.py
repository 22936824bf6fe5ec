"""`medai doctor`: the report on an installation as a table or as JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.doctor.examination import examine, tally
from deployments.doctor.finding import Finding, State
from deployments.serving import default_config

EXIT_UNFIT = 1
_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def doctor(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="The topology; default: as `medai serve`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Look at settings, keys, database, models, ports and the machine; change nothing.

    Run it as the user that serves, with the settings of the service. Exit codes: 0 nothing fails,
    1 something fails.
    """
    with Console(stderr=True).status("looking"):
        findings = examine(config_file or default_config())
    if as_json:
        print(json.dumps(_document(findings), indent=2))  # noqa: T201  # a program reads it
    else:
        _print(findings)
    raise typer.Exit(EXIT_UNFIT if tally(findings)[State.FAIL] else 0)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    table = Table("check", "", "found", "what to do")
    for one in findings:
        state = f"[{_COLOURS[one.state]}]{one.state}[/]"
        table.add_row(one.check, state, escape(one.found), escape(one.advice))
    console.print(table)
    console.print(", ".join(f"{count} {state}" for state, count in tally(findings).items()))


def _document(findings: list[Finding]) -> dict[str, object]:
    counts = tally(findings)
    return {
        "healthy": not counts[State.FAIL],
        "counts": counts,
        "findings": [asdict(one) for one in findings],
    }

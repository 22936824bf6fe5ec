"""`medai models check`: what would happen to a model file, before anything happens to it."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.inference.registration import CARD, Candidate, read_candidate, read_card
from deployments.inference.trial import ModelReport, try_model
from deployments.inference.trial_protocol import Order
from registry.errors import MedAIError
from registry.inspection import MAX_MEMORY_BYTES, ModelCheck, State

EXIT_UNFIT = 1
_COLOURS = {
    State.PASSED: "green",
    State.FAILED: "red",
    State.TOLD: "blue",
    State.SKIPPED: "yellow",
}


def check(
    model: Annotated[
        Path,
        typer.Argument(
            help=f"A directory with {CARD} and the model file, or a model file.", exists=True
        ),
    ],
    card: Annotated[
        Path | None,
        typer.Option(help="The card, where it is not in the directory.", exists=True),
    ] = None,
    allow_domain: Annotated[
        list[str] | None,
        typer.Option(help="An operator domain to allow beside ai.onnx, such as ai.onnx.ml."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of one run.", min=1, max=256)] = 1,
    memory_mib: Annotated[
        int, typer.Option(help="What trying it may take, in MiB.", min=256)
    ] = MAX_MEMORY_BYTES >> 20,
    timeout_s: Annotated[
        float, typer.Option(help="How long trying it may take, in seconds.", min=1)
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Say whether a model is fit to be registered, and why not; change nothing.

    The file is read, loaded and run in a process of its own, under limits of memory and time.
    Without a card its inputs and outputs are only told, and it is run once on zeros.

    Exit codes: 0 fit, 1 not fit.
    """
    try:
        candidate = _candidate(model, card)
    except MedAIError as error:
        if not as_json:
            raise
        print(json.dumps(_unread(model, error)))  # noqa: T201  # a program reads it
        raise typer.Exit(EXIT_UNFIT) from None
    path, found = (model, None) if candidate is None else (candidate.path, candidate.card)
    report = try_model(
        Order(
            path=str(path.absolute()),
            card=found,
            allow_domains=tuple(allow_domain or ()),
            threads=threads,
            memory_bytes=memory_mib << 20,
            wall_s=timeout_s,
        )
    )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if as_json:
        document = _document(path, candidate, report, digest)
        print(json.dumps(document))  # noqa: T201  # a program reads it
    else:
        _print(path, candidate, report, digest)
    raise typer.Exit(os.EX_OK if report.fit else EXIT_UNFIT)


def _candidate(model: Path, card: Path | None) -> Candidate | None:
    """The card and its file; None where a file came without a card. Raises `InvalidModel`."""
    if model.is_dir():
        return read_candidate(model, card)
    return None if card is None else Candidate.of(read_card(card), model)


def _print(path: Path, candidate: Candidate | None, report: ModelReport, digest: str) -> None:
    console = Console(highlight=False)
    table = Table("check", "", "found", "allowed", title=escape(_title(path, candidate)))
    for one in report.checks:
        state = f"[{_COLOURS[one.state]}]{one.state}[/]"
        table.add_row(one.name, state, escape(one.measured), escape(one.limit))
    console.print(table)
    console.print(f"sha256 {digest}")
    console.print(f"memory {report.peak_bytes >> 20} MiB at the highest")
    for one in report.checks:
        for fault in one.faults:
            console.print(f"[red]{escape(str(fault))}[/red]")
    name = path.name if candidate is None else f"{candidate.card.name} {candidate.card.version}"
    if candidate is None and report.fit:
        console.print(f"{escape(name)} runs; give its card with --card to check it as a model")
    elif report.fit:
        console.print(f"{name} is fit to be registered")
    else:
        console.print(f"{escape(name)} is [red]not fit[/red] to be registered")


def _title(path: Path, candidate: Candidate | None) -> str:
    if candidate is None:
        return f"{path.name}, without a card"
    return f"{candidate.card.name} {candidate.card.version}, {path.name}"


def _document(
    path: Path, candidate: Candidate | None, report: ModelReport, digest: str
) -> dict[str, Any]:
    return {
        "file": path.name,
        "model": None if candidate is None else candidate.card.name,
        "version": None if candidate is None else candidate.card.version,
        "sha256": digest,
        "fit": report.fit,
        "checks": [_row(one) for one in report.checks],
        "latencies_ms": {str(size): list(runs) for size, runs in report.latencies_ms.items()},
        "peak_bytes": report.peak_bytes,
    }


def _row(one: ModelCheck) -> dict[str, Any]:
    return {
        "check": one.name,
        "state": one.state,
        "measured": one.measured,
        "limit": one.limit,
        "faults": [asdict(fault) for fault in one.faults],
    }


def _unread(model: Path, error: MedAIError) -> dict[str, Any]:
    """The answer where there is nothing to try: the card, or its file, is not right."""
    faults = [asdict(fault) for fault in error.violations]
    row = {"check": "card", "state": State.FAILED, "measured": error.detail, "limit": ""}
    return {"file": model.name, "fit": False, "checks": [{**row, "faults": faults}]}

"""`medai bench`: what a running service holds, asked the way its users ask."""

import getpass
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from configs.settings import Settings
from deployments.client import Client, Problem, Unreachable
from deployments.probe import (
    MAX_CLIENTS,
    MAX_IMAGES,
    MAX_SECONDS,
    PROBE_LIMIT_CORES,
    Level,
    Plan,
    Probe,
    best,
)
from registry.errors import BadRequest

EXIT_NOT_HELD = 1
EXIT_UNREACHABLE = 3
MODEL_PREFIX = "OnnxModel:"  # as the deployments are named

bench = typer.Typer(no_args_is_help=True, help="What a running service holds.")


@bench.callback()
def _group() -> None:
    """Keep `capacity` a command of its own: a group of one would lose its name."""


@bench.command("capacity")
def capacity(
    file: Annotated[
        Path,
        typer.Argument(
            help="An image such as the service gets: JPEG, PNG or DICOM, of no patient.",
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    model: Annotated[str, typer.Option(help="The model's name.")] = "cxr-pneumonia",
    user: Annotated[str | None, typer.Option(help="Who asks; default: your login name.")] = None,
    url: Annotated[str | None, typer.Option(help="The server; default: this machine's.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    p95_ms: Annotated[
        float, typer.Option("--p95-ms", help="What 95 % of the answers may take, in ms.", min=1)
    ] = 250.0,
    seconds: Annotated[
        float, typer.Option(help="How long each level is measured.", min=1, max=MAX_SECONDS)
    ] = 5.0,
    clients: Annotated[
        int, typer.Option(help="The most clients at the same time.", min=1, max=MAX_CLIENTS)
    ] = 64,
    images: Annotated[
        int, typer.Option(help="The most images of the probe.", min=1, max=MAX_IMAGES)
    ] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Find how many images a second the service answers in time.

    1, 2, 4 ... clients ask, each for its next image once it has the last. The first number that is
    too slow, or refused something, ends it. **Each image is a real inference: it is recorded in the
    audit trail for good.** An administrator also hears how many replicas did it.

    Exit codes: 0 held, 1 not even one client is answered in time, 3 the server cannot be reached.
    """
    address = url or f"http://127.0.0.1:{Settings.load().server.port}"
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    told.print(f"up to {images:,} inferences on {address}, each recorded in its audit trail")
    password = sys.stdin.readline().rstrip("\n") if password_stdin else getpass.getpass()
    plan = Plan(file, model, p95_ms, seconds, max_clients=clients, max_images=images)
    try:
        with Client(address) as client:
            token = client.login(user or getpass.getuser(), password)
            with Probe(lambda: Client(address, token), plan) as probe:
                _see_that_the_model_answers(probe, told)
                levels = list(_shown(probe.levels(), plan, told))
            client.logout()
    except Problem as problem:
        raise BadRequest(f"the probe was refused: {problem}") from None
    except Unreachable:
        told.print(
            f"medai: nobody answers at {address}: start the server with `medai serve`, "
            "or name another with --url"
        )
        raise typer.Exit(EXIT_UNREACHABLE) from None
    held = best(levels, p95_ms)
    if as_json:
        _print_document(levels, held, plan)
    else:
        _print_table(levels, held, plan)
    if held is None:
        raise typer.Exit(EXIT_NOT_HELD)


def _see_that_the_model_answers(probe: Probe, told: Console) -> None:
    """An image the model is not asked for would measure the validation alone: say so."""
    answer = probe.ask()
    if answer["scores"]:
        return
    reasons = ", ".join(answer["reasons"]) or answer["outcome"]
    told.print(
        f"the model is not asked for this image ({reasons}): the figures will be too high; "
        "take one that it answers",
        style="yellow",
    )


def _shown(levels: Iterator[Level], plan: Plan, told: Console) -> Iterator[Level]:
    """The levels, with a bar while they are measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=told, transient=True) as progress:
        task = progress.add_task("1 client", total=plan.most_levels)
        for level in levels:
            said = f"{level.clients} client(s): {level.images_per_s:.0f} images/s"
            progress.update(task, advance=1, description=said)
            yield level


def _print_document(levels: list[Level], held: Level | None, plan: Plan) -> None:
    document = {
        "model": plan.model,
        "target_p95_ms": plan.p95_ms,
        "held": None if held is None else asdict(held),
        "levels": [asdict(level) for level in levels],
    }
    print(json.dumps(document))  # noqa: T201  # a program reads it


def _print_table(levels: list[Level], held: Level | None, plan: Plan) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("clients", "images/s", "p50 ms", "p95 ms", "p99 ms", "not answered", "holds")
    for level in levels:
        table.add_row(
            str(level.clients),
            f"{level.images_per_s:.1f}",
            *(f"{value:.1f}" for value in (level.p50_ms, level.p95_ms, level.p99_ms)),
            ", ".join(f"{number} x {code}" for code, number in level.others.items()) or "0",
            "yes" if level.holds(plan.p95_ms) else "no",
        )
    console.print(table)
    busiest = max(levels, key=lambda level: level.probe_cores)
    console.print(f"the probe itself took up to {busiest.probe_cores:.2f} of a core")
    if busiest.probe_cores > PROBE_LIMIT_CORES:
        console.print(
            "the probe is the limit, the service may hold more: run several from other machines",
            style="yellow",
        )
    if held is None:
        console.print(f"not even one client is answered at p95 < {plan.p95_ms:g} ms", style="red")
    else:
        console.print(
            f"{described(held, plan.model)} {held.images_per_s:.0f} images/s at p95 < "
            f"{plan.p95_ms:g} ms ({held.clients} client(s), p95 {held.p95_ms:.0f} ms)",
            style="green",
        )


def described(level: Level, model: str) -> str:
    """Who did it, and the verb: `1 gateway, 1 validator, 2 model replicas hold`."""
    parts = [
        f"{number} {what}{'' if number == 1 else 's'}"
        for name, what in (
            ("Gateway", "gateway"),
            ("Validator", "validator"),
            (f"{MODEL_PREFIX}{model}", "model replica"),
        )
        if (number := level.replicas.get(name, 0))
    ]
    if not parts:
        return "the service (its replicas are told to administrators) holds"
    return f"{', '.join(parts)} hold"

"""`make bench`: everything, in one run, on two cores.

    python -m benchmarks.run              about 25 minutes: every cell once, and three rounds of
                                          the cells that the targets compare
    python -m benchmarks.run --quick      one round of short cells, to see that all of it works
    python -m benchmarks.run --only bare --only litserve --only raw

The rows are measured one after the other and the rounds interleave them (A B C A B C ...), so that
a machine that slows down slows all of them. Nothing is left behind: each server is ended with all
that descends from it, also where the run is ended by Ctrl-C or SIGTERM; what was measured until
then is reported.
"""

import datetime as dt
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.bench import MODELS, QUICK, Bench, Times
from benchmarks.growth import SIZES, table_of
from benchmarks.plot import plot
from benchmarks.report import cell_tables, disturbed, document, lost, memory_table, target_table
from benchmarks.rows import ROWS, Cell, raw_cells
from benchmarks.targets import TARGET_CELLS, Judged, judged

RAW = "raw"
EXTRAS = ("writer", "overload", "batch", "growth")
NAMES = (RAW, *ROWS, *EXTRAS)
OUT = Path("var/bench")
ROUNDS = 3
WIDTH = 150  # of the tables in a file


def main(
    quick: Annotated[bool, typer.Option(help="One round of short cells.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Some parts only: {', '.join(NAMES)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1, max=9)] = ROUNDS,
    out: Annotated[Path, typer.Option(help="Where reports go.")] = OUT,
) -> None:
    """Measure this service and what a user would pick instead, side by side."""
    chosen = _chosen(only)
    rounds = 1 if quick else rounds
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    where = machine.describe(machine.take_two_cores())
    if where["used_by_others_before"] > machine.QUIET:
        busy = f"{where['used_by_others_before']:.0%}"
        console.print(f"[yellow]the cores are {busy} in use already: figures will scatter[/]")
    with _progress(console) as progress:
        task = progress.add_task("", total=_steps(chosen, rounds))

        def say(what: str) -> None:
            progress.update(task, description=what, advance=1)

        bench = Bench(out, QUICK if quick else Times(), say)
        with ended_early(bench):
            _measure(bench, chosen, rounds, SIZES[:2] if quick else SIZES)
    lines = judged(bench.figures, bench.values)
    show(console, bench, lines)
    file = _write(bench, lines, where, rounds)
    console.print(f"written: {file}, {file.with_suffix('.png').name}")


@contextmanager
def ended_early(bench: Bench) -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C; what was measured until then is reported."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    # A signal that is ignored (nohup) stays so.
    signals = [
        name
        for name in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(name) is not signal.SIG_IGN
    ]
    before = {name: signal.signal(name, unwind) for name in signals}
    try:
        yield
    except KeyboardInterrupt as reason:
        bench.troubles.append(f"the rest: ended early by {str(reason) or 'Ctrl-C'}")
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def show(console: Console, bench: Bench, lines: list[Judged]) -> None:
    """All tables."""
    for table in cell_tables(bench.figures):
        console.print(table)
    if bench.memory:
        console.print(memory_table(bench.memory))
    if bench.growths:
        console.print(table_of(bench.growths))
    console.print(target_table(lines))
    ceilings = bench.extras.get("load_client_ceiling", {})
    limits = ", ".join(f"{picture} image {rate:,}/s" for picture, rate in ceilings.items())
    console.print(f"the load client's own limit: {limits}")
    if others := disturbed(bench.figures):
        console.print(f"[yellow]others used the cores in {others} cells (column others: cores)[/]")
    if missing := lost(bench.figures):
        console.print(f"[red]{missing} connections ended before their answer[/]")
    for trouble in bench.troubles:
        console.print(f"[yellow]not measured: {trouble}[/]")


def _write(bench: Bench, lines: list[Judged], where: dict[str, Any], rounds: int) -> Path:
    """The report as JSON and as a plot. Returns the JSON file."""
    when = dt.datetime.now(dt.UTC)
    report = {
        "date": when.isoformat(timespec="seconds"),
        "machine": where,
        "rounds": rounds,
        "seconds_a_cell": bench.times.cell,
        **document(bench.figures, bench.memory, lines),
        **bench.extras,
        "not_measured": bench.troubles,
    }
    file = bench.out / f"{when:%Y-%m-%dT%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1), "utf-8")
    plot(report, file.with_suffix(".png"))
    return file


def _chosen(only: list[str] | None) -> frozenset[str]:
    unknown = set(only or ()) - set(NAMES)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(NAMES)}")
    return frozenset(only or NAMES)


def _measure(bench: Bench, chosen: frozenset[str], rounds: int, sizes: tuple[int, ...]) -> None:
    bench.ceiling()
    for turn in range(rounds):
        for model in MODELS:
            if RAW in chosen:
                bench.raw([each for each in raw_cells(model) if _due(each[0], turn)], turn)
            for row in ROWS.values():
                cells = [cell for cell in row.cells(model) if _due(cell, turn)]
                if row.name in chosen and cells:
                    bench.row(row, model, cells, turn)
    if "writer" in chosen:
        bench.writer()
    if "overload" in chosen:
        bench.overload()
    if "batch" in chosen:
        bench.batch()
    if "growth" in chosen:
        bench.growth(sizes)


def _due(cell: Cell, turn: int) -> bool:
    """Whether a cell is measured in this round: each in the first, the targets' in every one."""
    return turn == 0 or cell in TARGET_CELLS


def _steps(chosen: frozenset[str], rounds: int) -> int:
    """How many times `say` will be called, roughly."""
    rows = [row for row in ROWS.values() if row.name in chosen]
    cells = [cell for row in rows for model in MODELS for cell in row.cells(model)]
    if RAW in chosen:
        cells += [cell for model in MODELS for cell, _ in raw_cells(model)]
    due = sum(_due(cell, turn) for cell in cells for turn in range(rounds))
    return due + 2 * len(chosen.intersection(EXTRAS))


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(30),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


if __name__ == "__main__":
    typer.run(main)

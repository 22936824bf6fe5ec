"""Where the CPU goes: a flame graph of each replica under load, and its heaviest functions.

py-spy samples the processes from outside, at no cost worth naming. It takes some threads that wait
inside a library for busy ones; stacks that end where those wait (`WAITING`) are left out.

    python -m benchmarks.flames ours-no-gate --clients 64 --picture small
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bench import QUICK, Bench, image
from benchmarks.film import Picture
from benchmarks.load import Load
from benchmarks.processes import Left
from benchmarks.rows import CXR, ROWS
from benchmarks.service import HOST, Service, measure

HERTZ = 200
SECONDS = 10
PATIENCE_S = 60.0
REPLICAS = frozenset({"gateway", "validator", "model", "audit-writer", "bare", "litserve"})
SHOWN = 25
WAITING = (
    "Worker.main_loop (ray/_private/worker.py",
    "Thread.run (threading.py",
    "Condition.wait (threading.py",
    "_worker (concurrent/futures/thread.py",
    "_connection_worker_thread (aiosqlite/core.py",
)


def main(
    row: Annotated[str, typer.Argument(help=f"One of {', '.join(ROWS)}.")] = "ours-no-gate",
    model: Annotated[str, typer.Option(help="The model.")] = CXR,
    clients: Annotated[int, typer.Option(min=1, max=1024)] = 64,
    picture: Annotated[Picture, typer.Option()] = Picture.SMALL,
    out: Annotated[Path, typer.Option(help="Where the graphs go.")] = Path("var/bench/flames"),
) -> None:
    """Profile one row under load."""
    console = Console(highlight=False, width=140)
    bench = Bench(out, QUICK, console.print)
    out.mkdir(parents=True, exist_ok=True)
    with ROWS[row].start(bench.folder(model), bench.log(f"{row}-{model}")) as service:
        stacks = profile(service, image(picture), clients=clients, out=out)
    for role, counted in stacks.items():
        console.print(table_of(role, counted))
    console.print(f"written: {out}")


def profile(service: Service, body: bytes, *, clients: int, out: Path) -> dict[str, Counter[str]]:
    """Samples by role, each a stack ("outer;inner;innermost") with its count."""
    request = service.request(body)
    load = Load(HOST, service.port, request, clients, warmup_s=5, seconds=SECONDS + 10)
    python = Path(sys.executable).parent / "py-spy"
    watched = {}
    for process in service.processes.look():
        role = service.processes.role(process)
        if role in REPLICAS:
            file = out / f"{role}-{process.pid}.txt"
            options = ["--rate", str(HERTZ), "--duration", str(SECONDS), "--nonblocking"]
            command = [str(python), "record", *options, "--format", "raw", "--output", str(file)]
            watched[file] = (role, [*command, "--pid", str(process.pid)])
    if not watched:
        raise Left("there is no process to profile")
    spies = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _, command in watched.values()
    ]
    try:
        measure(service, load)
        for spy in spies:
            spy.wait(PATIENCE_S)
    finally:
        for spy in spies:
            spy.kill()
            spy.wait()
    return _gathered({file: role for file, (role, _) in watched.items()})


def _gathered(files: dict[Path, str]) -> dict[str, Counter[str]]:
    stacks: dict[str, Counter[str]] = {}
    for file, role in files.items():
        if file.is_file():
            for line in file.read_text("utf-8").splitlines():
                stack, _, count = line.rpartition(" ")
                stacks.setdefault(role, Counter())[stack] += int(count)
    return stacks


def table_of(role: str, stacks: Counter[str]) -> Table:
    """The heaviest functions: with all they call, and by themselves. Percent of the samples."""
    whole, alone, total = Counter[str](), Counter[str](), 0
    for stack, count in stacks.items():
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        if frames[-1].endswith(WAITING):
            continue
        total += count
        for frame in set(frames):
            whole[frame] += count
        alone[frames[-1]] += count
    title = f"{role}: {total:,} samples at work, of {HERTZ * SECONDS:,} looks"
    table = Table(title=title, title_justify="left")
    table.add_column("with callees", justify="right")
    table.add_column("function")
    table.add_column("alone", justify="right")
    table.add_column("function")
    for (outer, all_of_it), (inner, by_itself) in zip(
        whole.most_common(SHOWN), alone.most_common(SHOWN), strict=False
    ):
        shares = (f"{all_of_it / total:.1%}", f"{by_itself / total:.1%}")
        table.add_row(shares[0], outer[-60:], shares[1], inner[-60:])
    return table


if __name__ == "__main__":
    typer.run(main)

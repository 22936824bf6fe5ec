"""The long run: every fault that one machine can show, at least 200 kills, and 10,000 canaries.

    python -m tests.faults.run [--json FILE] [--scale PERCENT] [--only PATTERN]

It takes about 20 minutes on two cores, ends with a table, writes it as JSON (`tests.faults.table`
makes Markdown of that) and exits with 1 where anything was not as it must be.
"""

import argparse
import functools
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from storage import schema
from tests.faults import serve_faults, writer_faults
from tests.faults.canary_run import canary_trial
from tests.faults.place import Ground
from tests.faults.serve_faults import DEPLOYMENTS, Site
from tests.faults.table import shown
from tests.faults.trial import Trial
from tests.faults.writer_faults import back_up
from tests.postgres import TEMPLATE, PostgresServer
from tests.storage.relay import Line

KILLS = 200  # at least
OUTAGE_S = 60.0
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table to come: what makes it, and how many ticks that has."""

    name: str
    make: Callable[[Tick], Trial]
    ticks: int = 1


def writer_steps(ground: Ground, times: Callable[[int], int]) -> Iterator[Step]:
    """Faults of the writer and its database, without Ray."""

    def step(
        name: str, work: Callable[..., Coroutine[Any, Any, Trial]], *given: Any, ticks: int = 1
    ) -> Step:
        def make(tick: Tick) -> Trial:
            return anyio.run(functools.partial(work, ground, *given, tick=tick))

        return Step(f"{name} {' '.join(map(str, given[:1]))}", make, ticks)

    many, some, few = times(72), times(24), times(10)
    for kind in ("sqlite", "postgres"):
        yield step("kill writer", writer_faults.killed_writers, kind, many, ticks=many)
    yield step("kill postmaster", writer_faults.killed_postmaster, some, ticks=some)
    for line in (Line.CUT_QUESTION, Line.CUT_ANSWER):
        yield step("cut commit", writer_faults.cut_commits, line, few, ticks=few)
    for how in ("stopped", "frozen (SIGSTOP)"):
        yield step("database", writer_faults.away, how, 2, 8.0, ticks=2)
    yield step("silent network", writer_faults.silent, 2, 8.0, ticks=2)
    yield step("slow database", writer_faults.slow, 1)
    for kind in ("sqlite", "postgres"):
        yield step("zombie", writer_faults.zombies, kind, few, ticks=few)
        yield step("stop writer", writer_faults.terminated_writers, kind, times(5), ticks=times(5))
        yield step("full volume", writer_faults.full_volume, kind, times(4), ticks=times(4))
        yield step("clock", writer_faults.clock_steps, kind)
    yield step("file limit", writer_faults.full_disk, times(4), ticks=times(4))
    yield step("old backup", writer_faults.old_backup)


def postgres_steps(site: Site, server: PostgresServer, rounds: int) -> Iterator[Step]:
    """Faults of a whole service on PostgreSQL."""
    yield from replica_steps(site, rounds)
    for how, away_s in (
        ("frozen (SIGSTOP)", 12.0),
        ("killed (SIGKILL)", 4.0),
        ("stopped", OUTAGE_S),
    ):
        yield Step(
            f"database {how}",
            functools.partial(_away, site, server, how, away_s),
        )
    yield Step("SIGTERM", lambda tick: serve_faults.terminated(site, tick))


def _away(site: Site, server: PostgresServer, how: str, away_s: float, tick: Tick) -> Trial:
    return serve_faults.database_away(site, server, how, away_s, tick)


def sqlite_steps(site: Site, rounds: int, requests: int) -> Iterator[Step]:
    """Faults of a whole service on SQLite, and the canaries."""
    yield Step("canaries", lambda tick: canary_trial(site, requests, tick), requests)
    copy = site.service.home.parent / "backup.db"
    back_up(site.service.home / "medai.db", copy)
    yield from replica_steps(site, rounds)
    yield Step("SIGTERM", lambda tick: serve_faults.terminated(site, tick))
    yield Step("old backup", lambda tick: serve_faults.old_backup(site, copy, tick))


def replica_steps(site: Site, rounds: int) -> Iterator[Step]:
    """Kills of each deployment's replicas."""
    for deployment in DEPLOYMENTS:
        yield Step(
            f"kill {deployment}", functools.partial(_killed, site, deployment, rounds), rounds
        )


def _killed(site: Site, deployment: str, rounds: int, tick: Tick) -> Trial:
    return serve_faults.killed_replicas(site, deployment, rounds, tick)


class Run:
    """Goes through the steps, shows how far it is, and keeps the rows."""

    def __init__(self, progress: Progress, only: str) -> None:
        self.trials: list[Trial] = []
        self._progress = progress
        self._only = only

    def go(self, steps: Iterator[Step]) -> None:
        """Make each step's row. What a step raises is a failure of its row."""
        for step in steps:
            if not re.search(self._only, step.name):
                continue
            bar = self._progress.add_task(step.name, total=step.ticks)
            trial = self._made(step, lambda bar=bar: self._progress.advance(bar))  # type: ignore[misc]
            self._progress.update(bar, completed=step.ticks)
            self.trials.append(trial)
            if not self._progress.console.is_terminal:  # where no bar can be shown, a line
                self._progress.console.print(f"{step.name}: {'ok' if trial.passed else 'FAILED'}")
            for failure in trial.failures[:3]:
                self._progress.console.print(f"[red]{step.name}: {failure}", highlight=False)

    def _made(self, step: Step, tick: Tick) -> Trial:
        try:
            return step.make(tick)
        except Exception as error:  # noqa: BLE001  # the rows of the others are still wanted
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
            return Trial(step.name, "", failures=[said])


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL with a migrated template, whose commits reach the disk."""
    directory = Path(tempfile.mkdtemp(prefix="medai-pg-", dir="/tmp"))
    server = PostgresServer(directory, fsync=True)
    server.start()
    try:
        server.execute(f"CREATE ROLE {schema.APP_ROLE} LOGIN", f"CREATE DATABASE {TEMPLATE}")
        anyio.run(schema.upgrade, server.url(TEMPLATE))
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def machine() -> dict[str, Any]:
    """Where it ran."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory GiB": round(pages / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def run(progress: Progress, *, scale: float, only: str) -> list[Trial]:
    """All of it; `scale` is how much of the usual number of times."""

    def times(usual: int) -> int:
        return max(1, math.ceil(usual * scale))

    runner = Run(progress, only)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medai-", dir="/tmp")))
        template = home / "template.db"
        anyio.run(schema.upgrade, f"sqlite+aiosqlite:///{template}")
        server = stack.enter_context(postgres_server())
        runner.go(writer_steps(Ground(server, template), times))
        with serve_faults.site(home / "postgres", server) as site:
            runner.go(postgres_steps(site, server, times(6)))
        with serve_faults.site(home / "sqlite", None) as site:
            runner.go(sqlite_steps(site, times(4), times(10_000)))
    return runner.trials


def main() -> int:
    """Run, show and write. 0 where everything was as it must be."""
    parser = argparse.ArgumentParser(description="Break the service, and see that it holds.")
    parser.add_argument("--json", type=Path, default=Path("var/faults.json"), help="the result")
    parser.add_argument("--scale", type=float, default=100, help="percent of the usual times")
    parser.add_argument("--only", default="", help="steps whose name it matches")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="pydicom")  # of headers that no scanner would write
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    started, began = time.monotonic(), datetime.now(UTC)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        trials = run(progress, scale=options.scale / 100, only=options.only)
    kills = sum(trial.kills for trial in trials)
    document = {
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started),
        "machine": machine(),
        "kills": kills,
        "trials": [trial.document() for trial in trials],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    console.print(shown(document))
    whole = options.scale >= 100 and not options.only
    if whole and kills < KILLS:
        console.print(f"[red]only {kills} of {KILLS} kills")
    failed = [trial for trial in trials if not trial.passed]
    for trial in failed:
        for failure in trial.failures[:10]:
            console.print(f"[red]{trial.fault}, {trial.where}: {failure}", highlight=False)
    console.print(f"{kills} kills, {len(failed)} rows failed; {options.json}")
    return 1 if failed or (whole and kills < KILLS) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a request costs as the tables grow: with 10³, 10⁵ and 10⁶ inferences in them.

The rows are written by the ledger itself, so that the chain is a real one. At each size these are
timed, each often enough for a steady median:

    append   one group of 16 inferences committed, per inference
    lookup   one result by its id, with its validation and audit entry
    page     50 results after a cursor, of one user
    first    the first 50 results of one user and how many there are, as a list begins

"Flat" means that the most rows cost at most 1.2 times as much as the fewest.

    python -m benchmarks.growth [--engine sqlite|postgresql] [--most 1000000]
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from sqlalchemy import text

from benchmarks.journal import Engine, Journal, opened, place
from benchmarks.writer import WORKSPACE
from storage.result_pages import ResultFilter, ResultPages
from storage.results import ResultRepository

T = TypeVar("T")

SIZES = (1_000, 100_000, 1_000_000)
FILL_GROUP = 2_000
GROUP = 16
APPENDS = 150
LOOKUPS = 400
LISTS = 100
PAGE = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians in ms with `rows` inferences in the tables."""

    rows: int
    append_ms: float
    lookup_ms: float
    page_ms: float
    first_ms: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The costs of one engine, the fewest rows first."""

    engine: Engine
    costs: tuple[Cost, ...]

    def ratios(self) -> dict[str, float]:
        """Cost with the most rows / cost with the fewest, by act."""
        few, many = self.costs[0], self.costs[-1]
        return {
            "append": many.append_ms / few.append_ms,
            "lookup": many.lookup_ms / few.lookup_ms,
            "page": many.page_ms / few.page_ms,
            "first": many.first_ms / few.first_ms,
        }


def growth(
    engine: Engine,
    sizes: tuple[int, ...] = SIZES,
    *,
    workspace: Path = WORKSPACE,
    tell: Callable[[int], None] | None = None,
) -> Growth:
    """Fill and measure. `tell` hears how many rows there are."""
    with place(engine) as url:
        return Growth(engine, asyncio.run(_measure(url, sizes, workspace, tell)))


async def _measure(
    url: str, sizes: tuple[int, ...], workspace: Path, tell: Callable[[int], None] | None
) -> tuple[Cost, ...]:
    costs = []
    random_ids = random.Random(1)  # noqa: S311  # which rows are read, not a secret
    async with opened(url, workspace) as journal:
        rows = 0
        ids: list[UUID] = []
        for size in sizes:
            while rows < size:
                events = journal.inferences(min(FILL_GROUP, size - rows))
                await journal.append(events)
                rows += len(events)
                ids += [event.event_id for event in random_ids.sample(events, min(20, len(events)))]
                if tell is not None:
                    tell(rows)
            chosen = random_ids.choices(ids, k=LOOKUPS)
            await _analyse(journal)
            costs.append(await _cost(journal, rows, chosen))
            rows += APPENDS * GROUP
    return tuple(costs)


async def _analyse(journal: Journal) -> None:
    """What autovacuum does within a minute: these rows came faster than anybody's would."""
    if not journal.database.is_sqlite:
        async with journal.database.transaction() as session:
            await session.execute(text("ANALYZE"))


async def _cost(journal: Journal, rows: int, ids: list[UUID]) -> Cost:
    groups = [journal.inferences(GROUP) for _ in range(APPENDS)]
    append = await _median_ms(journal.append, groups)
    lookup = await _median_ms(partial(_lookup, journal), ids)
    page = await _median_ms(partial(_page, journal), ids[:LISTS])
    first = await _median_ms(partial(_first, journal), ids[:LISTS])
    return Cost(rows, append / GROUP, lookup, page, first)


async def _lookup(journal: Journal, result: UUID) -> None:
    async with journal.database.reading() as session:
        await ResultRepository(session).get(result)


async def _page(journal: Journal, result: UUID) -> None:
    async with journal.database.reading() as session:
        await ResultPages(session, _mine(journal)).after(result, PAGE)


async def _first(journal: Journal, _: UUID) -> None:
    async with journal.database.reading() as session:
        pages = ResultPages(session, _mine(journal))
        await pages.numbered(1, PAGE, total=await pages.total())


def _mine(journal: Journal) -> ResultFilter:
    return ResultFilter(created_by=journal.principal.user_id)


async def _median_ms(act: Callable[[T], Awaitable[None]], subjects: list[T]) -> float:
    times = []
    for subject in subjects:
        began = time.perf_counter()
        await act(subject)
        times.append(time.perf_counter() - began)
    return median(times) * 1e3


def table_of(found: list[Growth]) -> Table:
    """The costs, for the terminal."""
    acts = ("append, ms each", "lookup, ms", "page, ms", "first page, ms")
    table = Table("engine", "rows", *acts, title="Growth", title_justify="left")
    for one in found:
        for cost in one.costs:
            figures = (cost.append_ms, cost.lookup_ms, cost.page_ms, cost.first_ms)
            table.add_row(one.engine, f"{cost.rows:,}", *(f"{each:.3f}" for each in figures))
    return table


def main(
    engine: Annotated[Engine | None, typer.Option(help="One engine only.")] = None,
    most: Annotated[int, typer.Option(help="The most rows.", min=SIZES[0])] = SIZES[-1],
) -> None:
    """Measure growth alone."""
    sizes = tuple(size for size in SIZES if size <= most)
    console = Console(highlight=False)
    found = []
    with Progress(console=console) as progress:
        for each in [engine] if engine else list(Engine):
            task = progress.add_task(each, total=sizes[-1])
            found.append(growth(each, sizes, tell=partial(_show, progress, task)))
    console.print(table_of(found))
    for one in found:
        console.print(one.engine, {act: round(ratio, 2) for act, ratio in one.ratios().items()})


def _show(progress: Progress, task: TaskID, rows: int) -> None:
    progress.update(task, completed=rows)


if __name__ == "__main__":
    typer.run(main)

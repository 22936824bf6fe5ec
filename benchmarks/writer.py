"""The AuditWriter alone: how many inferences a second become durable.

Through `storage.ledger`, in groups as large as the AuditWriter makes them under load
(`AuditTuning.max_group_size`), one transaction after the other. Each entry is a row of results, one
of validations and one of the audit log, hashed into the chain, and on the disk before the next
group begins. The events are made beforehand: that is the gateway's work.

    python -m benchmarks.writer
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.journal import Engine, Journal, opened, place
from configs.topology import AuditTuning

SECONDS = 5.0
WARM_GROUPS = 4
WORKSPACE = Path("var/bench/models")


@dataclass(frozen=True, slots=True)
class Durable:
    """What one engine wrote. `commit_ms`: the mean of a whole group; `p99_ms`: 99 of 100 groups."""

    engine: Engine
    group_size: int
    entries: int
    entries_per_s: float
    commit_ms: float
    p99_ms: float


def durable(engine: Engine, *, seconds: float = SECONDS, workspace: Path = WORKSPACE) -> Durable:
    """Write for `seconds`."""
    with place(engine) as url:
        return asyncio.run(_write(url, engine, seconds, workspace))


async def _write(url: str, engine: Engine, seconds: float, workspace: Path) -> Durable:
    size = AuditTuning().max_group_size
    async with opened(url, workspace) as journal:
        for _ in range(WARM_GROUPS):
            await journal.append(journal.inferences(size))
        times = await _timed(journal, size, seconds)
    entries, spent = len(times) * size, sum(times)
    p99_ms = float(np.percentile(times, 99)) * 1e3
    return Durable(engine, size, entries, entries / spent, spent / len(times) * 1e3, p99_ms)


async def _timed(journal: Journal, size: int, seconds: float) -> list[float]:
    """Seconds that each group took; making the events is not in them."""
    times: list[float] = []
    while sum(times) < seconds:
        events = journal.inferences(size)
        began = time.perf_counter()
        await journal.append(events)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Both engines, on the terminal."""
    console = Console(highlight=False)
    for engine in Engine:
        found = durable(engine)
        console.print(
            f"{engine:<11} {found.entries_per_s:8,.0f} entries/s in groups of "
            f"{found.group_size}, {found.commit_ms:.1f} ms each, p99 {found.p99_ms:.1f}"
        )


if __name__ == "__main__":
    main()

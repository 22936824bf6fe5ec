"""How long a refused log-in takes, by what was wrong: the time must not tell (docs/security.md).

    python -m benchmarks.login_times

The whole application in this process, on SQLite, with passwords hashed at their full cost. The four
kinds take turns, so that whatever else the machine does falls on all alike.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from configs.settings import LogSettings
from deployments.api.passwords import MEMORY_KIB
from deployments.telemetry.logs import configure_logs
from storage import schema
from storage.accounts import AccountRepository
from tests.api.house import House, open_house

KINDS = {"unknown": "nobody", "locked": "carl", "wrong": "clara", "disabled": "vera"}
SPREAD = 0.05
FAILURES_THAT_LOCK = 5


async def measure(house: House, tries: int) -> dict[str, list[tuple[float, float]]]:
    """By kind: wall and CPU seconds of each refused log-in."""
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    client, kinds = house.client(), list(KINDS)
    for number in range(tries + 1):
        for kind in kinds[number % 4 :] + kinds[: number % 4]:
            await PREPARE[kind](house)
            form = {"username": KINDS[kind], "password": "not the one that it should be"}
            wall, cpu = time.perf_counter(), time.process_time()
            response = await client.post("/auth/login", data=form)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if response.status_code != 401:
                raise SystemExit(f"{kind}: answered {response.status_code}, not 401")
            if number:  # the first turn only warms up
                times[kind].append(spent)
    return times


async def _nothing(_: House) -> None:
    return


async def _lock(house: House) -> None:
    async with house.database.transaction() as session:
        await AccountRepository(session).count_failure(
            house.users[KINDS["locked"]], at=datetime.now(UTC)
        )


async def _forgive(house: House) -> None:
    async with house.database.transaction() as session:
        await AccountRepository(session).clear_failures(house.users[KINDS["wrong"]])


PREPARE: dict[str, Callable[[House], Awaitable[None]]] = {
    "unknown": _nothing,
    "locked": _lock,
    "wrong": _forgive,
    "disabled": _nothing,
}


async def run(tries: int) -> bool:
    """Measure and print. Whether each median is within the limit of their mean."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        await schema.upgrade(f"sqlite+aiosqlite:///{place / 'medai.db'}")
        async with open_house(place / "medai.db", place / "keys", memory_kib=MEMORY_KIB) as house:
            for _ in range(FAILURES_THAT_LOCK):
                await _lock(house)
            disabled = f"/admin/users/{house.users[KINDS['disabled']]}"
            (await house.client("ada").patch(disabled, json={"disabled": True})).raise_for_status()
            times = await measure(house, tries)
    spreads = [_print(name, times, column) for column, name in enumerate(("wall", "CPU"))]
    return max(spreads) <= SPREAD


def _print(name: str, times: dict[str, list[tuple[float, float]]], column: int) -> float:
    medians = {
        kind: statistics.median(spent[column] for spent in spents) * 1e3
        for kind, spents in times.items()
    }
    spread = max(medians.values()) / min(medians.values()) - 1
    shown = ", ".join(f"{kind} {ms:.2f}" for kind, ms in medians.items())
    print(f"{name:>4} median ms: {shown}; apart by {spread:.1%} (limit {SPREAD:.0%})")
    return spread


def main() -> None:
    """Command line. Exit code 1 where the medians are too far apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    configure_logs(LogSettings(level="WARNING"), component="login-times")
    parser.add_argument("--tries", type=int, default=60, help="of each kind (default: 60)")
    if not asyncio.run(run(parser.parse_args().tries)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""What a user would pick instead: bare FastAPI, and LitServe. Each serves one model."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import free_ports, running, wait_until
from benchmarks.service import HOST, Service, is_up
from benchmarks.tuning import BARE_MODEL, BARE_WORKERS, LITSERVE, LitServe

READY_S = 60.0


@contextlib.contextmanager
def bare(folder: Path, log: Path) -> Iterator[Service]:
    """FastAPI and uvicorn with two processes. See `bare_server`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.bare_server", str(port), str(BARE_WORKERS)]
    environment = {BARE_MODEL: str(folder)}
    with running(command, log=log, default_role="bare", environment=environment) as (
        server,
        processes,
    ):
        health = f"http://{HOST}:{port}/health"
        wait_until(lambda: is_up(health), server, within_s=READY_S, log=log)
        yield Service(port, "/infer", processes)


@contextlib.contextmanager
def litserve(folder: Path, log: Path, tuning: LitServe | None = None) -> Iterator[Service]:
    """LitServe with dynamic batching. See `litserve_server`."""
    (port,) = free_ports(1)
    tuning = tuning or LITSERVE.get(folder.name, LitServe())
    command = [sys.executable, "-m", "benchmarks.litserve_server", str(folder), str(port)]
    with running([*command, *tuning.arguments()], log=log, default_role="litserve") as (
        server,
        processes,
    ):
        health = f"http://{HOST}:{port}/health"
        wait_until(lambda: is_up(health), server, within_s=READY_S, log=log)
        yield Service(port, "/predict", processes)

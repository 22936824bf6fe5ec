"""The machine: ports, what a killed run left, disk, memory, processors, who may reach what."""

import os
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil

from deployments import ports, runs
from deployments.doctor.configuration import model_threads, read_topology
from deployments.doctor.finding import Finding, Installation, State
from deployments.production import (
    DASHBOARD_ADVICE,
    DASHBOARD_PORT,
    RAY_ADVICE,
    rays_without_token,
)
from registry.errors import InvalidConfiguration

MIB = 2**20
DISK_WARN, DISK_FAIL = 0.10, 0.02  # free part; the alert MedaiDiskFilling says the same
DISK_LEAST_BYTES = 256 * MIB
MEMORY_WARN_BYTES = 2048 * MIB  # an idle server with both bundled models takes 1.2 to 1.5 GiB
MEMORY_FAIL_BYTES = 512 * MIB
CGROUP = Path("/sys/fs/cgroup")


def leftovers(installation: Installation) -> Iterator[Finding]:
    """What a killed run left behind: processes, and above all an HAProxy without its Ray."""
    last = runs.last_run(installation.settings.home_dir)
    name = "last run"
    if last is None:
        yield Finding(name, State.OK, "ended and cleaned up, or never begun")
    elif last.pid is not None:
        yield Finding(name, State.OK, f"running (pid {last.pid})")
    else:
        count = len(runs.processes_of(last.directory))
        said = f"was killed; {count} process(es) of it are left"
        yield Finding(name, State.WARN, said, "`medai serve` ends them when it starts")
    holders = {pid for pid in ports.listeners().values() if pid is not None}
    orphans = sorted(pid for pid in holders if ports.is_orphaned_haproxy(pid))
    if orphans:
        said = f"HAProxy without its Ray: pid {', '.join(map(str, orphans))}"
        yield Finding("orphaned HAProxy", State.FAIL, said, f"kill {' '.join(map(str, orphans))}")
    else:
        yield Finding("orphaned HAProxy", State.OK, "none")


def wanted_ports(installation: Installation) -> Iterator[Finding]:
    """Free, or held by the server that runs from this home directory."""
    settings = installation.settings
    ours = _of_the_running_server(installation)
    try:
        ports.refuse_taken_ports(settings.server, but_not_from=ours)
    except InvalidConfiguration as error:
        for one in error.violations:
            yield Finding("ports", State.FAIL, f"{one.rule} is {one.measured}", one.advice)
        return
    yield Finding("ports", State.OK, "held by the running server" if ours else "all free")


def _of_the_running_server(installation: Installation) -> set[int]:
    """Ids of its processes: by the mark of the run, or by descent where a title hides the mark."""
    last = runs.last_run(installation.settings.home_dir)
    if last is None or last.pid is None:
        return set()
    server = psutil.Process(last.pid)
    marked = runs.processes_of(last.directory)
    return {process.pid for process in (server, *server.children(recursive=True), *marked)}


def exposed_haproxy(installation: Installation) -> Iterator[Finding]:
    """HAProxy's exporter and statistics listen on every address, whatever the host setting says."""
    server = installation.settings.server
    numbers = (server.haproxy_metrics_port, server.haproxy_stats_port)
    yield _exposed(
        "HAProxy's own ports",
        numbers,
        quiet="not open now; HAProxy opens {} on every address",
        advice="let no other host reach them (docs/operations.md, Ports and firewall)",
        state=State.WARN,
    )


def dashboard(installation: Installation) -> Iterator[Finding]:
    """Ray's dashboard starts programs for whoever reaches it. `medai serve` starts none."""
    production = installation.settings.profile == "production"
    yield _exposed(
        "Ray's dashboard",
        (DASHBOARD_PORT,),
        quiet="not reachable from other hosts at port {}",
        advice=DASHBOARD_ADVICE,
        state=State.FAIL if production else State.WARN,
    )


def _exposed(
    name: str, numbers: tuple[int, ...], *, quiet: str, advice: str, state: State
) -> Finding:
    beyond = ports.open_to_others(numbers)
    if beyond:
        return Finding(name, state, f"open at {', '.join(beyond)}", advice)
    return Finding(name, State.OK, quiet.format(", ".join(map(str, numbers))))


def rays(installation: Installation) -> Iterator[Finding]:
    """Every Ray on this machine that we may look into asks for a token."""
    open_ones = rays_without_token()
    if open_ones:
        said = f"without a token: raylet, pid {', '.join(map(str, open_ones))}"
        production = installation.settings.profile == "production"
        state = State.FAIL if production else State.WARN
        yield Finding("Ray on this machine", state, said, RAY_ADVICE)
    else:
        yield Finding("Ray on this machine", State.OK, "none that lets anybody in without a token")


def disk(installation: Installation) -> Iterator[Finding]:
    """Free space where records, anchors and sockets go."""
    settings = installation.settings
    places = {
        "disk, home directory": settings.home_dir,
        "disk, anchors": settings.anchor_file.parent,
        "disk, temporary files": Path(runs.SHORT),
    }
    seen: set[int] = set()
    for name, place in places.items():
        existing = next(path for path in chain([place], place.parents) if path.exists())
        if (device := existing.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(existing)
        yield space(name, usage.free, usage.total)


def space(name: str, free: int, total: int) -> Finding:
    """How `free` of `total` bytes stand."""
    part = free / total
    said = f"{free / MIB:,.0f} MiB free of {total / MIB:,.0f} MiB ({part:.0%})"
    if part < DISK_FAIL or free < DISK_LEAST_BYTES:
        least = f"{DISK_FAIL:.0%} and {DISK_LEAST_BYTES // MIB} MiB"
        return Finding(name, State.FAIL, f"{said}, least is {least}", "free space now")
    if part < DISK_WARN:
        said = f"{said}, good is {DISK_WARN:.0%}"
        return Finding(name, State.WARN, said, "free space, or enlarge the volume")
    return Finding(name, State.OK, said)


def memory(installation: Installation) -> Iterator[Finding]:
    """What is available now, by the kernel and by this container's limit."""
    running = runs.last_run(installation.settings.home_dir)
    available = psutil.virtual_memory().available
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    if limit is not None and used is not None:
        available = min(available, limit - used)
    said = f"{available / MIB:,.0f} MiB available"
    if available < MEMORY_FAIL_BYTES:
        said = f"{said}, least is {MEMORY_FAIL_BYTES // MIB} MiB"
        yield Finding("memory", State.FAIL, said, "end other programs, or add memory")
    elif available < MEMORY_WARN_BYTES and (running is None or running.pid is None):
        said = f"{said}, a start takes up to {MEMORY_WARN_BYTES // MIB} MiB"
        yield Finding("memory", State.WARN, said, "end other programs, or add memory")
    else:
        yield Finding("memory", State.OK, said)


def processors(installation: Installation) -> Iterator[Finding]:
    """Threads of all model replicas against the cores this process may use."""
    application = read_topology(installation)
    if not application:
        yield Finding("processors", State.WARN, "the topology cannot be read", "mend it first")
        return
    least, most = model_threads(application)
    cores = _cores()
    said = f"models use {least} to {most} thread(s), there are {cores:g} core(s)"
    if most > cores:
        advice = "lower threads or max_replicas; one node must hold threads x replicas"
        yield Finding("processors", State.WARN, said, advice)
    else:
        yield Finding("processors", State.OK, said)


def _cores() -> float:
    """Cores by affinity and by this container's quota."""
    usable: float = len(os.sched_getaffinity(0))
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return min(usable, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit: "max"
        return usable


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such limit: "max"
        return None

"""Who holds a port. Found before Ray is started, because two proxies on one port would share it.

A Ray Serve that ends abruptly can leave its HAProxy behind, still listening and answering 500 for
ever. It is recognised by its name and by its parent being gone.
"""

from collections.abc import Collection
from ipaddress import ip_address

import psutil

from configs.settings import ServerSettings
from registry.errors import InvalidConfiguration, Violation

INIT = 1  # the process that inherits orphans; a subreaper may take its place


def refuse_taken_ports(
    server: ServerSettings, *, but_not_from: Collection[int] = frozenset()
) -> None:
    """See that the ports are free. `but_not_from`: ids of processes that may hold them.

    Raises:
        InvalidConfiguration: A port is taken; names the holder of each.
    """
    wanted = {
        server.port: "MEDAI_SERVER__PORT",
        server.fallback_port: "MEDAI_SERVER__FALLBACK_PORT",
        server.haproxy_metrics_port: "MEDAI_SERVER__HAPROXY_METRICS_PORT",
        server.haproxy_stats_port: "MEDAI_SERVER__HAPROXY_STATS_PORT",
        server.metrics_port: "MEDAI_SERVER__METRICS_PORT",
    }
    faults = [
        Violation(f"port {port}", _holder(pid), advice=_advice(pid, wanted[port]))
        for port, pid in sorted(listeners().items())
        if port in wanted and pid not in but_not_from
    ]
    if faults:
        raise InvalidConfiguration("a port is taken", tuple(faults))


def listeners() -> dict[int, int | None]:
    """Every TCP port somebody listens on, and that process's id where we may know it."""
    return {
        connection.laddr.port: connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr
    }


def open_to_others(numbers: Collection[int]) -> list[str]:
    """Where somebody listens on one of these ports at another address than loopback's."""
    return sorted(
        {
            f"{connection.laddr.ip}:{connection.laddr.port}"
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port in numbers
            and not ip_address(connection.laddr.ip).is_loopback
        }
    )


def is_orphaned_haproxy(pid: int | None) -> bool:
    """Whether the process is an HAProxy whose Ray has gone."""
    try:
        process = psutil.Process(pid) if pid is not None else None
        if process is None or process.name() != "haproxy":
            return False
        parent = process.parent()
        return parent is None or parent.pid == INIT or "ray" not in " ".join(parent.cmdline())
    except psutil.Error:
        return False


def _holder(pid: int | None) -> str:
    if pid is None:
        return "held by another user's process"
    try:
        name = psutil.Process(pid).name()
    except psutil.Error:
        return f"held by process {pid}"
    if is_orphaned_haproxy(pid):
        return f"held by an orphaned HAProxy (pid {pid}), left by a Ray Serve that ended abruptly"
    return f"held by {name} (pid {pid})"


def _advice(pid: int | None, setting: str) -> str:
    if is_orphaned_haproxy(pid):
        return f"end it with: kill {pid}"
    return f"stop that program, or choose another port with {setting}"

"""Ports for services that tests start."""

import socket
from contextlib import ExitStack

PORTS = ("PORT", "FALLBACK_PORT", "HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "METRICS_PORT")
"""The settings of a server that are a port."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at this moment, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_port() -> int:
    """A port nobody listens on at this moment."""
    (port,) = free_ports(1)
    return port

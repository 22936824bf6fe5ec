"""Ray's own switches, each set here and nowhere else, with its reason.

Ray reads them when it is imported, in every process: `apply` must run before the first
`import ray`, and a cluster's nodes need them before `ray start` (`medai env` prints them for that).
`RAY_SERVE_THROUGHPUT_OPTIMIZED` would set some of them at once, and others we do not want.
"""

import os
from pathlib import Path

from configs.settings import Settings


def flags(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Every switch with its value. `run_dir`: private directory of this run (sockets, state)."""
    server = settings.server
    return {
        # The Python proxy costs 5.7 ms of CPU a request, HAProxy 0.4 ms (docs/adr/0003).
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Serve would parse a log line a request in Python; our own metrics name the routes.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A slow-loris socket must not live for HAProxy's default hour.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(server.haproxy_metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(server.haproxy_stats_port),
        # Its admin socket is mode 666: keep it in a directory only this user enters.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(server.replica_ports[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(server.replica_ports[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(server.fallback_port),
        # The gateway's number is fixed, so nothing waits for a long drain but a stop.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # A hop costs 1 ms of CPU by gRPC, 2 to 3 ms by actor call; whole images go through it.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 2**20),
        # Nothing here blocks a loop: decoding, inference and hashing run in threads or children.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        # Readable tracebacks and no lost lines; requests are logged by ourselves.
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # The controller looks around twice a second instead of ten times.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # How old a number may be when Prometheus comes, every 15 s as a rule. Each report is work
        # for an agent: 2 s takes 1 % of a core more.
        "RAY_metrics_report_interval_ms": "5000",
        # Serve hands its own counts over ten times a second in every process; nobody reads more
        # than the last of a report.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        # Whoever reaches Ray's ports could run code (CVE-2023-48022): ask for the token.
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # glibc keeps a heap for each of a process's many threads, most of them nearly empty: two
        # are enough, and save 100 MB over all processes.
        "MALLOC_ARENA_MAX": "2",
        # One thread a library: replicas and their threads are counted in serve_config.yaml.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def apply(settings: Settings, run_dir: Path) -> dict[str, str]:
    """Set every switch that the operator has not set already; returns what is in force."""
    wanted = flags(settings, run_dir)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return {name: os.environ[name] for name in wanted}


def overridden(settings: Settings, run_dir: Path) -> dict[str, str]:
    """The switches that the operator has set to something else, with what they are set to."""
    wanted = flags(settings, run_dir)
    return {
        name: os.environ[name]
        for name, value in wanted.items()
        if os.environ.get(name, value) != value
    }


def export(name: str, value: str) -> None:
    """Hand a `MEDAI_*` setting to the processes started from here."""
    os.environ[name] = value

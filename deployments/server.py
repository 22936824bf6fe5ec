"""`medai serve`: Ray and Serve on one machine, from a checked start to an end without leftovers.

1. check      file, ports, database, every model: what is wrong is said before Ray starts
2. start      Ray with a private directory, Serve, the application of `serve_config.yaml`
3. watch      a replica that cannot start gives its reason in one line
4. serve      until SIGTERM or Ctrl-C; read-only, until a person has helped, where the log is behind
              its anchors
5. drain      refuse new requests, finish those in progress, flush the audit log
6. end        Serve and Ray; `runs.Run.close` ends whatever is still there
"""

import asyncio
import contextlib
import io
import logging
import math
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any

import httpx2
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview, ServeDeploySchema

from configs.settings import Settings
from deployments.runs import HEADER_TIMEOUT
from deployments.runtime import export
from registry.errors import Failed

APPLICATION = "medai"
OBJECT_STORE_BYTES = 200 * 2**20  # hops go by value (gRPC); only Ray's own small objects are here
READY_TIMEOUT_S = 120.0
POLL_S = 0.2
POLL_READ_ONLY_S = 2.0
OURS = re.compile(r"registry\.errors\.(\w+): (.+)")
ANY_ERROR = re.compile(r"^(?:[\w.]*\.)?(\w*(?:Error|Exception)): (.*)$", re.MULTILINE)

READ_ONLY = "read_only"  # the condition, as `api.health` says it

Say = Callable[[str], None]


class Standing(Enum):
    """How the application stands."""

    UNREADY = auto()
    READ_ONLY = auto()
    READY = auto()


class Server:
    """One run of the service on this machine.

    Args:
        settings: Where to listen.
        schema: The checked topology.
        run_dir: Private directory of this run; sockets and Ray's session live there.
        say: Where lines for the operator go.
    """

    def __init__(
        self, settings: Settings, schema: ServeDeploySchema, run_dir: Path, say: Say
    ) -> None:
        self._settings = settings
        self._schema = schema
        self._run_dir = run_dir
        self._say = say
        self._stop = asyncio.Event()
        self._unready = ""  # what keeps the application from being ready, as it says itself

    @property
    def url(self) -> str:
        """The address clients use."""
        return f"http://{self._settings.server.host}:{self._settings.server.port}"

    async def run(self) -> None:
        """Serve until told to stop. Raises `Failed` with the reason where it cannot start."""
        started = time.monotonic()
        self._listen_for_signals()
        async with self._running_ray():
            self._listen_for_signals()  # again: Ray has put its own handlers in place of ours
            self._deploy()
            if await self._until_ready(started):
                await self._stop.wait()
                self._say("stopping: requests in progress are finished first")
                await self._drain()
        self._say("stopped")

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)

    @contextlib.asynccontextmanager
    async def _running_ray(self) -> AsyncIterator[None]:
        token = self._run_dir / "ray-token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        export("RAY_AUTH_TOKEN_PATH", str(token))
        export(HEADER_TIMEOUT, str(self._settings.limits.header_timeout_s))
        ray.init(
            address="local",
            namespace="serve",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(self._run_dir / "ray"),
            _metrics_export_port=self._settings.server.metrics_port,
        )
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        _end_helpers()
        try:
            yield
        finally:
            # Ray prints that actors died which it has just been told to end.
            with contextlib.redirect_stdout(io.StringIO()):
                with contextlib.suppress(Exception):  # whatever Serve says, Ray must go
                    await serve.shutdown_async()  # type: ignore[no-untyped-call]  # Ray's omission
                ray.shutdown()

    def _deploy(self) -> None:
        server = self._settings.server
        options = self._schema.http_options.model_dump() | {
            "host": server.host,
            "port": server.port,
        }
        serve.start(
            proxy_location=self._schema.proxy_location,
            http_options=options,
            logging_config=self._schema.logging_config,
        )
        # What `serve run` does with a file; Serve has no public call for it (docs/adr/0003).
        controller = _get_global_client()
        assert controller is not None  # serve.start has just made it
        controller.deploy_apps(self._schema, _blocking=False)

    async def _until_ready(self, started: float) -> bool:
        """Wait for the application, and say how it stands. False if told to stop before it was up.

        Read-only is up: it answers what it can, for as long as nobody has helped.
        """
        said: set[str] = set()
        deadline, poll_s = time.monotonic() + READY_TIMEOUT_S, POLL_S
        up = False
        async with httpx2.AsyncClient(timeout=2) as client:
            while not self._stop.is_set():
                status = serve.status().applications.get(APPLICATION)
                if status is not None:
                    for reason in reasons(status) - said:
                        said.add(reason)
                        self._say(reason)
                    if status.status == "DEPLOY_FAILED":
                        raise Failed("; ".join(sorted(said)) or "the application did not start")
                    standing = await self._standing(client) if status.status == "RUNNING" else None
                    if standing is Standing.READY:
                        took = "" if up else f" in {time.monotonic() - started:.1f} s"
                        self._say(f"ready{took} at {self.url}")
                        return True
                    if standing is Standing.READ_ONLY and not up:
                        self._say(f"up at {self.url}; {self._unready}")
                        up, deadline, poll_s = True, math.inf, POLL_READ_ONLY_S
                if time.monotonic() > deadline:
                    raise Failed(
                        f"not ready within {READY_TIMEOUT_S:g} s: "
                        + ("; ".join(sorted(said)) or self._unready or "see the log lines above")
                    )
                await asyncio.sleep(poll_s)
        return up

    async def _standing(self, client: httpx2.AsyncClient) -> Standing:
        try:
            response = await client.get(f"{self.url}/health/ready")
        except httpx2.HTTPError:
            return Standing.UNREADY
        self._unready = failing(response)
        return standing_of(response)

    async def _drain(self) -> None:
        gateways = serve.get_deployment_handle("Gateway", APPLICATION)
        limit = self._settings.server.drain_s
        try:
            async with asyncio.timeout(limit + 2):
                await gateways.broadcast("drain", limit).results_async()
        except (TimeoutError, ray.exceptions.RayError):
            self._say(f"some requests did not end within {limit:g} s")


def _end_helpers() -> None:
    """End three of Ray's processes that one machine has no use for, 160 MB in all.

    They are for growing a cluster, for printing workers' output in a driver, and for the dashboard,
    which is off. Ray has no switch for them, but its own methods to end them (docs/adr/0012).
    """
    node: Any = ray._private.worker._global_node  # noqa: SLF001  # there is no public door
    node.kill_monitor()
    node.kill_log_monitor()
    node.kill_dashboard()


def reasons(status: ApplicationStatusOverview) -> set[str]:
    """Why replicas do not start, one line a deployment."""
    lines = {
        f"{name}: {reason}"
        for name, deployment in status.deployments.items()
        if (reason := _reason(deployment.message))
    }
    if not lines and status.status == "DEPLOY_FAILED":
        lines.add(_reason(status.message) or "the application did not start")
    return lines


def standing_of(response: httpx2.Response) -> Standing:
    """What an answer of /health/ready says."""
    if response.status_code == httpx2.codes.OK:
        return Standing.READY
    try:
        conditions = {said["condition"] for said in response.json()["checks"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):  # not our gateway's
        return Standing.UNREADY
    read_only = READ_ONLY in conditions and conditions <= {"ok", READ_ONLY}
    return Standing.READ_ONLY if read_only else Standing.UNREADY


def failing(response: httpx2.Response) -> str:
    """The checks that fail in an answer of /health/ready, each with its reason; "" for none."""
    try:
        checks = response.json()["checks"].items()
        return "; ".join(f"{name}: {said['reason']}" for name, said in checks if said["reason"])
    except (ValueError, KeyError, TypeError, AttributeError):  # Ray's own page, before the gateway
        return ""


def _reason(message: str) -> str:
    """The last error in a Ray message, without its traceback."""
    ours = OURS.findall(message)
    if ours:
        return str(ours[-1][1])
    others = ANY_ERROR.findall(message)
    return f"{others[-1][0]}: {others[-1][1]}"[:300] if others else ""

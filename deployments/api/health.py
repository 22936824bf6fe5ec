"""Whether the service lives, is ready, and has started: for load balancers and orchestrators.

    GET /health/live     the process answers; nothing else is looked at, so that an outage of the
                         database never has the process killed
    GET /health/ready    every check passes; else 503, with the reason of each that does not
    GET /health/startup  every check has passed once since the start; else 503. A log that is
                         read-only counts here: the service is up, and waits for a person
    GET /health          all of it in one answer, always 200; to an administrator's token also how
                         the gateway and its host stand (`api.health_details`)

Answered within 100 ms whatever the checks do: a check runs outside of the request, again and again
as long as somebody asks now and then, and a request is answered by what it said last.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from deployments.api.exchange import exchange_in
from deployments.api.guard import guarded_router
from deployments.api.health_details import HealthDetails, HostView
from deployments.api.permissions import PUBLIC, Permission, holds, requires
from registry.errors import MedAIError, is_read_only

Check: TypeAlias = Callable[[], Awaitable[None]]
"""Returns where all is well. Raises `MedAIError`, whose text is the reason, where it is not."""

EVERY_S: Final = 1.0  # how often a check runs while somebody asks
ASKED_S: Final = 30.0  # after which nobody asks any more: probes come every 10 s at the latest
MAX_AGE_S: Final = 2.0  # a result is good for so long; an older one is worth waiting for
PATIENCE_S: Final = 0.08  # how long a request waits for a check
TIMEOUT_S: Final = 5.0  # after which a check counts as failed


class Condition(StrEnum):
    """What a check says."""

    OK = "ok"
    FAILED = "failed"
    READ_ONLY = "read_only"  # the log is behind its anchors: it is read, and nothing is recorded
    UNKNOWN = "unknown"  # it has not answered yet


_UP: Final = frozenset({Condition.OK, Condition.READ_ONLY})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said last. `reason` is "" where all is well; `age_s` is since it said so."""

    condition: Condition
    reason: str
    latency_ms: float
    age_s: float


class _Watched:
    """One check, and what it said last."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._condition = Condition.UNKNOWN
        self._reason = "has not been checked yet"
        self._latency_ms = 0.0
        self._at = self._asked_at = time.monotonic()
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.TimerHandle | None = None

    async def result(self) -> CheckResult:
        now = self._asked_at = time.monotonic()
        if self._condition is Condition.UNKNOWN or now - self._at > MAX_AGE_S:
            await asyncio.wait({self._start()}, timeout=PATIENCE_S)
        age_s = time.monotonic() - self._at
        if age_s > TIMEOUT_S + MAX_AGE_S:
            return CheckResult(Condition.UNKNOWN, "does not answer", self._latency_ms, age_s)
        return CheckResult(self._condition, self._reason, self._latency_ms, age_s)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._next is not None:
            self._next.cancel()

    def _start(self) -> "asyncio.Task[None]":
        if self._running is None or self._running.done():
            # Not in the request's context: a caller who leaves ends nothing.
            self._running = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context()
            )
        return self._running

    def _again(self) -> None:
        if time.monotonic() - self._asked_at < ASKED_S:
            self._start()

    async def _run(self) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._check()
        except TimeoutError:
            condition, reason = Condition.FAILED, f"no answer within {TIMEOUT_S:g} s"
        except MedAIError as error:
            condition = Condition.READ_ONLY if is_read_only(error) else Condition.FAILED
            reason = str(error)
        except Exception as error:  # noqa: BLE001  # its text stays here
            condition, reason = Condition.FAILED, type(error).__name__
        else:
            condition, reason = Condition.OK, ""
        self._condition, self._reason = condition, reason
        self._at = time.monotonic()
        self._latency_ms = (self._at - started) * 1e3
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_later(EVERY_S, self._again)


class HealthChecks:
    """The checks of one gateway by name, such as `database`, `audit` and `model:<name>`.

    Args:
        checks: The checks.
        view: Tells administrators how the gateway stands.
    """

    def __init__(self, checks: Mapping[str, Check], view: HostView | None = None) -> None:
        self.view = view
        self._watched = {name: _Watched(check) for name, check in checks.items()}
        self._pending = set(checks)  # have not passed since the start

    async def results(self) -> dict[str, CheckResult]:
        """What every check says, within `PATIENCE_S`."""
        answers = await asyncio.gather(*(watched.result() for watched in self._watched.values()))
        results = dict(zip(self._watched, answers, strict=True))
        passed = {name for name, said in results.items() if said.condition in _UP}
        self._pending -= passed
        return results

    async def close(self) -> None:
        """Check nothing more: what a check holds, such as a connection, is let go."""
        await asyncio.gather(*(watched.close() for watched in self._watched.values()))

    @property
    def started(self) -> bool:
        """Whether every check has passed once, or says that the log is read-only."""
        return not self._pending


class CheckDetails(BaseModel):
    """What one check says."""

    model_config = ConfigDict(extra="forbid")

    condition: Condition
    reason: str = Field(examples=["the database did not answer"])
    latency_ms: float = Field(ge=0)
    age_s: float = Field(ge=0)


class HealthReport(BaseModel):
    """Whether the service can answer, and what each check says."""

    model_config = ConfigDict(extra="forbid")

    live: bool
    ready: bool
    started: bool
    checks: dict[str, CheckDetails]
    details: HealthDetails | None = Field(default=None, description="for administrators only")


class Liveness(BaseModel):
    """The process answers."""

    model_config = ConfigDict(extra="forbid")

    live: bool


_NOT_YET: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": HealthReport, "description": "Not yet, or not at present"}
}


def routes(checks: HealthChecks) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("health")

    async def report(
        *, fails: Callable[[bool], bool], details: HealthDetails | None = None
    ) -> Response:
        results = await checks.results()
        ready = all(said.condition is Condition.OK for said in results.values())
        document = {"live": True, "ready": ready, "started": checks.started, "checks": results}
        if details is not None:
            document["details"] = details.model_dump()
        return _json(document, 503 if fails(ready) else 200)

    @router.get("/health", summary="Everything at once", response_model=HealthReport)
    @requires(PUBLIC, recognises=True)
    async def health(request: Request) -> Response:
        """200 also where a check fails. An administrator's token is answered with details."""
        principal = exchange_in(request.scope).principal
        admin = principal is not None and holds(principal.role, Permission.ADMINISTER)
        details = checks.view.details() if admin and checks.view is not None else None
        return await report(fails=lambda _: False, details=details)

    @router.get("/health/live", summary="Is the process alive", response_model=Liveness)
    @requires(PUBLIC)
    async def live() -> Response:
        """The process answers."""
        return _json({"live": True}, 200)

    @router.get(
        "/health/ready", summary="Can it answer", response_model=HealthReport, responses=_NOT_YET
    )
    @requires(PUBLIC)
    async def ready() -> Response:
        """Every check passes: send requests here."""
        return await report(fails=lambda ready: not ready)

    @router.get(
        "/health/startup", summary="Has it started", response_model=HealthReport, responses=_NOT_YET
    )
    @requires(PUBLIC)
    async def startup() -> Response:
        """Every check has passed once: the start is over."""
        return await report(fails=lambda _: not checks.started)

    return router


def _json(document: object, status: int) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")

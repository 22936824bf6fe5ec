"""How many replicas each deployment has and should have, as Serve's controller says.

Asked in the background, because the controller may be busy or away and `/health` must not wait.
"""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import ray
from ray import serve
from ray.serve.context import _get_global_client

from deployments.api.health_details import ReplicaCount, ReplicaDetails

EVERY_S: Final = 5.0
TIMEOUT_S: Final = 3.0
RUNNING: Final = "RUNNING"
MAX_AGE_S: Final = 20.0  # older than this, a count is not shown any more


class ReplicaCounts:
    """The counts of this gateway's application, at most some seconds old.

    Args:
        ask: Gives the deployments' details by name, from another thread than the loop's.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        ask: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._counts: dict[str, ReplicaCount] | None = None
        self._counted_at = 0.0
        self._reason: str | None = "not asked yet"
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Ask in the background from now on. Needs a running loop."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._refresh_for_ever(), context=contextvars.Context())

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __call__(self) -> ReplicaDetails:
        """The last counts, or why there are none."""
        if self._counts is None:
            return ReplicaDetails(deployments=None, reason=self._reason, age_s=None)
        age_s = self._clock() - self._counted_at
        if age_s > MAX_AGE_S:
            return ReplicaDetails(deployments=None, reason=self._reason, age_s=None)
        return ReplicaDetails(deployments=self._counts, reason=self._reason, age_s=round(age_s, 1))

    async def refresh(self) -> None:
        """Ask once. Does not fail where nobody answers: the reason is kept."""
        started = self._clock()
        try:
            details = await asyncio.to_thread(self._ask)
            self._counts = {name: _count(one) for name, one in details.items()}
        except Exception as error:  # noqa: BLE001  # whatever Ray raises, health must go on
            self._reason = f"Serve's controller did not answer ({type(error).__name__})"
        else:
            self._counted_at, self._reason = started, None

    async def _refresh_for_ever(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await self.refresh()
                await asyncio.sleep(EVERY_S)


def of_this_application() -> ReplicaCounts:
    """The counts of the application that this replica belongs to, asked for from now on."""
    application = serve.get_replica_context().app_name
    counts = ReplicaCounts(lambda: _ask_the_controller(application))
    counts.run()
    return counts


def _ask_the_controller(application: str) -> Mapping[str, Any]:
    client = _get_global_client()
    assert client is not None  # a replica has one
    asked = client._controller.get_serve_instance_details.remote()  # noqa: SLF001  # with a limit
    details = ray.get(asked, timeout=TIMEOUT_S)
    deployments: Mapping[str, Any] = details["applications"][application]["deployments"]
    return deployments


def _count(details: Mapping[str, Any]) -> ReplicaCount:
    running = sum(replica["state"] == RUNNING for replica in details["replicas"])
    return ReplicaCount(running=running, wanted=details["target_num_replicas"])

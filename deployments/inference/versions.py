"""The versions of one model that a replica holds: the one that serves, and those beside it.

    wanted by the registry     loaded in a thread, while the version that serves goes on
    asked for, not loaded      loaded on demand; all who ask wait for the one load
    no longer wanted           let go after `KEEP_S` seconds, once nobody waits for it

So a switch of versions is a switch of which id the callers name: nothing is loaded at that moment,
and what was asked of the old version is answered by the old version.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol
from uuid import UUID

from configs.topology import ModelTuning
from deployments.inference.host import ModelHost
from registry.catalogue import Served
from registry.contract import ModelRef, Scores, Tensors
from registry.errors import InvalidModel, MedAIError, ModelUnavailable
from registry.lifecycle import ReplicaState
from storage.model_replicas import Holding

KEEP_S: Final = 30.0
MAX_HELD: Final = 4  # versions in one process: serving, staged, and the last ones on their way out


class Registry(Protocol):
    """Where a version is looked up by its id."""

    async def learn(self, model: ModelRef) -> Served:
        """The version. Raises `ModelUnavailable`."""
        ...


class HeldVersions:
    """Serves the versions of one model by their ids. Ready when the constructor returns.

    Args:
        first: The version that serves at the start.
        registry: Where others are looked up.
        make: Loads a version, in a thread: hash, session, golden case, warm-up.
        keep_s: How long a version stays that is no longer wanted, in seconds.

    Raises:
        InvalidModel: The first version is not the registered file, or fails its golden case.
    """

    def __init__(
        self,
        first: Served,
        registry: Registry,
        make: Callable[[Served], ModelHost],
        *,
        keep_s: float = KEEP_S,
    ) -> None:
        self._name = first.model.name
        self._registry = registry
        self._make = make
        self._keep_s = keep_s
        self._tuning = ModelTuning()
        self._hosts: dict[UUID, ModelHost] = {first.model.id: make(first)}
        self._serving: UUID | None = first.model.id
        self._loading: dict[UUID, asyncio.Task[ModelHost]] = {}
        self._failed: dict[UUID, str] = {}
        self._wanted_at: dict[UUID, float] = {}
        self._answered: Callable[[Tensors, Scores], None] = lambda _, __: None
        self._letting_go: set[asyncio.Task[None]] = set()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model-loader")

    async def score(self, tensors: Tensors) -> Scores:
        """Scores of each image by the version that `tensors` names. See `ModelHost.score`.

        Raises:
            ModelUnavailable: There is no such version, or it cannot be loaded.
            Overloaded: Too many calls wait.
            InferenceTimeout: The run took too long.
        """
        host = self._hosts.get(tensors.model.id)
        if host is None:
            host = await self._on_demand(tensors.model)
        scores = await host.score(tensors)
        self._answered(tensors, scores)
        return scores

    def on_answer(self, listener: Callable[[Tensors, Scores], None]) -> None:
        """Have `listener` told of each answer. It must neither wait nor raise."""
        self._answered = listener

    def loaded(self, known: UUID) -> ModelHost | None:
        """The version with this id, if it is loaded."""
        return self._hosts.get(known)

    def hold(self, wanted: Sequence[Served], serving: ModelRef | None) -> None:
        """Begin to load what is wanted, and let go of what has not been wanted for a while.

        Args:
            wanted: The versions to hold.
            serving: The one of them that answers, if one does.
        """
        now = time.monotonic()
        self._serving = None if serving is None else serving.id
        ids = {served.model.id for served in wanted}
        self._failed = {known: why for known, why in self._failed.items() if known in ids}
        for served in wanted:
            self._wanted_at[served.model.id] = now
            if served.model.id not in self._failed:
                self._load(served)
        for known in tuple(self._hosts):
            since = self._wanted_at.setdefault(known, now)
            if known not in ids and now - since >= self._keep_s and self._hosts[known].idle:
                self._let_go(known)

    def holdings(self) -> dict[UUID, Holding]:
        """How far this replica is with each version."""
        return (
            dict.fromkeys(self._hosts, Holding(ReplicaState.READY))
            | dict.fromkeys(self._loading, Holding(ReplicaState.LOADING))
            | {known: Holding(ReplicaState.FAILED, why) for known, why in self._failed.items()}
        )

    async def self_test(self) -> None:
        """Run the golden case of the version that serves. Raises `InvalidModel` where it fails."""
        if self._serving is not None and (host := self._hosts.get(self._serving)) is not None:
            await host.self_test()

    def reconfigure(self, tuning: ModelTuning) -> None:
        """Take new limits without a restart, for every version."""
        self._tuning = tuning
        for host in self._hosts.values():
            host.reconfigure(tuning)

    def check_health(self) -> None:
        """See `ModelHost.check_health`. Raises `InvalidModel` where the version that serves fails.

        Only that one: a challenger that fails must not take the replica down.
        """
        if self._serving is None:
            return
        if self._serving in self._failed:
            raise InvalidModel(self._failed[self._serving])
        if (host := self._hosts.get(self._serving)) is not None:
            host.check_health()

    async def close(self) -> None:
        """Answer what waits, then let everything go."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for known in tuple(self._hosts):
            self._let_go(known)
        while self._letting_go:
            await asyncio.wait(self._letting_go)
        await asyncio.to_thread(self._loader.shutdown)

    async def _on_demand(self, model: ModelRef) -> ModelHost:
        if model.id in self._failed:
            raise ModelUnavailable("this version could not be loaded", retry_after_s=1)
        served = await self._registry.learn(model)
        if served.model != model or model.name != self._name:
            raise ModelUnavailable("this is another model's replica")
        if (host := self._hosts.get(model.id)) is not None:
            return host
        if model.id not in self._loading and len(self._hosts) + len(self._loading) >= MAX_HELD:
            raise ModelUnavailable("too many versions are loaded already", retry_after_s=1)
        self._load(served)
        try:
            return await asyncio.shield(self._loading[model.id])
        except InvalidModel as error:
            raise ModelUnavailable(f"this version could not be loaded: {error.detail}") from None

    def _load(self, served: Served) -> None:
        known = served.model.id
        if known in self._hosts or known in self._loading:
            return
        loop = asyncio.get_running_loop()
        # Not in a request's context: who asked first may leave, and others wait for the same load.
        task = loop.create_task(self._loaded(served), context=contextvars.Context())
        task.add_done_callback(_seen)
        self._loading[known] = task

    async def _loaded(self, served: Served) -> ModelHost:
        known = served.model.id
        loop = asyncio.get_running_loop()
        try:
            host = await loop.run_in_executor(self._loader, self._make, served)
        except Exception as error:
            self._failed[known] = str(error) if isinstance(error, MedAIError) else "it cannot load"
            raise
        else:
            host.reconfigure(self._tuning)
            self._hosts[known] = host
            self._wanted_at[known] = time.monotonic()
            return host
        finally:
            del self._loading[known]

    def _let_go(self, known: UUID) -> None:
        host = self._hosts.pop(known)
        self._wanted_at.pop(known, None)
        task = asyncio.get_running_loop().create_task(_ended(host), context=contextvars.Context())
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)


async def _ended(host: ModelHost) -> None:
    await host.close()
    await asyncio.to_thread(_give_memory_back)


def _give_memory_back() -> None:
    """Hand free pages to the system; glibc would keep them for later (mallopt(3), malloc_trim)."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _seen(task: "asyncio.Task[ModelHost]") -> None:
    """A failure is in the holdings; asyncio must not call it unseen."""
    if not task.cancelled():
        task.exception()

"""The one typed door between deployments: the only place where `.remote(` is written.

A hop carries micro-batches, because a call costs about 1 ms of CPU whatever it carries. What
crosses are the frozen values of `registry.contract`; what comes back is a value for each item, or
an error of `registry.errors`. No other exception leaves a hop, so none can carry an image or a
header into somebody's log.

A call goes over a socket where a replica is on this machine (`deployments.local_replicas`), and by
Serve's handle where none is. Either way it is the same call.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from configs.topology import HopTuning
from deployments.inference.batcher import Batcher
from deployments.inference.signature import signature
from deployments.local_calls import Gone
from deployments.local_replicas import LocalReplicas
from registry.contract import Receipt, Scores, Tensors, Upload, Verdict
from registry.errors import (
    AuditUnavailable,
    Failed,
    Internal,
    MedAIError,
    ModelUnavailable,
    Overloaded,
)
from registry.events import AuditEvent

HEAVY_CALLS = 4  # times `max_in_flight`: the guard has queues of its own, and one may be held long
READY_S = 3.0  # how long a replica may take to say whether it is ready

Handle: TypeAlias = DeploymentHandle[Any]
T = TypeVar("T")
R = TypeVar("R")


class Call(Generic[T, R]):
    """One method of another deployment.

    Args:
        handle: The deployment.
        method: The method's name. The method handle is made once: each one has its own queue.
        timeout_s: When the call is given up.
        lost: What it means to the caller that no replica answered.
        local: The deployment's replicas on this machine, where they answer this very method.
    """

    def __init__(
        self,
        handle: Handle,
        method: str,
        *,
        timeout_s: float,
        lost: type[Failed],
        local: LocalReplicas | None = None,
    ) -> None:
        # Our messages are classes of modules every replica has: plain pickle writes them in half
        # the time of cloudpickle, which asks Python code about every object.
        self._method = handle.options(
            method_name=method, request_serialization="pickle", response_serialization="pickle"
        )
        self._timeout_s = timeout_s
        self._lost = lost
        self._local = local

    async def __call__(self, argument: T) -> R:
        """Make the call. Raises only errors of `registry.errors`."""
        replica = None if self._local is None else self._local.pick()
        if replica is not None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    here: R = await replica.call(argument)
            except (Gone, TimeoutError) as error:
                if isinstance(error, TimeoutError) or error.sent:
                    raise self._nobody(error) from None
            else:
                return here
        return await self._by_handle(argument)

    @property
    def replicas_here(self) -> int:
        """How many replicas of the deployment are on this machine."""
        return 0 if self._local is None else len(self._local)

    async def close(self) -> None:
        """Let the connections to the replicas of this machine go."""
        if self._local is not None:
            await self._local.close()

    async def _by_handle(self, argument: T) -> R:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer: R = await self._method.remote(argument)
        except RayTaskError as wrapped:
            if isinstance(wrapped.cause, MedAIError):
                raise wrapped.cause from None
            raise Internal(f"a replica raised {type(wrapped.cause).__name__}") from None
        except BackPressureError:
            raise Overloaded("the replicas are full", retry_after_s=1) from None
        except (DeploymentUnavailableError, RayError, TimeoutError) as error:
            raise self._nobody(error) from None
        return answer

    def _nobody(self, error: Exception) -> Failed:
        return self._lost(f"no replica answered ({type(error).__name__})", retry_after_s=1)


class ReadyHop:
    """Whether a deployment's replicas can work, as one of them says."""

    def __init__(self, handle: Handle, *, lost: type[Failed]) -> None:
        self._call: Call[None, None] = Call(handle, "ready", timeout_s=READY_S, lost=lost)

    async def check(self) -> None:
        """Raises `Failed` with the reason where they cannot."""
        await self._call(None)


class ValidatorHop:
    """`Screening` by a Validator replica, many images a call.

    Args:
        handle: The deployment.
        tuning: How images are gathered.
        timeout_s: When a call is given up.
        folder: Where the sockets of this machine's replicas are, if anywhere.
    """

    def __init__(
        self, handle: Handle, tuning: HopTuning, *, timeout_s: float, folder: Path | None = None
    ) -> None:
        local = LocalReplicas(folder, handle.deployment_name)
        call = self._call = Call[list[Upload], Sequence[Verdict | BaseException]](
            handle, "screen", timeout_s=timeout_s, lost=ModelUnavailable, local=local
        )
        self._light: Batcher[Upload, Verdict] = Batcher(call, **tuning.model_dump())
        # A file that takes the guard tens of ms goes alone, or its batch-mates would wait for it;
        # and one that takes seconds among its like, or it would hold the calls of those.
        self._heavy: Batcher[Upload, Verdict] = Batcher(call, **_alone(tuning, HEAVY_CALLS))
        self._slow: Batcher[Upload, Verdict] = Batcher(call, **_alone(tuning))

    def reconfigure(self, tuning: HopTuning) -> None:
        """Take new tuning."""
        self._light.reconfigure(**tuning.model_dump())
        self._heavy.reconfigure(**_alone(tuning, HEAVY_CALLS))
        self._slow.reconfigure(**_alone(tuning))

    def depth(self) -> int:
        """How many images wait for a call."""
        return self._light.depth + self._heavy.depth + self._slow.depth

    async def screen(self, upload: Upload) -> Verdict:
        """See `inference.service.Screening`."""
        found = signature(upload.body)
        batcher = self._slow if found.slow else self._heavy if found.heavy else self._light
        return await batcher.submit(upload)

    async def close(self) -> None:
        """See `Call.close`."""
        await self._call.close()


def _alone(tuning: HopTuning, calls: int = 1) -> dict[str, Any]:
    """The tuning for images that go alone, in so many times the calls at once."""
    changes = {"max_batch_size": 1, "max_in_flight": tuning.max_in_flight * calls}
    return tuning.model_dump() | changes


class AuditHop:
    """`AuditTrail` by the AuditWriter, many events a call. Events given together stay together.

    Args:
        handle: The deployment.
        tuning: How events are gathered.
        timeout_s: When a call is given up.
        folder: Where the sockets of this machine's replicas are, if anywhere.
    """

    def __init__(
        self, handle: Handle, tuning: HopTuning, *, timeout_s: float, folder: Path | None = None
    ) -> None:
        local = LocalReplicas(folder, handle.deployment_name, only_newest=True)
        self._append: Call[list[AuditEvent], Sequence[Receipt | MedAIError]] = Call(
            handle, "append", timeout_s=timeout_s, lost=AuditUnavailable, local=local
        )
        self.batcher: Batcher[Sequence[AuditEvent], list[Receipt | MedAIError]] = Batcher(
            self._send, **tuning.model_dump(), weight=len
        )

    async def record(self, event: AuditEvent) -> Receipt:
        """See `inference.service.AuditTrail`."""
        (ended,) = await self.batcher.submit((event,))
        if isinstance(ended, MedAIError):
            raise ended
        return ended

    async def record_all(self, events: Sequence[AuditEvent]) -> list[Receipt | MedAIError]:
        """See `inference.service.AuditTrail`."""
        return await self.batcher.submit(events)

    async def close(self) -> None:
        """See `Call.close`."""
        await self._append.close()

    async def _send(
        self, groups: list[Sequence[AuditEvent]]
    ) -> list[list[Receipt | MedAIError] | BaseException]:
        ended = iter(await self._append([event for group in groups for event in group]))
        return [list(islice(ended, len(group))) for group in groups]


class ModelHop:
    """`Scoring` by the replicas of each model.

    The tensors of one Validator call go as one; where several replicas are here, as a share for
    each, or one would work on all of them while another has nothing.

    Args:
        handles: The deployment of each model, by the model's name.
        timeout_s: When a call is given up.
        folder: Where the sockets of this machine's replicas are, if anywhere.
    """

    def __init__(
        self, handles: dict[str, Handle], *, timeout_s: float, folder: Path | None = None
    ) -> None:
        self._calls: dict[str, Call[Tensors, Scores]] = {
            name: Call(
                handle,
                "score",
                timeout_s=timeout_s,
                lost=ModelUnavailable,
                local=LocalReplicas(folder, handle.deployment_name),
            )
            for name, handle in handles.items()
        }

        self._ready = [ReadyHop(handle, lost=ModelUnavailable) for handle in handles.values()]

    async def ready(self) -> None:
        """Raises `Failed` where a model has no replica that is ready."""
        for hop in self._ready:
            await hop.check()

    async def score(self, tensors: Tensors) -> Scores:
        """See `inference.predictor.Scoring`."""
        try:
            call = self._calls[tensors.model.name]
        except KeyError:
            raise ModelUnavailable(
                "this model has no replicas: name it in args.models of serve_config.yaml"
            ) from None
        shares = shared_out(tensors, call.replicas_here)
        if len(shares) == 1:
            return await call(tensors)
        return joined(await asyncio.gather(*(call(share) for share in shares)))

    async def close(self) -> None:
        """See `Call.close`."""
        for call in self._calls.values():
            await call.close()


def shared_out(tensors: Tensors, replicas: int) -> list[Tensors]:
    """The images in as many parts as there are replicas, in order, none empty."""
    parts = min(replicas, len(tensors.pixels))
    if parts < 2:  # noqa: PLR2004  # there is nobody to share with
        return [tensors]
    first, *others = np.array_split(tensors.pixels, parts)
    # Whose image is in which share is not known: the spans go along once
    return [replace(tensors, pixels=first), *(Tensors(tensors.model, part) for part in others)]


def joined(shares: Sequence[Scores]) -> Scores:
    """The scores of all parts, in order. Time and batch are those of the slowest run."""
    slowest = max(shares, key=lambda share: share.inference_ms)
    return replace(slowest, values=np.concatenate([share.values for share in shares]))

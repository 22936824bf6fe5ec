"""A replica's challenger: it scores a share of what was answered, after it was answered.

    offer     a call was answered: perhaps keep its tensors and scores, never wait       (bounded)
    work      one call at a time, when the loop is free; rests after each                (one task)
    count     decisions, differences and latency, for the metrics and for the report

Rules this file keeps:

- A live request is never the challenger's business: `offer` does not wait and does not raise.
- What waits is bounded in bytes; beyond that it is dropped, and counted.
- The challenger works at most one part in `1 + REST` of the time, however slow it is, so that it
  takes no more than that of a core from the version that answers.
- A challenger that fails is counted, and nothing else.
"""

import asyncio
import contextvars
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from deployments.inference.host import ModelHost
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_observations import begin_shadow, observe_shadow
from registry.catalogue import Served, Shadow
from registry.contract import Scores, Tensors
from registry.shadow import Tally, decision

MAX_WAITING_BYTES: Final = 32 * 2**20
REST: Final = 3.0  # times as long as it worked


class ShadowScoring:
    """Compares a challenger with the version that answers, in one replica. Needs a running loop.

    Args:
        host_of: A version that this replica holds, by its id; None where it does not.
        instruments: What is counted.
        chance: Numbers from 0 to 1, for the share.
        max_waiting_bytes: Bounds the tensors that wait.
    """

    def __init__(
        self,
        host_of: Callable[[UUID], ModelHost | None],
        instruments: Instruments,
        *,
        chance: Callable[[], float] = random.random,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._host_of = host_of
        self._instruments = instruments
        self._chance = chance
        self._max_waiting_bytes = max_waiting_bytes
        self._shadow: Shadow | None = None
        self._answering: Served | None = None
        self._waiting: deque[tuple[Tensors, NDArray[np.float32]]] = deque()
        self._waiting_bytes = 0
        self._tallies: dict[UUID, Tally] = {}
        self._there_is_work = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._work_for_ever(), context=contextvars.Context())

    def follow(self, shadow: Shadow | None, answering: Served | None) -> None:
        """Compare these two from now on, or nothing.

        Args:
            shadow: The challenger.
            answering: The version that answers.
        """
        if shadow is not None and (answering is None or answering.model.id != shadow.answering):
            shadow = None
        if (None if shadow is None else shadow.id) != (
            None if self._shadow is None else self._shadow.id
        ):
            self._waiting.clear()
            self._waiting_bytes = 0
        self._shadow, self._answering = shadow, answering
        if shadow is not None and shadow.id not in self._tallies:
            self._tallies[shadow.id] = Tally()
            begin_shadow(self._instruments, shadow.challenger.model)

    def offer(self, tensors: Tensors, scores: Scores) -> None:
        """Take note of a call that was answered. Neither waits nor raises."""
        shadow = self._shadow
        if shadow is None or tensors.model.id != shadow.answering:
            return
        if self._host_of(shadow.challenger.model.id) is None or self._chance() >= shadow.share:
            return
        size = tensors.pixels.nbytes
        if self._waiting and self._waiting_bytes + size > self._max_waiting_bytes:
            self._tallies[shadow.id].dropped += len(tensors.pixels)
            observe_shadow(self._instruments, shadow.challenger.model, dropped=len(tensors.pixels))
            return
        self._waiting.append((tensors, scores.values))
        self._waiting_bytes += size
        self._there_is_work.set()

    def tallies(self) -> dict[UUID, Tally]:
        """What was counted since the start, by comparison."""
        return self._tallies

    def forget(self, shadow_id: UUID) -> bool:
        """Let the counts go of a comparison that was stored, where it has ended."""
        ended = self._shadow is None or self._shadow.id != shadow_id
        if ended:
            self._tallies.pop(shadow_id, None)
        return ended

    async def close(self) -> None:
        """Stop; what waits is not scored any longer."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work_for_ever(self) -> None:
        while True:
            await self._there_is_work.wait()
            if not self._waiting:
                self._there_is_work.clear()
                continue
            tensors, answered = self._waiting.popleft()
            self._waiting_bytes -= tensors.pixels.nbytes
            started = time.perf_counter()
            await self._compare(tensors, answered)
            await asyncio.sleep(REST * (time.perf_counter() - started))

    async def _compare(self, tensors: Tensors, answered: NDArray[np.float32]) -> None:
        shadow, answering = self._shadow, self._answering
        assert shadow is not None  # `follow` empties the queue where there is none
        assert answering is not None
        tally, challenger = self._tallies[shadow.id], shadow.challenger
        counted = 0
        try:
            host = self._host_of(challenger.model.id)
            assert host is not None
            scores = await host.score(Tensors(challenger.model, tensors.pixels))
            for ours, theirs in zip(answered, scores.values, strict=True):
                self._count(tally, answering, challenger, ours, theirs, scores.inference_ms)
                counted += 1
        except Exception:  # noqa: BLE001  # whatever it raises is the challenger's alone
            missed = len(tensors.pixels) - counted
            tally.failed += missed
            observe_shadow(self._instruments, challenger.model, failed=missed)

    def _count(
        self,
        tally: Tally,
        answering: Served,
        challenger: Served,
        ours: NDArray[np.float32],
        theirs: NDArray[np.float32],
        latency_ms: float,
    ) -> None:
        if not np.isfinite(ours).all():  # nothing was answered, so there is nothing to compare
            return
        if not np.isfinite(theirs).all():
            tally.failed += 1
            observe_shadow(self._instruments, challenger.model, failed=1)
            return
        said, would = _by_label(answering, ours), _by_label(challenger, theirs)
        answered = decision(said, answering.card.confidence_threshold)
        alternative = decision(would, challenger.card.confidence_threshold)
        difference = max(abs(said[label] - would[label]) for label in said)
        tally.compare(answered, alternative, difference, latency_ms)
        observe_shadow(
            self._instruments,
            challenger.model,
            pair=(answered, alternative),
            difference=difference,
            seconds=latency_ms / 1e3,
        )


def _by_label(version: Served, row: NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(version.card.output.labels, map(float, row), strict=True))

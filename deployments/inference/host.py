"""One model in one process: a session, a thread for it, and a batcher in front.

The calls of several Validators that wait at the same time become one run. The loop only gathers
and splits; the session runs in a thread of its own, where the interpreter's lock is released. Two
batches may be on their way: one runs, the other is ready when it ends.
"""

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from configs.topology import ModelTuning
from deployments.inference.batcher import Batcher
from deployments.inference.onnx import OnnxSession
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.tracing_attributes import SpanName
from registry.catalogue import Served
from registry.contract import Scores, Tensors
from registry.errors import Internal, InvalidModel, ModelUnavailable

if TYPE_CHECKING:  # OpenTelemetry is loaded only where tracing is on
    from deployments.telemetry.tracing import Tracing

IN_FLIGHT = 2


def _images(call: Tensors) -> int:
    return len(call.pixels)


class ModelHost:
    """Serves one version of one model. Ready when the constructor returns.

    Args:
        served: The version.
        threads: ONNX Runtime's threads.
        deadline_s: When a run is stopped.
        instruments: What is counted.
        tracing: The process's, where tracing is on.

    Raises:
        InvalidModel: The file is not the registered one, or fails its golden case.
    """

    def __init__(
        self,
        served: Served,
        *,
        threads: int,
        deadline_s: float,
        instruments: Instruments | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        started = time.perf_counter()
        tuning = ModelTuning()
        self._instruments = instruments or Instruments(f"model:{served.model.name}")
        self._tracing = tracing
        self._served = served
        self._max_batch_size = tuning.max_batch_size
        self._session = OnnxSession(
            served.path, served.card, served.model.sha256, threads=threads, deadline_s=deadline_s
        )
        self._session.golden()
        self._session.warm_up((1, tuning.max_batch_size))
        version = (served.model.name, served.model.version)
        self._instruments.load_seconds.observe(time.perf_counter() - started, *version)
        self._instruments.golden_tests.add(1, *version, "passed")
        self._instruments.golden_tests.add(0, *version, "failed")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnx-session")
        self._health: Future[None] | None = None
        self.batcher: Batcher[Tensors, Scores] = Batcher(
            self._run,
            max_batch_size=tuning.max_batch_size,
            max_in_flight=IN_FLIGHT,
            max_queue=tuning.max_queue,
            weight=_images,
        )

    async def score(self, tensors: Tensors) -> Scores:
        """Scores of each image, in order. A row may be NaN: see `OnnxSession.run`.

        Raises:
            ModelUnavailable: This replica serves another version.
            Overloaded: Too many calls wait.
            InferenceTimeout: The run took too long.
        """
        if tensors.model.sha256 != self._served.model.sha256:
            raise ModelUnavailable("this replica serves another version", retry_after_s=1)
        spec = self._served.card.input
        if tensors.pixels.shape[1:] != (spec.channels, spec.height, spec.width):
            raise Internal("the tensor is not of the card's shape")
        return await self.batcher.submit(tensors)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer of this version."""
        return not self.batcher.depth and not self.batcher.in_flight

    async def self_test(self) -> None:
        """Run the golden case between the batches. Raises `InvalidModel` where it fails."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._golden)

    def reconfigure(self, tuning: ModelTuning) -> None:
        """Take new limits without a restart."""
        self._max_batch_size = tuning.max_batch_size
        self.batcher.reconfigure(max_batch_size=tuning.max_batch_size, max_queue=tuning.max_queue)

    def check_health(self) -> None:
        """Have the golden case run once more, and say how it went the last time.

        Raises:
            InvalidModel: The last one failed.
        """
        last = self._health
        if last is None or last.done():  # never waits: a long run must not make a replica sick
            self._health = self._thread.submit(self._golden)
            if last is not None:
                last.result()

    def _golden(self) -> None:
        version = (self._served.model.name, self._served.model.version)
        try:
            self._session.golden()
        except InvalidModel:
            self._instruments.golden_tests.add(1, *version, "failed")
            raise
        self._instruments.golden_tests.add(1, *version, "passed")

    async def close(self) -> None:
        """Answer what waits, then end the threads and let the session's memory go."""
        await self.batcher.close()
        await asyncio.to_thread(self._thread.shutdown)
        self._session.close()
        del self._session  # what refers to this host in a circle would keep it until a collection

    async def _run(self, calls: list[Tensors]) -> list[Scores]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._score_all, calls)

    def _score_all(self, calls: list[Tensors]) -> list[Scores]:
        """One run for many calls, or a few where one call brought more than a batch."""
        arrays = [call.pixels for call in calls]
        pixels = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        started = time.perf_counter()
        size = self._max_batch_size
        values = np.concatenate(
            [
                self._session.run(pixels[start : start + size])
                for start in range(0, len(pixels), size)
            ]
        )
        inference_s = time.perf_counter() - started
        inference_ms = inference_s * 1e3
        if self._tracing is not None:
            traces = [trace for call in calls for trace in call.traces]
            self._tracing.batch_ended(
                SpanName.RUN_BATCH, SpanName.RUN, traces, size=len(pixels), seconds=inference_s
            )
        model = self._served.model
        self._instruments.batch_images.observe(len(pixels), model.name)
        self._instruments.batch_seconds.observe(inference_s, model.name, model.version)
        rows = np.split(values, np.cumsum([len(array) for array in arrays])[:-1])
        return [Scores(part, inference_ms, len(pixels)) for part in rows]

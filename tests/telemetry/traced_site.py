"""All parts of the service in one process, each with a tracer of its own, and what they sent.

What goes from one deployment to the next is pickled on the way, as between processes.
"""

import pickle
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from configs.settings import TracingSettings
from deployments.inference.batcher import Batcher
from deployments.inference.recorder import Recorder, utc_now
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.tracing import Tracing
from deployments.telemetry.tracing_export import tracing_by
from registry.contract import Receipt, Scores, Tensors, Upload, Verdict
from registry.errors import MedAIError
from registry.events import AuditEvent
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer
from tests.api.core import Core
from tests.api.house import House, open_house

SETTINGS = TracingSettings(endpoint="http://collector.test", sample_ratio=1)


def sent(message: Any) -> Any:
    """The message as the other process gets it."""
    return pickle.loads(pickle.dumps(message))  # noqa: S301  # our own


@dataclass
class Collected:
    """The tracer of each component, and every span that was exported."""

    settings: TracingSettings = SETTINGS
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    tracers: dict[str, Tracing] = field(default_factory=dict)

    def tracing(self, component: str) -> Tracing:
        if component not in self.tracers:
            self.tracers[component] = tracing_by(self.exporter, self.settings, component)
        return self.tracers[component]

    def spans(self) -> list[ReadableSpan]:
        """What ended since the last time."""
        for tracer in self.tracers.values():
            tracer.delivery.force_flush()
        ended = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return ended

    async def close(self) -> None:
        for tracer in self.tracers.values():
            await tracer.close()


class ModelsApart(Core):
    """Validator and models, a hop before each."""

    def __init__(self, home: Path, collected: Collected) -> None:
        super().__init__(home, tracing=collected.tracing)
        self._hop: Batcher[Upload, Verdict] = Batcher(
            self._send, max_batch_size=16, max_in_flight=1, max_queue=256
        )

    async def screen(self, upload: Upload) -> Verdict:
        return await self._hop.submit(upload)

    async def score(self, tensors: Tensors) -> Scores:
        return await super().score(sent(tensors))

    async def _send(self, uploads: list[Upload]) -> list[Verdict]:
        return await self.screen_all(sent(uploads))


class WriterApart:
    """The AuditWriter's core, a hop before it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        return await self._recorder.append(sent(events))


@asynccontextmanager
async def traced_site(database: Path, home: Path) -> AsyncIterator[tuple[House, Collected]]:
    """A house whose database is a copy of `database`, with every part behind it traced."""
    shutil.copy(database, home / "medai.db")
    collected = Collected()
    core = ModelsApart(home, collected)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(collected.close)
        stack.push_async_callback(core.close)
        house = await stack.enter_async_context(
            open_house(
                home / "medai.db",
                home / "keys",
                screening=core,
                stock=core.stock,
                tracing=collected.tracing("gateway"),
            )
        )
        checkpointer = Checkpointer(
            house.database,
            Ed25519PrivateKey.generate(),
            AnchorFile(home / "anchors.jsonl"),
            now=utc_now,
            report=lambda _: None,
            alarm=lambda _: None,
        )
        recorder = Recorder(
            house.database,
            checkpointer,
            Instruments("audit-writer"),
            tracing=collected.tracing("audit-writer"),
        )
        stack.push_async_callback(recorder.close)
        house.trail.write_through(WriterApart(recorder))
        yield house, collected

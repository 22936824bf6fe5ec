"""The real core in one process: decoders, quality, gates and models, without Ray."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from configs.settings import LimitSettings, PrivacySettings
from deployments.inference.catalogue_watch import CatalogueWatch
from deployments.inference.host import ModelHost
from deployments.inference.predictor import Predictor
from deployments.inference.registration import (
    bundled_directories,
    install,
    read_candidate,
    registration_events,
    step,
)
from deployments.inference.traced import traced_batches, traced_scoring
from deployments.telemetry.tracing import Tracing
from registry.catalogue import Catalogue
from registry.contract import Scores, Tensors, Upload, Verdict
from registry.lifecycle import ModelStatus
from storage.database import Database
from tests.api.scripted import LedgerTrail


class Core:
    """Validator and models in this process, for `open_house`.

    Args:
        home: Where models and keys are put.
        directories: What to register; by default the bundled models.
        limits: Bounds of one image.
        tracing: The tracer of a process, by its component; None where there is none.
    """

    def __init__(
        self,
        home: Path,
        directories: Sequence[Path] | None = None,
        limits: LimitSettings | None = None,
        tracing: "Callable[[str], Tracing | None]" = lambda _: None,
    ) -> None:
        self._tracing = tracing
        self.home = home
        self._directories = bundled_directories() if directories is None else directories
        self._limits = limits or LimitSettings()
        self.watch: CatalogueWatch | None = None
        self.hosts: dict[str, ModelHost] = {}
        self.predictor: Predictor | None = None

    async def stock(self, trail: LedgerTrail, database: Database) -> Catalogue:
        """Register and activate the models, then start what serves them."""
        models = self.home / "models"
        for directory in self._directories:
            candidate = read_candidate(directory)
            install(candidate, models)
            model, events = registration_events(candidate, by="uploader")
            steps = (ModelStatus.VALIDATED, ModelStatus.APPROVED, ModelStatus.ACTIVE)
            events += [step(model, before, after, by="tests") for before, after in pairwise(steps)]
            for event in events:
                await trail.record(event)
        self.watch = CatalogueWatch(database, models)
        await self.watch.refresh()
        catalogue = self.watch.current()
        for name in catalogue.names:
            self.hosts[name] = ModelHost(
                catalogue.active(name),
                threads=1,
                deadline_s=self._limits.deadline_s,
                tracing=self._tracing(f"model:{name}"),
            )
        key = self.home / "pseudonym.key"
        key.write_bytes(b"k" * 32)
        tracing = self._tracing("validator")
        self.predictor = Predictor(
            self.watch,
            traced_scoring(self, tracing),
            limits=self._limits,
            privacy=PrivacySettings(),
            pseudonym_key_file=key,
            tracing=tracing,
        )
        self._screen = traced_batches(self.predictor.screen, tracing)
        return catalogue

    async def score(self, tensors: Tensors) -> Scores:
        return await self.hosts[tensors.model.name].score(tensors)

    async def screen(self, upload: Upload) -> Verdict:
        (verdict,) = await self.screen_all([upload])
        return verdict

    async def screen_all(self, uploads: list[Upload]) -> list[Verdict]:
        """What one call brings to the Validator."""
        return await self._screen(uploads)

    async def close(self) -> None:
        if self.predictor is not None:
            await self.predictor.close()

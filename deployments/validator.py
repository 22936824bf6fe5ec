"""The Validator's Ray shell: see `inference.predictor` for what it does."""

from typing import ClassVar

from configs.settings import Settings
from configs.topology import ValidatorTuning
from deployments import garbage
from deployments.autoscaling import LOCAL_CALLS
from deployments.hops import Handle, ModelHop
from deployments.inference.catalogue_watch import CatalogueWatch
from deployments.inference.predictor import Predictor
from deployments.inference.traced import traced_batches, traced_scoring
from deployments.local_replicas import LocalReplica, folder_of
from deployments.ray_metrics import start_exporting
from deployments.telemetry.logs import configure_logs
from deployments.telemetry.tracing_start import close_tracing, start_tracing
from registry.contract import Upload, Verdict


class Validator:
    """Decodes, measures and checks images, and asks the model. Any number of replicas."""

    PREDICTOR: ClassVar[type[Predictor]] = Predictor

    def __init__(self, models: dict[str, Handle]) -> None:
        settings = Settings.load()
        logs = configure_logs(settings.log, component="validator")
        self._metrics = start_exporting(settings, "validator", logs)
        self._catalogue = CatalogueWatch.start(settings)
        self._tracing = start_tracing(settings.tracing, self._metrics.instruments)
        folder = folder_of(settings.home_dir, wanted=settings.server.local_calls)
        self._models = ModelHop(models, timeout_s=settings.limits.deadline_s, folder=folder)
        self._predictor = self.PREDICTOR(
            self._catalogue,
            traced_scoring(self._models, self._tracing),
            limits=settings.limits,
            privacy=settings.privacy,
            pseudonym_key_file=settings.pseudonym_key_file,
            tracing=self._tracing,
            instruments=self._metrics.instruments,
        )
        self._screen = traced_batches(self._predictor.screen, self._tracing)
        self._local = LocalReplica(folder, "Validator", self.screen)
        garbage.settle()

    def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take new tuning from `serve_config.yaml` without a restart."""
        self._predictor.reconfigure(ValidatorTuning.model_validate(user_config))

    async def screen(self, uploads: list[Upload]) -> list[Verdict]:
        """A verdict for each image, in order."""
        return await self._screen(uploads)

    async def ready(self, _: None = None) -> None:
        """Raises `Failed` while no image could be answered: the models are not known, or not up."""
        self._catalogue.current()
        await self._models.ready()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The calls that Serve does not see (`deployments.autoscaling`)."""
        return {LOCAL_CALLS: self._local.ongoing}

    async def check_health(self) -> None:
        """Serve replaces a replica whose check fails. Local, and never about other services."""
        self._predictor.check_health()

    async def __del__(self) -> None:
        """Called by Serve once no request is left."""
        await self._local.close()
        await self._models.close()
        await self._predictor.close()
        await self._catalogue.close()
        await close_tracing(self._tracing)
        await self._metrics.close()

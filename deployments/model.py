"""The model replica's Ray shell: `inference.versions` and `inference.replica` say what it does."""

from functools import partial

from configs.settings import Settings
from configs.topology import MODEL_PREFIX, ModelTuning
from deployments import garbage
from deployments.autoscaling import LOCAL_CALLS
from deployments.inference.catalogue_watch import CatalogueWatch, read_catalogue
from deployments.inference.host import ModelHost
from deployments.inference.log_check import check_log
from deployments.inference.replica import Replica
from deployments.inference.shadow import ShadowScoring
from deployments.inference.versions import HeldVersions
from deployments.local_replicas import LocalReplica, folder_of
from deployments.ray_metrics import start_exporting
from deployments.telemetry.logs import configure_logs
from deployments.telemetry.tracing_start import close_tracing, start_tracing
from registry.catalogue import Served
from registry.contract import Scores, Tensors
from storage.database import Database


class OnnxModel:
    """The versions of one model. Ready only after the golden case of the one that serves."""

    def __init__(self, name: str, threads: int) -> None:
        settings = Settings.load()
        logs = configure_logs(settings.log, component=f"model:{name}")
        self._database = Database(settings.database, settings.database_url)
        self._metrics = start_exporting(settings, f"model:{name}", logs, self._database)
        instruments, deadline_s = self._metrics.instruments, settings.limits.deadline_s
        tracing = self._tracing = start_tracing(settings.tracing, instruments)

        def load(served: Served) -> ModelHost:
            return ModelHost(
                served,
                threads=threads,
                deadline_s=deadline_s,
                instruments=instruments,
                tracing=tracing,
            )

        watch = CatalogueWatch(self._database, settings.model_dir)
        self._versions = HeldVersions(read_catalogue(settings).active(name), watch, load)
        shadow = ShadowScoring(self._versions.loaded, instruments)
        self._versions.on_answer(shadow.offer)
        self._replica = Replica(
            name,
            self._versions,
            watch,
            self._database,
            check_log=partial(check_log, settings, self._database),
            golden_interval_s=settings.models.golden_interval_s,
            shadow=shadow,
        )
        self._replica.start()
        folder = folder_of(settings.home_dir, wanted=settings.server.local_calls)
        self._local = LocalReplica(folder, f"{MODEL_PREFIX}{name}", self.score)
        garbage.settle()

    def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take new tuning from `serve_config.yaml` without a restart."""
        self._versions.reconfigure(ModelTuning.model_validate(user_config))

    async def score(self, tensors: Tensors) -> Scores:
        """The scores of each image, in order. Raises `ModelHalted` after a self-test deviated."""
        self._replica.check()
        return await self._versions.score(tensors)

    async def ready(self, _: None = None) -> None:
        """Returns: a replica exists only after its golden case has passed."""
        self._versions.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The calls that Serve does not see (`deployments.autoscaling`)."""
        return {LOCAL_CALLS: self._local.ongoing}

    async def check_health(self) -> None:
        """Serve replaces a replica whose check fails."""
        self._versions.check_health()

    async def __del__(self) -> None:
        """Called by Serve once no request is left."""
        await self._local.close()
        await self._replica.close()
        await self._versions.close()
        await self._database.close()
        await close_tracing(self._tracing)
        await self._metrics.close()

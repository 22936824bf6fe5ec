"""The model replica's Ray shell: see `inference.host` for what it does."""

from configs.settings import Settings
from configs.topology import ModelTuning
from deployments.inference.catalogue_watch import read_catalogue
from deployments.inference.host import ModelHost
from deployments.ray_metrics import start_exporting
from deployments.telemetry.logs import configure_logs
from registry.contract import Scores, Tensors


class OnnxModel:
    """One ONNX Runtime session behind a dynamic batcher. Ready only after its golden case."""

    def __init__(self, name: str, threads: int) -> None:
        settings = Settings.load()
        logs = configure_logs(settings.log, component=f"model:{name}")
        self._metrics = start_exporting(settings, f"model:{name}", logs)
        served = read_catalogue(settings).active(name)
        self._host = ModelHost(
            served,
            threads=threads,
            deadline_s=settings.limits.deadline_s,
            instruments=self._metrics.instruments,
        )

    def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take new tuning from `serve_config.yaml` without a restart."""
        self._host.reconfigure(ModelTuning.model_validate(user_config))

    async def score(self, tensors: Tensors) -> Scores:
        """The scores of each image, in order."""
        return await self._host.score(tensors)

    async def ready(self, _: None = None) -> None:
        """Returns: a replica exists only after its golden case has passed."""
        self._host.check_health()

    async def check_health(self) -> None:
        """Serve replaces a replica whose check fails."""
        self._host.check_health()

    async def __del__(self) -> None:
        """Called by Serve once no request is left."""
        await self._host.close()
        await self._metrics.close()

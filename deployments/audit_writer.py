"""The AuditWriter's Ray shell: see `inference.recorder` for what it does."""

from configs.settings import Settings
from configs.topology import AuditTuning
from deployments import garbage
from deployments.inference.recorder import Recorder
from deployments.inference.signing import signing
from deployments.local_replicas import LocalReplica, folder_of
from deployments.ray_metrics import start_exporting
from deployments.telemetry.logs import configure_logs
from deployments.telemetry.tracing_start import close_tracing, start_tracing
from registry.contract import Receipt
from registry.errors import MedAIError
from registry.events import AuditEvent
from storage.database import Database


class AuditWriter:
    """Commits events and their changes, many in one transaction. Exactly one replica."""

    def __init__(self) -> None:
        settings = Settings.load()
        logs = configure_logs(settings.log, component="audit-writer")
        self._database = Database(settings.database, settings.database_url)
        self._metrics = start_exporting(settings, "audit-writer", logs, self._database)
        self._tracing = start_tracing(settings.tracing, self._metrics.instruments)
        self._recorder = Recorder(
            self._database,
            signing(settings, self._database, logs),
            self._metrics.instruments,
            tracing=self._tracing,
        )
        folder = folder_of(settings.home_dir, wanted=settings.server.local_calls)
        self._local = LocalReplica(folder, "AuditWriter", self.append)
        garbage.settle()

    def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take new tuning from `serve_config.yaml` without a restart."""
        self._recorder.reconfigure(AuditTuning.model_validate(user_config))

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        """A receipt for each event, in order, or what refused it. Only after the commit."""
        return await self._recorder.append(events)

    async def ready(self, _: None = None) -> None:
        """Raises `AuditUnavailable` while nothing can be recorded."""
        await self._recorder.ready()

    async def check_health(self) -> None:
        """Serve replaces a replica whose check fails: one that another writer has fenced off."""
        self._recorder.check_health()

    async def __del__(self) -> None:
        """Called by Serve once no request is left: say in the log that the writer stopped."""
        await self._local.close()
        await self._recorder.close()
        await self._database.close()
        await close_tracing(self._tracing)
        await self._metrics.close()

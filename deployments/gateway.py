"""The Gateway's Ray shell: see `api.app` for what it does."""

from fastapi import FastAPI

from configs.settings import Settings
from configs.topology import GatewayTuning
from deployments import garbage, replica_counts
from deployments.api.app import Services, create_app
from deployments.api.health import HealthChecks
from deployments.api.health_details import HostView
from deployments.api.metrics import Counts
from deployments.api.passwords import Passwords
from deployments.api.rate_limits import RateLimits
from deployments.api.sessions import Sessions
from deployments.api.tokens import AccessTokens
from deployments.hops import AuditHop, Handle, ReadyHop, ValidatorHop
from deployments.inference.catalogue_watch import CatalogueWatch
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.service import InferenceService
from deployments.inference.traced import traced_screening, traced_trail
from deployments.local_replicas import folder_of
from deployments.ray_metrics import start_exporting
from deployments.telemetry.logs import configure_logs
from deployments.telemetry.metrics_exposition import MetricsPage
from deployments.telemetry.metrics_observations import (
    observe_verdict,
    show_baselines,
    show_models,
)
from deployments.telemetry.tracing_start import close_tracing, start_tracing
from registry.errors import AuditUnavailable, ModelUnavailable
from storage.database import Database
from storage.signing_keys import load_keys


class Gateway:
    """Authenticates, limits and answers. A fixed number of replicas."""

    def __init__(self, validator: Handle, audit: Handle) -> None:
        settings = Settings.load()
        logs = configure_logs(settings.log, component="gateway")
        self._docs = settings.profile != "production"  # ASVS 13.4.5
        tuning = GatewayTuning()
        limits = settings.limits
        self._database = Database(settings.database, settings.database_url)
        self._metrics = start_exporting(settings, "gateway", logs, self._database)
        instruments = self._metrics.instruments
        instruments.watch(self._show)
        self._tracing = start_tracing(settings.tracing, instruments)
        self._catalogue = CatalogueWatch.start(settings)
        folder = folder_of(settings.home_dir, wanted=settings.server.local_calls)
        self._screening = ValidatorHop(
            validator, tuning.validator, timeout_s=limits.deadline_s, folder=folder
        )
        self._audit = AuditHop(audit, tuning.audit, timeout_s=limits.audit_timeout_s, folder=folder)
        trail = traced_trail(self._audit, self._tracing)
        self._inference = InferenceService(
            traced_screening(self._screening, self._tracing),
            trail,
            self._catalogue.current,
            limits,
            lambda answer: observe_verdict(
                instruments, answer.served.model, answer.verdict, answer.timings_ms
            ),
        )
        keys = load_keys(settings.key_dir, generate=settings.auth.generate_keys)
        checks = {
            "accepting": self._inference.admission.check,
            "database": self._reachable,
            "audit": ReadyHop(audit, lost=AuditUnavailable).check,
            "models": ReadyHop(validator, lost=ModelUnavailable).check,
        }
        self._replicas = replica_counts.of_this_application()
        view = HostView(
            settings.home_dir,
            self._database,
            self._catalogue.current,
            lambda: self._inference.admission.in_progress,
            {"validator": self._screening.depth, "audit": lambda: self._audit.batcher.depth},
            self._replicas,
        )
        self._services = Services(
            inference=self._inference,
            audit=trail,
            database=self._database,
            tokens=AccessTokens(keys, settings.auth),
            sessions=Sessions.of(self._database, settings.auth),
            passwords=Passwords(settings.auth),
            pseudonyms=Pseudonyms.from_file(
                settings.pseudonym_key_file, version=settings.privacy.pseudonym_key_version
            ),
            health=HealthChecks(checks, view),
            limits=limits,
            auth=settings.auth,
            models=settings.models,
            model_dir=settings.model_dir,
            rate_limits=RateLimits(settings.ratelimit),
            counts=Counts(instruments),
            metrics=MetricsPage.of_node(settings.server),
            tracing=self._tracing,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application Serve puts behind HAProxy."""
        app = create_app(self._services, docs=self._docs)
        garbage.settle()
        return app

    async def _reachable(self) -> None:
        await self._database.ping()

    def _show(self) -> None:
        instruments = self._metrics.instruments
        instruments.in_progress.set(self._inference.admission.in_progress)
        instruments.admission_limit.set(self._services.limits.max_in_progress)
        instruments.queue.set(self._screening.depth(), "validator")
        instruments.queue.set(self._audit.batcher.depth, "audit")
        known = self._catalogue.known()
        show_models(instruments, (served.model for served in known))
        show_baselines(instruments, known)
        for name, halted in self._catalogue.halted().items():
            instruments.model_halted.set(halted, name)

    def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take new tuning from `serve_config.yaml` without a restart."""
        tuning = GatewayTuning.model_validate(user_config)
        self._screening.reconfigure(tuning.validator)
        self._audit.batcher.reconfigure(**tuning.audit.model_dump())

    async def drain(self, limit_s: float) -> None:
        """Refuse new requests; return once those in progress have ended, or after the limit."""
        await self._inference.admission.drain(limit_s)

    async def __del__(self) -> None:
        """Called by Serve once no request is left."""
        await self._screening.close()
        await self._audit.close()
        await self._replicas.close()
        await self._catalogue.close()
        await self._database.close()
        await close_tracing(self._tracing)
        await self._metrics.close()

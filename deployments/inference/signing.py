"""The audit log's signing key and anchors, as the settings name them; see `storage.checkpoints`."""

from datetime import timedelta

from configs.settings import Settings
from deployments.inference.recorder import utc_now
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import LogChain, get_logger
from registry.errors import MedAIError
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer, CheckpointPolicy
from storage.database import Database
from storage.signing_keys import load_keys


def signing(settings: Settings, database: Database, logs: LogChain) -> Checkpointer:
    """The checkpointer of this site.

    Every anchor line also goes to the log's output, so that whoever collects it (a SIEM) holds a
    copy that neither the database's nor this host's administrator can take back.

    Raises:
        InvalidConfiguration: The log's key is missing, or others may read it.
    """
    log = get_logger()

    def report(line: str) -> None:
        logs.sink.write(f"{line}\n")

    def alarm(error: MedAIError) -> None:
        log.error(LogEvent.AUDIT_FAILED, code=error.code)

    policy = CheckpointPolicy(
        at_most=settings.audit.checkpoint_entries,
        interval=timedelta(seconds=settings.audit.checkpoint_interval_s),
        patience=timedelta(seconds=settings.audit.anchor_patience_s),
    )
    settings.anchor_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Checkpointer(
        database,
        load_keys(settings.log_key_dir, generate=settings.auth.generate_keys).private,
        AnchorFile(settings.anchor_file),
        now=utc_now,
        report=report,
        alarm=alarm,
        policy=policy,
    )

"""The builder: which deployments there are and how they are wired. Nothing else.

    Gateway ──► Validator ──► OnnxModel:<name>
        └─────► AuditWriter

`medai serve`, `serve run serve_config.yaml` and `serve deploy serve_config.yaml` all come here
(`import_path: deployments.app:build`). The options below are what the code needs to be right; the
numbers an operator chooses are in `serve_config.yaml` and win over these.
"""

from ray import serve
from ray.serve import Application

from configs.topology import MODEL_PREFIX, BuildArgs
from deployments.audit_writer import AuditWriter
from deployments.gateway import Gateway
from deployments.model import OnnxModel
from deployments.validator import Validator

# A logical CPU a replica is Ray's default and would leave no room to start a new replica before
# the old one stops. Threads are counted by `threads` and replicas, not here.
SMALL = {"num_cpus": 0.1}
# Constructors fail on what a retry does not mend (a wrong hash, a missing file) or on a database
# that is away for a moment; twenty retries (Ray's default) would hide the first for minutes.
RETRIES = 6
# A change starts the new replicas before the old ones stop: with one replica, the other order would
# be a pause. Only the audit writer keeps to it, because there may be one at a time.
NEW_FIRST = 100


def build(args: BuildArgs) -> Application:
    """The application. Ray validates `args` against `BuildArgs`, which refuses unknown keys."""
    return compose(args)


def compose(
    args: BuildArgs,
    *,
    validator: type[Validator] = Validator,
    audit_writer: type[AuditWriter] = AuditWriter,
) -> Application:
    """Wire the deployments. Other classes than the usual ones can be given by code only."""
    models = {
        name: serve.deployment(
            name=f"{MODEL_PREFIX}{name}",
            max_ongoing_requests=128,
            max_queued_requests=512,
            max_surge_percent=NEW_FIRST,
            ray_actor_options=SMALL,
            max_constructor_retry_count=RETRIES,
            user_config={},
        )(OnnxModel).bind(name, options.threads)
        for name, options in args.models.items()
    }
    screening = serve.deployment(
        name="Validator",
        max_ongoing_requests=64,
        max_queued_requests=512,
        max_surge_percent=NEW_FIRST,
        ray_actor_options=SMALL,
        max_constructor_retry_count=RETRIES,
        user_config={},
    )(validator).bind(models)
    audit = serve.deployment(
        name="AuditWriter",
        num_replicas=1,
        # One writer at a time: the old one stops before the new one starts. That this holds does
        # not depend on it (storage.ledger fences by epoch); that nothing is refused meanwhile does.
        max_surge_percent=0,
        max_ongoing_requests=1000,
        max_queued_requests=4096,
        graceful_shutdown_timeout_s=20,
        ray_actor_options=SMALL,
        max_constructor_retry_count=RETRIES,
        user_config={},
    )(audit_writer).bind()
    return serve.deployment(
        name="Gateway",
        max_ongoing_requests=1000,
        max_queued_requests=2000,
        max_surge_percent=NEW_FIRST,
        ray_actor_options=SMALL,
        max_constructor_retry_count=RETRIES,
        user_config={},
    )(serve.ingress()(Gateway)).bind(screening, audit)

"""What happened, as observations: one function for each place that records.

Each takes values, never objects of the layers above, so that telemetry stays below them. None of
them fails for a value it does not know; it is counted as "other".
"""

import hashlib
import platform
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_labels import (
    AUDIT_CAUSES,
    DECODER_CAUSES,
    LOGIN_RESULTS,
    SCANNER,
)
from deployments.telemetry.metrics_values import NONE, upper
from registry.catalogue import Served
from registry.contract import ImageFacts, ModelRef, Outcome, Validation, Verdict

FIRST_REFUSAL: Final = 400
FIRST_FAILURE: Final = 500
CLIENT_LEFT: Final = 499
ALARMING: Final = ("audit-unavailable", "database-unavailable", "internal", "overloaded")
MEASURED: Final = ("decode", "validate", "preprocess", "model", "inference", "audit", "total")


def observe_request(
    instruments: Instruments,
    *,
    route: str | None,
    method: str,
    status: int,
    seconds: float,
    code: str | None = None,
    outcome: str | None = None,
    bytes_in: int = 0,
    bytes_out: int = 0,
) -> None:
    """One request and its answer.

    Args:
        instruments: The gateway's.
        route: The route's template; None where no route matched.
        method: The HTTP method.
        status: The answer's status; 0 or 499 where the caller left before it began.
        seconds: From the request's arrival to the end of the answer.
        code: The problem's code, where the answer is one.
        outcome: The verdict's outcome, where there is one.
        bytes_in: Bytes of the body that came.
        bytes_out: Bytes of the answer's body.
    """
    place = route or NONE
    ended = outcome or outcome_of(status)
    instruments.requests.add(1, place, method, str(status or CLIENT_LEFT), ended)
    instruments.request_seconds.observe(seconds, place)
    instruments.received_bytes.add(bytes_in, place)
    instruments.sent_bytes.add(bytes_out, place)
    if code is not None:
        instruments.problems.add(1, code)


def outcome_of(status: int) -> str:
    """How a request ended that brought no verdict."""
    if status in {0, CLIENT_LEFT}:
        return "abandoned"
    if status < FIRST_REFUSAL:
        return "ok"
    return "refused" if status < FIRST_FAILURE else "failed"


def observe_verdict(
    instruments: Instruments, model: ModelRef, verdict: Verdict, timings_ms: Mapping[str, float]
) -> None:
    """One recorded verdict.

    Args:
        instruments: The gateway's.
        model: The version that answered.
        verdict: What may be said of the image.
        timings_ms: Milliseconds of each step, as `inference.service.Answer` has them.
    """
    name, number = model.name, model.version
    instruments.inferences.add(1, name, number, verdict.outcome)
    for phase in MEASURED:
        if milliseconds := timings_ms.get(phase, 0.0):
            instruments.phase_seconds.observe(milliseconds / 1e3, name, phase)
    instruments.phase_seconds.observe(_queued_ms(timings_ms) / 1e3, name, "queue")
    if in_model := timings_ms.get("model", 0.0):
        waited_ms = in_model - timings_ms.get("inference", 0.0)
        instruments.phase_seconds.observe(waited_ms / 1e3, name, "batch_wait")
    instruments.image_bytes.observe(verdict.facts.size_bytes, verdict.facts.format)
    if verdict.validation is not None:
        _observe_validation(instruments, verdict.facts, verdict.validation)
    reasons = instruments.reviews
    if verdict.outcome is Outcome.ABSTAINED:
        reasons = instruments.abstentions
    for reason in verdict.reasons:
        reasons.add(1, name, number, reason)
    if verdict.prediction is not None:
        instruments.predictions.add(1, name, number, verdict.prediction)
    if verdict.scores:
        for label, score in verdict.scores.items():
            instruments.score.observe(score, name, number, label)
        instruments.confidence.observe(max(verdict.scores.values()), name, number)


def _queued_ms(timings_ms: Mapping[str, float]) -> float:
    """What of the screening is neither work nor the model's: queues and the hop itself."""
    work = sum(timings_ms.get(step, 0.0) for step in ("decode", "validate", "preprocess", "model"))
    return timings_ms.get("screen", 0.0) - work


def _observe_validation(
    instruments: Instruments, facts: ImageFacts, validation: Validation
) -> None:
    scanner = instruments.vocabulary(SCANNER).admit(scanner_name(facts))
    instruments.scanner_images.add(1, scanner, "true" if validation.is_valid else "false")
    for code in validation.error_codes:
        instruments.validation_failures.add(1, code, scanner)


def scanner_name(facts: ImageFacts) -> str:
    """Manufacturer and a code of the model as one label value; "none" where the file does not say.

    The manufacturer is one of a list (`inference.manufacturers`). The model is free text, which a
    label must not show: the code is one of 65,536, of which many texts share each.
    """
    if not facts.manufacturer:
        return NONE
    model = " ".join(facts.manufacturer_model.upper().split())
    code = f" {hashlib.sha256(model.encode()).hexdigest()[:4]}" if model else ""
    return f"{facts.manufacturer}{code}"


def observe_group(
    instruments: Instruments, actions: Iterable[str], *, commit_s: float, lags_s: Iterable[float]
) -> None:
    """One committed transaction of the audit writer.

    Args:
        instruments: The writer's.
        actions: The action of each entry.
        commit_s: Duration of the transaction, in seconds.
        lags_s: For each call that it answers, seconds from its arrival to the commit.
    """
    count = 0
    for action in actions:
        instruments.audit_entries.add(1, action)
        count += 1
    instruments.audit_group.observe(count)
    instruments.audit_commit.observe(commit_s)
    for lag_s in lags_s:
        instruments.audit_lag.observe(lag_s)


def begin_shadow(instruments: Instruments, challenger: ModelRef) -> None:
    """Make the series of a challenger known: `increase()` misses a series' first value."""
    for agrees in ("true", "false"):
        instruments.shadow_comparisons.add(0, challenger.name, challenger.version, agrees)


def observe_shadow(
    instruments: Instruments,
    challenger: ModelRef,
    *,
    pair: tuple[str, str] | None = None,
    difference: float = 0.0,
    seconds: float = 0.0,
    dropped: int = 0,
    failed: int = 0,
) -> None:
    """One image that a challenger has scored, or several that it has not.

    Args:
        instruments: The replica's.
        challenger: The version in the shadow.
        pair: The decisions of the version that answered and of the challenger.
        difference: The largest difference between a label's two scores, 0..1.
        seconds: Duration of the challenger's run.
        dropped: Images for which there was no room.
        failed: Images for which it gave no finite answer.
    """
    version = (challenger.name, challenger.version)
    if pair is not None:
        agrees = "true" if pair[0] == pair[1] else "false"
        instruments.shadow_comparisons.add(1, *version, agrees)
        instruments.shadow_decisions.add(1, *version, *pair)
        instruments.shadow_difference.observe(difference, *version)
        instruments.shadow_seconds.observe(seconds, *version)
    for missed, reason in ((dropped, "dropped"), (failed, "failed")):
        if missed:
            instruments.shadow_missed.add(missed, *version, reason)


def show_baseline(
    instruments: Instruments, model: ModelRef, label: str, upto: Mapping[float, float]
) -> None:
    """What share of a label's scores the card expects up to each bound of `RATIOS`."""
    for bound, share in upto.items():
        instruments.baseline.set(share, model.name, model.version, label, upper(bound))


def show_baselines(instruments: Instruments, versions: Iterable[Served]) -> None:
    """The baselines on the cards of the versions that serve; no other is shown any longer."""
    shown = []
    for served in versions:
        if (baseline := served.card.baseline) is None:
            continue
        for label in baseline.counts:
            upto = baseline.upto(label)
            show_baseline(instruments, served.model, label, upto)
            shown += [
                (served.model.name, served.model.version, label, upper(bound)) for bound in upto
            ]
    instruments.baseline.keep_only(shown)


def show_models(instruments: Instruments, models: Iterable[ModelRef]) -> None:
    """The versions that serve at this moment; every other one is no longer shown."""
    shown = [(model.name, model.version, model.sha256[:12]) for model in models]
    for values in shown:
        instruments.model_info.set(1, *values)
    instruments.model_info.keep_only(shown)


def show_database(
    instruments: Instruments, *, in_use: int, idle: int, limit: int, up: bool
) -> None:
    """How a process stands with its database: its connections, and whether new ones succeed."""
    component = instruments.component
    instruments.pool_connections.set(in_use, component, "in_use")
    instruments.pool_connections.set(idle, component, "idle")
    instruments.pool_limit.set(limit, component)
    instruments.database_up.set(1 if up else 0, component)


def watch_process(instruments: Instruments, home: Path) -> None:
    """Keep memory, disk and build information up to date.

    Args:
        instruments: This process's.
        home: A directory on the file system whose space matters.
    """
    process = psutil.Process()
    component = instruments.component
    instruments.build_info.set(1, component, version("medai-flow"), platform.python_version())
    instruments.started_time.set(process.create_time(), component)

    def read() -> None:
        instruments.resident_bytes.set(process.memory_info().rss, component)
        usage = shutil.disk_usage(home)
        instruments.disk_free.set(usage.free)
        instruments.disk_size.set(usage.total)

    instruments.watch(read)


def start_at_zero(instruments: Instruments) -> None:
    """Make series known that alerts count from zero: `increase()` misses a series' first value."""
    if instruments.component == "gateway":
        for login in LOGIN_RESULTS:
            instruments.logins.add(0, login)
        for code in ALARMING:
            instruments.problems.add(0, code)
        instruments.lockouts.add(0)
        instruments.access_denials.add(0)
    elif instruments.component == "audit-writer":
        for cause in AUDIT_CAUSES:
            instruments.audit_failures.add(0, cause)
    elif instruments.component == "validator":
        for cause in DECODER_CAUSES:
            instruments.decoder_restarts.add(0, cause)

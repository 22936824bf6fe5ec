"""Every instrument of the service: what is counted and measured, under which name and labels.

One object a process, made by its shell and passed to whoever records. It knows no monitoring
system: `deployments.ray_metrics` exports it through Ray in production, `metrics_prometheus` over a
registry of the Prometheus client in tests and single processes. Prometheus' conventions hold: base
units, `_total` on counters, a bound on every label.

Whoever knows a thing first counts it: the gateway what a request and its verdict say (the replicas
send their timings along), a model replica its batches, the audit writer its transactions. So no
thing is counted twice, and sums over processes are right. `metrics_observations` turns what
happened into observations.
"""

from collections.abc import Callable
from threading import Lock

from deployments.telemetry.metrics_labels import (
    ACTION,
    AGREES,
    ANSWERED,
    AUDIT_CAUSE,
    BYTES,
    CHALLENGER,
    CLASS,
    COMPONENT,
    DECODER_CAUSE,
    FORMAT,
    LIMIT,
    LOGIN,
    LONG_SECONDS,
    METHOD,
    MISSED,
    MODEL,
    OUTCOME,
    PHASE,
    PROBLEM,
    PYTHON,
    QUEUE,
    RATIOS,
    REASON,
    REFUSAL,
    REQUEST_OUTCOME,
    RESULT,
    ROUTE,
    RULE,
    SCANNER,
    SECONDS,
    SHA256,
    SIZES,
    SOFTWARE,
    STATE,
    STATUS,
    UPPER,
    VALID,
    VERSION,
)
from deployments.telemetry.metrics_values import (
    AnyInstrument,
    Counter,
    CounterSpec,
    Gauge,
    GaugeSpec,
    Histogram,
    HistogramSpec,
    Label,
    Spec,
    Vocabulary,
)
from registry.shadow import DIFFERENCE_BOUNDS


class Instruments:
    """The instruments of one process; see the module's docstring.

    Args:
        component: Which part of the service this process is: as in its log lines.
    """

    # Requests: counted by the gateway
    requests = CounterSpec(
        "medai_requests_total",
        "Requests answered, by route template.",
        ROUTE,
        METHOD,
        STATUS,
        REQUEST_OUTCOME,
    )
    request_seconds = HistogramSpec(
        "medai_request_seconds",
        "From a request's arrival to the end of its answer.",
        ROUTE,
        bounds=SECONDS,
    )
    problems = CounterSpec("medai_problems_total", "Answers that are problems, by code.", PROBLEM)
    received_bytes = CounterSpec("medai_received_bytes_total", "Bytes of request bodies.", ROUTE)
    sent_bytes = CounterSpec("medai_sent_bytes_total", "Bytes of answers' bodies.", ROUTE)
    in_progress = GaugeSpec("medai_requests_in_progress", "Inferences being worked on.")
    admission_limit = GaugeSpec(
        "medai_requests_in_progress_limit", "How many may be, before 503 overloaded."
    )
    queue = GaugeSpec("medai_queue_items", "Items that wait for a call to the next step.", QUEUE)
    queue_limit = GaugeSpec("medai_queue_items_limit", "How many may wait.", QUEUE)

    # Inferences: counted by the gateway from the recorded verdict
    inferences = CounterSpec(
        "medai_inferences_total", "Recorded verdicts.", MODEL, VERSION, OUTCOME
    )
    phase_seconds = HistogramSpec(
        "medai_phase_seconds", "Where an inference's time went.", MODEL, PHASE, bounds=SECONDS
    )
    image_bytes = HistogramSpec(
        "medai_image_bytes", "Sizes of the image files.", FORMAT, bounds=BYTES
    )
    validation_failures = CounterSpec(
        "medai_validation_failures_total", "Rules that images broke.", RULE, SCANNER
    )
    scanner_images = CounterSpec(
        "medai_scanner_images_total", "Images validated, by scanner.", SCANNER, VALID
    )
    abstentions = CounterSpec(
        "medai_abstentions_total", "Why no label was given.", MODEL, VERSION, REASON
    )
    reviews = CounterSpec(
        "medai_reviews_total", "Why a label was marked for review.", MODEL, VERSION, REASON
    )
    predictions = CounterSpec("medai_predictions_total", "Labels given.", MODEL, VERSION, CLASS)
    score = HistogramSpec(
        "medai_model_score_ratio",
        "The model's scores, label by label.",
        MODEL,
        VERSION,
        CLASS,
        bounds=RATIOS,
    )
    confidence = HistogramSpec(
        "medai_model_confidence_ratio",
        "The score of the label that scored highest.",
        MODEL,
        VERSION,
        bounds=RATIOS,
    )

    # Security: counted by the gateway
    logins = CounterSpec("medai_logins_total", "Attempts to log in.", LOGIN)
    lockouts = CounterSpec("medai_lockouts_total", "Accounts locked after failed log-ins.")
    token_rejections = CounterSpec(
        "medai_token_rejections_total", "Requests without a good access token.", REFUSAL
    )
    access_denials = CounterSpec(
        "medai_access_denials_total", "Requests for what the role does not permit."
    )
    rate_limited = CounterSpec("medai_rate_limited_total", "Requests refused as too many.", LIMIT)
    auth_state_age = GaugeSpec(
        "medai_auth_state_age_seconds", "How old the picture of users and revoked tokens is."
    )

    # Audit: counted by the audit writer
    audit_up = GaugeSpec("medai_audit_writer_up", "1 while the audit log is open for writing.")
    audit_entries = CounterSpec(
        "medai_audit_entries_total", "Entries committed to the audit log.", ACTION
    )
    audit_group = HistogramSpec(
        "medai_audit_group_entries", "Entries in one transaction.", bounds=SIZES
    )
    audit_commit = HistogramSpec(
        "medai_audit_commit_seconds", "Duration of one transaction.", bounds=SECONDS
    )
    audit_lag = HistogramSpec(
        "medai_audit_lag_seconds",
        "From an event's arrival at the writer to its commit.",
        bounds=SECONDS,
    )
    audit_failures = CounterSpec(
        "medai_audit_failures_total", "Events that could not be committed.", AUDIT_CAUSE
    )
    audit_tip = GaugeSpec("medai_audit_tip_entries", "Entries in the log.")
    checkpoint_time = GaugeSpec(
        "medai_audit_checkpoint_timestamp_seconds", "When the newest checkpoint was signed."
    )
    checkpoint_entries = GaugeSpec(
        "medai_audit_checkpoint_entries", "Entries that the newest checkpoint covers."
    )
    chain_intact = GaugeSpec(
        "medai_audit_chain_intact", "What the last verification found: 1 whole, 0 broken."
    )
    verified_time = GaugeSpec(
        "medai_audit_verified_timestamp_seconds", "When the chain was verified last."
    )

    # Database: every process that has a pool
    pool_connections = GaugeSpec(
        "medai_database_pool_connections", "Connections, by what they do.", COMPONENT, STATE
    )
    pool_limit = GaugeSpec(
        "medai_database_pool_connections_limit", "The most there may be.", COMPONENT
    )
    database_up = GaugeSpec(
        "medai_database_up", "0 while connections fail and the circuit is open.", COMPONENT
    )

    # Models: counted by the model's replicas
    batch_images = HistogramSpec(
        "medai_batch_images", "Images in one run of the model.", MODEL, bounds=SIZES
    )
    batch_seconds = HistogramSpec(
        "medai_batch_seconds", "Duration of one run.", MODEL, VERSION, bounds=SECONDS
    )
    load_seconds = HistogramSpec(
        "medai_model_load_seconds",
        "From the file to ready: hash, session, golden case, warm-up.",
        MODEL,
        VERSION,
        bounds=LONG_SECONDS,
    )
    golden_tests = CounterSpec(
        "medai_model_golden_tests_total",
        "Runs of the case whose answer is known.",
        MODEL,
        VERSION,
        RESULT,
    )
    golden_deviation = GaugeSpec(
        "medai_model_golden_deviation_ratio",
        "The largest deviation in its last run.",
        MODEL,
        VERSION,
    )
    model_info = GaugeSpec(
        "medai_model_info", "1 for each version that serves.", MODEL, VERSION, SHA256
    )
    model_halted = GaugeSpec("medai_model_halted", "1 while an administrator's halt holds.", MODEL)
    baseline = GaugeSpec(
        "medai_model_baseline_ratio",
        "Share of scores up to `upto` that the card expects.",
        MODEL,
        VERSION,
        CLASS,
        UPPER,
    )
    shadow_comparisons = CounterSpec(
        "medai_shadow_comparisons_total",
        "Challenger's answers, by whether they agreed.",
        MODEL,
        VERSION,
        AGREES,
    )
    shadow_decisions = CounterSpec(
        "medai_shadow_decisions_total",
        "What was answered, and what the challenger would have.",
        MODEL,
        VERSION,
        ANSWERED,
        CHALLENGER,
    )
    shadow_difference = HistogramSpec(
        "medai_shadow_difference_ratio",
        "The largest difference between a label's two scores.",
        MODEL,
        VERSION,
        bounds=DIFFERENCE_BOUNDS,
    )
    shadow_missed = CounterSpec(
        "medai_shadow_missed_total",
        "Images that the challenger was to score and did not.",
        MODEL,
        VERSION,
        MISSED,
    )
    shadow_seconds = HistogramSpec(
        "medai_shadow_seconds", "Duration of a challenger's answer.", MODEL, VERSION, bounds=SECONDS
    )
    decoder_restarts = CounterSpec(
        "medai_decoder_restarts_total",
        "Guarded decoders that ended before their file.",
        DECODER_CAUSE,
    )

    # The process itself
    build_info = GaugeSpec(
        "medai_build_info",
        "1 for each process; its labels say what runs.",
        COMPONENT,
        SOFTWARE,
        PYTHON,
    )
    loop_lag = HistogramSpec(
        "medai_event_loop_lag_seconds", "How late the event loop was.", COMPONENT, bounds=SECONDS
    )
    resident_bytes = GaugeSpec("medai_process_resident_bytes", "Memory of the process.", COMPONENT)
    started_time = GaugeSpec(
        "medai_process_start_timestamp_seconds", "When the process started.", COMPONENT
    )
    disk_free = GaugeSpec("medai_disk_free_bytes", "Free space under the home directory.")
    disk_size = GaugeSpec("medai_disk_size_bytes", "Size of that file system.")
    dropped_log_lines = CounterSpec(
        "medai_log_lines_dropped_total", "Log lines that nobody read in time.", COMPONENT
    )
    dropped_log_keys = CounterSpec(
        "medai_log_keys_dropped_total", "Values kept out of the log by its allow-list.", COMPONENT
    )
    lost_spans = CounterSpec(
        "medai_trace_spans_lost_total", "Spans that no collector took in time.", COMPONENT
    )
    failed_watches = CounterSpec(
        "medai_metrics_errors_total", "Gauges that could not be read.", COMPONENT
    )

    def __init__(self, component: str) -> None:
        self.component = component
        self._words: dict[Label, Vocabulary] = {}
        self._watches: list[Callable[[], None]] = []
        lock = Lock()
        live: list[AnyInstrument] = []
        for spec in self.specs():
            words = [self.vocabulary(label) for label in spec.labels]
            instrument = spec.make(words, lock)
            setattr(self, spec.attribute, instrument)
            live.append(instrument)
        self.all: tuple[AnyInstrument, ...] = tuple(live)

    @classmethod
    def specs(cls) -> "tuple[Spec[Counter] | Spec[Gauge] | Spec[Histogram], ...]":
        """Every declaration, in the order of the class."""
        return tuple(spec for spec in vars(cls).values() if isinstance(spec, Spec))

    def vocabulary(self, label: Label) -> Vocabulary:
        """The values of a label that are told apart in this process."""
        return self._words.setdefault(label, Vocabulary(label))

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` set gauges before each export. It must be quick and may not wait."""
        self._watches.append(callback)

    def refresh(self) -> None:
        """Run every watch. One that fails is counted and hinders no other."""
        for callback in self._watches:
            try:
                callback()
            except Exception:  # noqa: BLE001  # whatever it reads may be closed or away
                self.failed_watches.add(1, self.component)

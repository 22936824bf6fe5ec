"""A page like that of a busy node: every instrument, and what Ray, HAProxy and a probe export."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from uuid import UUID

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_exposition import EXPORTED_PREFIX
from deployments.telemetry.metrics_labels import RATIOS
from deployments.telemetry.metrics_observations import (
    observe_group,
    observe_request,
    observe_shadow,
    observe_verdict,
    show_baseline,
    show_database,
    show_models,
    start_at_zero,
    watch_process,
)
from deployments.telemetry.metrics_prometheus import InstrumentsCollector
from registry.contract import Check, ImageFacts, ModelRef, Outcome, Reason, Validation, Verdict

FOREIGN = Path(__file__).with_name("foreign.txt")
PROBE = f"probe_ssl_earliest_cert_expiry {1.9e9}\n"  # of the blackbox exporter
MODEL = ModelRef(UUID(int=1), "cxr-pneumonia", "1.0.0", "a" * 64)
CHALLENGER = ModelRef(UUID(int=2), "cxr-pneumonia", "1.1.0", "b" * 64)
DICOM = ImageFacts("b" * 64, 7_000_000, "DICOM", manufacturer="Acme", manufacturer_model="X 1")
TIMINGS_MS = {
    "decode": 9.0, "validate": 1.0, "preprocess": 1.0, "model": 6.0, "inference": 4.0,
    "screen": 20.0, "audit": 4.0, "total": 25.0,
}  # fmt: skip


class BusyService:
    """Instruments in which something of every kind has happened, and goes on happening."""

    def __init__(self) -> None:
        self.instruments = Instruments("gateway")
        self._registry = CollectorRegistry()
        self._registry.register(InstrumentsCollector(self.instruments))
        self._turns = itertools.count(1)
        self._lock = Lock()
        start_at_zero(self.instruments)
        watch_process(self.instruments, Path())
        show_models(self.instruments, [MODEL])
        show_baseline(self.instruments, MODEL, "PNEUMONIA", {bound: bound for bound in RATIOS})

    def page(self) -> str:
        """The node's page after one more moment of work, as Ray's agent would show it."""
        with self._lock:
            turn = next(self._turns)
            self._requests()
            self._audit(turn)
            self._security(turn)
            self._models()
            self._resources()
            page = generate_latest(self._registry).decode()
        return re.sub(r"\bmedai_", f"{EXPORTED_PREFIX}medai_", page) + FOREIGN.read_text()

    def _requests(self) -> None:
        ours = self.instruments
        broken = Check("brightness", 0.01, "0.08 to 0.92", passed=False, code="LOW_BRIGHTNESS")
        dark = Validation(is_valid=False, score=0.0, checks=(broken,))
        light = Validation(is_valid=True, score=1.0, checks=())
        scores = {"NORMAL": 0.1, "PNEUMONIA": 0.9}
        verdicts = (
            Verdict(Outcome.PREDICTED, DICOM, light, "PNEUMONIA", scores=scores,
                    reasons=(Reason.INTENDED_USE_UNKNOWN,)),
            Verdict(Outcome.ABSTAINED, DICOM, light, scores=scores,
                    reasons=(Reason.BELOW_THRESHOLD,)),
            Verdict(Outcome.REJECTED, DICOM, dark),
            Verdict(Outcome.FAILED, DICOM),
        )  # fmt: skip
        for verdict, status, code in zip(
            verdicts, (200, 200, 422, 503), (None, None, "validation-failed", "overloaded"),
            strict=True,
        ):  # fmt: skip
            observe_verdict(ours, MODEL, verdict, TIMINGS_MS)
            observe_request(
                ours, route="/infer", method="POST", status=status, seconds=0.026, code=code,
                outcome=verdict.outcome, bytes_in=7_000_000, bytes_out=900,
            )  # fmt: skip
        ours.phase_seconds.observe(0.0001, MODEL.name, "auth")
        ours.in_progress.set(12)
        ours.admission_limit.set(256)
        ours.queue.set(3, "validator")
        ours.queue_limit.set(512, "validator")

    def _audit(self, turn: int) -> None:
        ours = self.instruments
        observe_group(ours, ["inference", "login.ok"], commit_s=0.003, lags_s=[0.004])
        ours.audit_up.set(1)
        ours.audit_failures.add(1, "unavailable")
        ours.audit_tip.set(1000 + 2 * turn)
        ours.checkpoint_entries.set(1000)
        ours.checkpoint_time.set(1.7e9)
        ours.chain_intact.set(1)
        ours.verified_time.set(1.7e9)

    def _security(self, turn: int) -> None:
        ours = self.instruments
        ours.logins.add(1, "ok")
        ours.lockouts.add(1)
        ours.token_rejections.add(1, "expired")
        ours.access_denials.add(1)
        ours.rate_limited.add(1, "login")
        ours.auth_state_age.set(0.3)
        ours.dropped_log_lines.advance(turn, "gateway")
        ours.dropped_log_keys.advance(turn, "gateway")
        ours.lost_spans.advance(turn, "gateway")
        ours.failed_watches.add(1, "gateway")

    def _models(self) -> None:
        ours, version = self.instruments, (MODEL.name, MODEL.version)
        ours.batch_images.observe(8, MODEL.name)
        ours.batch_seconds.observe(0.006, *version)
        ours.load_seconds.observe(1.5, *version)
        ours.golden_tests.add(1, *version, "passed")
        ours.golden_tests.add(1, *version, "failed")
        ours.golden_deviation.set(0.0004, *version)
        ours.model_halted.set(1, MODEL.name)
        for said in ("PNEUMONIA", "PNEUMONIA", "PNEUMONIA", "NORMAL"):
            pair = ("PNEUMONIA", said)
            observe_shadow(ours, CHALLENGER, pair=pair, difference=0.04, seconds=0.02)
        observe_shadow(ours, CHALLENGER, dropped=2, failed=1)
        ours.decoder_restarts.add(1, "time")

    def _resources(self) -> None:
        ours = self.instruments
        ours.loop_lag.observe(0.002, "gateway")
        show_database(ours, in_use=3, idle=7, limit=30, up=True)


@contextmanager
def exporting(page: BusyService) -> Iterator[str]:
    """The page at an address on this machine, as `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = PROBE if self.path.startswith("/probe") else page.page()
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()

"""The instruments and their names, and what a request, a verdict and a group make of them."""

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_labels import BYTES, LONG_SECONDS, RATIOS, SECONDS, SIZES
from deployments.telemetry.metrics_observations import (
    observe_group,
    observe_request,
    observe_verdict,
    scanner_name,
    show_baseline,
    show_baselines,
    show_database,
    show_models,
    start_at_zero,
    watch_process,
)
from deployments.telemetry.metrics_prometheus import InstrumentsCollector
from registry.catalogue import Served
from registry.contract import Check, ImageFacts, ModelRef, Outcome, Reason, Validation, Verdict
from tests.inference.models import card

SCANNER = "Siemens d905"  # d905: the first digits of the SHA-256 of "X 1"
MODEL = ModelRef(UUID(int=1), "cxr-pneumonia", "1.2.3", "ab" * 32)
XRAY = ImageFacts("c" * 64, 6000, "DICOM", manufacturer="Siemens", manufacturer_model="X 1")
TIMINGS_MS = {
    "decode": 1.0, "validate": 0.5, "preprocess": 0.25, "model": 4.0, "inference": 3.0,
    "screen": 8.0, "audit": 2.0, "total": 10.5,
}  # fmt: skip


@pytest.fixture
def instruments() -> Instruments:
    return Instruments("gateway")


@pytest.fixture
def registry(instruments: Instruments) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(InstrumentsCollector(instruments))
    return registry


def verdict(outcome: Outcome = Outcome.PREDICTED, **changes: object) -> Verdict:
    values: dict[str, object] = {
        "facts": XRAY,
        "prediction": "PNEUMONIA",
        "scores": {"NORMAL": 0.07, "PNEUMONIA": 0.93},
    }
    return Verdict(outcome=outcome, **values | changes)  # type: ignore[arg-type]  # of a test


def test_every_name_follows_the_conventions() -> None:
    for spec in Instruments.specs():
        assert re.fullmatch(r"medai_[a-z]+(_[a-z]+)*", spec.name), spec.name
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", spec.name)
        assert spec.text.endswith("."), spec.name


def test_no_name_is_declared_twice_and_none_is_a_part_of_a_histogram() -> None:
    names = [spec.name for spec in Instruments.specs()]
    parts = {
        f"{spec.name}{part}"
        for spec in Instruments.specs()
        if spec.kind == "histogram"
        for part in ("_bucket", "_sum", "_count")
    }

    assert len(set(names)) == len(names)
    assert not parts & set(names)


def test_every_label_has_a_bound() -> None:
    for spec in Instruments.specs():
        for label in spec.labels:
            assert label.values or 0 < label.limit <= 64, f"{spec.name} {label.name}"


def test_latency_buckets_reach_from_a_millisecond_to_half_a_minute() -> None:
    assert (SECONDS[0], SECONDS[-1]) == (0.001, 30.0)
    for bounds in (SECONDS, LONG_SECONDS, SIZES, BYTES, RATIOS):
        assert list(bounds) == sorted(set(bounds))


def test_a_declaration_is_read_from_the_class_and_its_instrument_from_the_object() -> None:
    one, another = Instruments("gateway"), Instruments("validator")

    one.lockouts.add(1)

    assert Instruments.lockouts.name == "medai_lockouts_total"
    assert one.lockouts.points() == [((), 1.0)]
    assert another.lockouts.points() == []


def test_a_request_is_counted_by_route_method_status_and_outcome(
    instruments: Instruments, registry: CollectorRegistry
) -> None:
    observe_request(
        instruments, route="/infer", method="POST", status=422, seconds=0.02,
        code="validation-failed", outcome="rejected", bytes_in=10, bytes_out=20,
    )  # fmt: skip

    labels = {"route": "/infer", "method": "POST", "status": "422", "outcome": "rejected"}
    route = {"route": "/infer"}
    assert registry.get_sample_value("medai_requests_total", labels) == 1
    assert registry.get_sample_value("medai_request_seconds_sum", route) == 0.02
    assert registry.get_sample_value("medai_received_bytes_total", route) == 10
    assert registry.get_sample_value("medai_sent_bytes_total", route) == 20
    assert registry.get_sample_value("medai_problems_total", {"code": "validation-failed"}) == 1


@pytest.mark.parametrize(
    ("status", "shown", "outcome"),
    [(204, "204", "ok"), (404, "404", "refused"), (503, "503", "failed"),
     (499, "499", "abandoned"), (0, "499", "abandoned")],
)  # fmt: skip
def test_a_request_without_a_verdict_ends_as_its_status_says(
    instruments: Instruments, status: int, shown: str, outcome: str
) -> None:
    observe_request(instruments, route=None, method="BREW", status=status, seconds=0.001)

    assert instruments.requests.points() == [(("none", "other", shown, outcome), 1.0)]
    assert instruments.problems.points() == []


def test_a_verdict_tells_where_the_time_went(
    instruments: Instruments, registry: CollectorRegistry
) -> None:
    observe_verdict(instruments, MODEL, verdict(), TIMINGS_MS)

    seconds = {
        phase: registry.get_sample_value(
            "medai_phase_seconds_sum", {"model": MODEL.name, "phase": phase}
        )
        for phase in ("queue", "decode", "validate", "preprocess", "model", "batch_wait",
                      "inference", "audit", "total")
    }  # fmt: skip
    assert seconds == pytest.approx(
        {"queue": 0.00225, "decode": 0.001, "validate": 0.0005, "preprocess": 0.00025,
         "model": 0.004, "batch_wait": 0.001, "inference": 0.003, "audit": 0.002,
         "total": 0.0105}
    )  # fmt: skip


def test_a_prediction_is_counted_with_its_scores(
    instruments: Instruments, registry: CollectorRegistry
) -> None:
    observe_verdict(instruments, MODEL, verdict(), TIMINGS_MS)

    version = {"model": "cxr-pneumonia", "version": "1.2.3"}
    label = version | {"label": "PNEUMONIA"}
    assert registry.get_sample_value("medai_predictions_total", label) == 1
    assert (
        registry.get_sample_value("medai_inferences_total", version | {"outcome": "predicted"}) == 1
    )
    assert registry.get_sample_value("medai_model_score_ratio_bucket", label | {"le": "0.95"}) == 1
    assert registry.get_sample_value("medai_model_score_ratio_bucket", label | {"le": "0.9"}) == 0
    assert registry.get_sample_value("medai_model_confidence_ratio_sum", version) == 0.93
    assert registry.get_sample_value("medai_image_bytes_sum", {"format": "DICOM"}) == 6000


@pytest.mark.parametrize(
    ("outcome", "counted", "untouched"),
    [(Outcome.ABSTAINED, "abstentions", "reviews"), (Outcome.PREDICTED, "reviews", "abstentions")],
)
def test_each_reason_is_counted_as_what_it_led_to(
    instruments: Instruments, outcome: Outcome, counted: str, untouched: str
) -> None:
    reasons = (Reason.BELOW_THRESHOLD, Reason.OUTSIDE_INTENDED_USE)

    observe_verdict(instruments, MODEL, verdict(outcome, reasons=reasons), TIMINGS_MS)

    assert [values[2] for values, _ in getattr(instruments, counted).points()] == list(reasons)
    assert getattr(instruments, untouched).points() == []


def test_broken_rules_are_counted_by_code_and_by_scanners_that_are_no_accident(
    instruments: Instruments,
) -> None:
    dark = Validation(
        is_valid=False,
        score=0.0,
        checks=(
            Check("brightness", 0.01, "0.08 to 0.92", passed=False, code="LOW_BRIGHTNESS"),
            Check("contrast", 0.5, "at least 0.06", passed=True),
        ),
    )
    refused = verdict(Outcome.REJECTED, prediction=None, scores={}, validation=dark)

    for _ in range(12):
        observe_verdict(instruments, MODEL, refused, {"screen": 3.0})

    assert dict(instruments.validation_failures.points()) == {
        ("LOW_BRIGHTNESS", "other"): 9.0,
        ("LOW_BRIGHTNESS", SCANNER): 3.0,
    }
    assert dict(instruments.scanner_images.points())[SCANNER, "false"] == 3.0
    assert instruments.score.points() == []
    assert {values[1] for values, _ in instruments.phase_seconds.points()} == {"queue"}


def test_an_image_that_names_no_scanner_has_none() -> None:
    assert scanner_name(ImageFacts("d" * 64, 10, "JPEG")) == "none"


def test_a_name_that_was_typed_as_the_model_is_not_shown() -> None:
    named = replace(XRAY, manufacturer_model="CANARY JOHN")

    assert re.fullmatch(r"Siemens [0-9a-f]{4}", scanner_name(named))
    assert scanner_name(named) == scanner_name(replace(named, manufacturer_model="canary  john"))
    assert scanner_name(named) != scanner_name(XRAY)
    assert scanner_name(replace(XRAY, manufacturer_model="")) == "Siemens"


def test_a_group_of_the_audit_log_is_one_transaction_of_many_entries(
    registry: CollectorRegistry, instruments: Instruments
) -> None:
    observe_group(
        instruments, ["inference", "inference", "login.ok"], commit_s=0.004, lags_s=[0.005, 0.006]
    )

    value = registry.get_sample_value
    assert value("medai_audit_entries_total", {"action": "inference"}) == 2
    assert value("medai_audit_group_entries_sum") == 3
    assert value("medai_audit_commit_seconds_count") == 1
    assert value("medai_audit_lag_seconds_sum") == pytest.approx(0.011)


def test_only_the_versions_that_serve_are_shown(instruments: Instruments) -> None:
    newer = ModelRef(UUID(int=2), "cxr-pneumonia", "1.3.0", "cd" * 32)
    show_models(instruments, [MODEL])

    show_models(instruments, [newer])

    assert instruments.model_info.points() == [(("cxr-pneumonia", "1.3.0", "cd" * 6), 1.0)]


def test_a_baseline_has_the_bounds_of_the_scores(
    instruments: Instruments, registry: CollectorRegistry
) -> None:
    show_baseline(instruments, MODEL, "PNEUMONIA", dict.fromkeys(RATIOS, 0.5))
    observe_verdict(instruments, MODEL, verdict(), TIMINGS_MS)

    expected = {values[3] for values, _ in instruments.baseline.points()}
    assert expected == set(instruments.score.uppers) - {"+Inf"}


def test_only_the_baselines_of_versions_that_serve_are_shown(instruments: Instruments) -> None:
    plain = served_with(None)
    counts = {"DARK": [30, *[0] * 12, 70], "BRIGHT": [70, *[0] * 12, 30]}
    expecting = served_with(
        {"source": "a test", "taken_on": "2026-11-24", "images": 100, "counts": counts}
    )

    show_baselines(instruments, [plain, expecting])
    shown = {(values[2], values[3]): value for values, value in instruments.baseline.points()}
    show_baselines(instruments, [plain])

    assert len(shown) == 2 * len(RATIOS)
    assert (shown["DARK", "0.05"], shown["BRIGHT", "1.0"]) == (0.3, 0.7)
    assert instruments.baseline.points() == []


def served_with(baseline: dict[str, object] | None) -> Served:
    return Served(MODEL, card(b"a", baseline=baseline), "/nowhere")


def test_a_process_tells_how_it_stands_with_its_database(
    instruments: Instruments, registry: CollectorRegistry
) -> None:
    show_database(instruments, in_use=3, idle=7, limit=30, up=False)

    value, gateway = registry.get_sample_value, {"component": "gateway"}
    in_use = gateway | {"state": "in_use"}
    assert value("medai_database_pool_connections", in_use) == 3
    assert value("medai_database_pool_connections", gateway | {"state": "idle"}) == 7
    assert value("medai_database_pool_connections_limit", gateway) == 30
    assert value("medai_database_up", gateway) == 0


def test_a_process_tells_what_it_is(
    instruments: Instruments, registry: CollectorRegistry, tmp_path: Path
) -> None:
    watch_process(instruments, tmp_path)

    page = generate_latest(registry).decode()
    assert re.search(
        r'medai_build_info\{component="gateway",python="3[^"]+",version="[^"]+"\} 1', page
    )
    resident = registry.get_sample_value("medai_process_resident_bytes", {"component": "gateway"})
    assert resident is not None
    assert 10e6 < resident < 10e9
    size = registry.get_sample_value("medai_disk_size_bytes")
    free = registry.get_sample_value("medai_disk_free_bytes")
    assert size is not None
    assert free is not None
    assert 0 < free <= size


def test_a_watch_that_fails_is_counted_and_hinders_no_other(instruments: Instruments) -> None:
    def closed() -> None:
        raise OSError

    instruments.watch(closed)
    instruments.watch(lambda: instruments.in_progress.set(3))

    instruments.refresh()

    assert instruments.in_progress.points() == [((), 3.0)]
    assert instruments.failed_watches.points() == [(("gateway",), 1.0)]


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("gateway", "medai_lockouts_total"),
        ("audit-writer", "medai_audit_failures_total"),
        ("validator", "medai_decoder_restarts_total"),
    ],
)
def test_what_alerts_count_is_there_before_it_happens(component: str, name: str) -> None:
    instruments, registry = Instruments(component), CollectorRegistry()
    registry.register(InstrumentsCollector(instruments))

    start_at_zero(instruments)

    assert re.search(rf"^{name}[^\n]* 0.0$", generate_latest(registry).decode(), re.MULTILINE)


def test_other_processes_begin_with_nothing() -> None:
    instruments = Instruments("model:cxr-pneumonia")

    start_at_zero(instruments)

    assert not any(instrument.points() for instrument in instruments.all)

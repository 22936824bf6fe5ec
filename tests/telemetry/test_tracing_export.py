"""The way to the collector: what it gets, and that nobody waits for one that hangs or is away."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configs.settings import TracingSettings
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.tracing import Tracing
from deployments.telemetry.tracing_attributes import SpanName
from deployments.telemetry.tracing_context import SAMPLED, TRACEPARENT, carried_trace, trace_id
from deployments.telemetry.tracing_export import CLOSE_S, exporting
from deployments.telemetry.tracing_start import start_tracing
from tests.ports import free_port
from tests.telemetry.collector import Collector, parsed

Lines = Callable[[], list[dict[str, Any]]]

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def settings(port: int, **more: Any) -> TracingSettings:
    return TracingSettings.model_validate(
        {"endpoint": f"http://127.0.0.1:{port}", "sample_ratio": 1, "timeout_s": 0.3} | more
    )


def request(tracing: Tracing) -> str:
    """The spans of one request, as a gateway makes them."""
    span = tracing.request([])
    with tracing.hop(SpanName.SCREEN, (span.traceparent,)):
        pass
    span.end("POST", "/infer", 200, {})
    return span.traceparent


async def test_the_collector_gets_protobuf_with_our_headers_and_who_sends_it() -> None:
    collector = Collector()
    with collector.running():
        tracing = exporting(
            settings(collector.port, headers={"authorization": "Bearer abc"}), "gateway"
        )
        sent = request(tracing)
        await tracing.close()

    ((path, headers, body),) = collector.posts
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer abc")
    assert headers["content-type"] == "application/x-protobuf"
    (resource,) = parsed(body)
    assert {one.key for one in resource.resource.attributes} == {
        "service.name",
        "service.version",
        "service.instance.id",
        "medai.component",
    }
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["screen", "POST /infer"]
    assert {span.trace_id.hex() for span in spans} == {sent[3:35]}


async def test_a_collector_that_hangs_costs_a_request_nothing_and_what_is_lost_is_counted(
    silent: int, lines: Lines
) -> None:
    instruments = Instruments("gateway")
    tracing = start_tracing(settings(silent, queue_size=64, timeout_s=1), instruments)
    assert tracing is not None
    longest = 0.0

    for _ in range(500):
        started = time.perf_counter()
        request(tracing)
        longest = max(longest, time.perf_counter() - started)

    assert longest < 0.7  # the collector's time limit is 1 s
    started = time.perf_counter()
    await tracing.close()
    assert time.perf_counter() - started < CLOSE_S + 1
    instruments.refresh()
    ((_, lost),) = instruments.lost_spans.points()
    assert 1000 - 64 <= lost <= 1000
    said = [line for line in lines() if line["event"] != "library"]
    assert [line["event"] for line in said] == ["traces_lost"]


async def test_a_process_ends_though_the_collector_would_take_half_a_minute(silent: int) -> None:
    tracing = exporting(settings(silent, timeout_s=30), "gateway")
    request(tracing)

    started = time.perf_counter()
    await tracing.close()

    assert time.perf_counter() - started < CLOSE_S + 1


async def test_the_log_says_once_that_spans_are_lost_and_once_that_they_arrive_again(
    lines: Lines,
) -> None:
    collector = Collector()
    tracing = exporting(settings(collector.port), "gateway")
    for _ in range(2):
        request(tracing)
        tracing.delivery.force_flush()
    with collector.running():
        for _ in range(2):
            request(tracing)
            tracing.delivery.force_flush()
        await tracing.close()

    said = [(line["level"], line["event"], line["count"]) for line in lines()]
    assert said == [("warning", "traces_lost", 2), ("info", "traces_delivered", 4)]
    assert tracing.delivery.lost == 4
    assert len(collector.posts) == 2


async def test_the_ratio_says_how_many_requests_are_sent() -> None:
    tracing = exporting(settings(free_port(), sample_ratio=0.25), "gateway")

    sampled = [int(request(tracing)[-2:], 16) & SAMPLED for _ in range(2000)]

    await tracing.close()
    assert 400 <= sum(sampled) <= 600  # five standard deviations either way


async def test_a_span_that_would_wait_beyond_the_queue_is_dropped_at_once(silent: int) -> None:
    tracing = exporting(settings(silent, queue_size=64, timeout_s=5), "gateway")

    for _ in range(100):
        tracing.ended(SpanName.GATE, (TRACE,), seconds=0.001)

    assert tracing.delivery.lost == 36
    await tracing.close()


@pytest.mark.parametrize(
    ("flags", "carried"), [("00", False), ("01", True), ("02", False), ("03", True)]
)
def test_messages_carry_a_sampled_trace_only(flags: str, carried: bool) -> None:
    traceparent = f"{TRACE[:-2]}{flags}"
    token = TRACEPARENT.set(traceparent)

    seen = carried_trace(), trace_id()

    TRACEPARENT.reset(token)
    assert seen == (traceparent if carried else None, TRACE[3:35])


OFF = """
import json, sys
import deployments.api.app, deployments.inference.traced, deployments.inference.recorder
import deployments.inference.predictor, deployments.inference.host
from configs.settings import TracingSettings
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.tracing_start import start_tracing

tracing = start_tracing(TracingSettings(endpoint=sys.argv[1] or None), Instruments("gateway"))
print(json.dumps([tracing is None, [m for m in sys.modules if m.startswith("opentelemetry.")]]))
"""


def loaded(endpoint: str) -> tuple[bool, list[str]]:
    """Whether tracing is off, and what is loaded of OpenTelemetry once a replica has started."""
    done = subprocess.run(
        [sys.executable, "-c", OFF, endpoint], capture_output=True, check=True, timeout=100
    )
    off, modules = json.loads(done.stdout)
    return off, modules


def test_without_an_endpoint_neither_sdk_nor_exporter_is_loaded() -> None:
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
    off, modules = loaded("")
    on, all_modules = loaded("http://127.0.0.1:1")

    assert off
    assert not [name for name in modules if name.startswith(heavy)]
    assert not on
    assert {name for name in heavy if name not in all_modules} == set()


FASTAPI = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
from fastapi import FastAPI
from deployments.api.app import NO_TELEMETRY
print(json.dumps([FastAPI(**more)._native_telemetry.enabled()
                  for more in ({}, {"telemetry": NO_TELEMETRY})]))
"""


def test_fastapis_own_telemetry_stays_off_where_somebody_sets_a_global_tracer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FASTAPI], capture_output=True, check=True, timeout=100
    )

    assert json.loads(done.stdout) == [True, False]

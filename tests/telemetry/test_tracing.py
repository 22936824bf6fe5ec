"""One request is one trace, through every part; and nothing of a patient is in it."""

import asyncio
import io
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pydicom
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from pydicom.data import get_testdata_file

from deployments.api.app import NO_TELEMETRY
from deployments.telemetry.tracing_attributes import ATTRIBUTES, SpanName
from registry.errors import AuditUnavailable
from storage import schema
from tests.api.house import INFER, JPEG, House
from tests.inference.files import film_jpeg
from tests.telemetry.traced_site import Collected, traced_site

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
DICOM = {"Content-Type": "application/dicom"}
CANARY = "ZZCANARY"
CLOCK_NS = 2_000_000  # two clocks of one machine: perf_counter and time

Site = tuple[House, Collected]


@pytest.fixture(scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One site for all tests of this file: its models take a second to load."""
    home = tmp_path_factory.mktemp("site")
    empty = home / "empty.db"
    await schema.upgrade(f"sqlite+aiosqlite:///{empty}")
    async with traced_site(empty, home) as site:
        yield site


@pytest.fixture
def site(whole: Site) -> Site:
    """The site, with nothing collected yet."""
    whole[1].spans()
    return whole


def by_name(spans: list[ReadableSpan]) -> dict[str, list[ReadableSpan]]:
    named = defaultdict(list)
    for span in spans:
        named[span.name].append(span)
    return named


def component(span: ReadableSpan) -> str:
    return str(span.resource.attributes["medai.component"])


def hexed(number: int) -> str:
    return f"{number:016x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {str(name): value for name, value in (span.attributes or {}).items()}


async def test_one_request_is_one_trace_that_holds_together(site: Site) -> None:
    house, collected = site

    answer = await house.client("clara").post(
        INFER, content=film_jpeg(), headers=JPEG | {"traceparent": SAMPLED}
    )

    spans = collected.spans()
    assert answer.status_code == 200
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    ids = {hexed(span.context.span_id) for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent and hexed(span.parent.span_id) in ids | {SPAN} for span in spans)
    tree = {
        (component(span), span.name, parent_name(span, spans), span.kind.name) for span in spans
    }
    assert tree == {
        ("gateway", "POST /infer", "caller", "SERVER"),
        ("gateway", "screen", "POST /infer", "CLIENT"),
        ("validator", "validate batch", "screen", "INTERNAL"),
        ("validator", "validate", "screen", "SERVER"),
        ("validator", "prepare", "validate", "INTERNAL"),
        ("validator", "gate", "validate", "INTERNAL"),
        ("validator", "model", "validate", "CLIENT"),
        ("model:cxr-pneumonia", "run batch", "model", "INTERNAL"),
        ("model:cxr-pneumonia", "run", "model", "SERVER"),
        ("gateway", "audit", "POST /infer", "CLIENT"),
        ("audit-writer", "commit batch", "audit", "INTERNAL"),
        ("audit-writer", "commit", "audit", "SERVER"),
    }
    _, trace, span_id, flags = answer.headers["traceparent"].split("-")
    (request,) = by_name(spans)["POST /infer"]
    assert (trace, span_id, flags) == (TRACE, hexed(request.context.span_id), "01")


def parent_name(span: ReadableSpan, spans: list[ReadableSpan]) -> str:
    assert span.parent is not None
    for other in spans:
        if other.context.span_id == span.parent.span_id:
            return other.name
    return "caller"


async def test_spans_have_the_times_that_were_measured(site: Site) -> None:
    house, collected = site

    answer = await house.client("clara").post(INFER, content=film_jpeg(), headers=JPEG)

    spans = collected.spans()
    times = answer.json()["timings_ms"]
    for span in spans:
        for other in spans:
            if span.parent and other.context.span_id == span.parent.span_id:
                assert other.start_time - CLOCK_NS <= span.start_time
                assert span.end_time <= other.end_time + CLOCK_NS
    lasted = {name: took_ms(one[0]) for name, one in by_name(spans).items()}
    assert lasted["run"] == pytest.approx(times["inference"], abs=0.01)
    assert lasted["prepare"] <= times["decode"] + times["validate"] + times["preprocess"] + 0.01
    assert lasted["prepare"] >= times["decode"] + times["preprocess"] - 0.01
    assert times["audit"] >= lasted["audit"] >= lasted["commit"] > 0
    assert times["screen"] >= lasted["screen"] >= lasted["model"] >= lasted["run"]
    assert lasted["POST /infer"] >= lasted["screen"] + lasted["audit"]


def took_ms(span: ReadableSpan) -> float:
    return (span.end_time - span.start_time) / 1e6


async def test_a_batch_has_a_span_of_its_own_that_is_linked_with_each_request(site: Site) -> None:
    house, collected = site
    client = house.client("clara")

    answers = await asyncio.gather(
        *(client.post(INFER, content=film_jpeg(), headers=JPEG) for _ in range(6))
    )

    named = by_name(collected.spans())
    assert len({answer.headers["traceparent"][3:35] for answer in answers}) == 6
    for whole, share in (
        ("validate batch", "validate"),
        ("run batch", "run"),
        ("commit batch", "commit"),
    ):
        sizes = [attributes(span)["medai.batch_size"] for span in named[whole]]
        assert sum(sizes) == 6
        assert max(sizes) > 1
        assert [len(span.links) for span in named[whole]] == sizes
        waiting = {span.parent.span_id for span in named[share]}
        assert {link.context.span_id for span in named[whole] for link in span.links} == waiting
        wholes = {span.context.span_id for span in named[whole]}
        back = [link.context.span_id for span in named[share] for link in span.links]
        assert len(back) == 6
        assert set(back) == wholes


async def test_a_batch_form_has_a_span_for_each_image_and_one_commit(site: Site) -> None:
    house, collected = site
    files = [("file", (f"{n}.jpg", film_jpeg(), "image/jpeg")) for n in range(3)]

    answer = await house.client("clara").post("/infer/batch?model=cxr-pneumonia", files=files)

    spans = collected.spans()
    named = by_name(spans)
    assert answer.json()["answered"] == 3
    assert {parent_name(span, spans) for span in named["screen"]} == {"POST /infer/batch"}
    assert {name: len(named[name]) for name in ("screen", "validate", "model", "run")} == (
        dict.fromkeys(("screen", "validate", "model", "run"), 3)
    )
    assert [len(named[name]) for name in ("audit", "commit", "commit batch")] == [1, 1, 1]
    assert attributes(named["commit batch"][0])["medai.batch_size"] == 3
    assert parent_name(named["commit"][0], spans) == "audit"


async def test_other_routes_show_the_commit_of_their_entry(site: Site) -> None:
    house, collected = site
    client = house.client("clara")

    await client.get("/results")
    await client.post("/auth/logout")

    named = by_name(collected.spans())
    assert len(named["GET /results"]) == len(named["POST /auth/logout"]) == 1
    assert [attributes(span)["medai.action"] for span in named["audit"]] == [
        "results.listed",
        "logout",
    ]
    assert len(named["commit"]) == 2


async def test_a_refusal_is_no_error_of_the_server_and_says_its_code(site: Site) -> None:
    house, collected = site

    answer = await house.client("clara").post(INFER, content=b"no image", headers=JPEG)

    named = by_name(collected.spans())
    (request,) = named["POST /infer"]
    assert answer.status_code == 415
    assert attributes(request)["error.type"] == "unsupported-media-type"
    assert request.status.status_code is StatusCode.UNSET
    (screen,) = named["screen"]
    assert attributes(screen)["medai.outcome"] == "rejected"
    assert answer.headers["traceparent"][36:52] == hexed(request.context.span_id)


async def test_what_the_writer_refuses_is_an_error_without_its_text(site: Site) -> None:
    house, collected = site
    house.trail.refuse = AuditUnavailable(CANARY)

    answer = await house.client("clara").post(INFER, content=film_jpeg(), headers=JPEG)

    house.trail.refuse = None
    named = by_name(collected.spans())
    assert answer.status_code == 503
    for name in ("audit", "POST /infer"):
        (span,) = named[name]
        assert attributes(span)["error.type"] == "audit-unavailable"
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.events == ()


@pytest.mark.parametrize("path", ["/results", "/nowhere", "/auth/me"])
async def test_who_is_refused_has_a_traceparent_as_well(site: Site, path: str) -> None:
    house, collected = site

    answer = await house.client().get(path, headers={"traceparent": SAMPLED})

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    (span,) = collected.spans()
    assert span.name in {"GET", f"GET {path}"}


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", CANARY)],
        [("traceparent", SAMPLED.upper())],
        [("traceparent", f"ff-{TRACE}-{SPAN}-01")],
        [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"{SAMPLED}-{CANARY}")],
        [("traceparent", f"{SAMPLED}x" * 20)],
        [("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        [("traceparent", "")],
    ],
)
async def test_a_malformed_traceparent_is_ignored_and_never_repeated(
    site: Site, headers: list[tuple[str, str]]
) -> None:
    house, collected = site

    answer = await house.client("clara").get("/auth/me", headers=headers)

    assert answer.status_code == 200
    own = answer.headers["traceparent"]
    assert TRACE not in own.lower()
    assert len(own) == 55
    spans = collected.spans()
    assert spans[-1].parent is None
    assert CANARY.encode() not in encode_spans(spans).SerializeToString()


async def test_a_caller_who_does_not_sample_is_followed_and_nothing_is_sent(site: Site) -> None:
    house, collected = site

    answer = await house.client("clara").post(
        INFER, content=film_jpeg(), headers=JPEG | {"traceparent": UNSAMPLED}
    )

    assert answer.status_code == 200
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceparent"].endswith("-00")
    assert collected.spans() == []


async def test_probes_are_not_traced(site: Site) -> None:
    house, collected = site

    answer = await house.client().get("/health/live", headers={"traceparent": SAMPLED})

    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    assert collected.spans() == []


async def test_log_lines_of_a_request_carry_its_trace(
    site: Site, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    house, _ = site

    await house.client("clara").get("/auth/me", headers={"traceparent": UNSAMPLED})

    (line,) = [line for line in lines() if line["event"] == "request"]
    assert line["trace_id"] == TRACE
    assert "dropped_keys" not in line


def canary_film() -> bytes:
    dataset = pydicom.dcmread(get_testdata_file("RG1_UNCR.dcm"))
    dataset.PatientName = f"{CANARY}^JOHN"
    dataset.PatientID = f"{CANARY}4711"
    dataset.StudyDescription = CANARY
    dataset.ManufacturerModelName = CANARY
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


async def test_nothing_of_a_patient_or_of_the_callers_text_is_in_a_span(site: Site) -> None:
    house, collected = site
    hostile = {
        "traceparent": SAMPLED,
        "tracestate": f"vendor={CANARY}",
        "baggage": f"patient={CANARY}",
        "user-agent": CANARY,
        "x-request-id": CANARY,
        "idempotency-key": CANARY,
    }
    client = house.client("clara")

    answers = [
        await client.post(INFER, content=canary_film(), headers=DICOM | hostile),
        await client.post(f"{INFER}&patient={CANARY}", content=b"", headers=DICOM | hostile),
        await client.post(f"/infer?model={CANARY.lower()}", content=b"", headers=DICOM | hostile),
        await client.get(f"/results/{CANARY}", headers=hostile),
        await client.get(f"/{CANARY}", headers=hostile),
        await client.request(CANARY, "/infer", headers=hostile),
    ]

    spans = collected.spans()
    assert answers[0].status_code == 200
    assert len([span for span in spans if span.kind is SpanKind.SERVER]) >= len(answers)
    exported = encode_spans(spans).SerializeToString()
    for text in (CANARY, CANARY.lower(), "vendor="):
        assert text.encode() not in exported
    assert all(CANARY not in json.dumps(dict(answer.headers)) for answer in answers)
    for span in spans:
        assert not span.events
        assert not span.status.description
        assert span.name in set(SpanName) or span.kind is SpanKind.SERVER
        for name, value in attributes(span).items():
            assert ATTRIBUTES[name](value) == value, name


async def test_fastapis_own_telemetry_is_off(site: Site) -> None:
    assert NO_TELEMETRY.items() <= site[0].app._telemetry.items()


async def test_what_ends_with_an_unforeseen_error_says_no_more_than_internal(site: Site) -> None:
    _, collected = site
    tracing = collected.tracing("gateway")

    with (
        pytest.raises(ValueError, match=CANARY),
        tracing.hop(SpanName.SCREEN, (SAMPLED,)),
    ):
        raise ValueError(CANARY)
    with (
        pytest.raises(TimeoutError),
        anyio.fail_after(0.01),
        tracing.hop(SpanName.AUDIT, (SAMPLED,)),
    ):
        await anyio.sleep_forever()

    screen, audit = collected.spans()
    assert attributes(screen) == {"error.type": "internal"}
    assert attributes(audit) == {"error.type": "cancelled"}
    assert CANARY.encode() not in encode_spans([screen, audit]).SerializeToString()

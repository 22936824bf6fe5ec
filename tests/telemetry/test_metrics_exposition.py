"""`GET /metrics`: what of the agent's page is ours, its histograms put together again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from configs.settings import ServerSettings
from deployments.telemetry.metrics_exposition import MetricsPage, exposition
from registry.errors import MetricsUnavailable

SCOPE = 'otel_scope_name="ray",otel_scope_schema_url="",otel_scope_version=""'
PAGE = f"""\
# HELP ray_object_store_memory Not ours.
# TYPE ray_object_store_memory gauge
ray_object_store_memory{{Location="a"}} 7.0
# HELP ray_medai_requests_total Requests answered.
# TYPE ray_medai_requests_total counter
ray_medai_requests_total{{SessionName="s",WorkerId="1",{SCOPE},route="/infer"}} 85.0
ray_medai_requests_total{{SessionName="s",WorkerId="2",{SCOPE},route="/infer"}} 115.0
# HELP ray_medai_request_seconds_sum Time.
# TYPE ray_medai_request_seconds_sum gauge
ray_medai_request_seconds_sum{{WorkerId="1",role="admin"}} 1.5
# HELP ray_medai_request_seconds_bucket Time.
# TYPE ray_medai_request_seconds_bucket gauge
ray_medai_request_seconds_bucket{{WorkerId="1",le="+Inf",role="admin"}} 3.0
ray_medai_request_seconds_bucket{{WorkerId="1",le="10.0",role="admin"}} 2.0
ray_medai_request_seconds_bucket{{WorkerId="1",le="2.0",role="admin"}} 1.0
# HELP ray_medai_request_seconds_count Time.
# TYPE ray_medai_request_seconds_count gauge
ray_medai_request_seconds_count{{WorkerId="1",role="admin"}} 3.0
# HELP ray_serve_deployment_latency_ms Serve's own.
# TYPE ray_serve_deployment_latency_ms histogram
ray_serve_deployment_latency_ms_bucket{{le="1.0"}} 4.0
ray_serve_deployment_latency_ms_bucket{{le="+Inf"}} 4.0
ray_serve_deployment_latency_ms_count{{}} 4.0
ray_serve_deployment_latency_ms_sum{{}} 2.0
"""


def test_only_our_families_and_serves_are_shown() -> None:
    names = [family.name for family in text_string_to_metric_families(exposition(PAGE))]

    assert sorted(names) == [
        "ray_medai_request_seconds",
        "ray_medai_requests",
        "ray_serve_deployment_latency_ms",
    ]


def test_a_histogram_that_came_as_gauges_is_one_again_with_its_buckets_in_order() -> None:
    text = exposition(PAGE)

    assert "# TYPE ray_medai_request_seconds histogram" in text
    assert "ray_medai_request_seconds_bucket gauge" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["ray_medai_request_seconds"].samples
    assert [(sample.labels.get("le"), sample.value) for sample in samples] == [
        ("2.0", 1.0), ("10.0", 2.0), ("+Inf", 3.0), (None, 3.0), (None, 1.5),
    ]  # fmt: skip


def test_serves_own_histogram_stays_as_it_is() -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition(PAGE))}

    assert families["ray_serve_deployment_latency_ms"].type == "histogram"
    assert len(families["ray_serve_deployment_latency_ms"].samples) == 4


def test_labels_that_say_the_same_of_everything_are_left_out() -> None:
    text = exposition(PAGE)

    assert "otel_scope" not in text
    assert "SessionName" not in text
    assert 'ray_medai_requests_total{worker_id="2",route="/infer"} 115.0' in text


def test_a_value_that_looks_like_such_a_label_stays() -> None:
    line = 'ray_medai_x{a="le=\\"1\\",SessionName=\\"s\\"",b="c"} 1.0\n'

    assert exposition(line) == f"# HELP ray_medai_x \n# TYPE ray_medai_x untyped\n{line}"


def test_a_family_without_a_header_is_shown_too() -> None:
    text = exposition("ray_medai_a 1.0\nray_medai_b 2.0\n")

    assert "ray_medai_a 1.0" in text
    assert "# TYPE ray_medai_b untyped" in text


async def test_calls_that_come_together_ask_the_agent_once() -> None:
    asked = 0

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return PAGE

    page = MetricsPage(fetch)

    texts = await asyncio.gather(*(page.text() for _ in range(20)))

    assert asked == 1
    assert set(texts) == {exposition(PAGE)}


async def test_an_old_page_is_asked_for_again() -> None:
    answers = iter(["ray_medai_a 1.0\n", "ray_medai_a 2.0\n"])

    async def fetch() -> str:
        return next(answers)

    page = MetricsPage(fetch, max_age_s=0)

    assert "1.0" in await page.text()
    assert "2.0" in await page.text()


async def test_a_caller_who_leaves_takes_nobodys_page_along() -> None:
    release = asyncio.Event()

    async def fetch() -> str:
        await release.wait()
        return "ray_medai_a 1.0\n"

    page = MetricsPage(fetch)
    leaving, staying = asyncio.create_task(page.text()), asyncio.create_task(page.text())
    await asyncio.sleep(0)

    leaving.cancel()
    release.set()

    assert "1.0" in await staying


@contextlib.asynccontextmanager
async def agent(answer: bytes) -> AsyncIterator[int]:
    """A server that answers every request with `answer`; its port."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_page_comes_from_the_agent_of_this_node() -> None:
    body = b"ray_medai_a 1.0\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)

    async with agent(head + body) as port:
        text = await MetricsPage.of_node(ServerSettings(metrics_port=port)).text()

    assert "ray_medai_a 1.0" in text


@pytest.mark.parametrize("answer", [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b""])
async def test_an_agent_that_does_not_answer_is_our_fault_and_every_caller_has_an_error_of_its_own(
    answer: bytes,
) -> None:
    async with agent(answer) as port:
        page = MetricsPage.of_node(ServerSettings(metrics_port=port))

        first, second = await asyncio.gather(page.text(), page.text(), return_exceptions=True)

    assert isinstance(first, MetricsUnavailable)
    assert isinstance(second, MetricsUnavailable)
    assert first is not second
    assert "metrics agent does not answer" in str(first)


async def test_a_silent_agent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.telemetry.metrics_exposition.TIMEOUT_S", 0.01)

    async def fetch() -> str:
        await asyncio.Event().wait()
        raise httpx2.ReadTimeout("never")

    with pytest.raises(MetricsUnavailable, match="TimeoutError"):
        await MetricsPage(fetch).text()

"""The collector of traces: there, and willing to take what the service would send."""

import ssl
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Final

import httpx2

from configs.settings import TracingSettings
from deployments.doctor.finding import Finding, Installation, State

NAME: Final = "traces"
PROTOBUF: Final = {"Content-Type": "application/x-protobuf"}
DENIED: Final = frozenset({401, 403})


def collector(installation: Installation) -> Iterator[Finding]:
    """Send it an export of no spans (OTLP: an empty message), with the service's own headers.

    A collector that is away loses traces and nothing else, so it is no failure of the service.
    """
    settings = installation.settings.tracing
    warn = partial(Finding, NAME, State.WARN)
    if settings.endpoint is None:
        yield Finding(NAME, State.OK, "off: MEDAI_TRACING__ENDPOINT is not set")
        return
    started = perf_counter()
    try:
        status = _post_nothing(settings)
    except httpx2.TimeoutException:
        found = f"the collector did not answer within {settings.timeout_s:g} s"
        yield warn(found, "start it, or mend MEDAI_TRACING__ENDPOINT")
        return
    except (httpx2.HTTPError, ssl.SSLError, OSError) as error:
        found = f"the collector cannot be reached ({type(error).__name__})"
        advice = "start it, or mend MEDAI_TRACING__ENDPOINT or MEDAI_TRACING__CA_FILE"
        yield warn(found, advice)
        return
    took_ms = (perf_counter() - started) * 1e3
    if httpx2.codes.is_success(status):
        ratio = f"{settings.sample_ratio:.0%} of requests are sampled"
        yield Finding(NAME, State.OK, f"the collector takes spans ({took_ms:.0f} ms), {ratio}")
    elif status in DENIED:
        yield warn(f"the collector answers {status}", "mend MEDAI_TRACING__HEADERS")
    else:
        found = f"the collector answers {status} to OTLP over HTTP"
        yield warn(found, "mend MEDAI_TRACING__ENDPOINT: the port of OTLP/HTTP is 4318 by itself")


def _post_nothing(settings: TracingSettings) -> int:
    """The status of the collector's answer."""
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    trusted = True if settings.ca_file is None else ssl.create_default_context(
        cafile=settings.ca_file
    )  # fmt: skip
    with httpx2.Client(verify=trusted, timeout=settings.timeout_s) as client:
        return client.post(settings.url, content=b"", headers=headers | PROTOBUF).status_code

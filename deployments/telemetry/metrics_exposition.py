"""`GET /metrics` of the service: what the node's metrics agent says, of our families and Serve's.

Every gateway of a node asks the same agent, so whichever answers, the numbers are the same, and
they are those that Prometheus gets from the agent's own port, under the same names. They are as
old as the last report (`RAY_metrics_report_interval_ms`) and are this node's only.

Ray carries a histogram as three gauges (`deployments.ray_metrics` says why); here it is one family
of the right type again. Labels that say the same of everything are left out, and Ray's `WorkerId`
is written as Prometheus' conventions want it, `worker_id`; configs/prometheus does the same.
"""

import asyncio
import contextvars
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import httpx2

from configs.settings import ServerSettings
from registry.errors import MetricsUnavailable

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
EXPORTED_PREFIX: Final = "ray_"  # Ray puts it before every name
FAMILIES: Final = ("ray_medai_", "ray_serve_")
TIMEOUT_S: Final = 2.0
MAX_AGE_S: Final = 1.0  # however many ask, the agent is asked once in this time

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PARTS = ("_bucket", "_sum", "_count")
# A quote inside a label's value is escaped, so `name="` can only be a label's beginning.
_SAME_EVERYWHERE = re.compile(
    r"\b(?:otel_scope_(?:name|version|schema_url)|SessionName|Component|Version|NodeAddress)"
    r'="(?:[^"\\]|\\.)*",?'
)
_UPPER = re.compile(r'(?<![a-zA-Z0-9_])le="([^"]*)",?')


@dataclass(slots=True)
class Family:
    """One metric: its header lines' words, and its samples as they came."""

    name: str
    text: str = ""
    kind: str = "untyped"
    samples: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The family in the text format."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self.samples


def exposition(page: str, prefixes: tuple[str, ...] = FAMILIES) -> str:
    """The families of an agent's page whose names begin with one of `prefixes`.

    Args:
        page: Prometheus text format 0.0.4.
        prefixes: Beginnings of names.

    Returns:
        Prometheus text format 0.0.4; histograms have their type, and samples their order.
    """
    families = _families(page, prefixes)
    for name in [name for name in families if name.endswith(_PARTS[0])]:
        base = name.removesuffix(_PARTS[0])
        if families[name].kind == "gauge" and all(base + part in families for part in _PARTS):
            families[base] = _joined(base, *(families.pop(base + part) for part in _PARTS))
    lines = (line for family in families.values() for line in family.lines())
    return "".join(f"{line}\n" for line in lines)


def _families(page: str, prefixes: tuple[str, ...]) -> dict[str, Family]:
    families: dict[str, Family] = {}
    current = Family("")
    for line in page.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, word, name, rest = [*line.split(" ", 3), ""][:4]
            if not name.startswith(prefixes):
                continue
            current = families.setdefault(name, Family(name))
            if word == "HELP":
                current.text = rest
            else:
                current.kind = rest
        elif line.startswith(prefixes):
            name = _name(line)
            if not current.name or not name.startswith(current.name):
                current = families.setdefault(name, Family(name))
            current.samples.append(_tidied(line))
    return families


def _tidied(sample: str) -> str:
    return _SAME_EVERYWHERE.sub("", sample).replace('WorkerId="', 'worker_id="')


def _name(sample: str) -> str:
    match = _NAME.match(sample)
    assert match is not None  # it begins with one of the prefixes
    return match[0]


def _joined(base: str, buckets: Family, total: Family, count: Family) -> Family:
    """One histogram of its three parts, its buckets in ascending order."""
    buckets.samples.sort(key=_series_and_bound)
    return Family(
        base, buckets.text, "histogram", buckets.samples + sorted(total.samples + count.samples)
    )


def _series_and_bound(sample: str) -> tuple[str, float]:
    series, _, _ = sample.rpartition(" ")
    match = _UPPER.search(series)
    bound = float(match[1]) if match else 0.0
    return _UPPER.sub("", series), bound


class MetricsPage:
    """The page of one node, for `GET /metrics`.

    Args:
        fetch: Gets the agent's page. Raises `httpx2.HTTPError` where it cannot.
        max_age_s: How long a page is good for.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[str]], *, max_age_s: float = MAX_AGE_S
    ) -> None:
        self._fetch = fetch
        self._max_age_s = max_age_s
        self._text = ""
        self._at = float("-inf")
        self._asking: asyncio.Task[str] | None = None

    @classmethod
    def of_node(cls, server: ServerSettings) -> Self:
        """The page of the agent on this node."""
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"

        async def fetch() -> str:
            # No proxy of the environment may stand between a process and its own node.
            async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
                response = await client.get(url)
                return response.raise_for_status().text

        return cls(fetch)

    async def text(self) -> str:
        """The page. Calls that come together share one question to the agent.

        Raises:
            MetricsUnavailable: The agent does not answer.
        """
        if time.monotonic() - self._at > self._max_age_s:
            if self._asking is None or self._asking.done():
                # Not in the request's context: a caller who leaves takes nobody's answer along.
                self._asking = asyncio.get_running_loop().create_task(
                    self._ask(), context=contextvars.Context()
                )
            if fault := await asyncio.shield(self._asking):
                raise MetricsUnavailable(
                    f"the node's metrics agent does not answer ({fault})", retry_after_s=1
                )
        return self._text

    async def _ask(self) -> str:
        """Get the page; the kind of fault where that fails, else ""."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                page = await self._fetch()
        except (httpx2.HTTPError, TimeoutError) as error:
            return type(error).__name__
        self._text = await asyncio.to_thread(exposition, page)
        self._at = time.monotonic()
        return ""

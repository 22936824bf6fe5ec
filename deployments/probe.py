"""How much a running service holds: one image, asked for again and again by more and more clients.

A closed loop: each client sends its next image once the last one is answered, as wards and gateways
do. The number of clients doubles until the 95th percentile of the answers passes its limit; the
middle between the last number that held and the first that did not is tried as well. What is
measured is the whole way: HTTP, token, validation, model, record.

Bounded in clients, time and images: a probe must not become an outage. The clients are threads of
this process; `Level.probe_cores` tells what they took, and near one core they are the limit.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from deployments.client import Client, Problem, Unreachable
from deployments.client_answers import Inference

MAX_CLIENTS: Final = 256
MAX_IMAGES: Final = 100_000
MAX_SECONDS: Final = 60.0  # of one level
WARMUP_S: Final = 1.0
PROBE_LIMIT_CORES: Final = 0.8  # a Python process has about one core for all its threads
REST_S: Final = 0.2  # after a refusal, so that a probe does not hammer
LOST: Final = "lost"  # instead of a status: the connection broke

Opener: TypeAlias = Callable[[], Client]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask for. Times in seconds.

    Attributes:
        file: The image, JPEG, PNG or DICOM.
        model: The model's name.
        p95_ms: The limit of the 95th percentile.
        seconds: Measured time of each level.
        warmup_s: Time of each level before anything is counted.
        max_clients: No level has more.
        max_images: The probe ends before it has sent more, warm-up included.
    """

    file: Path
    model: str
    p95_ms: float
    seconds: float = 5.0
    warmup_s: float = WARMUP_S
    max_clients: int = 64
    max_images: int = 20_000

    def __post_init__(self) -> None:
        if not (self.p95_ms > 0 and 0 < self.seconds <= MAX_SECONDS):
            raise ValueError(f"a limit above 0 ms, and at most {MAX_SECONDS:g} s a level")
        if not (1 <= self.max_clients <= MAX_CLIENTS and 1 <= self.max_images <= MAX_IMAGES):
            raise ValueError(f"at most {MAX_CLIENTS} clients and {MAX_IMAGES:,} images")

    @property
    def most_levels(self) -> int:
        """How many levels there can be: every doubling, the last number itself, one in between."""
        return (self.max_clients - 1).bit_length() + 2


@dataclass(frozen=True, slots=True)
class Level:
    """What one number of clients got.

    Attributes:
        clients: How many.
        answered: Images answered 2xx in the measured time.
        images_per_s: The same a second.
        p50_ms: Percentiles of their latencies, nearest rank; 0 where none was answered.
        others: How many answers were something else, by status, and `lost`.
        probe_cores: Processor time of this process a second.
        replicas: Running replicas by deployment; empty where the service did not tell.
    """

    clients: int
    answered: int
    images_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    others: Mapping[str, int] = field(default_factory=dict)
    probe_cores: float = 0.0
    replicas: Mapping[str, int] = field(default_factory=dict)

    def holds(self, p95_ms: float) -> bool:
        """Whether every image was answered, and 95 of 100 in time."""
        return self.answered > 0 and not self.others and self.p95_ms <= p95_ms


@dataclass(slots=True)
class _Seen:
    """What one client saw in one level; each has its own, so that none waits for another."""

    latencies_s: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    last: float = 0.0  # when the last answer came


class Probe:
    """Puts a plan on a service. Use as a context: it holds connections.

    Args:
        opened: Gives a client of the service that is logged in; called once for each connection.
        plan: What to ask for.
    """

    def __init__(self, opened: Opener, plan: Plan) -> None:
        self._opened = opened
        self._plan = plan
        self._clients: list[Client] = []
        self._left = plan.max_images
        self._lock = threading.Lock()
        self._connections = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connections.close()

    def ask(self) -> Inference:
        """The answer to one image. Raises `Problem` and `Unreachable`."""
        (client,) = self._connected(1)
        return client.infer(self._plan.file, model=self._plan.model)

    def levels(self) -> Iterator[Level]:
        """Each level as it is done: the doublings, then the middle."""
        held = 0
        for clients in doublings(self._plan.max_clients):
            level = self._level(clients)
            yield level
            if not level.holds(self._plan.p95_ms):
                middle = (held + clients) // 2
                if held < middle < clients and self._left:
                    yield self._level(middle)
                return
            if not self._left:
                return
            held = clients

    def _level(self, clients: int) -> Level:
        connected = self._connected(clients)
        counted_from = time.monotonic() + self._plan.warmup_s
        until = counted_from + self._plan.seconds
        used = time.process_time()
        began = time.monotonic()
        with ThreadPoolExecutor(clients, thread_name_prefix="probe") as threads:
            seen = list(
                threads.map(lambda client: self._ask_until(client, counted_from, until), connected)
            )
        used = (time.process_time() - used) / (time.monotonic() - began)
        latencies = sorted(each for one in seen for each in one.latencies_s)
        # The images may run out before the time does.
        measured_s = max(min(until, max(one.last for one in seen)) - counted_from, 1e-9)
        return Level(
            clients=clients,
            answered=len(latencies),
            images_per_s=len(latencies) / measured_s if latencies else 0.0,
            p50_ms=percentile_ms(latencies, 0.50),
            p95_ms=percentile_ms(latencies, 0.95),
            p99_ms=percentile_ms(latencies, 0.99),
            others=dict(sum((one.others for one in seen), Counter())),
            probe_cores=used,
            replicas=self._replicas(),
        )

    def _ask_until(self, client: Client, counted_from: float, until: float) -> _Seen:
        """Ask again and again. What is answered between the two moments counts."""
        seen = _Seen()
        while (asked := time.monotonic()) < until and self._take():
            status = ""
            try:
                client.infer(self._plan.file, model=self._plan.model)
            except Problem as problem:
                status = str(problem.status)
            except Unreachable:
                status = LOST
            answered = time.monotonic()
            if status:
                seen.others[status] += 1  # also before and after: none of them is expected
                time.sleep(REST_S)
            elif counted_from <= answered <= until:
                seen.latencies_s.append(answered - asked)
            seen.last = answered
        return seen

    def _take(self) -> bool:
        """Whether one more image may be sent."""
        with self._lock:
            may = self._left > 0
            self._left -= may
        return may

    def _connected(self, clients: int) -> list[Client]:
        while len(self._clients) < clients:
            self._clients.append(self._connections.enter_context(self._opened()))
        return self._clients[:clients]

    def _replicas(self) -> dict[str, int]:
        """How many replicas of each deployment run; empty where this user may not know."""
        try:
            details = self._clients[0].health().get("details") or {}
        except (Problem, Unreachable):
            return {}
        deployments = (details.get("replicas") or {}).get("deployments") or {}
        return {str(name): int(found["running"]) for name, found in deployments.items()}


def doublings(most: int) -> Iterator[int]:
    """1, 2, 4 ... and `most` itself."""
    clients = 1
    while clients < most:
        yield clients
        clients *= 2
    yield most


def percentile_ms(ascending_s: list[float], share: float) -> float:
    """The nearest rank in ms; 0 of nothing."""
    if not ascending_s:
        return 0.0
    return ascending_s[math.ceil(share * len(ascending_s)) - 1] * 1e3


def best(levels: list[Level], p95_ms: float) -> Level | None:
    """The level with the most images a second among those that hold; None where none does."""
    holding = [level for level in levels if level.holds(p95_ms)]
    return max(holding, key=lambda level: level.images_per_s, default=None)

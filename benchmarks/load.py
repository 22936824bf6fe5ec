"""What a load is, and what it shows. The client that puts it on a server is `load_client`.

Loopback only, bounded in time and count: a bench must not become somebody's outage.

Two kinds. Closed loop: each client sends its next request when the last one is answered, so the
server is never asked for more than it gives. Open loop (`rate`): requests are due at fixed times
whatever the server does, and a latency counts from the time the request was due, so that a server
that stalls cannot hide it (Tene's "coordinated omission").
"""

import base64
import ipaddress
import json
from dataclasses import asdict, dataclass

from benchmarks.percentiles import Latency

MAX_SECONDS = 120.0
MAX_CLIENTS = 4096
MAX_REQUESTS = 2_000_000

MEASURING = "measuring"  # what the client says when the warm-up is over
MEASURED = "measured"  # ... and at the end of the measured time
LOST = "lost"  # a "status": the connection ended before the answer
UNREADABLE = "unreadable"  # ... or the answer has no length


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, and for how long.

    Attributes:
        host: A literal loopback address.
        request: The whole HTTP/1.1 request, head and body.
        clients: Connections; in a closed loop each has one request under way.
        warmup_s: Time before anything is counted.
        seconds: Measured time.
        max_requests: The measured time ends early after so many.
        rate: Requests a second of an open loop; None is a closed loop.
    """

    host: str
    port: int
    request: bytes
    clients: int
    warmup_s: float = 1.0
    seconds: float = 5.0
    max_requests: int = 200_000
    rate: float | None = None

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError("the load client talks to this machine only (127.0.0.1 or ::1)")
        if not 0 < self.seconds + self.warmup_s <= MAX_SECONDS:
            raise ValueError(f"a load lasts at most {MAX_SECONDS:g} s")
        if not 1 <= self.clients <= MAX_CLIENTS or not 1 <= self.max_requests <= MAX_REQUESTS:
            raise ValueError(f"at most {MAX_CLIENTS} clients and {MAX_REQUESTS} requests")

    def to_json(self) -> str:
        """The load on one line."""
        document = asdict(self)
        document["request"] = base64.b64encode(self.request).decode()
        return json.dumps(document)

    @classmethod
    def from_json(cls, line: str) -> "Load":
        """The opposite of `to_json`."""
        document = json.loads(line)
        document["request"] = base64.b64decode(document["request"])
        return cls(**document)


@dataclass(frozen=True, slots=True)
class Result:
    """What a load measured.

    Attributes:
        answered: Answers with a 2xx status.
        seconds: The measured time.
        throughput: `answered` a second.
        latency: Of the 2xx answers.
        statuses: How many of each status, and of `lost` and `unreadable`.
        retry_after: How many of each status carried Retry-After.
        waiting: The most requests that were due and had no free connection (open loop).
    """

    answered: int
    seconds: float
    throughput: float
    latency: Latency
    statuses: dict[str, int]
    retry_after: dict[str, int]
    waiting: int = 0

    @classmethod
    def from_json(cls, line: str) -> "Result":
        """From the client's last line."""
        document = json.loads(line)
        return cls(**document | {"latency": Latency(**document["latency"])})

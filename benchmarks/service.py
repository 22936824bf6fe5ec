"""A server under load: one cell's measurement, whoever the server is."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import machine
from benchmarks.load import MEASURED, MEASURING, Load, Result
from benchmarks.processes import Left, Processes, cpu_by_role

HOST = "127.0.0.1"
ENOUGH_S = 60.0  # beyond a load's own time: connecting, waiting for what is under way


@dataclass(frozen=True, slots=True)
class Service:
    """A running server.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        path: What images are posted to.
        processes: Its processes.
        headers: More headers of each request.
    """

    port: int
    path: str
    processes: Processes
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, body: bytes, media_type: str = "image/jpeg", path: str = "") -> bytes:
        """The bytes of a whole request."""
        head = {
            "host": f"{HOST}:{self.port}",
            "content-type": media_type,
            "content-length": str(len(body)),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST {path or self.path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    def ask(self, body: bytes, media_type: str = "image/jpeg", path: str = "") -> dict[str, Any]:
        """The answer to one request, to see that it is one. Raises `Left` where it is not."""
        response = httpx2.post(
            f"http://{HOST}:{self.port}{path or self.path}",
            content=body,
            headers={"content-type": media_type, **self.headers},
            timeout=60,
        )
        if response.status_code != httpx2.codes.OK:
            raise Left(f"the server answered {response.status_code}: {response.text[:300]}")
        document: dict[str, Any] = response.json()
        return document


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one load on one server showed.

    Attributes:
        result: What the client counted.
        cpu_s: CPU seconds by role in the measured time.
        others: How many cores were in use by anybody but the server and the client.
    """

    result: Result
    cpu_s: dict[str, float]
    others: float

    def cpu_ms_per_request(self) -> dict[str, float]:
        """CPU ms by role for each answered request."""
        answered = max(self.result.answered, 1)
        return {role: spent / answered * 1e3 for role, spent in self.cpu_s.items()}


def measure(service: Service, load: Load) -> Measurement:
    """Put `load` on `service` from a process of its own."""
    with client(load) as process:
        asking = Processes("", "client", also=(process.pid,))
        _expect(process, MEASURING)
        before, used = service.processes.cpu() | asking.cpu(), machine.used_s()
        _expect(process, MEASURED)
        after, used = service.processes.cpu() | asking.cpu(), machine.used_s() - used
        result = Result.from_json(hear(process))
    spent = cpu_by_role(before, after)
    others = max(0.0, used - sum(spent.values())) / result.seconds
    spent.pop("client", None)
    return Measurement(result, spent, others)


@contextlib.contextmanager
def client(load: Load) -> Iterator["subprocess.Popen[str]"]:
    """A load client that has its orders; ended in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load_client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(f"{load.to_json()}\n")
        process.stdin.flush()
        yield process
        process.wait(ENOUGH_S)
    finally:
        process.kill()
        process.communicate()


def is_up(url: str) -> bool:
    """Whether a health address answers 200."""
    try:
        return httpx2.get(url, timeout=2).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def tail(log: Path, lines: int = 15) -> str:
    """The end of a server's log, for an error message."""
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def hear(process: "subprocess.Popen[str]") -> str:
    """The next line a process says. Raises `Left` where it has ended."""
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise Left("a process of the bench ended early; its reason is above")
    return line.strip()


def _expect(process: "subprocess.Popen[str]", wanted: str) -> None:
    if (said := hear(process)) != wanted:
        raise Left(f"the load client said {said!r} instead of {wanted!r}")


def scores_of(answer: dict[str, Any]) -> dict[str, float]:
    """The scores in an answer; they are in the same place in every row."""
    return {str(label): float(score) for label, score in (answer.get("scores") or {}).items()}


def differ_by(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference of two answers' scores. Raises `Left` where their labels differ."""
    if set(one) != set(other):
        raise Left(f"answers differ in their labels: {json.dumps([one, other])}")
    return max((abs(one[label] - other[label]) for label in one), default=0.0)

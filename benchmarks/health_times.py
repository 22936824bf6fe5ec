"""How long the health endpoints take while the service is saturated (100 ms at most, each).

    python -m benchmarks.health_times

The full service with as many clients as saturate it, and beside them a prober that asks each
endpoint in turn, twenty times a second in all, over a connection of its own for each request: as
kubelets and load balancers do.
"""

import threading
import time
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bench import QUICK, Bench, image
from benchmarks.film import Picture
from benchmarks.load import Load
from benchmarks.overload import SATURATING
from benchmarks.processes import Left
from benchmarks.rows import CXR, ROWS
from benchmarks.service import HOST, Service, measure

PATHS = ("/health", "/health/live", "/health/ready", "/health/startup")
SECONDS = 20.0
WARM_S = 5.0
PAUSE_S = 0.05
LIMIT_MS = 100.0
WORKSPACE = Path("var/bench")


class Prober(threading.Thread):
    """Asks until it is told to stop. `times`: by path, the ms of each answer."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="prober", daemon=True)
        self.times: dict[str, list[float]] = {path: [] for path in PATHS}
        self.stopped = threading.Event()
        self._port = service.port

    def run(self) -> None:
        """See the module's docstring."""
        while not self.stopped.is_set():
            for path, times in self.times.items():
                started = time.perf_counter()
                connection = HTTPConnection(HOST, self._port, timeout=10)
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                times.append((time.perf_counter() - started) * 1e3)
                connection.close()
                if response.status != HTTPStatus.OK:
                    raise Left(f"{path} answered {response.status}")
                self.stopped.wait(PAUSE_S)


def main() -> None:
    """Measure, and print one line an endpoint."""
    console = Console(highlight=False)
    bench = Bench(WORKSPACE, QUICK, console.print)
    with ROWS["ours"].start(bench.folder(CXR), bench.log("health-times")) as service:
        request = service.request(image(Picture.SMALL))
        prober = Prober(service)
        prober.start()
        load = Load(HOST, service.port, request, SATURATING, warmup_s=WARM_S, seconds=SECONDS)
        result = measure(service, load).result
        prober.stopped.set()
        prober.join()
    console.print(f"{SATURATING} clients, {result.throughput:.0f} images/s meanwhile")
    table = Table("endpoint", "answers", "p50 ms", "p99 ms", "most ms", "over 100 ms")
    for path, times in prober.times.items():
        p50, p99 = np.percentile(times, (50, 99))
        over = sum(took > LIMIT_MS for took in times)
        figures = (f"{p50:.1f}", f"{p99:.1f}", f"{max(times):.1f}", f"{over}")
        table.add_row(path, f"{len(times)}", *figures)
    console.print(table)


if __name__ == "__main__":
    main()

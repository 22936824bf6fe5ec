"""Scaling by configuration alone: load makes the model's replicas go from 1 to 2 and back to 1.

The service runs with an `autoscaling_config` in `serve_config.yaml` and nothing else; then little,
much and again little load is put on it. The number of replicas is counted from outside, by their
processes, twice a second. No request may fail on the way.

    python -m benchmarks.scaling
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib as mpl
from rich.console import Console

from benchmarks.densenet import write
from benchmarks.film import Picture, jpeg
from benchmarks.load import Load, Result
from benchmarks.ours import Variant, serving
from benchmarks.processes import Processes
from benchmarks.service import HOST, Service, measure

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt  # only after the backend is chosen

OUT = Path("var/bench")
LOOK_S = 0.5
MODEL = "model"  # the role of a model replica's process
# Quick to react, so that the bench is short; an operator's delays are those of serve_config.yaml.
AUTOSCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 2,
    "upscale_delay_s": 2,
    "downscale_delay_s": 6,
    "look_back_period_s": 2,
    "metrics_interval_s": 1,
}
VARIANT = Variant(
    "ours-autoscaling",
    serve_config={
        "deployments": [
            {"name": "OnnxModel", "num_replicas": None, "autoscaling_config": AUTOSCALING}
        ]
    },
)


@dataclass(frozen=True, slots=True)
class Phase:
    """A closed loop of `clients` for `seconds`."""

    clients: int
    seconds: float


PHASES = (Phase(1, 10.0), Phase(32, 45.0), Phase(1, 45.0))


@dataclass(slots=True)
class Run:
    """What was seen. `replicas`: seconds since the beginning, and how many there were."""

    replicas: list[tuple[float, int]] = field(default_factory=list)
    phases: list[tuple[float, Phase, Result]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were not answered 2xx."""
        return sum(
            count
            for _, _, result in self.phases
            for status, count in result.statuses.items()
            if not status.startswith("2")
        )

    def counts(self) -> list[int]:
        """The numbers of replicas in order, each once: 1, 2, 1."""
        seen: list[int] = []
        for _, count in self.replicas:
            if count and (not seen or seen[-1] != count):
                seen.append(count)
        return seen


def scale(service: Service, body: bytes, phases: tuple[Phase, ...] = PHASES) -> Run:
    """Put the phases on the service, one after the other."""
    run = Run()
    began = time.monotonic()
    over = threading.Event()

    def since() -> float:
        return round(time.monotonic() - began, 2)

    watcher = threading.Thread(target=_watch, args=(service.processes, run, since, over))
    watcher.start()
    try:
        for phase in phases:
            at = since()
            load = Load(
                HOST,
                service.port,
                service.request(body),
                phase.clients,
                warmup_s=1,
                seconds=phase.seconds,
            )
            run.phases.append((at, phase, measure(service, load).result))
    finally:
        over.set()
        watcher.join()
    return run


def _watch(
    processes: Processes, run: Run, since: Callable[[], float], over: threading.Event
) -> None:
    """Count replicas until it is over; a look of its own, since `measure` looks too."""
    mine = Processes(processes.mark, processes.default_role, processes.roles)
    while not over.wait(LOOK_S):
        run.replicas.append((since(), mine.count(MODEL)))


def plot(run: Run, file: Path) -> Path:
    """Replicas over time, and the load. Returns `file`."""
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    times, counts = zip(*run.replicas, strict=True)
    axes.step(times, counts, where="post", color="#1f4e79")
    for at, phase, result in run.phases:
        axes.axvline(at, color="#999999", linewidth=0.8, linestyle=":")
        text = f" {phase.clients} client(s)\n {result.throughput:.0f}/s"
        axes.annotate(text, (at, 2.25), fontsize=8)
    axes.set_yticks([0, 1, 2])
    axes.set_ylim(0, 2.7)
    axes.set_xlabel("seconds")
    axes.set_ylabel("replicas of OnnxModel")
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def main() -> None:
    """Start the service, scale it, write the plot and the figures."""
    console = Console(highlight=False)
    OUT.mkdir(parents=True, exist_ok=True)
    log = OUT / "logs" / "scaling.log"
    log.parent.mkdir(exist_ok=True)
    with serving(VARIANT, write(OUT / "models"), log) as service:
        run = scale(service, jpeg(Picture.SMALL))
    for at, phase, result in run.phases:
        console.print(
            f"{at:5.0f} s  {phase.clients:2} clients  {result.throughput:6.1f}/s  "
            f"p99 {result.latency.p99:.0f} ms  {result.statuses}"
        )
    console.print(f"replicas: {run.counts()}, failed requests: {run.failed}")
    (OUT / "scaling.json").write_text(json.dumps(asdict(run)), "utf-8")
    console.print(f"written: {plot(run, OUT / 'scaling.png')}")


if __name__ == "__main__":
    main()

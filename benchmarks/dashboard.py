"""A Grafana dashboard of `configs/grafana` as a picture, from a real Prometheus.

Starts the service, puts a mixed load on it, lets a Prometheus with `configs/prometheus` scrape it,
asks that Prometheus for every panel's own expressions and draws the panels where the dashboard
places them. Grafana itself is not needed: what is shown is what it would be given.

    python -m benchmarks.dashboard                   docs/dashboard.png, in about three minutes
    python -m benchmarks.dashboard --name capacity --out var/capacity.png
"""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx2
import matplotlib as mpl
import typer
from rich.console import Console

from benchmarks.film import Picture, jpeg
from benchmarks.load import Load
from benchmarks.ours import Variant, serving
from benchmarks.panels import Panel, Series, draw
from benchmarks.processes import Left, free_ports
from benchmarks.service import HOST, Service, measure

mpl.use("Agg")  # no display is needed

GRAFANA = Path("configs/grafana")
PROMETHEUS = Path("configs/prometheus")
MODEL = Path("registry/bundled/cxr-pneumonia")
SCRAPE = "2s"
RATE_INTERVAL = "16s"  # what Grafana would put in: four scrapes and a little
PHASES = ((2, 40.0), (16, 40.0), (4, 40.0))  # clients, seconds
STEP_S = 2.0
ODD_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    def ask(self, expression: str, start: float, end: float) -> list[Series]:
        """The series of an expression in a time, one value every `STEP_S` seconds."""
        when = {"start": str(start), "end": str(end), "step": str(STEP_S)}
        asked = when | {"query": expression}
        answer = httpx2.get(f"http://{self.address}/api/v1/query_range", params=asked, timeout=30)
        if answer.status_code != httpx2.codes.OK:
            raise Left(f"Prometheus refused an expression: {answer.text[:300]}")
        return [
            Series(found["metric"], [(at - start, float(value)) for at, value in found["values"]])
            for found in answer.json()["data"]["result"]
        ]


def main(
    name: Annotated[str, typer.Option(help="Which dashboard of configs/grafana.")] = "overview",
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/dashboard.png"),
) -> None:
    """Draw a dashboard of a service under load."""
    console = Console(highlight=False)
    if shutil.which("prometheus") is None:
        console.print("[red]prometheus is not installed[/]: `apt install prometheus`")
        raise typer.Exit(1)
    dashboard = json.loads((GRAFANA / f"{name}.json").read_text("utf-8"))
    metrics_port, haproxy_port = free_ports(2)
    variant = Variant(
        "dashboard",
        environment={
            "MEDAI_SERVER__METRICS_PORT": str(metrics_port),
            "MEDAI_SERVER__HAPROXY_METRICS_PORT": str(haproxy_port),
        },
    )
    with tempfile.TemporaryDirectory(prefix="dashboard-") as home:
        directory = Path(home)
        console.print("starting the service")
        with (
            serving(variant, MODEL, directory / "service.log") as service,
            scraping(directory, metrics_port, haproxy_port) as prometheus,
        ):
            started = time.time()
            put_load_on(service, console)
            time.sleep(2 * STEP_S)  # the last numbers are on their way
            answered = ask_all(dashboard, prometheus, started, time.time())
    draw(dashboard["title"], answered, out)
    console.print(f"written: {out}")


@contextlib.contextmanager
def scraping(directory: Path, metrics_port: int, haproxy_port: int) -> Iterator[Prometheus]:
    """A Prometheus with the repository's configuration, which looks more often."""
    shutil.copytree(PROMETHEUS, directory / "prometheus")
    config = directory / "prometheus" / "prometheus.yml"
    text = config.read_text("utf-8")
    config.write_text(
        re.sub(r"(scrape|evaluation)_(interval|timeout): \w+", rf"\1_\2: {SCRAPE}", text)
    )
    for target, port in (("nodes", metrics_port), ("haproxy", haproxy_port)):
        (directory / "prometheus" / "targets" / f"{target}.yml").write_text(
            f'- targets: ["{HOST}:{port}"]\n'
        )
    address = f"{HOST}:{free_ports(1)[0]}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--web.listen-address={address}",
        f"--storage.tsdb.path={directory / 'data'}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(20)


def put_load_on(service: Service, console: Console) -> None:
    """Films in phases, and beside them what goes wrong in a hospital."""
    over = threading.Event()
    odd = threading.Thread(target=send_odd, args=(service, over))
    odd.start()
    try:
        for clients, seconds in PHASES:
            console.print(f"{clients} clients for {seconds:g} s")
            request = service.request(jpeg(Picture.SMALL))
            measure(service, Load(HOST, service.port, request, clients, seconds=seconds))
    finally:
        over.set()
        odd.join()


def send_odd(service: Service, over: threading.Event) -> None:
    """Broken files, callers without a token, wrong passwords, lists, until it is over."""
    film = jpeg(Picture.SMALL)
    half = film[: len(film) // 2]
    image = {"content-type": "image/jpeg"}
    with httpx2.Client(base_url=f"http://{HOST}:{service.port}", timeout=30) as client:
        while not over.wait(ODD_EVERY_S):
            client.post(service.path, content=half, headers=service.headers | image)
            client.post(service.path, content=b"no image", headers=service.headers | image)
            client.post(service.path, content=film, headers=image)
            client.get("/results", headers=service.headers)
            client.get("/health")


def ask_all(
    dashboard: dict[str, Any], prometheus: Prometheus, start: float, end: float
) -> list[Panel]:
    """Every panel with what its expressions gave."""
    panels = []
    for panel in dashboard["panels"]:
        answered = [
            (target.get("legendFormat", ""), series)
            for target in panel.get("targets", [])
            for series in prometheus.ask(filled_in(target["expr"]), start, end)
        ]
        panels.append(Panel.of(panel, answered))
    return panels


def filled_in(expression: str) -> str:
    """An expression with Grafana's variables replaced as Grafana would."""
    return re.sub(
        r"\$(model|version)\b", ".+", expression.replace("$__rate_interval", RATE_INTERVAL)
    )


if __name__ == "__main__":
    typer.run(main)

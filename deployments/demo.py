"""`medai demo`: the main job on a real chest film, from an empty directory to a verified record.

Everything it does goes through the same doors as in a hospital: the command line for the set-up, a
server process of its own, HTTP for the rest. The film is RG1 of the NEMA compression samples (CR,
an adult), from the `pydicom-data` package. The bundled chest model was made for children, so the
defensible answer to it is no answer: the service abstains, and says why. The router model then
shows a prediction on the same film.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pydicom.data import get_testdata_file
from rich.console import Console
from rich.table import Table

from configs.settings import Settings
from deployments.client import Client
from deployments.client_answers import Inference
from registry.errors import Failed

FILM = "RG1_UNCR.dcm"
MODELS = ("cxr-pneumonia", "body-part")
READY_S = 120.0
STOP_S = 40.0
POLL_S = 0.1


def run(settings: Settings, console: Console) -> None:
    """Run the demo. Raises `Failed` where a step fails; the server is stopped in any case."""
    username, password = f"demo-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    film = get_testdata_file(FILM, download=False)
    if film is None:
        raise Failed("the film is missing: install the demo requirements with `make setup`")
    console.rule("[bold]1. Prepare: database, keys, models, a first user")
    medai("init", "--no-admin")
    medai("users", "add", username, "--role", "clinician", "--password-stdin", text=password)
    console.rule("[bold]2. Start the server")
    with serving(settings, console) as url, Client(url) as client:
        console.rule("[bold]3. Log in and send the film")
        client.login(username, password)
        for model in MODELS:
            show(console, client.infer(Path(film), model=model))
        client.logout()
        console.rule("[bold]4. Stop the server")
    console.rule("[bold]5. Verify the audit chain")
    medai("audit", "verify")


def medai(*arguments: str, text: str | None = None) -> None:
    """Run a `medai` command in a process of its own. Raises `Failed` where it fails."""
    done = subprocess.run(  # noqa: S603  # our own program, no shell, constant arguments
        [sys.executable, "-m", "deployments.cli", *arguments],
        input=text,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"`medai {arguments[0]}` ended with exit code {done.returncode}")


@contextlib.contextmanager
def serving(settings: Settings, console: Console) -> Iterator[str]:
    """A server process, ready to answer; stopped and gone afterwards."""
    url = f"http://{settings.server.host}:{settings.server.port}"
    started = time.monotonic()
    process = subprocess.Popen(  # our own program, no shell, constant arguments
        [sys.executable, "-m", "deployments.cli", "serve"], start_new_session=True
    )
    try:
        wait_until_ready(process, url)
        console.print(f"ready after {time.monotonic() - started:.1f} s", style="green")
        yield url
    finally:
        children = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failed(f"the server did not stop within {STOP_S:g} s") from None
        _, alive = psutil.wait_procs(children, timeout=5)
        if alive:
            names = ", ".join(sorted({child.name() for child in alive}))
            raise Failed(f"the server left processes behind: {names}")
    if code != os.EX_OK:
        raise Failed(f"the server ended with exit code {code}")


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Ask until the server says that it is ready. Raises `Failed` where it ends or takes long."""
    deadline = time.monotonic() + READY_S
    with Client(url) as client:
        while not client.is_ready():
            if process.poll() is not None:
                raise Failed("the server ended while starting; its reason is above")
            if time.monotonic() > deadline:
                raise Failed(f"the server was not ready within {READY_S:g} s")
            time.sleep(POLL_S)


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below this one, at this moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def show(console: Console, answer: Inference) -> None:
    """Print an answer for a person."""
    model = answer["model"]
    table = Table(
        title=f"{model['name']} {model['version']}", show_header=False, title_justify="left"
    )
    label = answer["prediction"] or "no label"
    table.add_row("outcome", f"[bold]{answer['outcome']}[/bold]: {label}")
    if answer["reasons"]:
        table.add_row("because", ", ".join(answer["reasons"]))
    table.add_row("needs review", "yes" if answer["needs_review"] else "no")
    scores = [f"{name} {score:.4f}" for name, score in (answer["scores"] or {}).items()]
    table.add_row("scores", ", ".join(scores) or "none")
    validation = answer["validation"]
    for check in validation["checks"] if validation else ():
        mark = "[green]ok[/green]" if check["passed"] else "[red]broken[/red]"
        table.add_row(check["name"], f"{_number(check['measured'])} ({check['limit']}) {mark}")
    table.add_row("model sha256", model["sha256"])
    table.add_row("audit entry", f"{answer['audit']['seq']}  {answer['audit']['entry_hash'][:32]}…")
    times = [f"{name} {value:.1f}" for name, value in answer["timings_ms"].items()]
    table.add_row("times, ms", ", ".join(times))
    console.print(table)


def _number(value: Any) -> str:  # a measured value is a number, a word or absent
    return (
        f"{value:.3f}"
        if isinstance(value, float)
        else "not stated"
        if value is None
        else str(value)
    )

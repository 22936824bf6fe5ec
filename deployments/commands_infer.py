"""`medai infer`: send images to a running server, as an application would."""

import getpass
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from configs.settings import Settings
from deployments.client import Client, Problem, Unreachable, batches
from deployments.client_answers import Inference, ProblemDocument
from registry.errors import BadRequest

EXIT_SOME_REFUSED = 1
EXIT_UNREACHABLE = 3


def infer(
    files: Annotated[
        list[Path], typer.Argument(help="JPEG, PNG or DICOM files.", exists=True, dir_okay=False)
    ],
    model: Annotated[str, typer.Option(help="The model's name.")] = "cxr-pneumonia",
    user: Annotated[str | None, typer.Option(help="Who asks; default: your login name.")] = None,
    url: Annotated[str | None, typer.Option(help="The server; default: this machine's.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line and file.")
    ] = False,
) -> None:
    """Send images for inference and print the answers.

    Exit codes: 0 every image was answered, 1 some were refused, 3 the server cannot be reached.
    """
    server = Settings.load().server
    console = Console(highlight=False)
    password = sys.stdin.readline().rstrip("\n") if password_stdin else getpass.getpass()
    address = url or f"http://{server.host}:{server.port}"
    refused = 0
    try:
        with Client(address) as client:
            client.login(user or getpass.getuser(), password)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                answers = progress.track(
                    _ask(client, files, model), total=len(files), description="inferring"
                )
                for file, document in zip(files, answers, strict=True):
                    refused += "outcome" not in document
                    _print(console, file, document, as_json=as_json)
            client.logout()
    except Problem as problem:
        raise BadRequest(f"cannot log in: {problem}") from None
    except Unreachable:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"medai: nobody answers at {address}: start the server with `medai serve`, "
            "or name another with --url"
        )
        raise typer.Exit(EXIT_UNREACHABLE) from None
    raise typer.Exit(EXIT_SOME_REFUSED if refused else os.EX_OK)


def _ask(client: Client, files: list[Path], model: str) -> Iterator[Inference | ProblemDocument]:
    """The answer to each file, in order; of a batch that got none, its problem for each of it."""
    for batch in batches(files):
        try:
            if len(batch) == 1:
                yield client.infer(batch[0], model=model)
                continue
            items = list(client.infer_batch(batch, model=model))
        except Problem as problem:
            yield from [problem.document] * len(batch)
            continue
        for item in items:
            answer = item["result"] or item["problem"]
            assert answer is not None
            yield answer


def _print(
    console: Console, file: Path, answer: Inference | ProblemDocument, *, as_json: bool
) -> None:
    document: Mapping[str, Any] = answer
    if as_json:
        print(json.dumps({"file": file.name, **document}))  # noqa: T201  # a program reads it
    elif "outcome" in document:
        label = document["prediction"] or ", ".join(document["reasons"]) or "no label"
        confidence = document["confidence"]
        score = "" if confidence is None else f" {confidence:.3f}"
        review = "  needs review" if document["needs_review"] else ""
        console.print(f"{file.name}: {document['outcome']}: {label}{score}{review}")
    else:
        rules = "; ".join(
            f"{rule['rule']} {rule.get('measured') or ''} ({rule.get('limit') or ''})"
            for rule in document.get("violations") or []
        )
        console.print(
            f"{file.name}: refused: {document.get('detail', document.get('title'))} {rules}"
        )

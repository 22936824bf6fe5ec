"""This service, started as an operator starts it: `medai init`, a user, `medai serve`, a login.

A row of the bench is a `Variant`: which database, which settings (`MEDAI_*`), which topology
(`serve_config.yaml` with changes), which card. All of it goes through the doors an operator has;
the bench imports nothing of the service to make it faster. Each start is from an empty directory,
so that the third round finds tables as empty as the first one did.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from benchmarks.densenet import NAME as DENSENET
from benchmarks.postgres import postgres
from benchmarks.processes import RAY_ROLES, Left, free_ports, free_range, running, wait_until
from benchmarks.service import HOST, Service, is_up

READY_S = 180.0
COMMAND_S = 120.0
USER = "bench"
APPROVER = "bench-approver"
CONFIG = Path("serve_config.yaml")
REPLICA_PORTS = 50
BUNDLED = Path("registry/bundled")
# A model that takes tens of ms an image gets a session a core, as in the other rows.
SESSIONS = {DENSENET: 2}
ASKED = "BENCH_WITHOUT"  # see benchmarks.without
BARE_NAME = "bench-{}"  # a card that was changed becomes a model of its own

Overrides = Mapping[str, Any]


class NotOffered(RuntimeError):
    """The service has no such setting (yet): the row cannot be measured."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the service.

    Attributes:
        name: The row's name.
        postgresql: PostgreSQL from the wheel instead of a SQLite file.
        environment: `MEDAI_*` settings.
        serve_config: Merged into `serve_config.yaml`, after what the bench itself fixes; in it,
            `OnnxModel` stands for the deployment of the model under test. See `merged`.
        card: Merged into the model's card, which is then registered as a model of its own.
        builder: Another builder than the service's own (`benchmarks.without`).
    """

    name: str
    postgresql: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    serve_config: Overrides = field(default_factory=dict)
    card: Overrides = field(default_factory=dict)
    builder: str = ""


@contextlib.contextmanager
def serving(variant: Variant, model: Path, log: Path) -> Iterator[Service]:
    """The service with one model, ready, and a user logged in.

    Args:
        variant: How.
        model: A folder with `card.yaml` and its file.
        log: Where the output of everything goes.

    Raises:
        NotOffered: The service does not know a setting of the variant.
        Left: It did not start or stop, or left processes behind.
    """
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-home-")))
        database = stack.enter_context(postgres()) if variant.postgresql else None
        port, *others = free_ports(5)
        environment = {
            "MEDAI_HOME": str(home),
            **_addresses(port, others),
            **({"MEDAI_DATABASE__URL": database.url("postgres")} if database else {}),
            **variant.environment,
            **({ASKED: "1"} if variant.builder else {}),
        }
        offered(environment, log)
        name, gate = _set_up(variant, model, home, environment, log)
        password = secrets.token_urlsafe(18)
        _add_user(USER, "clinician", password, environment, log)
        topology = home / "serve_config.yaml"
        topology.write_text(
            yaml.safe_dump(topology_of(variant, name, gate, SESSIONS.get(model.name, 1))), "utf-8"
        )
        command = [sys.executable, "-m", "deployments.cli", "serve", "--config", str(topology)]
        server, processes = stack.enter_context(
            running(
                command,
                log=log,
                default_role="other",
                roles=RAY_ROLES,
                environment=environment,
                also=(database.pid,) if database else (),
                strict=True,
            )
        )
        ready = f"http://{HOST}:{port}/health/ready"
        wait_until(lambda: is_up(ready), server, within_s=READY_S, log=log)
        token = _login(port, password)
        yield Service(port, f"/infer?model={name}", processes, {"authorization": f"Bearer {token}"})


def medai(*arguments: str, env: Mapping[str, str], log: Path, text: str | None = None) -> None:
    """Run a `medai` command. Raises `Left` where it fails."""
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *arguments],
            env={**os.environ, **env},
            input=None if text is None else text.encode(),
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
            check=False,
        )
    if done.returncode:
        raise Left(f"`medai {' '.join(arguments[:2])}` failed; see {log}")


def offered(environment: Mapping[str, str], log: Path) -> None:
    """Raises `NotOffered` where the service refuses a setting."""
    try:
        medai("config", "show", env=environment, log=log)
    except Left:
        raise NotOffered("the service does not know a setting of this row") from None


def topology_of(
    variant: Variant, model: str, gate: str | None, sessions: int = 1
) -> dict[str, Any]:
    """The `serve_config.yaml` of a row: the repository's own, one model and its gate.

    What scales by itself is fixed, so that no replica starts while something is measured. A model
    with several `sessions` gets two calls in flight for each, so that none waits for its next one.
    """
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))
    (application,) = document["applications"]
    models = {model: {"threads": 1}} | ({gate: {"threads": 1}} if gate else {})
    application["args"]["models"] = models
    if variant.builder:
        application["import_path"] = variant.builder
    known = {each["name"]: each for each in application["deployments"]}
    template = known["OnnxModel:cxr-pneumonia"]
    application["deployments"] = [
        *(known[name] for name in ("Gateway", "Validator", "AuditWriter")),
        *({**template, "name": f"OnnxModel:{name}"} for name in models),
    ]
    for deployment in application["deployments"]:
        if deployment.pop("autoscaling_config", None) is not None:
            deployment["num_replicas"] = 1
        if sessions > 1 and deployment["name"] == f"OnnxModel:{model}":
            deployment["num_replicas"] = sessions
            deployment["user_config"] = {"max_batch_size": 1}  # docs/scaling.md, Batches
        if sessions > 1 and deployment["name"] == "Gateway":
            deployment["user_config"]["validator"]["max_in_flight"] = 2 * sessions
    overrides = [
        {**each, "name": f"OnnxModel:{model}" if each["name"] == "OnnxModel" else each["name"]}
        for each in variant.serve_config.get("deployments", ())
    ]
    rest = {key: value for key, value in variant.serve_config.items() if key != "deployments"}
    changes = {"applications": [{"name": "medai", "deployments": overrides}], **rest}
    result = merged(document, changes)
    assert isinstance(result, dict)
    return result


def merged(document: Any, changes: Any) -> Any:
    """`document` with `changes`: mappings key by key, lists of named things by name.

    None takes a key away; anything else replaces.
    """
    if isinstance(document, dict) and isinstance(changes, Mapping):
        result = dict(document)
        for key, change in changes.items():
            if change is None:
                result.pop(key, None)
            else:
                result[key] = merged(document.get(key), change)
        return result
    if _named(document) and _named(changes):
        by_name = {each["name"]: each for each in document}
        for change in changes:
            by_name[change["name"]] = merged(by_name.get(change["name"]), change)
        return list(by_name.values())
    return changes


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and "name" in each for each in value
    )


def _set_up(
    variant: Variant, model: Path, home: Path, environment: Mapping[str, str], log: Path
) -> tuple[str, str | None]:
    """Initialise the home, register the model unless it is there; gives its and its gate's name."""
    medai("init", "--no-admin", env=environment, log=log)
    card: dict[str, Any] = yaml.safe_load((model / "card.yaml").read_text("utf-8"))
    if variant.card:
        card = merged(card, variant.card) | {"name": BARE_NAME.format(card["name"])}
    if variant.card or model.parent != BUNDLED:
        folder = home / "incoming"
        folder.mkdir()
        file = str(card.get("file", "model.onnx"))
        (folder / file).symlink_to((model / file).absolute())
        (folder / "card.yaml").write_text(yaml.safe_dump(card), "utf-8")
        version = (str(card["name"]), str(card["version"]))
        medai("models", "register", str(folder), env=environment, log=log)
        _approve(version, environment, log)
        medai("models", "activate", *version, env=environment, log=log)
    gate = card.get("gate")
    return str(card["name"]), None if gate is None else str(gate["model"])


def _approve(version: tuple[str, str], environment: Mapping[str, str], log: Path) -> None:
    """Sign a version off as a second person: who registered it may not."""
    password = secrets.token_urlsafe(18)
    _add_user(APPROVER, "admin", password, environment, log)
    signed = ("models", "approve", *version, "--as", APPROVER, "--password-stdin")
    medai(*signed, env=environment, log=log, text=password)


def _add_user(
    name: str, role: str, password: str, environment: Mapping[str, str], log: Path
) -> None:
    command = ("users", "add", name, "--role", role, "--password-stdin")
    medai(*command, env=environment, log=log, text=password)


def _addresses(port: int, others: list[int]) -> dict[str, str]:
    first = free_range(REPLICA_PORTS)
    names = ("FALLBACK_PORT", "HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "METRICS_PORT")
    return {
        "MEDAI_SERVER__PORT": str(port),
        "MEDAI_SERVER__REPLICA_PORTS": f"[{first}, {first + REPLICA_PORTS - 1}]",
        **{f"MEDAI_SERVER__{name}": str(other) for name, other in zip(names, others, strict=True)},
    }


def _login(port: int, password: str) -> str:
    response = httpx2.post(
        f"http://{HOST}:{port}/auth/login", data={"username": USER, "password": password}
    )
    if response.status_code != httpx2.codes.OK:
        raise Left(f"the login was answered {response.status_code}")
    return str(response.json()["access_token"])

"""Settings and topology: what was set, and what the profile asks for."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import yaml

from configs.topology import MODEL_PREFIX
from deployments import runtime
from deployments.doctor.finding import Finding, Installation, State
from deployments.production import TOKEN_MODE

TOPOLOGY_TIMEOUT_S = 60.0

Document = dict[str, Any]


def settings(installation: Installation) -> Iterator[Finding]:
    """They were read, or there would be no installation to look at."""
    profile = installation.settings.profile
    yield Finding("settings", State.OK, f"profile {profile}, every name known, every value allowed")


def production(installation: Installation) -> Iterator[Finding]:
    """What the production profile refuses. `Settings` itself refuses the most of it."""
    finding = partial(Finding, "production rules")
    chosen = installation.settings
    if chosen.profile != "production":
        yield finding(
            State.WARN,
            "the development profile: keys are made by themselves, plain HTTP is accepted",
            "before patients are served, set MEDAI_PROFILE=production",
        )
        return
    if chosen.database_url.startswith("sqlite"):
        yield finding(
            State.WARN,
            "SQLite: one node only, no roles, and the server can change its own audit log",
            "set MEDAI_DATABASE__URL to a PostgreSQL (docs/operations.md, PostgreSQL)",
        )
    if chosen.anchor_file.parent.samefile(chosen.home_dir):
        yield finding(
            State.WARN,
            "the audit log's anchors lie beside what they protect",
            "set MEDAI_AUDIT__ANCHOR_FILE to a file on another volume",
        )
    yield finding(State.OK, "own keys, TLS in front, no key is made by itself")


def switches(installation: Installation) -> Iterator[Finding]:
    """Ray's switches that were set by hand, above all that of the token."""
    changed = runtime.overridden(installation.settings, installation.settings.home_dir)
    mode = changed.pop(TOKEN_MODE, None)
    if mode is None:
        yield Finding("token authentication", State.OK, f"{TOKEN_MODE}=token")
    else:
        found = f"{TOKEN_MODE} is not token: whoever reaches Ray's ports runs code"
        yield Finding("token authentication", State.FAIL, found, f"unset {TOKEN_MODE}")
    if changed:
        found = f"set by hand: {', '.join(sorted(changed))}"
        advice = "unset them, unless you know why (`medai env` shows what is meant)"
        yield Finding("Ray's switches", State.WARN, found, advice)
    else:
        yield Finding("Ray's switches", State.OK, "as this release sets them")


def topology(installation: Installation) -> Iterator[Finding]:
    """What `medai config check` says, in a process of its own: it brings Ray along."""
    name = installation.topology.name
    command = [sys.executable, "-m", "deployments.cli", "config", "check"]
    try:
        done = subprocess.run(  # noqa: S603  # our own module
            [*command, str(installation.topology)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TOPOLOGY_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        found = f"reading {name} took more than {TOPOLOGY_TIMEOUT_S:g} s"
        yield Finding("topology", State.FAIL, found, "run `medai config check` by hand")
        return
    if done.returncode == 0:
        yield Finding("topology", State.OK, f"{name} is right")
    else:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        found = "; ".join(line.removeprefix("medai: ") for line in said)
        yield Finding("topology", State.FAIL, found, f"mend {name}; `medai config check {name}`")


def read_topology(installation: Installation) -> Document:
    """The application's part of the file; {} where it cannot be read, which `topology` says."""
    try:
        document = yaml.safe_load(installation.topology.read_text("utf-8"))
        application = document["applications"][0]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        return {}
    return application if isinstance(application, dict) else {}


def wanted_models(application: Document) -> dict[str, int]:
    """The models that get replicas, each with the threads of one replica."""
    models = (application.get("args") or {}).get("models") or {}
    return {name: int((options or {}).get("threads", 1)) for name, options in models.items()}


def replicas(application: Document, deployment: str) -> tuple[int, int]:
    """The least and the most replicas of a deployment."""
    for one in application.get("deployments") or []:
        if one.get("name") == deployment:
            scaling = one.get("autoscaling_config") or {}
            fixed = one.get("num_replicas", 1)
            fixed = fixed if isinstance(fixed, int) else 1
            return scaling.get("min_replicas", fixed), scaling.get("max_replicas", fixed)
    return 1, 1


def model_threads(application: Document) -> tuple[int, int]:
    """Threads of all model replicas together: the least and the most."""
    least = most = 0
    for name, threads in wanted_models(application).items():
        fewest, all_of_them = replicas(application, f"{MODEL_PREFIX}{name}")
        least += threads * fewest
        most += threads * all_of_them
    return least, most

"""What the production profile refuses, beyond what a setting alone can show.

`Settings` itself refuses keys that would make themselves, and plain HTTP without a TLS proxy that
was declared. Here is what the topology, the environment, the key's file and the machine show.
`medai config check` and `medai serve` refuse it; `medai doctor` says it among its findings.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import psutil

from configs.settings import Settings
from deployments import runtime
from deployments.ports import open_to_others
from registry.errors import InvalidConfiguration, Violation

DASHBOARD_PORT: Final = 8265
DASHBOARD_ADVICE: Final = "ray start --dashboard-host=127.0.0.1, or --include-dashboard=false"
RAY_ADVICE: Final = 'stop it; eval "$(medai env)" before `ray start`'
TOKEN_MODE: Final = "RAY_AUTH_MODE"  # noqa: S105  # the switch's name
# Of 32 random bytes, fewer than 20 different ones are as good as impossible; written as
# hexadecimal digits they are 16 kinds at most. What people type or repeat has fewer than 12.
KEY_KINDS: Final = 12
# Passwords that installation guides and images come with.
DEFAULT_PASSWORDS: Final = frozenset(
    {"...", "admin", "change-me", "changeme", "medai", "password", "postgres", "secret"}
)

Deployment = Mapping[str, Any]


def refuse_unsafe(settings: Settings, applications: Sequence[Mapping[str, Any]]) -> None:
    """See that nothing here is unfit for production; no other profile is looked at.

    Args:
        settings: The settings in force.
        applications: Those of the topology file, as mappings.

    Raises:
        InvalidConfiguration: Something is; every fault is named, with what mends it.
    """
    if settings.profile != "production":
        return
    faults = (
        *_open_ray(settings),
        *_shared_sqlite(settings, applications),
        *_default_password(settings),
        *_weak_key(settings.pseudonym_key_file),
    )
    if faults:
        raise InvalidConfiguration("the production profile refuses this installation", faults)


def _open_ray(settings: Settings) -> Iterator[Violation]:
    """Whoever reaches a Ray that asks for no token runs code (CVE-2023-48022)."""
    if TOKEN_MODE in runtime.overridden(settings, settings.home_dir):
        yield Violation(TOKEN_MODE, "another", "token", f"unset {TOKEN_MODE}")
    for pid in rays_without_token():
        yield Violation("Ray on this machine", f"without a token (pid {pid})", advice=RAY_ADVICE)
    for place in open_to_others((DASHBOARD_PORT,)):
        yield Violation("Ray's dashboard", f"open at {place}", "loopback", DASHBOARD_ADVICE)


def rays_without_token() -> list[int]:
    """Process ids of the raylets on this machine that we may look into and that ask for none."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] != "raylet":
                continue
            if process.environ().get(TOKEN_MODE) != "token":
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # gone, or another user's
    return sorted(found)


def _shared_sqlite(
    settings: Settings, applications: Sequence[Mapping[str, Any]]
) -> Iterator[Violation]:
    """A SQLite file belongs to one machine: over a network file system its locks do not hold."""
    if not settings.database_url.startswith("sqlite"):
        return
    for application in applications:
        for deployment in application.get("deployments") or ():
            if (nodes := nodes_of(deployment)) > 1:
                yield Violation(
                    str(deployment.get("name")),
                    f"on {nodes} nodes or more",
                    "one node with SQLite",
                    "set MEDAI_DATABASE__URL to a PostgreSQL (docs/operations.md, PostgreSQL)",
                )


def nodes_of(deployment: Deployment) -> int:
    """How many nodes a deployment takes at its smallest, as far as the topology shows."""
    scaling = deployment.get("autoscaling_config")
    least = deployment.get("num_replicas", 1)
    if isinstance(scaling, Mapping):
        least = scaling.get("max_replicas", 1)  # it may come to so many
    replicas = least if isinstance(least, int) else 1
    a_node = deployment.get("max_replicas_per_node")
    by_limit = ceil(replicas / a_node) if isinstance(a_node, int) and a_node > 0 else 1
    if deployment.get("placement_group_strategy") == "STRICT_SPREAD":
        return max(by_limit, len(deployment.get("placement_group_bundles") or ()))
    return by_limit


def _default_password(settings: Settings) -> Iterator[Violation]:
    url = urlsplit(settings.database_url)
    password = None if url.password is None else unquote(url.password)
    if password is None:  # by certificate, or by the socket's owner
        return
    if password.lower() in DEFAULT_PASSWORDS or password == url.username:
        yield Violation(
            "MEDAI_DATABASE__URL", "with a default password", advice="give the role one of its own"
        )


def _weak_key(path: Path) -> Iterator[Violation]:
    """A pseudonym key that was typed or copied lets anybody turn pseudonyms into patients."""
    try:
        kinds = len(set(path.read_bytes().strip()))
    except OSError:
        return  # whoever reads it for its work says so
    if kinds < KEY_KINDS:
        yield Violation(
            "MEDAI_PRIVACY__PSEUDONYM_KEY_FILE",
            f"of {kinds} different bytes",
            f"at least {KEY_KINDS}",
            "make a key: head -c 32 /dev/urandom > the file, mode 0600",
        )

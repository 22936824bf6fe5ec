"""Known vulnerabilities of every pinned package, by pip-audit.

pip-audit ends with 1 both for a finding and for a service it cannot reach. The two must not be
confused, so its JSON decides: where there is none, nothing is known.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from supply_chain.step import State, Step

NAME = "known vulnerabilities"
TIMEOUT_S = 300.0
SHOWN = 3
OUT_OF_REACH = (
    "ConnectionError", "ConnectTimeout", "NameResolutionError", "Max retries exceeded",
    "ProxyError", "ReadTimeout", "SSLError", "Could not connect", "ServiceError", "503", "502",
)  # fmt: skip


def check(requirements: Sequence[Path]) -> Step:
    """Ask about the packages that these files pin by hash. Resolves and installs nothing."""
    files = [word for file in requirements for word in ("--requirement", str(file))]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "20"]
    try:
        done = subprocess.run(  # noqa: S603  # fixed arguments
            [*command, *options, *files],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Step(NAME, State.UNREACHABLE, (f"no answer within {TIMEOUT_S:g} s",))
    return interpret(done.stdout, done.stderr)


def interpret(stdout: str, stderr: str) -> Step:
    """What pip-audit's output says."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except (ValueError, LookupError, TypeError):
        if any(sign in stderr for sign in OUT_OF_REACH):
            said = "the vulnerability service is out of reach: nothing is known of any package"
            return Step(NAME, State.UNREACHABLE, (said,))
        last = (stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return Step(NAME, State.FAILED, (f"pip-audit broke: {last}",))
    faults = tuple(_faults(dependencies))
    unknown = [one["name"] for one in dependencies if one.get("skip_reason")]
    summary = f"{len(dependencies)} packages, {len(faults)} known vulnerabilities"
    if unknown:  # a mirror without the service answers like this for every package
        summary += f"; the service knows nothing of {len(unknown)}: {_some(unknown)}"
    state = State.FAILED if faults else State.UNREACHABLE if unknown else State.PASSED
    return Step(NAME, state, (summary, *faults))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _faults(dependencies: list[dict[str, Any]]) -> Iterator[str]:
    for one in dependencies:
        for known in one.get("vulns", ()):
            fixed = ", ".join(known.get("fix_versions", ())) or "no release yet"
            yield f"{one['name']} {one['version']}: {known['id']}, fixed in {fixed}"

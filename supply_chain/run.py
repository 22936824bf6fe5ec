"""`make audit`: every step, a report, an exit code.

Exit codes: 0 all passed, 1 something was found, 3 nothing was found but a service was out of reach,
so that known vulnerabilities are not known here. The SBOM is written to dist/.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from supply_chain import licences, secrets_scan, vulnerabilities
from supply_chain.step import State, Step

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "requirements" / "demo.txt"
PINNED = (SHIPPED, ROOT / "requirements" / "audit.txt")
SBOM = ROOT / "dist" / "sbom.cdx.json"

EXIT_FOUND = 1
EXIT_UNREACHABLE = 3


def bill_of_materials(target: Path) -> Step:
    """A CycloneDX SBOM of what is shipped, with the hashes that are pinned; valid by its schema."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(SHIPPED)]
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    options += ["--output-reproducible", "--output-format", "JSON", "--output-file", str(target)]
    return _ran("bill of materials", [*command, *options], f"{target.name}, CycloneDX")


def security_rules() -> Step:
    """Ruff's security rules, without the exceptions that are for style."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "S", "--ignore", "S101"]
    return _ran("security rules", [*command, "--quiet", str(ROOT)], "ruff finds nothing")


def exit_code(steps: Sequence[Step]) -> int:
    """What is found weighs more than what could not be asked."""
    states = {step.state for step in steps}
    if State.FAILED in states:
        return EXIT_FOUND
    return EXIT_UNREACHABLE if State.UNREACHABLE in states else 0


def _ran(name: str, command: list[str], said: str) -> Step:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603  # fixed arguments
    if done.returncode == 0:
        return Step(name, State.PASSED, (said,))
    lines = (done.stdout + done.stderr).strip().splitlines()[-20:]
    return Step(name, State.FAILED, tuple(lines) or ("it gave no reason",))


def main() -> None:
    """Run every step and leave with the code."""
    parser = argparse.ArgumentParser(description="What this software is made of.")
    parser.add_argument("--sbom", type=Path, default=SBOM, help="where the SBOM goes")
    arguments = parser.parse_args()
    steps = [
        vulnerabilities.check(PINNED),
        bill_of_materials(arguments.sbom),
        licences.check(SHIPPED),
        secrets_scan.check(ROOT),
        security_rules(),
    ]
    for step in steps:
        print(f"{step.state:<12} {step.name}: {step.lines[0]}")
        for line in step.lines[1:]:
            print(f"{'':<12} {line}")
    code = exit_code(steps)
    if code == EXIT_UNREACHABLE:
        print("audit: INCOMPLETE, a service is out of reach; run it again where it is not")
    else:
        print("audit: ok" if code == 0 else "audit: FAILED")
    sys.exit(code)


if __name__ == "__main__":
    main()

"""What `make audit` concludes, and that the forge's workflow asks for what exists."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from supply_chain import licences, secrets_scan, vulnerabilities
from supply_chain.release_notes import notes
from supply_chain.run import EXIT_FOUND, EXIT_UNREACHABLE, exit_code, security_rules
from supply_chain.step import State, Step
from tests.deploy.promql import ROOT

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_calls_make_alone_and_only_targets_there_are() -> None:
    called = [step["run"].split() for step in STEPS if "run" in step]
    words = {word for command in called for word in command[1:] if re.fullmatch("[a-z]+", word)}

    assert {command[0] for command in called} == {"make"}
    assert {"check", "demo", "audit", "notes"} <= words <= TARGETS


def test_the_workflow_may_only_read_and_uses_actions_of_a_version() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in WORKFLOW["jobs"].values())
    for step in STEPS:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+(\.\d+){0,2}", step["uses"]), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_workflow_runs_every_python_that_is_supported_from_the_oldest_on() -> None:
    pythons = WORKFLOW["jobs"]["check"]["strategy"]["matrix"]["python"]

    assert pythons[0] == "3.11"
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_the_audit_reads_the_whole_history_in_the_workflow() -> None:
    [checkout] = [
        step
        for step in WORKFLOW["jobs"]["audit"]["steps"]
        if step.get("uses", "").startswith("actions/checkout@")
    ]

    assert checkout["with"]["fetch-depth"] == 0


def package(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "version": "1.0", "vulns": [], **more}


def concluded(*packages: dict[str, object]) -> Step:
    return vulnerabilities.interpret(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_a_known_vulnerability_fails_with_its_name_and_where_it_is_fixed() -> None:
    known = {"id": "CVE-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}

    step = concluded(package("good"), package("bad", vulns=[known]))

    assert step.state == State.FAILED
    assert step.lines[1:] == ("bad 1.0: CVE-2026-1, fixed in 1.1",)


def test_a_package_that_the_service_does_not_know_is_not_called_safe() -> None:
    step = concluded(package("good"), {"name": "odd", "skip_reason": "not found"})

    assert step.state == State.UNREACHABLE
    assert "knows nothing of 1: odd" in step.lines[0]


def test_packages_without_a_fault_pass() -> None:
    assert concluded(package("good")).state == State.PASSED


def test_a_service_out_of_reach_is_told_from_a_broken_tool() -> None:
    away = vulnerabilities.interpret("", "requests.exceptions.ConnectionError: refused")
    broken = vulnerabilities.interpret("", "Traceback\nKeyError: 'x'")

    assert away.state == State.UNREACHABLE
    assert (broken.state, broken.lines) == (State.FAILED, ("pip-audit broke: KeyError: 'x'",))


def test_the_exit_code_tells_found_from_not_checked() -> None:
    passed, failed, away = (Step("x", state, ("",)) for state in State)

    assert exit_code([passed]) == 0
    assert exit_code([passed, failed, away]) == EXIT_FOUND
    assert exit_code([passed, away]) == EXIT_UNREACHABLE


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT", True),
        ("GPL-2.0-only AND MIT", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("(Apache-2.0) AND (GPL-3.0-only)", False),
        ("MIT OR GPL-2.0-only AND GPL-3.0-only", True),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("MIT (", False),
        ("MIT MIT", False),
        ("", False),
    ],
)
def test_a_licence_expression_is_met_with_allowed_licences_or_refused(
    expression: str, may: bool
) -> None:
    assert licences.allowed(expression) is may


def test_every_shipped_package_may_be_shipped_and_each_exception_is_used() -> None:
    step = licences.check(ROOT / "requirements" / "demo.txt")

    assert step.state == State.PASSED, step.lines
    assert {line.split()[2].strip(",") for line in step.lines[1:]} == set(licences.EXCEPTIONS)


def committed(repository: Path, *texts: str) -> None:
    """A history of one commit for each text of the same file."""
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    for text in texts:
        (repository / "file.py").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--no-verify", "-m", "x"], check=True)


@pytest.mark.parametrize(
    ("secret", "rule"),
    [
        ("AKIA" + "Q7ZP3MXWLT5RNB2K", "cloud access key"),
        ("ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "forge token"),
        ("-----BEGIN " + "PRIVATE KEY-----", "beginning of a private key"),
        ('password = "' + "kT9vQ2xLm8RzYw4BnJ7cHd5F" + '"', "assigned secret"),
        ("postgresql://app:" + "kT9vQ2xLm8Rz" + "@db/medai", "password in a URL"),
    ],
)
def test_a_secret_that_was_removed_is_found_in_the_history_and_not_repeated(
    tmp_path: Path, secret: str, rule: str
) -> None:
    committed(tmp_path, "nothing\n", f"{secret}\n", "nothing again\n")

    step = secrets_scan.check(tmp_path)

    assert step.state == State.FAILED
    assert [line.rpartition(",")[0] for line in step.lines[1:]] == [f"{rule} in file.py"]
    assert secret not in str(step.lines)


def test_placeholders_are_not_secrets(tmp_path: Path) -> None:
    committed(
        tmp_path,
        'url = "postgresql://user:password@host/name"\ntoken = "aaaaaaaaaaaaaaaaaaaaaaaa"\n',
    )

    assert secrets_scan.check(tmp_path).state == State.PASSED


def test_without_a_history_nothing_is_said_to_be_clean(tmp_path: Path) -> None:
    assert secrets_scan.check(tmp_path / "none").state == State.FAILED


def test_the_security_rules_hold_everywhere() -> None:
    assert security_rules().lines == ("ruff finds nothing",)


CHANGELOG = """# Changelog

## [Unreleased]

## [1.1.0] - 2026-12-01

### Added

- One.

## [1.0.0] - 2026-11-30

- Zero.

[1.1.0]: https://example.org
"""


def test_the_notes_of_a_tag_are_its_section() -> None:
    assert notes(CHANGELOG, "v1.1.0") == "### Added\n\n- One."
    assert notes(CHANGELOG, "refs/tags/v1.0.0") == "- Zero."


@pytest.mark.parametrize("tag", ["v2.0.0", "v1.1", "Unreleased", "v1x0.0"])
def test_a_release_without_notes_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="has no notes for"):
        notes(CHANGELOG, tag)


def test_the_notes_need_nothing_installed() -> None:
    command = [sys.executable, "-S", "-m", "supply_chain.release_notes", "v0.0.0"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("CHANGELOG.md has no notes for 0.0.0")

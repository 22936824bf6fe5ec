"""The commands of the handbook that no test runs, why, and how they are checked instead.

What is not listed here is run by `test_commands_run.py`, and fails there if it cannot be.
"""

import ast
import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import typer.main

from deployments.cli import app
from tests.docs.commands import ROOT, Command

Check = Callable[[Command], None]
MANIFESTS: Final = ROOT / "configs" / "kubernetes"
PROGRAMS: Final = {"ray": "ray.scripts.scripts", "serve": "ray.serve.scripts"}
IN_REPOSITORY: Final = re.compile(r"(?<![\w/])(?:configs|requirements)/[\w./-]+|serve_config\.yaml")


def is_target(command: Command) -> None:
    """`make TARGET`: the Makefile has it."""
    _, target = words(command)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def is_medai(command: Command) -> None:
    """`medai …`: the subcommand and its options exist."""
    has_options(typer.main.get_command(app), words(command)[1:])


def is_ray(command: Command) -> None:
    """`ray …` and `serve …`: the subcommand and its options exist."""
    program, *rest = words(command)
    has_options(import_module(PROGRAMS[program]).cli, rest)
    has_its_files(command)


def has_options(node: Any, given: list[str]) -> None:
    """Subcommands and options of a click program, one word after the other."""
    options: set[str] = set()
    for word in given:
        if word == "--help":
            return
        if hasattr(node, "commands"):
            assert word in node.commands, word
            node = node.commands[word]
            options = {name for one in node.params for name in (*one.opts, *one.secondary_opts)}
        elif word.startswith("--"):
            assert word.partition("=")[0] in options, word
    assert not hasattr(node, "commands"), given


def has_its_files(command: Command) -> None:
    """Every file of the repository that is named is there."""
    for name in IN_REPOSITORY.findall(command.text):
        assert (ROOT / name).exists(), name


def is_in_the_manifests(command: Command) -> None:
    """`kubectl …`: each object it makes or waits for is one of configs/kubernetes."""
    has_its_files(command)
    manifests = "\n".join(file.read_text() for file in sorted(MANIFESTS.glob("*.yaml")))
    for name in re.findall(r"(?:generic |job/|namespace )([\w-]+)", command.text):
        assert re.search(rf"\b{re.escape(name)}\b", manifests), name


def is_a_port_of_ours(command: Command) -> None:
    """`nft …`: the ports are those of the page's table (which test_operations.py compares)."""
    rows = re.findall(r"^\| ([\d-]+) \|", (ROOT / command.page).read_text(), re.MULTILINE)
    for port in re.findall(r"\b\d{4,5}(?:-\d{4,5})?\b", command.text):
        assert port in rows, port


def is_a_unit_of_ours(command: Command) -> None:
    """`systemctl …`: the unit is in configs/systemd."""
    assert (ROOT / "configs" / "systemd" / f"{words(command)[-1]}.service").is_file()


def is_a_module(command: Command) -> None:
    """`python -m MODULE …`: there is such a module."""
    given = words(command)
    name = given[given.index("-m") + 1]
    assert importlib.util.find_spec(name) is not None, name


def is_installed(command: Command) -> None:
    """A program of the virtual environment."""
    assert Path(sys.executable).with_name(Path(words(command)[0]).name).is_file()


def is_python(command: Command) -> None:
    """It is at least Python."""
    ast.parse(command.text)


def is_run_by(file: str) -> Check:
    """Another test takes it from the page and runs it."""

    def check(command: Command) -> None:
        text = (ROOT / file).read_text()
        assert Path(command.page).name in text, file
        assert command.heading in text, command.heading

    return check


def is_a_shells(command: Command) -> None:
    """The shell reads it: `commands.cut` has asked already that it is whole."""
    assert shlex.split(command.text, comments=True)


def is_part_of_ours(command: Command) -> None:
    """Of a block that mixes the system's commands and ours: what it names of ours is there."""
    if command.text.startswith("medai "):
        is_medai(command)
    else:
        is_a_shells(command)
    has_its_files(command)


def words(command: Command) -> list[str]:
    """The words of one simple command."""
    return shlex.split(command.text, comments=True)


@dataclass(frozen=True, slots=True)
class Listed:
    """Commands that are not run.

    Attributes:
        page: The page they stand in.
        begins: What they begin with, a regular expression.
        why: Why no test runs them.
        check: What is looked at instead.
        heading: Only under this heading; under any where it is empty.
        unless: They are run all the same where this program is installed.
    """

    page: str
    begins: str
    why: str
    check: Check
    heading: str = ""
    unless: str = ""

    def holds(self, command: Command) -> bool:
        """Whether `command` is one of these."""
        return (
            command.page == self.page
            and self.heading in ("", command.heading)
            and re.match(self.begins, command.text) is not None
            and not (self.unless and shutil.which(self.unless))
        )


README, CONTRIBUTING, OPERATIONS = "README.md", "CONTRIBUTING.md", "docs/operations.md"
INSTALLS = "it installs the package that this test runs in; CI gives it"

LISTED: Final = (
    Listed(README, "make demo$", "a server of its own, on port 8000; CI gives it", is_target),
    Listed(README, "make setup$", INSTALLS, is_target),
    Listed(CONTRIBUTING, "make ", "each is minutes, or this very suite", is_target),
    Listed(CONTRIBUTING, r"\.venv/bin/prek", "it changes this repository's hooks", is_installed),
    Listed("docs/models.md", "torch", "PyTorch is not among the dependencies", is_python),
    Listed(
        "docs/models.md",
        r"\.venv/bin/medai (infer|models baseline)",
        "it takes a validation set of one's own, of 100 images and more",
        is_medai,
        heading="Baseline",
    ),
    Listed(
        "docs/audit.md",
        "",
        "it needs one note of the log, which another test has",
        is_run_by("tests/audit/test_by_hand.py"),
        heading="By hand",
    ),
    Listed(OPERATIONS, "nft ", "it changes the machine's firewall", is_a_port_of_ours),
    Listed(OPERATIONS, "systemctl ", "there is no systemd here", is_a_unit_of_ours),
    Listed(
        OPERATIONS,
        "",
        "it installs into /opt and /etc, and makes a user of the machine",
        is_part_of_ours,
        heading="A server with systemd",
    ),
    Listed(OPERATIONS, "/opt/medai/", "it installs into /opt", has_its_files),
    Listed(OPERATIONS, "kubectl ", "there is no Kubernetes here", is_in_the_manifests),
    Listed(OPERATIONS, "(ray|serve) ", "it takes several machines", is_ray),
    Listed(
        OPERATIONS,
        "(export|eval) ",
        "Ray's switches for the commands that are not run",
        is_a_shells,
        heading="A Ray cluster of your own",
    ),
    Listed(
        OPERATIONS,
        "medai audit recover",
        "it takes a database that was lost; tests/host/test_commands_recover.py runs it",
        is_medai,
    ),
    Listed(OPERATIONS, "pg_dump ", "no client of PostgreSQL is installed", is_a_shells),
    Listed(OPERATIONS, "sqlite3 ", "a program of its own", is_a_shells, unless="sqlite3"),
    Listed(
        "docs/quality.md",
        "python -m",
        "it takes films of one's own; tests/benchmarks/test_quality_films.py runs its parts",
        is_a_module,
    ),
    Listed(
        "docs/scaling.md",
        "medai bench",
        "a minute of load; tests/host/test_bench_capacity.py runs it",
        is_medai,
    ),
)


def listing_of(command: Command) -> Listed | None:
    """Why a command is not run; None where it is."""
    return next((one for one in LISTED if one.holds(command)), None)

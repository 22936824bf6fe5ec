"""The handbook says what is so: names, commands, ports and the table of metrics are compared."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from configs.settings import Settings
from deployments.cli import app
from deployments.telemetry.events import LogEvent
from deployments.telemetry.metrics import Instruments
from storage.signing_keys import load_keys
from tests.deploy.promql import ROOT

HANDBOOK = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", HANDBOOK, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("medai ")
]


def metrics_table() -> str:
    """The table of the handbook, from the declarations."""
    rows = ["| metric | kind | labels | what |", "| --- | --- | --- | --- |"]
    for spec in Instruments.specs():
        labels = ", ".join(f"`{label.name}`" for label in spec.labels)
        rows.append(f"| `{spec.name}` | {spec.kind} | {labels} | {spec.text} |")
    return "\n".join(rows)


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    table = HANDBOOK.partition("<!-- metrics -->\n")[2].partition("\n<!-- /metrics -->")[0]

    assert table == metrics_table(), f"put this between the marks:\n{metrics_table()}"


def test_every_metric_the_handbook_names_exists() -> None:
    names = {spec.name for spec in Instruments.specs()}

    assert set(re.findall(r"(?<!ray_)\bmedai_[a-z_]+\b", HANDBOOK)) - names <= {
        "medai_app", "medai_owner",
    }  # fmt: skip


def test_every_setting_the_handbook_names_exists() -> None:
    for name in set(re.findall(r"\bMEDAI_[A-Z_]+", HANDBOOK)):
        section, _, key = name.removeprefix("MEDAI_").lower().rstrip("_").partition("__")
        field = Settings.model_fields.get(section)
        if section:
            assert field is not None, name
        if key:
            assert field is not None
            assert key in getattr(field.annotation, "model_fields", {}), name


def test_every_port_the_handbook_names_is_the_settings() -> None:
    server = Settings().server
    for port, name in re.findall(r"^\| (\d+) \| `MEDAI_SERVER__(\w+)`", HANDBOOK, re.MULTILINE):
        assert getattr(server, name.lower()) == int(port)
    first, last = server.replica_ports
    assert f"| {first}-{last} | `MEDAI_SERVER__REPLICA_PORTS`" in HANDBOOK


def test_every_log_event_the_handbook_names_exists() -> None:
    table = HANDBOOK.partition("## Log lines")[2].partition("##")[0]
    named = {
        event
        for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for event in re.findall(r"`(\w+)`", row)
    }

    assert named
    assert named <= set(LogEvent)


def words_of(command: str) -> Iterator[str]:
    for word in command.split()[1:]:
        if word[0] not in "\"'$./":
            yield word


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_medai_command_of_the_handbook_exists_with_its_options(command: str) -> None:
    node: Any = typer.main.get_command(app)
    options: set[str] = set()

    for word in words_of(command):
        if hasattr(node, "commands"):
            assert word in node.commands, f"{command}: {word}"
            node = node.commands[word]
            options = {name for one in node.params for name in (*one.opts, *one.secondary_opts)}
        elif word.startswith("--"):
            assert word in options, f"{command}: {word}"

    assert not hasattr(node, "commands"), command


def test_the_keys_made_as_the_handbook_says_are_those_the_server_takes(tmp_path: Path) -> None:
    [block] = [block for block in BLOCKS if "openssl genpkey" in block]

    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True, timeout=20)

    for directory in ("signing", "log"):
        load_keys(tmp_path / "keys" / directory, generate=False)
    pseudonym = tmp_path / "keys" / "pseudonym.key"
    assert pseudonym.stat().st_size == 32
    assert pseudonym.stat().st_mode & 0o077 == 0


def test_every_shell_block_of_the_handbook_is_a_shells(tmp_path: Path) -> None:
    for number, block in enumerate(BLOCKS):
        script = tmp_path / f"{number}.sh"
        script.write_text(block)
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def test_every_link_within_the_handbook_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", HANDBOOK, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([a-z-]+)\)", HANDBOOK)) <= headings
    for file in re.findall(r"`((?:configs|docs|requirements)/[\w./-]+)`", HANDBOOK):
        assert (ROOT / file.rstrip("/")).exists(), file

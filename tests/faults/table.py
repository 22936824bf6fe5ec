"""The long run's result as a table: on a terminal, or as Markdown for docs/faults.md.

python -m tests.faults.table var/faults.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

COUNTS = ("times", "kills", "acked", "lost", "gaps", "forks", "duplicates", "unaudited")
HEADERS = ("fault", "where", *COUNTS, "measured", "")


def cells(trial: dict[str, Any]) -> list[str]:
    """The cells of one row."""
    measured = "; ".join(f"{name} {value}" for name, value in trial["figures"].items())
    numbers = [f"{trial[name]:,}" for name in COUNTS]
    verdict = "ok" if trial["passed"] else "FAILED"
    if "left out" in trial["figures"]:
        verdict = "left out"
    return [trial["fault"], trial["where"], *numbers, measured, verdict]


def total(document: dict[str, Any]) -> list[str]:
    """The cells of the last row."""
    sums = [f"{sum(trial[name] for trial in document['trials']):,}" for name in COUNTS]
    passed = all(trial["passed"] for trial in document["trials"])
    return ["all", "", *sums, "", "ok" if passed else "FAILED"]


def shown(document: dict[str, Any]) -> Table:
    """The table for a terminal; what was measured is in the JSON."""
    table = Table(*(name for name in HEADERS if name != "measured"))
    for trial in document["trials"]:
        table.add_row(*_narrow(cells(trial)))
    table.add_section()
    table.add_row(*_narrow(total(document)))
    return table


def _narrow(row: list[str]) -> list[str]:
    return [*row[:-2], row[-1]]


def markdown(document: dict[str, Any]) -> str:
    """The table for a document."""
    lines = [f"| {' | '.join(HEADERS)} |", f"| {' | '.join('---' for _ in HEADERS)} |"]
    rows = [cells(trial) for trial in document["trials"]] + [total(document)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(Path(sys.argv[1]).read_text())) + "\n")

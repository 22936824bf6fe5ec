"""The figures on the terminal and as JSON. Pure: what was measured in, text and documents out."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from benchmarks.figures import Figures, Sample
from benchmarks.film import Picture
from benchmarks.load import LOST
from benchmarks.machine import QUIET
from benchmarks.processes import Memory
from benchmarks.rows import Cell
from benchmarks.targets import Judged, Verdict

MIB = 2**20
STYLES = {
    Verdict.AIM: "bold green",
    Verdict.MET: "green",
    Verdict.MISSED: "bold red",
    Verdict.OPEN: "dim",
}
KNOWN_ROLES = 3  # the heaviest roles are shown; all are in the JSON


def cell_tables(figures: Figures) -> list[Table]:
    """One table for each model and image, in the order of measurement."""
    groups: dict[tuple[str, Picture], list[Cell]] = {}
    for cell in figures.samples:
        groups.setdefault((cell.model, cell.picture), []).append(cell)
    return [_table(figures, model, picture, cells) for (model, picture), cells in groups.items()]


def _table(figures: Figures, model: str, picture: Picture, cells: list[Cell]) -> Table:
    table = Table(title=f"{model}, {picture} image (medians)", title_justify="left")
    table.add_column("row")
    names = ("clients", "images/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "errors", "others")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("CPU by process, ms a request")
    last = ""
    for cell in cells:
        sample = figures.median(cell)
        if last and cell.row != last:
            table.add_section()
        times = sample.latency
        table.add_row(
            "" if cell.row == last else cell.row,
            str(cell.clients),
            f"{sample.throughput:,.0f}" if sample.throughput >= 100 else f"{sample.throughput:.1f}",
            *(f"{value:.2f}" for value in (times.p50, times.p95, times.p99)),
            f"{sum(sample.cpu_ms.values()):.2f}" if sample.cpu_ms else "",
            errors(sample),
            f"{sample.others:.1f}" if sample.others > QUIET else "",
            _heaviest(sample),
        )
        last = cell.row
    return table


def errors(sample: Sample) -> str:
    """Answers that are not 2xx, by status; empty where there are none."""
    bad = {status: count for status, count in sample.statuses.items() if status[0] != "2"}
    return ", ".join(f"{count} {status}" for status, count in sorted(bad.items())) if bad else ""


def _heaviest(sample: Sample) -> str:
    heavy = sorted(sample.cpu_ms.items(), key=lambda item: -item[1])[:KNOWN_ROLES]
    return ", ".join(f"{role} {spent:.2f}" for role, spent in heavy)


def memory_table(memory: Mapping[str, tuple[Memory, Memory]]) -> Table:
    """Idle and peak PSS of each row's server, MiB."""
    table = Table(title="Memory, sum of PSS, MiB", title_justify="left")
    table.add_column("server")
    table.add_column("idle", justify="right")
    table.add_column("largest", justify="right")
    table.add_column("idle by process")
    for name, (idle, peak) in memory.items():
        parts = sorted(idle.by_role.items(), key=lambda item: -item[1])
        roles = ", ".join(f"{role} {size / MIB:.0f}" for role, size in parts)
        table.add_row(name, f"{idle.total / MIB:.0f}", f"{peak.total / MIB:.0f}", roles)
    return table


def target_table(lines: list[Judged]) -> Table:
    """The targets."""
    table = Table(title="Targets", title_justify="left")
    table.add_column("what")
    for name in ("must", "aim", "measured", "lowest-highest"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for line in lines:
        target = line.target
        sign = "≥" if target.direction == "at least" else "≤"
        table.add_row(
            target.what,
            f"{sign} {target.must:,g}",
            "" if target.aim is None else f"{target.aim:,g}",
            "" if line.measured is None else f"{line.measured:,.4g}",
            "" if line.spread is None else f"{line.spread[0]:.3g}-{line.spread[1]:.3g}",
            f"[{STYLES[line.verdict]}]{line.verdict}[/]",
        )
    return table


def document(
    figures: Figures, memory: Mapping[str, tuple[Memory, Memory]], lines: list[Judged]
) -> dict[str, Any]:
    """The same for the JSON file: medians and each round."""
    return {
        "cells": [
            {**asdict(cell), **asdict(figures.median(cell)), "rounds": _rounds(rounds)}
            for cell, rounds in figures.samples.items()
        ],
        "memory": {
            name: {"idle": idle.by_role, "largest": peak.by_role}
            for name, (idle, peak) in memory.items()
        },
        "targets": [
            {
                "what": line.target.what,
                "must": line.target.must,
                "aim": line.target.aim,
                "direction": line.target.direction,
                "measured": line.measured,
                "spread": line.spread,
                "verdict": line.verdict,
            }
            for line in lines
        ],
    }


def _rounds(rounds: Mapping[int, Sample]) -> dict[str, Any]:
    return {str(turn): asdict(sample) for turn, sample in rounds.items()}


def disturbed(figures: Figures) -> int:
    """Cells in which others used the cores: their figures are not comparable."""
    return sum(figures.median(cell).others > QUIET for cell in figures.samples)


def lost(figures: Figures) -> int:
    """Requests whose connection ended before their answer, in all cells."""
    return sum(
        sample.statuses.get(LOST, 0)
        for rounds in figures.samples.values()
        for sample in rounds.values()
    )

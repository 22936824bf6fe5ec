"""The panels of a Grafana dashboard, drawn at the places the dashboard gives them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import matplotlib as mpl

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt  # only after the backend is chosen
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 24  # of Grafana's grid
ROW_INCHES = 0.34  # of one row of that grid
WIDTH_INCHES = 14
INK = "#333333"
PERCENT = 100
LEGEND = 8  # entries


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, and (seconds since the beginning, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel and what Prometheus answered to its expressions.

    Attributes:
        kind: stat, timeseries, table, heatmap or row.
        place: x, y, w and h in Grafana's grid.
        unit: Grafana's name of the unit.
        answered: A legend's template, and a series.
    """

    title: str
    kind: str
    place: dict[str, int]
    unit: str
    answered: list[tuple[str, Series]]

    @classmethod
    def of(cls, panel: dict[str, Any], answered: list[tuple[str, Series]]) -> Self:
        """A panel of a dashboard's JSON."""
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        return cls(panel["title"], panel["type"], panel["gridPos"], unit, answered)


def draw(title: str, panels: list[Panel], file: Path) -> None:
    """Draw a dashboard."""
    rows = max(panel.place["y"] + panel.place["h"] for panel in panels)
    figure = plt.figure(figsize=(WIDTH_INCHES, (rows + 2) * ROW_INCHES), facecolor="white")
    figure.text(0.01, 1 - 1.2 / (rows + 2), title, fontsize=15, color=INK)
    for panel in panels:
        KINDS[panel.kind](_axes(figure, panel, rows + 2), panel)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _axes(figure: Figure, panel: Panel, rows: int) -> Axes:
    """The room of a panel, less its margins."""
    place = panel.place
    left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
    top, height = (place["y"] + 2) / rows, place["h"] / rows
    lined = panel.kind in {"timeseries", "heatmap"}
    side, above, below = (
        (0.035, 1.1 / rows, 0.9 / rows) if lined else (0.005, 0.2 / rows, 0.2 / rows)
    )
    axes = figure.add_axes(
        (left + side, 1 - top - height + below, width - side - 0.01, height - above - below)
    )
    axes.tick_params(labelsize=7, colors=INK)
    for spine in axes.spines.values():
        spine.set_color("#cccccc")
    return axes


def _row(axes: Axes, panel: Panel) -> None:
    axes.axis("off")
    axes.text(0, 0.3, panel.title, fontsize=11, color=INK, weight="bold")


def _stat(axes: Axes, panel: Panel) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.86, panel.title, ha="center", va="top", fontsize=9, color=INK)
    last = panel.answered[0][1].points[-1][1] if panel.answered else float("nan")
    text = shown(last, panel.unit)
    axes.text(0.5, 0.35, text, ha="center", va="center", fontsize=18, color="#1f4e79")


def _lines(axes: Axes, panel: Panel) -> None:
    for template, series in panel.answered:
        times, values = zip(*series.points, strict=True)
        scale = PERCENT if panel.unit == "percentunit" else 1
        axes.plot(
            times,
            [value * scale for value in values],
            linewidth=1.2,
            label=legend(template, series),
        )
    unit = "%" if panel.unit == "percentunit" else panel.unit
    axes.set_title(f"{panel.title}  [{unit}]", loc="left", fontsize=9, color=INK)
    axes.grid(color="#eeeeee")
    axes.set_ylim(bottom=0)
    if panel.answered:
        axes.legend(fontsize=6, loc="upper left", ncols=2, framealpha=0.8)
    else:
        axes.text(0.5, 0.5, "nothing happened", transform=axes.transAxes, ha="center", fontsize=8)


def _table(axes: Axes, panel: Panel) -> None:
    axes.axis("off")
    axes.set_title(panel.title, loc="left", fontsize=9, color=INK, y=0.9)
    for number, (_, series) in enumerate(panel.answered[:LEGEND]):
        said = "   ".join(value[:24] for value in series.labels.values())
        axes.text(0.02, 0.75 - 0.12 * number, said, fontsize=8, color=INK, family="monospace")


KINDS = {"row": _row, "stat": _stat, "timeseries": _lines, "heatmap": _lines, "table": _table}


def legend(template: str, series: Series) -> str:
    """The text of a line: Grafana's `{{label}}` replaced."""
    filled = re.sub(r"{{\s*(\w+)\s*}}", lambda found: series.labels.get(found[1], ""), template)
    return filled or ", ".join(series.labels.values())


def shown(value: float, unit: str) -> str:
    """A value in Grafana's unit."""
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "s":
        return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"
    return f"{value:.1f}/s" if unit == "reqps" else f"{value:g}"

"""The report as a picture, for docs/performance.md.

By hand: `python -m benchmarks.plot var/bench/<date>.json docs/performance.png`
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt  # only after the backend is chosen
from matplotlib.axes import Axes

PANELS = (
    ("cxr-pneumonia", "small"),
    ("cxr-pneumonia", "large"),
    ("densenet121", "small"),
    ("densenet121", "large"),
)
COLOURS = {1: "#b8c9d9", 16: "#5b8db8", 64: "#1f4e79"}
LIMIT = "raw-decode"
INK = "#333333"


def plot(report: dict[str, Any], file: Path) -> Path:
    """Draw the throughput of each row, and the raw limit as a line. Returns `file`."""
    panels = [panel for panel in PANELS if _cells(report, *panel)] or list(PANELS[:1])
    figure, grid = plt.subplots(
        len(panels), 2, figsize=(12, 3.4 * len(panels)), squeeze=False, layout="constrained"
    )
    for (model, picture), (left, right) in zip(panels, grid, strict=True):
        cells = _cells(report, model, picture)
        limit = _limit(report, model, picture)
        _bars(left, cells, "throughput", limit)
        left.set_title(f"{model}, {picture} image: images/s", loc="left", fontsize=10)
        _bars(right, cells, "p99", None)
        right.set_title("p99, ms", loc="left", fontsize=10)
    grid[0][0].legend(title="clients", frameon=False, fontsize=8, title_fontsize=8)
    where = report["machine"]
    figure.suptitle(
        f"{where['processor']}, {where['cores_used']} cores, medians of {report['rounds']}",
        fontsize=9,
        color=INK,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def _cells(report: dict[str, Any], model: str, picture: str) -> list[dict[str, Any]]:
    return [
        cell
        for cell in report["cells"]
        if cell["model"] == model
        and cell["picture"] == picture
        and not cell["row"].startswith("raw")
    ]


def _limit(report: dict[str, Any], model: str, picture: str) -> float | None:
    """What both cores give without a server."""
    found = [
        cell["throughput"]
        for cell in report["cells"]
        if (cell["row"], cell["model"], cell["picture"]) == (LIMIT, model, picture)
    ]
    return max(found, default=None)


def _bars(axes: Axes, cells: list[dict[str, Any]], figure: str, limit: float | None) -> None:
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    numbers = sorted({cell["clients"] for cell in cells})
    height = 0.8 / max(len(numbers), 1)
    for index, clients in enumerate(numbers):
        found = {cell["row"]: _value(cell, figure) for cell in cells if cell["clients"] == clients}
        places = [place + (index - (len(numbers) - 1) / 2) * height for place in range(len(rows))]
        values = [found.get(row, 0.0) for row in rows]
        axes.barh(places, values, height, color=COLOURS.get(clients, INK), label=str(clients))
    if limit is not None:
        axes.axvline(limit, color=INK, linewidth=1, linestyle=":")
        axes.annotate("raw", (limit, -0.5), fontsize=8, color=INK, ha="right", va="bottom")
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def _value(cell: dict[str, Any], figure: str) -> float:
    value = cell["throughput"] if figure == "throughput" else cell["latency"][figure]
    return float(value)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))

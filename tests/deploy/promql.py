"""Reads PromQL far enough to tell which metrics and labels an expression uses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "configs" / "prometheus"
GRAFANA = ROOT / "configs" / "grafana"

FUNCTIONS = {
    "abs", "absent", "by", "count", "histogram_quantile", "increase", "label_replace",
    "label_values", "max", "min",
    "predict_linear", "rate", "sum", "time", "topk", "vector",
}  # fmt: skip
WORDS = {"and", "or", "unless", "on", "ignoring", "group_left", "group_right", "by", "without",
         "offset"}  # fmt: skip

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_OFFSET = re.compile(r"\boffset\s+\w+")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def metrics_in(expression: str) -> set[str]:
    """Every metric that an expression names. Raises `AssertionError` for a word nobody knows."""
    rest = _STRING.sub('""', expression)
    for pattern in (_GROUPING, _MATCHERS, _RANGE, _OFFSET):
        rest = pattern.sub(" ", rest)
    found = set()
    for match in _NAME.finditer(re.sub(r"\b[0-9][0-9.e]*\b", " ", rest)):
        word = match[0]
        called = rest[match.end() :].lstrip().startswith("(") and word in FUNCTIONS
        if not called and word not in WORDS and word not in FUNCTIONS:
            found.add(word)
    return found


def labels_in(expression: str) -> set[str]:
    """Every label that an expression groups or selects by."""
    rest = _STRING.sub('""', expression)
    grouped = {label.strip() for match in _GROUPING.finditer(rest) for label in match[2].split(",")}
    selected = {
        re.split(r"[=!]", matcher)[0].strip()
        for match in _MATCHERS.finditer(rest)
        for matcher in match[1].split(",")
    }
    return (grouped | selected) - {""}


def rules() -> Iterator[tuple[str, dict[str, object]]]:
    """Each alert's name and its rule."""
    document = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule


def dashboards() -> Iterator[tuple[str, dict[str, object]]]:
    """Each dashboard's file name and document."""
    for file in sorted(GRAFANA.glob("*.json")):
        yield file.name, json.loads(file.read_text())


def panel_expressions() -> Iterator[tuple[str, str]]:
    """Where each dashboard expression stands, and it, with Grafana's variables filled in."""
    for name, dashboard in dashboards():
        panels = dashboard["panels"]
        assert isinstance(panels, list)
        for panel in panels:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "30s")
                place = f"{name}: {panel['title']} {target['refId']}"
                yield place, re.sub(r'"\$[a-z]\w*"', '".*"', expression)


def alert_expressions() -> Iterator[tuple[str, str]]:
    """Each alert's name and expression."""
    for name, rule in rules():
        yield name, str(rule["expr"])

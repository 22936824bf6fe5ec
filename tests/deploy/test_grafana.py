"""The dashboards: whole, on one data source that the reader chooses, with nothing on top of it.

No Grafana is at hand here to load them, so this checks the structure that Grafana's JSON model
asks for; their expressions are checked and run in test_prometheus.py.
"""

import itertools
from typing import Any

import pytest

from tests.deploy.promql import dashboards

DASHBOARDS: dict[str, Any] = dict(dashboards())
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DASHBOARDS[name]["panels"]
    return found


def test_there_are_four_dashboards_with_names_of_their_own() -> None:
    assert set(DASHBOARDS) == {
        "audit-security.json", "capacity.json", "model-quality.json", "overview.json",
    }  # fmt: skip
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 4
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == 4


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_reader_chooses_the_data_source(name: str) -> None:
    variables = DASHBOARDS[name]["templating"]["list"]

    assert (variables[0]["name"], variables[0]["type"]) == ("datasource", "datasource")
    assert variables[0]["query"] == "prometheus"
    for variable in variables[1:]:
        assert variable["datasource"] == DATA_SOURCE
    for panel in panels(name):
        if panel["type"] != "row":
            assert panel["datasource"] == DATA_SOURCE, panel["title"]
            assert all(target["datasource"] == DATA_SOURCE for target in panel["targets"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_an_id_a_title_a_kind_and_a_question(name: str) -> None:
    assert len({panel["id"] for panel in panels(name)}) == len(panels(name))
    for panel in panels(name):
        assert panel["title"]
        assert panel["type"] in {"heatmap", "row", "stat", "table", "timeseries"}
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == sorted(set(letters))
            assert letters


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another_or_beyond_the_edge(name: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in panels(name)]

    for title, place in places:
        assert place["x"] >= 0, title
        assert place["x"] + place["w"] <= 24, title
    for (one, first), (other, second) in itertools.combinations(places, 2):
        apart = (
            first["x"] + first["w"] <= second["x"]
            or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"]
            or second["y"] + second["h"] <= first["y"]
        )
        assert apart, f"{one} and {other}"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_that_is_used_is_declared(name: str) -> None:
    declared = {f"${variable['name']}" for variable in DASHBOARDS[name]["templating"]["list"]}

    for panel in panels(name):
        for target in panel.get("targets", []):
            for variable in ("$model", "$version"):
                if variable in target["expr"]:
                    assert variable in declared, panel["title"]

"""The rows that leave a part out: only the bench can have them."""

import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks.ours import ASKED as SET_BY_THE_BENCH
from benchmarks.rows import NO_AUDIT, NO_VALIDATION
from benchmarks.without import ASKED, build_no_audit, build_no_validation
from configs.topology import BuildArgs, ModelOptions
from deployments.config_check import IMPORT_PATH
from registry.errors import InvalidConfiguration

ROOT = Path(__file__).parents[2]
ARGS = BuildArgs(models={"m": ModelOptions()})


@pytest.mark.parametrize("build", [build_no_audit, build_no_validation])
def test_a_builder_refuses_unless_the_bench_asks(
    build: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ASKED, raising=False)

    assert callable(build)
    with pytest.raises(InvalidConfiguration, match=IMPORT_PATH):
        build(ARGS)


def test_the_bench_asks_by_the_same_name() -> None:
    assert SET_BY_THE_BENCH == ASKED
    assert {NO_AUDIT.builder, NO_VALIDATION.builder} == {
        f"benchmarks.without:{build.__name__}" for build in (build_no_audit, build_no_validation)
    }


def test_the_wheel_does_not_hold_the_builders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    held = (*wheel["packages"], *wheel["force-include"])
    assert "deployments" in held
    assert not [path for path in held if path.startswith("benchmarks")]


def test_the_topology_of_the_service_names_its_own_builder() -> None:
    (application,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))["applications"]

    assert application["import_path"] == IMPORT_PATH

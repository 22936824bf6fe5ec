"""`medai models check`, as an operator gives it: a table, a document, an exit code."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from deployments.cli import app
from tests.inference.model_bombs import BOMBS
from tests.inference.models import served

BUNDLED = Path(__file__).parents[2] / "registry" / "bundled"


def check(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["models", "check", *map(str, arguments)], env={"COLUMNS": "200"}
    )


def test_a_model_that_is_fit_gives_a_table_and_zero() -> None:
    done = check(BUNDLED / "body-part")

    assert done.exit_code == 0
    assert "body-part 1.0.0 is fit to be registered" in done.output
    for row in ("operators", "opset", "memory estimate", "golden case", "latency, batch 8"):
        assert row in done.output


def test_a_file_is_checked_against_a_card_that_lies_elsewhere(tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "body-part" / "model.onnx", tmp_path / "other.onnx")

    done = check(tmp_path / "other.onnx", "--card", BUNDLED / "body-part" / "card.yaml", "--json")

    document = json.loads(done.output)
    assert done.exit_code == 0
    assert (document["file"], document["model"], document["fit"]) == (
        "other.onnx",
        "body-part",
        True,
    )
    assert {row["state"] for row in document["checks"]} == {"passed", "told"}
    assert min(len(runs) for runs in document["latencies_ms"].values()) >= 1
    assert document["peak_bytes"] > 0


def test_a_file_without_a_card_is_told_what_it_is(tmp_path: Path) -> None:
    done = check(BUNDLED / "body-part" / "model.onnx")

    assert done.exit_code == 0
    assert "input: float32 [batch, 1, 64, 64]" in done.output
    assert "give its card" in done.output
    digest = hashlib.sha256((BUNDLED / "body-part" / "model.onnx").read_bytes()).hexdigest()
    assert f"sha256 {digest}" in done.output  # for the card that is to be written


def test_a_bomb_gives_one_and_says_why_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "bomb.onnx"
    path.write_bytes(BOMBS["endless loop"][0]().SerializeToString())

    done = check(path)

    assert done.exit_code == 1
    assert "operator is Loop x 1, allowed is no control flow: unroll it at export" in done.output
    assert "bomb.onnx is not fit to be registered" in done.output


def test_a_domain_is_allowed_by_an_option(tmp_path: Path) -> None:
    path = tmp_path / "gelu.onnx"
    path.write_bytes(BOMBS["com.microsoft"][0]().SerializeToString())

    refused, allowed = check(path), check(path, "--allow-domain", "com.microsoft")

    assert "com.microsoft.Gelu" in refused.output
    assert (refused.exit_code, allowed.exit_code) == (1, 0)


def test_limits_are_options(tmp_path: Path) -> None:
    model = BOMBS["memory by the pixels"][0]()
    version = served(tmp_path, model)
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(version.card.model_dump(mode="json")))

    done = check(version.path, "--card", card, "--memory-mib", "512", "--timeout-s", "30")

    assert done.exit_code == 1
    assert "out of memory" in done.output


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"colour": "red"}])
def test_a_wrong_card_is_a_document_too(tmp_path: Path, change: dict[str, object]) -> None:
    directory = tmp_path / "router"
    shutil.copytree(BUNDLED / "body-part", directory)
    card = yaml.safe_load((directory / "card.yaml").read_text())
    (directory / "card.yaml").write_text(yaml.safe_dump({**card, **change}))

    done = check(directory, "--json")

    document = json.loads(done.output)
    assert done.exit_code == 1
    assert document["fit"] is False
    assert document["checks"][0]["faults"][0]["rule"] == next(iter(change))


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert check(tmp_path / "none.onnx").exit_code == 2

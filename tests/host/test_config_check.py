"""The operators' file is read strictly: what Ray would ignore is refused."""

from pathlib import Path

import pytest
import yaml

from configs.topology import GatewayTuning, ModelTuning, tuning_of
from deployments.config_check import read_serve_config
from registry.errors import InvalidConfiguration
from tests.host.conftest import SHIPPED


def refused(tmp_path: Path, text: str) -> str:
    """What is said about a file with this text."""
    file = tmp_path / "topology.yaml"
    file.write_text(text)
    with pytest.raises(InvalidConfiguration) as fault:
        read_serve_config(file)
    return str(fault.value)


def changed(old: str, new: str) -> str:
    """The shipped file with one thing changed."""
    text = SHIPPED.read_text()
    assert old in text
    return text.replace(old, new, 1)


def test_the_shipped_topology_is_right() -> None:
    schema = read_serve_config(SHIPPED)

    assert [application.name for application in schema.applications] == ["medai"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("http_options:", "http_option:", "http_option is unknown: did you mean http_options?"),
        (
            "max_queued_requests: 4096",
            "max_queued_request: 4096",
            "AuditWriter].max_queued_request is unknown: did you mean max_queued_requests?",
        ),
        (
            "target_ongoing_requests: 1",
            "target_ongoing: 1",
            "autoscaling_config.target_ongoing is unknown: did you mean target_ongoing_requests?",
        ),
        (
            "cxr-pneumonia: { threads: 1 }",
            "cxr-pneumonia: { thread: 1 }",
            "args.models.cxr-pneumonia.thread is unknown: did you mean threads?",
        ),
        (
            "max_group_size: 256",
            "max_group: 256",
            "user_config.max_group is unknown: did you mean max_group_size?",
        ),
        (
            "name: OnnxModel:body-part",
            "name: OnnxModel:bodypart",
            "did you mean OnnxModel:body-part?",
        ),
        (
            "user_config: { max_group_size: 256 }",
            "ray_actor_options: { num_cpu: 1 }",
            "ray_actor_options.num_cpu is unknown: did you mean num_cpus?",
        ),
        ("max_group_size: 256", "max_group_size: 0", "greater than or equal to 1"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_right_one(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert said in refused(tmp_path, changed(old, new))


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = changed("max_group_size", "max_group").replace("http_options:", "http_option:")

    said = refused(tmp_path, text)

    assert "2 fault(s)" in said
    assert "max_group" in said
    assert "http_option " in said


def test_a_second_audit_writer_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(SHIPPED.read_text())
    writer = next(
        deployment
        for deployment in document["applications"][0]["deployments"]
        if deployment["name"] == "AuditWriter"
    )
    writer["num_replicas"] = 2

    said = refused(tmp_path, yaml.safe_dump(document))

    assert "the chain has one writer" in said


def test_an_autoscaled_gateway_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(SHIPPED.read_text())
    gateway = document["applications"][0]["deployments"][0]
    del gateway["num_replicas"]
    gateway["autoscaling_config"] = {"min_replicas": 1, "max_replicas": 3}

    said = refused(tmp_path, yaml.safe_dump(document))

    assert "HAProxy reloads whenever their number changes" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("applications: [", "is not YAML, line 1"),
        ("- one\n- two\n", "must be a mapping"),
        ("applications: 3\n", "valid list"),
        ("applications: [{name: other, import_path: 'x:y', colour: red}]", "colour is unknown"),
    ],
)
def test_a_file_that_is_no_topology_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_missing_file_is_told_with_the_option_that_names_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="name it with --config"):
        read_serve_config(tmp_path / "absent.yaml")


def test_another_application_in_the_file_is_ray_business(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("applications: [{name: other, import_path: 'x:y', args: {a: 1}}]")

    assert read_serve_config(file).applications[0].args == {"a": 1}


def test_each_deployment_has_a_tuning_of_its_own() -> None:
    assert tuning_of("Gateway") is GatewayTuning
    assert tuning_of("OnnxModel:anything") is ModelTuning
    assert tuning_of("Gatewey") is None

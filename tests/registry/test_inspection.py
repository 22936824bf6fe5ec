"""The rules for graphs, on facts alone: every fault is told, and a good graph passes."""

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.inference.onnx_file import graph_facts, inspect_file
from registry.errors import ForbiddenOperator, InvalidModel
from registry.inspection import (
    MAX_FILE_BYTES,
    MAX_IR_VERSION,
    MAX_MEMORY_BYTES,
    MAX_NODES,
    MAX_OPSET,
    GraphFacts,
    TensorFacts,
    check_graph,
)
from tests.inference.models import bundled, card
from tests.inference.test_onnx import endless

CARD = card(b"")
INPUT = TensorFacts("input", "float32", ("batch", 1, 8, 8))
OUTPUT = TensorFacts("logits", "float32", ("batch", 2))
GOOD = GraphFacts(
    size_bytes=1000,
    ir_version=10,
    opsets={"": 18},
    inputs=(INPUT,),
    outputs=(OUTPUT,),
    operators={("", "Conv"): 3, ("ai.onnx", "Relu"): 2},
    weight_bytes=4000,
    activation_bytes=9000,
)


def rules(facts: GraphFacts, error: type[InvalidModel | ForbiddenOperator]) -> list[str]:
    with pytest.raises(error) as refusal:
        check_graph(facts, CARD)
    assert type(refusal.value) is error
    return [violation.rule for violation in refusal.value.violations]


def test_a_good_graph_passes() -> None:
    check_graph(GOOD, CARD)


def test_the_bundled_models_pass() -> None:
    for name in ("cxr-pneumonia", "body-part"):
        version = bundled(name)
        check_graph(inspect_file(Path(version.path)), version.card)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"ir_version": MAX_IR_VERSION + 1}, "ir_version"),
        ({"opsets": {"": MAX_OPSET + 1}}, "opset"),
        ({"opsets": {"com.microsoft": 1}}, "opset"),
        ({"opsets": {}}, "opset"),
        ({"size_bytes": MAX_FILE_BYTES + 1}, "size"),
        ({"operators": {("", "Add"): MAX_NODES + 1}}, "nodes"),
        ({"external": ("weights",)}, "external_data"),
        ({"activation_bytes": MAX_MEMORY_BYTES}, "memory"),
        ({"weight_bytes": MAX_MEMORY_BYTES + 1, "activation_bytes": None}, "memory"),
        ({"inputs": ()}, "input"),
        ({"inputs": (INPUT, replace(INPUT, name="other"))}, "input"),
        ({"inputs": (replace(INPUT, name="pixels"),)}, "input"),
        ({"inputs": (replace(INPUT, dtype="float16"),)}, "input"),
        ({"inputs": (replace(INPUT, shape=("batch", 1, 8, 9)),)}, "input"),
        ({"inputs": (replace(INPUT, shape=()),)}, "input"),
        ({"inputs": (replace(INPUT, shape=(1, 1, 8, 8)),)}, "input.batch"),
        ({"outputs": ()}, "output"),
        ({"outputs": (replace(OUTPUT, dtype="float64"),)}, "output"),
        ({"outputs": (replace(OUTPUT, shape=("batch", 3)),)}, "output"),
    ],
)
def test_a_fault_is_named(change: dict[str, object], rule: str) -> None:
    assert rules(replace(GOOD, **change), InvalidModel) == [rule]  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"operators": {("com.microsoft", "Attention"): 1}}, "operator"),
        ({"operators": {("", "Loop"): 1}}, "operator"),
        ({"operators": {("ai.onnx", "If"): 1}}, "operator"),
        ({"functions": ("custom.Twice",)}, "function"),
    ],
)
def test_what_is_not_on_the_allow_list_is_forbidden(change: dict[str, object], rule: str) -> None:
    assert rules(replace(GOOD, **change), ForbiddenOperator) == [rule]  # type: ignore[arg-type]  # by name


def test_every_fault_is_told_at_once() -> None:
    bad = replace(
        GOOD,
        operators={("com.microsoft", "Gelu"): 2, ("", "Scan"): 1},
        external=("a", "b"),
        outputs=(),
    )

    assert rules(bad, ForbiddenOperator) == ["operator", "operator", "external_data", "output"]


def test_a_fault_tells_what_was_found_and_what_is_allowed() -> None:
    with pytest.raises(InvalidModel) as refusal:
        check_graph(replace(GOOD, inputs=(replace(INPUT, dtype="float16"),)), CARD)

    assert str(refusal.value.violations[0]) == (
        "input is input: float16 [batch, 1, 8, 8], "
        "allowed is input: float32 [batch, 1, 8, 8]: correct the card"
    )


def test_a_domain_may_be_signed_off_in_the_card() -> None:
    signed = card(b"", runtime={"allow_domains": ["com.microsoft"]})

    check_graph(replace(GOOD, operators={("com.microsoft", "Gelu"): 2}), signed)


def test_an_endless_loop_does_not_pass() -> None:
    model = endless()

    assert rules(
        graph_facts(model, size_bytes=len(model.SerializeToString())), ForbiddenOperator
    ) == ["operator"]

"""Facts of model files: the bombs are seen before they run."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployments.inference import onnx_file
from deployments.inference.onnx_file import graph_facts, inspect_file
from registry.errors import InvalidModel
from registry.inspection import GraphFacts, TensorFacts
from tests.inference.models import SIDE, bundled, graph, logits, node
from tests.inference.test_onnx import endless


def facts(model: onnx.ModelProto) -> GraphFacts:
    return graph_facts(model, size_bytes=len(model.SerializeToString()))


def test_a_bundled_model_is_described() -> None:
    found = inspect_file(Path(bundled("cxr-pneumonia").path))

    assert found.size_bytes == 1_236_898
    assert (found.ir_version, dict(found.opsets)) == (10, {"": 18})
    assert found.inputs == (TensorFacts("input", "float32", ("batch", 1, 224, 224)),)
    assert found.outputs == (TensorFacts("logits", "float32", ("batch", 2)),)
    assert found.operators["", "Conv"] == 12
    assert found.weight_bytes == pytest.approx(308_146 * 4, rel=0.01)
    assert found.activation_bytes is not None
    assert found.activation_bytes > 112 * 112 * 16 * 4
    assert (found.external, found.functions) == ((), ())


def test_a_small_file_that_means_four_gigabytes_is_seen() -> None:
    huge = logits(
        [
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            node("Add", ["plain", "sum"], ["logits"]),
        ],
        size=np.array([2**30], np.int64),
    )

    found = facts(huge)

    assert found.size_bytes < 1000
    assert found.activation_bytes is not None
    assert found.activation_bytes >= 4 * 2**30


def test_operators_in_subgraphs_and_functions_are_counted() -> None:
    function = helper.make_function(
        "custom",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"]), branch()],
        [helper.make_opsetid("", 18)],
    )
    model = graph(functions=(function,), extra_opsets=(("custom", 1),))

    found = facts(model)
    looped = facts(endless())

    assert found.functions == ("custom.Twice",)
    assert found.operators["", "Add"] == 1
    assert found.operators["", "Erf"] == 2
    assert looped.operators["", "Loop"] == 1
    assert looped.operators["", "Identity"] == 1


def branch() -> Any:
    def side(name: str) -> Any:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([node("Erf", ["a"], [name])], name, [], [output])

    return node("If", ["condition"], ["c"], then_branch=side("yes"), else_branch=side("no"))


def test_external_data_are_named_wherever_they_are() -> None:
    model = graph()
    onnx.external_data_helper.set_external_data(model.graph.initializer[-1], "weights.bin")
    constant = numpy_helper.from_array(np.zeros(3, np.float32), "inside")
    onnx.external_data_helper.set_external_data(constant, "../secret")
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("index", TensorProto.INT64, [1], [0]),
        [3],
    )
    model.graph.sparse_initializer.append(sparse)
    model.graph.node.append(node("Constant", [], ["c"], value=constant))
    listed = node("Custom", [], ["d"])
    listed.attribute.append(helper.make_attribute("many", [constant]))
    model.graph.node.append(listed)
    graphs = node("Custom", [], ["e"])
    graphs.attribute.append(helper.make_attribute("graphs", [graph().graph]))
    model.graph.node.append(graphs)

    found = facts(model)

    assert found.external == ("signs", "inside", "inside")
    assert found.operators["", "ReduceMean"] == 2


def test_a_shape_known_only_at_run_time_gives_no_estimate() -> None:
    dynamic = graph(
        [node("NonZero", ["input"], ["places"]), node("Cast", ["places"], ["logits"], to=1)]
    )

    assert facts(dynamic).activation_bytes is None


def test_shapes_that_do_not_add_up_give_no_estimate() -> None:
    wrong = graph([node("Gemm", ["input", "input"], ["logits"])])

    assert facts(wrong).activation_bytes is None


def test_dimensions_and_types_are_told_as_they_are() -> None:
    model = graph(batch=1)
    model.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_value")
    model.graph.output[0].type.tensor_type.elem_type = 0

    found = facts(model)

    assert found.inputs[0].shape == (1, 1, SIDE, SIDE)
    assert found.outputs == (TensorFacts("logits", "", (None, 2)),)


def test_a_weight_that_is_also_listed_as_input_need_not_be_fed() -> None:
    model = graph()
    signs = helper.make_tensor_value_info("signs", TensorProto.FLOAT, [1, 2])
    model.graph.input.append(signs)

    assert [tensor.name for tensor in facts(model).inputs] == ["input"]


def test_a_weight_of_an_unknown_type_counts_its_elements() -> None:
    model = graph()
    odd = model.graph.initializer.add()
    odd.name, odd.data_type = "odd", 99
    odd.dims.extend([10, 10])

    assert facts(model).weight_bytes - facts(graph()).weight_bytes == 100


@pytest.mark.parametrize("content", [b"", b"not a model", struct.pack("<Q", 7), b"\x08\x0a"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(InvalidModel, match="not ONNX"):
        inspect_file(path)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel) as refusal:
        inspect_file(tmp_path / "none.onnx")

    assert str(tmp_path) not in str(refusal.value)


def test_a_file_too_large_to_read_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FILE_BYTES", 10)
    path = tmp_path / "model.onnx"
    path.write_bytes(graph().SerializeToString())

    with pytest.raises(InvalidModel, match="too large"):
        inspect_file(path)

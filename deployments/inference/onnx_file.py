"""A model file's facts, read without running it: the only file that imports onnx.

External data are never opened. Shapes are inferred for a batch of one, with the values of constants
followed through (a `ConstantOfShape` of four gigabytes is 121 bytes of file). Names are cut and
made printable: they are shown on a terminal, and a file may hold anything.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from registry.errors import InvalidModel, Violation
from registry.inspection import MAX_FILE_BYTES, GraphFacts, TensorFacts

MAX_NAME = 64  # characters of a name that is shown


def inspect_file(path: Path) -> GraphFacts:
    """Read the facts of a model file.

    Raises:
        InvalidModel: The file is missing, too large to read, or not ONNX.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidModel(
                "the model file is too large",
                (Violation("size", f"{size} bytes", f"at most {MAX_FILE_BYTES} bytes"),),
            )
        content = path.read_bytes()
    except OSError:
        raise InvalidModel("the model file cannot be read") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # noqa: BLE001  # protobuf has errors of its own in each version
        raise InvalidModel(f"the file is not ONNX ({type(error).__name__})") from None
    if not model.graph.node:
        raise InvalidModel("the file is not ONNX (it holds no graph)")
    return graph_facts(model, size_bytes=size)


def graph_facts(model: ModelProto, *, size_bytes: int) -> GraphFacts:
    """The facts of a parsed model."""
    weights = {tensor.name for tensor in model.graph.initializer}
    tensors = list(_tensors(model))
    return GraphFacts(
        size_bytes=size_bytes,
        ir_version=model.ir_version,
        opsets={_shown(opset.domain): opset.version for opset in model.opset_import},
        inputs=tuple(_facts(value) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_facts(value) for value in model.graph.output),
        operators=Counter((_shown(node.domain), _shown(node.op_type)) for node in _nodes(model)),
        functions=tuple(
            _shown(f"{function.domain}.{function.name}") for function in model.functions
        ),
        external=tuple(
            _shown(tensor.name)
            for tensor in tensors
            if tensor.data_location == TensorProto.EXTERNAL
        ),
        weight_bytes=sum(_bytes(tensor.data_type, tensor.dims) for tensor in tensors),
        activation_bytes=_activation_bytes(model),
    )


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those within it. With a stack: nesting in a file has no limit."""
    stack = [graph]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            stack.extend(_subgraphs(node))


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for subgraph in _subgraphs(node):
                for graph in _graphs(subgraph):
                    yield from graph.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose data a runtime would load."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.TENSORS:
                yield from attribute.tensors


def _facts(value: ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    shape = tuple(
        dimension.dim_value
        if dimension.HasField("dim_value")
        else _shown(dimension.dim_param) or None
        for dimension in kind.shape.dim
    )
    return TensorFacts(_shown(value.name), _dtype(kind.elem_type), shape)


def _shown(name: str) -> str:
    """A name as it may be shown: no control characters, of bounded length."""
    if len(name) > MAX_NAME:
        name = f"{name[:MAX_NAME]}..."
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


def _dtype(elem_type: int) -> str:
    """Numpy's name of the type; "" for what numpy does not know."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except (KeyError, TypeError, ValueError):
        return ""


def _bytes(elem_type: int, shape: Iterator[int]) -> int:
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize
    except (KeyError, TypeError, ValueError):
        itemsize = 1
    return itemsize * math.prod(max(int(size), 0) for size in shape)


def _activation_bytes(model: ModelProto) -> int | None:
    """Inputs and intermediate values of one image; None where a shape is known only at run time."""
    single = ModelProto()
    single.CopyFrom(model)
    for value in single.graph.input:
        for dimension in value.type.tensor_type.shape.dim[:1]:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    except Exception:  # noqa: BLE001  # a graph whose shapes do not add up; the session will say so
        return None
    total = 0
    weights = {tensor.name for tensor in inferred.graph.initializer}
    inputs = [value for value in inferred.graph.input if value.name not in weights]
    for value in (*inputs, *inferred.graph.value_info, *inferred.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if not all(dimension.HasField("dim_value") for dimension in dimensions):
            return None
        total += _bytes(value.type.tensor_type.elem_type, (d.dim_value for d in dimensions))
    return total

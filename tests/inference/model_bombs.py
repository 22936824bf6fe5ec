"""Model files that harm whoever loads or runs them without care. Each is small.

`python -m tests.inference.model_bombs` tries each, and prints what came of it.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deployments.inference.trial import try_model
from deployments.inference.trial_protocol import Order
from tests.inference.models import graph, logits, node, served
from tests.inference.test_onnx import endless


def four_gigabytes() -> onnx.ModelProto:
    """No input; a constant of 2^30 floats, summed."""
    made = helper.make_graph(
        [node("ConstantOfShape", ["n"], ["z"]), node("ReduceSum", ["z"], ["y"], keepdims=0)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([2**30], np.int64), "n")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def gigabytes_by_the_pixels() -> onnx.ModelProto:
    """As many floats as the pixels decide, which no look at the graph can tell: 2^34 or more."""
    return logits(
        [
            node("Abs", ["plain"], ["positive"]),
            node("ReduceMax", ["positive"], ["most"], keepdims=0),
            node("Add", ["most", "one"], ["above"]),
            node("Cast", ["above"], ["count"], to=TensorProto.INT64),
            node("Mul", ["count", "much"], ["many"]),
            node("Unsqueeze", ["many", "first"], ["size"]),
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            node("Add", ["plain", "sum"], ["logits"]),
        ],
        one=np.array(1, np.float32),
        much=np.array(2**34, np.int64),
        first=np.array([0], np.int64),
    )


def nested(depth: int) -> onnx.ModelProto:
    """If within If within If."""
    output = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])]
    inner = other = helper.make_graph([node("Erf", ["plain"], ["out"])], "g", [], output)
    for _ in range(depth):
        branch = node("If", ["go"], ["out"], then_branch=inner, else_branch=other)
        inner = helper.make_graph([branch], "g", [], output)
    return logits([*inner.node, node("Add", ["plain", "out"], ["logits"])], go=np.array(True))


def nested_on_the_wire(depth: int) -> bytes:
    """Graphs within graphs, deeper than a library would write them."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), bytearray()
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes([number << 3 | 2, *length, size]) + content

    inner = b""
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))  # graph.node.attribute.g
    return field(7, inner)


def chain(nodes: int) -> onnx.ModelProto:
    """One node after another."""
    steps = [node("Abs", [f"v{i}"], [f"v{i + 1}"]) for i in range(nodes)]
    first = node("Abs", ["plain"], ["v0"])
    return logits([first, *steps, node("Neg", [f"v{nodes}"], ["logits"])])


def hostile_names() -> onnx.ModelProto:
    """Names that write to a terminal, and one of a megabyte."""
    model = graph()
    model.graph.node.append(
        helper.make_node("\x1b[2J[red]Op", ["mean"], ["x"], domain="evil\n" * 200_000)
    )
    model.opset_import.append(helper.make_opsetid("evil", 1))
    return model


def huge_dimensions() -> onnx.ModelProto:
    """An input of 2^62 values in each row."""
    return graph(shape=(1, 2**31, 2**31))


def with_operator(domain: str, name: str) -> onnx.ModelProto:
    model = graph(extra_opsets=((domain, 1),))
    model.graph.node.append(helper.make_node(name, ["mean"], ["x"], domain=domain))
    return model


def outside(location: str, **where: Any) -> onnx.ModelProto:
    """A weight whose bytes are in another file."""
    model = graph()
    onnx.external_data_helper.set_external_data(model.graph.initializer[-1], location, **where)
    model.graph.initializer[-1].ClearField("raw_data")
    return model


PATHS = (
    *("../secret", "/etc/hostname", "a/../../secret", "file:///etc/hostname"),
    *("link", "hard", "*/_ORT_MEM_ADDR_/*", "weights.bin"),
)
BOMBS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "4 GiB from 106 bytes": (four_gigabytes, "memory"),
    "memory by the pixels": (gigabytes_by_the_pixels, "golden case"),
    "endless loop": (endless, "operator"),
    "If, 20 deep": (lambda: nested(20), "operator"),
    "60,000 nodes": (lambda: chain(60_000), "nodes"),
    "huge dimensions": (huge_dimensions, "memory"),
    "names that write to a terminal": (hostile_names, "operator"),
    "com.microsoft": (lambda: with_operator("com.microsoft", "Gelu"), "operator"),
    "custom domain": (lambda: with_operator("evil", "Run"), "operator"),
    "negative offset": (lambda: outside("weights.bin", offset=-8, length=8), "external_data"),
    "huge length": (lambda: outside("weights.bin", offset=0, length=2**60), "external_data"),
    **{
        f"external data at {location}": (
            lambda location=location: outside(location),
            "external_data",
        )
        for location in PATHS
    },
}


def lay_out(directory: Path) -> None:
    """What external data might be read from: a secret, a symbolic and a hard link to it."""
    (directory.parent / "secret").write_bytes(bytes(8))
    (directory / "weights.bin").write_bytes(bytes(8))
    (directory / "link").symlink_to(directory.parent / "secret")
    (directory / "hard").hardlink_to(directory.parent / "secret")


def table(directory: Path) -> str:
    """What came of each, as Markdown: the first fault, the time, the process's most memory."""
    rows = [
        "| model file | bytes | refused for | time (ms) | memory (MiB) |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for name, (build, rule) in BOMBS.items():
        version = served(directory, build())
        started = time.perf_counter()
        report = try_model(Order(version.path, version.card))
        spent_ms = (time.perf_counter() - started) * 1e3
        faults = [fault for check in report.checks for fault in check.faults if fault.rule == rule]
        why = f"`{rule}` {faults[0].measured or faults[0].advice}"
        size = Path(version.path).stat().st_size
        memory = report.peak_bytes / (1 << 20)
        rows.append(f"| {name} | {size:,} | {why} | {spent_ms:,.0f} | {memory:.0f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        inside = Path(place) / "models"
        inside.mkdir()
        lay_out(inside)
        print(table(inside))  # noqa: T201  # what it is for

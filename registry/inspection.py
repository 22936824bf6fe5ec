"""Which graphs may be registered: pure rules on facts, which `inference.onnx_file` reads.

A model file is code, and this is its allow-list: standard operators only, no loops, nothing outside
the file, a size and a memory need that fit, and exactly the input and output that the card tells.
What passes is still run in the open only after its golden case; what fails is told all its faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.card import ModelCard
from registry.errors import ForbiddenOperator, InvalidModel, Violation

# What onnxruntime 1.32 reads (it refuses IR 15, and guarantees nothing beyond opset 28).
MAX_IR_VERSION = 14
MAX_OPSET = 28

MAX_FILE_BYTES = 1 << 30
MAX_NODES = 50_000
MAX_MEMORY_BYTES = 4 << 30  # weights and every intermediate value of one image

STANDARD = ("", "ai.onnx")  # two names of one domain
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})  # unbounded work, and graphs within graphs


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output. A dimension is its size, its name where it is dynamic, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What is in a model file.

    Attributes:
        size_bytes: The file.
        ir_version: Of the format.
        opsets: The opset version by domain; "" is ai.onnx.
        inputs: What must be fed; no initializers.
        outputs: What comes out.
        operators: How many nodes, by domain and operator; in subgraphs and functions, too.
        functions: Functions the file itself defines.
        external: Tensors whose data are outside the file.
        weight_bytes: All initializers.
        activation_bytes: All intermediate values for one image together: what a run may take at
            most. None where a shape is only known at run time.
    """

    size_bytes: int
    ir_version: int
    opsets: Mapping[str, int]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: Mapping[tuple[str, str], int] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    weight_bytes: int = 0
    activation_bytes: int | None = None


def check_graph(facts: GraphFacts, card: ModelCard) -> None:
    """Hold a graph against the rules and its card.

    Raises:
        ForbiddenOperator: It uses an operator outside the allow-list. Other faults are told, too.
        InvalidModel: It breaks other rules.
    """
    forbidden = operator_faults(facts, card)
    faults = (*forbidden, *format_faults(facts), *signature_faults(facts, card))
    if forbidden:
        raise ForbiddenOperator("the graph uses what is not allowed", faults)
    if faults:
        raise InvalidModel("the graph is not fit to be registered", faults)


def operator_faults(facts: GraphFacts, card: ModelCard) -> list[Violation]:
    """Operators outside the standard domain and those the card signs off; and control flow."""
    allowed = {*STANDARD, *card.runtime.allow_domains}
    faults = [
        Violation(
            "operator",
            f"{domain}.{operator} x {count}",
            "ai.onnx",
            "export without it, or have its domain signed off in runtime.allow_domains",
        )
        for (domain, operator), count in sorted(facts.operators.items())
        if domain not in allowed
    ]
    faults += [
        Violation("operator", f"{operator} x {count}", "no control flow", "unroll it at export")
        for (domain, operator), count in sorted(facts.operators.items())
        if domain in STANDARD and operator in CONTROL_FLOW
    ]
    faults += [
        Violation("function", name, "none", "inline functions at export")
        for name in facts.functions
    ]
    return faults


def format_faults(facts: GraphFacts) -> list[Violation]:
    """What the runtime cannot read, or should not have to."""
    opset = max((facts.opsets.get(domain, 0) for domain in STANDARD), default=0)
    nodes = sum(facts.operators.values())
    rules = [
        (
            facts.ir_version <= MAX_IR_VERSION,
            Violation("ir_version", str(facts.ir_version), f"at most {MAX_IR_VERSION}"),
        ),
        (
            1 <= opset <= MAX_OPSET,
            Violation("opset", str(opset), f"1 to {MAX_OPSET}", "export with an older opset"),
        ),
        (
            facts.size_bytes <= MAX_FILE_BYTES,
            Violation("size", f"{facts.size_bytes} bytes", f"at most {MAX_FILE_BYTES} bytes"),
        ),
        (nodes <= MAX_NODES, Violation("nodes", str(nodes), f"at most {MAX_NODES}")),
        (
            not facts.external,
            Violation(
                "external_data",
                f"{len(facts.external)} tensor(s)",
                "none",
                "save the model as one file",
            ),
        ),
        (
            facts.weight_bytes + (facts.activation_bytes or 0) <= MAX_MEMORY_BYTES,
            Violation(
                "memory",
                f"{facts.weight_bytes + (facts.activation_bytes or 0)} bytes for one image",
                f"at most {MAX_MEMORY_BYTES} bytes",
            ),
        ),
    ]
    return [violation for holds, violation in rules if not holds]


def signature_faults(facts: GraphFacts, card: ModelCard) -> list[Violation]:
    """Inputs and outputs against the card, and the batch dimension."""
    spec = card.input
    image = (spec.channels, spec.height, spec.width)
    faults = []
    inputs = {tensor.name: tensor for tensor in facts.inputs}
    found = inputs.get(spec.name)
    if (
        len(facts.inputs) != 1
        or found is None
        or found.dtype != spec.dtype
        or found.shape[1:] != image
    ):
        limit = f"{spec.name}: {spec.dtype} [batch, {', '.join(map(str, image))}]"
        faults.append(Violation("input", _listed(facts.inputs), limit, "correct the card"))
    elif isinstance(found.shape[0], int):
        faults.append(
            Violation("input.batch", str(found.shape[0]), "dynamic", "export with a dynamic batch")
        )
    labels = len(card.output.labels)
    outputs = {tensor.name: tensor for tensor in facts.outputs}
    answer = outputs.get(card.output.name)
    if answer is None or answer.dtype != "float32" or answer.shape[1:] != (labels,):
        limit = f"{card.output.name}: float32 [batch, {labels}]"
        faults.append(Violation("output", _listed(facts.outputs), limit, "correct the card"))
    return faults


def _listed(tensors: tuple[TensorFacts, ...]) -> str:
    return "; ".join(map(str, tensors)) or "none"

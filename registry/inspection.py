"""Which graphs may be registered: pure rules on facts, which `inference.onnx_file` reads.

A model file is code, and this is its allow-list: standard operators only, no loops, nothing outside
the file, a size and a memory need that fit, and exactly the input and output that the card tells.
What passes is still run in a limited process first (`inference.trial`); what fails is told all its
faults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from registry.card import ModelCard
from registry.errors import ForbiddenOperator, InvalidModel, Violation

# What onnxruntime 1.32 reads (it refuses IR 15, and guarantees nothing beyond opset 28).
MAX_IR_VERSION = 14
MAX_OPSET = 28

MAX_FILE_BYTES = 1 << 30
MAX_NODES = 50_000
MAX_MEMORY_BYTES = 4 << 30  # weights and every intermediate value of one image
MAX_FAULTS = 20  # named of one rule; a file can be made to break it a million times

STANDARD = ("", "ai.onnx")  # two names of one domain
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})  # unbounded work, and graphs within graphs


class State(StrEnum):
    """What came of a check. `TOLD` and `SKIPPED` are nobody's fault."""

    PASSED = "passed"
    FAILED = "failed"
    TOLD = "told"  # there is no rule, or no card to hold it against
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """One line of the report on a model file.

    Attributes:
        name: What was looked at.
        state: What came of it.
        measured: What was found, with its unit.
        limit: What is allowed, or "".
        faults: Every broken rule, where it failed.
        forbidden: Whether the faults are operators outside the allow-list.
    """

    name: str
    state: State
    measured: str = ""
    limit: str = ""
    faults: tuple[Violation, ...] = ()
    forbidden: bool = False


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
    refuse(graph_checks(facts, card))


def refuse(checks: tuple[ModelCheck, ...]) -> None:
    """Raises `ForbiddenOperator` or `InvalidModel` where a check failed, with every fault."""
    faults = tuple(fault for check in checks for fault in check.faults)
    if any(check.forbidden for check in checks if check.state is State.FAILED):
        raise ForbiddenOperator("the graph uses what is not allowed", faults)
    if any(check.state is State.FAILED for check in checks):
        raise InvalidModel("the model is not fit to be registered", faults)


def graph_checks(
    facts: GraphFacts, card: ModelCard | None, *, allow_domains: tuple[str, ...] = ()
) -> tuple[ModelCheck, ...]:
    """Every rule for graphs, with what was found.

    Args:
        facts: The graph.
        card: What it should be; without one, inputs and outputs are only told.
        allow_domains: Operator domains that are signed off beside those of the card.
    """
    signed = {*allow_domains, *(card.runtime.allow_domains if card else ())}
    return (
        *_operator_checks(facts, signed),
        *_format_checks(facts),
        *_signature_checks(facts, card),
    )


def _operator_checks(facts: GraphFacts, signed: set[str]) -> tuple[ModelCheck, ...]:
    """Operators outside the standard domain and those signed off; control flow; functions."""
    allowed = {*STANDARD, *signed}
    counts = sorted(facts.operators.items())
    unknown = [
        Violation(
            "operator",
            f"{domain}.{operator} x {count}",
            " or ".join(["ai.onnx", *sorted(signed)]),
            "export without it, or have its domain signed off in runtime.allow_domains",
        )
        for (domain, operator), count in counts
        if domain not in allowed
    ]
    control = [
        Violation("operator", f"{operator} x {count}", "no control flow", "unroll it at export")
        for (domain, operator), count in counts
        if domain in STANDARD and operator in CONTROL_FLOW
    ]
    functions = [
        Violation("function", name, "none", "inline functions at export")
        for name in facts.functions
    ]
    used = [f"{f'{domain}.' if domain else ''}{name} x {count}" for (domain, name), count in counts]
    domains = ", ".join(["ai.onnx", *sorted(signed)])
    return (
        _check("operators", _some(used), f"domain {domains}", unknown, forbidden=True),
        _check("control flow", _kinds(control), "no If, Loop or Scan", control, forbidden=True),
        _check("functions", str(len(functions)), "none", functions, forbidden=True),
    )


def _format_checks(facts: GraphFacts) -> tuple[ModelCheck, ...]:
    """What the runtime cannot read, or should not have to."""
    opset = max((facts.opsets.get(domain, 0) for domain in STANDARD), default=0)
    return (
        _limited(
            ("IR version", "ir_version"),
            facts.ir_version,
            (1, MAX_IR_VERSION),
            advice="export with an older IR version",
        ),
        _limited(
            ("opset", "opset"), opset, (1, MAX_OPSET), advice="export with an opset in this range"
        ),
        _limited(
            ("file size", "size"),
            facts.size_bytes,
            (0, MAX_FILE_BYTES),
            show=_bytes,
            advice="use a smaller model",
        ),
        _limited(
            ("nodes", "nodes"),
            sum(facts.operators.values()),
            (1, MAX_NODES),
            advice="use a smaller model",
        ),
        _external_check(facts),
        _memory_check(facts),
    )


def _external_check(facts: GraphFacts) -> ModelCheck:
    found = f"{len(facts.external)} tensor(s)"
    fault = Violation("external_data", found, "none", "save the model as one file")
    return _check("external data", found, "none", [fault] if facts.external else [])


def _memory_check(facts: GraphFacts) -> ModelCheck:
    """The estimate: weights, and every intermediate value of one image as if all were kept."""
    known = facts.weight_bytes + (facts.activation_bytes or 0)
    values = "known at run time only"
    if facts.activation_bytes is not None:
        values = _bytes(facts.activation_bytes)
    parts = f"weights {_bytes(facts.weight_bytes)}, values of one image {values}"
    limit = f"at most {_bytes(MAX_MEMORY_BYTES)}"
    fault = Violation(
        "memory",
        f"{known} bytes for one image",
        f"at most {MAX_MEMORY_BYTES} bytes",
        "use a smaller model or input",
    )
    return _check("memory estimate", parts, limit, [fault] if known > MAX_MEMORY_BYTES else [])


def _signature_checks(facts: GraphFacts, card: ModelCard | None) -> tuple[ModelCheck, ...]:
    """Inputs and outputs against the card, and the batch dimension."""
    inputs, outputs = _listed(facts.inputs), _listed(facts.outputs)
    if card is None:
        batch = "dynamic" if facts.inputs and _dynamic(facts.inputs[0]) else "fixed"
        return (
            ModelCheck("input", State.TOLD, inputs),
            ModelCheck("output", State.TOLD, outputs),
            ModelCheck("batch dimension", State.TOLD, batch),
        )
    image = (card.input.channels, card.input.height, card.input.width)
    wanted = f"{card.input.name}: {card.input.dtype} [batch, {', '.join(map(str, image))}]"
    found = {tensor.name: tensor for tensor in facts.inputs}.get(card.input.name)
    taken = (
        len(facts.inputs) == 1
        and found is not None
        and found.dtype == card.input.dtype
        and found.shape[1:] == image
    )
    labels = len(card.output.labels)
    promised = f"{card.output.name}: float32 [batch, {labels}]"
    answer = {tensor.name: tensor for tensor in facts.outputs}.get(card.output.name)
    given = answer is not None and answer.dtype == "float32" and answer.shape[1:] == (labels,)
    wrong_input = Violation("input", inputs, wanted, "correct the card")
    wrong_output = Violation("output", outputs, promised, "correct the card")
    return (
        _check("input", inputs, wanted, [] if taken else [wrong_input]),
        _batch_check(found if taken else None),
        _check("output", outputs, promised, [] if given else [wrong_output]),
    )


def _batch_check(found: TensorFacts | None) -> ModelCheck:
    if found is None:
        return ModelCheck("batch dimension", State.SKIPPED, "the input is not the card's")
    if _dynamic(found):
        return ModelCheck("batch dimension", State.PASSED, "dynamic", "dynamic")
    fixed = str(found.shape[0])
    fault = Violation("input.batch", fixed, "dynamic", "export with a dynamic batch")
    return _check("batch dimension", fixed, "dynamic", [fault])


def _dynamic(tensor: TensorFacts) -> bool:
    return bool(tensor.shape) and not isinstance(tensor.shape[0], int)


def _check(
    name: str, measured: str, limit: str, faults: list[Violation], *, forbidden: bool = False
) -> ModelCheck:
    """A check that fails where there is a fault; of very many faults, the first are named."""
    state = State.FAILED if faults else State.PASSED
    named = tuple(faults[:MAX_FAULTS])
    if hidden := len(faults) - len(named):
        named += (Violation(faults[0].rule, f"{hidden} more"),)
    return ModelCheck(name, state, measured, limit, named, forbidden=forbidden)


def _limited(
    name_and_rule: tuple[str, str],
    value: int,
    allowed: tuple[int, int],
    *,
    show: Callable[[int], str] = str,
    advice: str,
) -> ModelCheck:
    (name, rule), (low, high) = name_and_rule, allowed
    measured = show(value)
    limit = f"{low} to {high}" if low else f"at most {show(high)}"
    broken = [] if low <= value <= high else [Violation(rule, measured, limit, advice)]
    return _check(name, measured, limit, broken)


def _bytes(size: int) -> str:
    return f"{size} bytes" if size < 1 << 20 else f"{size / (1 << 20):,.1f} MiB"


def _some(words: list[str]) -> str:
    hidden = len(words) - MAX_FAULTS
    return ", ".join(words[:MAX_FAULTS]) + (f" and {hidden} more" if hidden > 0 else "")


def _kinds(faults: list[Violation]) -> str:
    return _some([fault.measured for fault in faults]) or "none"


def _listed(tensors: tuple[TensorFacts, ...]) -> str:
    shown = "; ".join(map(str, tensors[:MAX_FAULTS])) or "none"
    hidden = len(tensors) - MAX_FAULTS
    return f"{shown}; and {hidden} more" if hidden > 0 else shown

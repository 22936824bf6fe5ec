"""What the trial process says of a model file: one line of JSON for each step it has ended.

Not pickle, and each line is parsed into known fields of known types: the process may have been
taken over by the file it tried.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from registry.card import ModelCard
from registry.errors import InvalidModel, Violation
from registry.inspection import MAX_MEMORY_BYTES, GraphFacts, TensorFacts

MAX_ANSWER_BYTES = 8 << 20


class Step(StrEnum):
    """What the process does, in this order. With a card `GOLDEN`, without one `RUN`."""

    FACTS = "facts"
    SESSION = "session"
    GOLDEN = "golden"
    RUN = "run"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be tried.

    Attributes:
        path: The model file.
        card: What it should be, if that is known.
        allow_domains: Operator domains that are signed off beside those of the card.
        deadline_s: When one run is stopped.
        threads: Threads of one run.
        memory_bytes: What the process may take beyond what it starts with.
        wall_s: How long all of it may take.
    """

    path: str
    card: ModelCard | None = None
    allow_domains: tuple[str, ...] = ()
    deadline_s: float = 30.0  # as in service: `configs.settings.LimitSettings`
    threads: int = 1
    memory_bytes: int = MAX_MEMORY_BYTES
    wall_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """One step that has ended.

    Attributes:
        step: Which.
        seconds: What it took; of a latency, one run each.
        peak_bytes: The most resident memory the process has had so far.
        batch: Of a latency, the images in one run.
        deviation: Of the golden case, by how much the score that is most off is off.
        detail: Why the step failed; "" where it did not.
        violations: The rules it broke.
    """

    step: Step
    seconds: tuple[float, ...] = ()
    peak_bytes: int = 0
    batch: int = 0
    deviation: float = 0.0
    facts: GraphFacts | None = None
    detail: str = ""
    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class _Facts:
    """`GraphFacts` as JSON can hold it: an object's key is one string."""

    size_bytes: int
    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: tuple[tuple[str, str, int], ...]
    functions: tuple[str, ...]
    external: tuple[str, ...]
    weight_bytes: int
    activation_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Line:
    step: Literal["facts", "session", "golden", "run", "latency"]
    seconds: tuple[float, ...]
    peak_bytes: int
    batch: int
    deviation: float
    facts: _Facts | None
    detail: str
    violations: tuple[Violation, ...]


_ORDER = TypeAdapter(Order)
_LINE = TypeAdapter(_Line)


def pack_order(order: Order) -> bytes:
    """An order, for the process's standard input."""
    return _ORDER.dump_json(order)


def unpack_order(packed: bytes) -> Order:
    """The order, in the process."""
    return _ORDER.validate_json(packed)


def pack_said(said: Said) -> bytes:
    """One line."""
    fields = {name: getattr(said, name) for name in Said.__slots__}
    facts = None
    if said.facts is not None:
        operators = tuple((*key, count) for key, count in said.facts.operators.items())
        known = {name: getattr(said.facts, name) for name in _Facts.__slots__}
        facts = _Facts(**{**known, "opsets": dict(said.facts.opsets), "operators": operators})
    return _LINE.dump_json(_Line(**{**fields, "facts": facts})) + b"\n"


def unpack_said(packed: bytes) -> list[Said]:
    """The lines that came; a last one that is cut short is left out.

    Raises:
        InvalidModel: A line is not one that our own code writes.
    """
    try:
        lines = [_LINE.validate_json(line) for line in packed.split(b"\n")[:-1]]
    except ValidationError:
        raise InvalidModel("the process that tried the file was made to say nonsense") from None
    return [_said(line) for line in lines]


def _said(line: _Line) -> Said:
    facts = None
    if line.facts is not None:
        operators = {(domain, name): count for domain, name, count in line.facts.operators}
        fields = {name: getattr(line.facts, name) for name in _Facts.__slots__}
        facts = GraphFacts(**{**fields, "operators": operators})
    fields = {name: getattr(line, name) for name in _Line.__slots__}
    return Said(**{**fields, "step": Step(line.step), "facts": facts})

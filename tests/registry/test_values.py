"""Errors, messages and states: what crosses processes, and what may follow what."""

import inspect
import pickle
from dataclasses import fields
from itertools import product
from uuid import UUID

import pytest

from registry import contract, events
from registry.catalogue import Catalogue, Served
from registry.contract import Check, ModelRef, Validation
from registry.errors import (
    Failed,
    IllegalTransition,
    MedAIError,
    NotFound,
    Rejected,
    Violation,
    leaves,
)
from registry.lifecycle import STEPS, ModelStatus, check_step
from registry.message import Message
from tests.inference.models import bundled

LEAVES = sorted(leaves(), key=lambda leaf: leaf.__name__)


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_survives_being_pickled(leaf: type[MedAIError]) -> None:
    error = leaf("detail", (Violation("rule", "1", "2", "advice"),), 3)

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # what Ray does between processes

    assert type(copy) is leaf
    assert (copy.detail, copy.violations, copy.retry_after_s) == (
        error.detail, error.violations, error.retry_after_s,
    )  # fmt: skip


def test_every_error_is_somebodys_fault_and_has_a_code_of_its_own() -> None:
    codes = [leaf.code for leaf in LEAVES]

    assert len(set(codes)) == len(codes)
    assert all(issubclass(leaf, (Rejected, Failed)) for leaf in LEAVES)
    assert all(inspect.getdoc(leaf) for leaf in LEAVES)


def test_an_error_is_one_line_for_a_terminal() -> None:
    error = NotFound("no such model", (Violation("model", "a", "b", "c"), Violation("x")))

    assert str(error) == "no such model; model is a, allowed is b: c; x"
    assert str(NotFound()) == "Not found"


def check(name: str, code: str = "") -> Check:
    return Check(name, 1, "at most 2", passed=not code, code=code)


def test_a_validation_tells_which_rules_hold() -> None:
    checks = (check("brightness"), check("contrast", "LOW_CONTRAST"), check("view", "WRONG_VIEW"))
    validation = Validation(is_valid=False, score=0.5, checks=checks)

    assert validation.error_codes == ("LOW_CONTRAST", "WRONG_VIEW")
    assert validation.holds("brightness")
    assert not validation.holds("brightness", "contrast")
    assert validation.holds("motion")


def test_the_catalogue_gives_active_versions_and_their_gates() -> None:
    cxr, body_part = bundled("cxr-pneumonia"), bundled("body-part")
    catalogue = Catalogue([cxr, body_part])

    assert catalogue.names == ("body-part", "cxr-pneumonia")
    assert catalogue.active("body-part") is body_part
    assert catalogue.gate_of(cxr) is body_part
    assert catalogue.gate_of(body_part) is None


def test_a_name_that_is_nearly_right_is_helped() -> None:
    catalogue = Catalogue([bundled("body-part")])

    with pytest.raises(NotFound, match="did you mean body-part"):
        catalogue.active("body-parts")
    with pytest.raises(NotFound, match="GET /models"):
        catalogue.active("zzz")
    with pytest.raises(NotFound):
        Catalogue([]).gate_of(bundled("cxr-pneumonia"))


def test_a_served_version_names_its_file() -> None:
    version = Served(ModelRef(UUID(int=1), "a", "1.0.0", "0"), bundled("body-part").card, "/x")

    assert version.path == "/x"


@pytest.mark.parametrize(("current", "wanted"), list(product(ModelStatus, ModelStatus)))
def test_only_the_drawn_steps_are_possible(current: ModelStatus, wanted: ModelStatus) -> None:
    drawn = {
        ("registered", "validated"),
        ("registered", "retired"),
        ("validated", "approved"),
        ("validated", "retired"),
        ("approved", "active"),
        ("approved", "retired"),
        ("active", "approved"),
        ("active", "retired"),
        ("retired", "approved"),
    }

    if (current.value, wanted.value) in drawn:
        check_step(current, wanted)
    else:
        with pytest.raises(IllegalTransition) as refusal:
            check_step(current, wanted)
        assert refusal.value.violations[0].measured == current
    assert set(STEPS) == set(ModelStatus)


MESSAGES = {  # by name: a dataclass with slots is made twice, and the first one lives on
    kind.__name__: kind
    for module in (contract, events)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
}


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_message_survives_being_pickled(kind: type[Message]) -> None:
    message = kind(*(f"value of {field.name}" for field in fields(kind)))  # type: ignore[arg-type]

    assert pickle.loads(pickle.dumps(message, pickle.HIGHEST_PROTOCOL)) == message  # noqa: S301

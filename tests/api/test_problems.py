"""Problems: one table, one form, and nothing of the caller's in them."""

import gc
import json
from typing import Any
from uuid import uuid4

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from deployments.api.problems import (
    STATUS,
    TYPE_BASE,
    ProblemDetails,
    Recorded,
    from_http,
    from_validation,
    problem,
    problems,
    status_of,
)
from registry import errors
from registry.contract import Receipt
from registry.errors import MedAIError, Violation, leaves

LEAVES = sorted(leaves(), key=lambda leaf: leaf.code)


def test_the_table_names_every_leaf_and_nothing_else() -> None:
    assert set(STATUS) == set(LEAVES)


def test_the_callers_faults_are_4xx_and_ours_5xx() -> None:
    rejected = {STATUS[leaf] // 100 for leaf in leaves(errors.Rejected)}
    failed = {STATUS[leaf] // 100 for leaf in leaves(errors.Failed)}

    # A wrong setting is the operator's fault, but never a caller's.
    assert rejected == {4, 5}
    assert [leaf for leaf in leaves(errors.Rejected) if STATUS[leaf] >= 500] == [
        errors.InvalidConfiguration
    ]
    assert failed == {5}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.code)
def test_every_leaf_has_one_form(leaf: type[MedAIError]) -> None:
    violation = Violation("brightness", "0.04", "0.08 to 0.92", "retake the image")
    error = leaf("in words", (violation,), retry_after_s=7)

    response = problem(error, request_id="0-0")

    document = json.loads(bytes(response.body))
    ProblemDetails.model_validate(document)
    assert response.media_type == "application/problem+json"
    assert response.status_code == document["status"] == STATUS[leaf]
    assert document["type"] == f"{TYPE_BASE}{leaf.code}"
    assert document["title"] == leaf.title
    assert document["detail"] == "in words"
    assert document["instance"] == "urn:uuid:0-0"
    assert document["violations"] == [
        {
            "rule": "brightness",
            "measured": "0.04",
            "limit": "0.08 to 0.92",
            "advice": "retake the image",
        }
    ]
    assert response.headers["Retry-After"] == "7"
    assert ("WWW-Authenticate" in response.headers) == (leaf is errors.Unauthenticated)


def test_an_error_without_a_word_says_its_title() -> None:
    document = json.loads(bytes(problem(errors.NotFound(), request_id="0-0").body))

    assert document["detail"] == "Not found"
    assert "violations" not in document


def test_a_recorded_problem_says_where() -> None:
    result_id = uuid4()
    recorded = Recorded(result_id, Receipt(result_id, 12, b"\xab" * 32, "2026-11-24T00:00:00Z"))

    response = problem(errors.UndecodableImage(), request_id="0-0", recorded=recorded)

    document = json.loads(bytes(response.body))

    ProblemDetails.model_validate(document)
    assert document["instance"] == f"urn:uuid:{result_id}"
    assert document["result_id"] == str(result_id)
    assert document["audit"] == {"seq": 12, "entry_hash": "ab" * 32}


def test_a_class_made_at_run_time_takes_the_status_of_its_leaf() -> None:
    made = type("RayTaskError(NotFound)", (errors.NotFound,), {})

    status = status_of(made())

    assert status == 404
    assert status_of(errors.MedAIError()) == 500
    del made
    gc.collect()  # else it would be a leaf in the tests that come after this one


@pytest.mark.parametrize(
    ("status", "leaf"),
    [
        (400, errors.BadRequest),
        (401, errors.Unauthenticated),
        (404, errors.NotFound),
        (405, errors.MethodNotAllowed),
        (413, errors.PayloadTooLarge),
        (418, errors.BadRequest),
        (500, errors.Internal),
        (502, errors.Internal),
        (503, errors.Overloaded),
    ],
)
def test_the_frameworks_errors_become_ours_without_their_text(
    status: int, leaf: type[MedAIError]
) -> None:
    ours = from_http(HTTPException(status, detail="DOE^JOHN"))

    assert type(ours) is leaf
    assert "DOE" not in str(ours)


def fault(kind: str, *loc: str | int, **more: Any) -> dict[str, Any]:
    return {"type": kind, "loc": loc, "msg": "Input should be a valid integer", **more}


def test_a_wrong_parameter_is_named_but_not_repeated() -> None:
    given = RequestValidationError(
        [
            fault("int_parsing", "query", "page", input="DOE^JOHN"),
            fault("extra_forbidden", "body", "DOE^JOHN", input="x"),
        ]
    )

    ours = from_validation(given)

    assert [violation.rule for violation in ours.violations] == ["query.page", "body"]
    assert ours.violations[0].advice == "Input should be a valid integer"
    assert "DOE" not in str(ours)


def test_the_description_lists_each_status_once() -> None:
    described = problems(errors.Forbidden, errors.PasswordExpired, errors.NotFound)

    assert list(described) == [403, 404]
    assert described[403]["description"] == (
        "`forbidden`: Not permitted; `password-expired`: Password must be changed"
    )

"""The service keeps to its own description, whatever is asked, and whoever asks.

Every operation is asked with what its schema allows and with what it forbids; no answer may be a
server error, of a status or type that is not described, or of another form than described.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from tests.api.house import House

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 5  # of each operation, as each role
CHECKED = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
}
ROLES = {"anonymous": None, "viewer": "vera", "clinician": "clara", "admin": "ada"}


@pytest.fixture
async def address(house: House) -> AsyncIterator[str]:
    """Where the house answers, on a port of its own, in the loop that the house belongs to."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(house.app, lifespan="off", log_config=None))
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    yield "http://{}:{}".format(*listening.getsockname())
    server.should_exit = True
    await serving
    listening.close()


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
async def test_every_answer_is_one_that_is_described(house: House, address: str, role: str) -> None:
    username = ROLES[role]
    statuses: Counter[int] = Counter()

    def headers() -> dict[str, str]:
        if username is None:
            return {}
        return {"Authorization": f"Bearer {house.token(username)}"}  # some requests end it

    broken: Counter[str] = Counter(dict.fromkeys(CHECKED, 0))
    document = house.app.openapi()
    try:
        await asyncio.to_thread(ask_everything, document, address, headers, statuses, broken)
    finally:
        print(summary(document, role, statuses, broken))  # noqa: T201  # shown by -s, for the record
    assert statuses.total() >= 100
    assert max(statuses) < 500
    if role == "anonymous":
        assert statuses[401] > statuses.total() / 2
    else:
        assert statuses[200] > 0


def summary(
    document: dict[str, Any], role: str, statuses: "Counter[int]", broken: "Counter[str]"
) -> str:
    """One line: how much was asked, what was answered, and what was wrong with it."""
    operations = sum(len(item) for item in document["paths"].values())
    answers = dict(sorted(statuses.items()))
    wrong = ", ".join(f"{name}: {count}" for name, count in sorted(broken.items()))
    asked = f"{operations} operations, {statuses.total()} answers {answers}"
    return f"schemathesis, {role}: {asked}; violations of {wrong}"


def ask_everything(
    document: dict[str, Any],
    address: str,
    headers: Callable[[], dict[str, str]],
    statuses: "Counter[int]",
    broken: "Counter[str]",
) -> None:
    """Ask every operation, and look at every answer. Raises where one is not as described."""
    from schemathesis.checks import CHECKS, load_all_checks
    from schemathesis.core.failures import FailureGroup

    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ in CHECKED]
    assert len(checks) == len(CHECKED)
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.body or operation.query or operation.path_parameters:  # else: nothing to spoil
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @seed(0)
            @settings(
                max_examples=EXAMPLES,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                answer = case.call(base_url=address, headers=headers())
                statuses[answer.status_code] += 1
                for check in checks:
                    try:
                        case.validate_response(answer, checks=[check])
                    except FailureGroup:
                        broken[check.__name__] += 1
                        raise

            # A parameter that takes any text cannot be spoilt.
            with suppress(*([Unsatisfiable] if mode is modes[-1] is not modes[0] else [])):
                ask()

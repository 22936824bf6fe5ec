"""What the operator is told where the service does not become ready."""

import httpx2
import pytest

from deployments.api.health import Condition
from deployments.server import Standing, failing, standing_of


def test_the_checks_that_fail_are_named_with_their_reasons() -> None:
    checks = {
        "database": {"condition": "ok", "reason": ""},
        "audit": {"condition": "failed", "reason": "the audit log was cut"},
        "models": {"condition": "unknown", "reason": "does not answer"},
    }

    said = failing(httpx2.Response(503, json={"ready": False, "checks": checks}))

    assert said == "audit: the audit log was cut; models: does not answer"


@pytest.mark.parametrize(
    ("status", "conditions", "standing"),
    [
        (200, ["ok", "ok"], Standing.READY),
        (503, ["ok", Condition.READ_ONLY], Standing.READ_ONLY),
        (503, ["failed", Condition.READ_ONLY], Standing.UNREADY),
        (503, ["unknown", Condition.READ_ONLY], Standing.UNREADY),
        (503, ["ok", "failed"], Standing.UNREADY),
    ],
)
def test_it_is_up_and_read_only_where_nothing_but_that_is_wrong(
    status: int, conditions: list[str], standing: Standing
) -> None:
    checks = {f"{n}": {"condition": said, "reason": ""} for n, said in enumerate(conditions)}

    assert standing_of(httpx2.Response(status, json={"checks": checks})) is standing


@pytest.mark.parametrize("body", ["Path '/health/ready' not found", "[]", '{"checks": 1}', "{}"])
def test_a_page_that_is_not_ours_says_nothing(body: str) -> None:
    assert failing(httpx2.Response(404, text=body)) == ""
    assert standing_of(httpx2.Response(404, text=body)) is Standing.UNREADY

"""What the operator is told where the service does not become ready."""

import httpx2
import pytest

from deployments.server import failing


def test_the_checks_that_fail_are_named_with_their_reasons() -> None:
    checks = {
        "database": {"condition": "ok", "reason": ""},
        "audit": {"condition": "failed", "reason": "the audit log was cut"},
        "models": {"condition": "unknown", "reason": "does not answer"},
    }

    said = failing(httpx2.Response(503, json={"ready": False, "checks": checks}))

    assert said == "audit: the audit log was cut; models: does not answer"


@pytest.mark.parametrize("body", ["Path '/health/ready' not found", "[]", '{"checks": 1}', "{}"])
def test_a_page_that_is_not_ours_says_nothing(body: str) -> None:
    assert failing(httpx2.Response(404, text=body)) == ""

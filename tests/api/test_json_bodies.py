"""The one reader of JSON: what two parsers could read in two ways is not read at all."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.json_bodies import MAX_DEPTH, MAX_DIGITS, parse
from registry.errors import MalformedJson
from tests.api.house import House

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", "syntax"),
        (b"{", "syntax"),
        (b"{'a': 1}", "syntax"),
        (b'{"a": 1,}', "syntax"),
        (b"[1] 2", "syntax"),
        (b"\xef\xbb\xbf{}", "syntax"),  # a byte order mark (RFC 8259, section 8.1)
        (b'"\x01"', "syntax"),
        (b'"\\ud800"', "syntax"),  # half of a pair is no character
        (b'"\xff"', "encoding"),
        ('{"a": 1}'.encode("utf-16"), "encoding"),
        (b'{"a": 1, "a": 1}', "names"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "names"),
        (b"NaN", "number"),
        (b"[Infinity]", "number"),
        (b"-Infinity", "number"),
        (b"1e400", "number"),
        (b"-1e400", "number"),
        (b"9" * 10_000, "number"),
        (b"9223372036854775808", "number"),
        (b"[" * 100_000, "nesting"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nesting"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_what_is_not_well_formed_is_refused_and_never_repeated(body: bytes, rule: str) -> None:
    with pytest.raises(MalformedJson) as refused:
        parse(body)

    (violation,) = refused.value.violations
    assert violation.rule == rule
    assert violation.measured == ""


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a": [1, -2.5e3, true, null]}', {"a": [1, -2500.0, True, None]}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"-0.0", -0.0),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"[[[[[[[[[[[[[[[[[[[[ \\" [["', '[[[[[[[[[[[[[[[[[[[[ " [['),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_what_is_well_formed_is_read(body: bytes, document: Any) -> None:
    assert parse(body) == document


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_was_written_is_read_again(document: Any) -> None:
    assert parse(json.dumps(document).encode()) == document


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(MalformedJson):
        parse(body)


def test_the_longest_number_has_as_many_digits_as_64_bits() -> None:
    assert len(str(2**63)) == MAX_DIGITS


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/reset", "/auth/password", "/admin/users"])
@pytest.mark.parametrize("body", [b"[" * 1000, b'{"a":1,"a":1}', b"\xff", b"NaN", b"9" * 5000])
async def test_every_json_route_reads_by_it(house: House, path: str, body: bytes) -> None:
    answer = await house.client("ada").post(path, content=body, headers=JSON)

    assert answer.status_code == 400
    assert answer.json()["type"].endswith("/malformed-json")


async def test_a_json_body_that_never_ends_is_408(build: Any) -> None:
    from configs.settings import LimitSettings

    house = await build(limits=LimitSettings(body_timeout_s=0.05))
    part = {"type": "http.request", "body": b"{", "more_body": True}

    status, headers, _ = await house.raw(
        "POST",
        "/auth/refresh",
        [part],
        headers=[(b"content-type", b"application/json")],
        silent=True,
    )

    assert status == 408
    assert headers["connection"] == "close"

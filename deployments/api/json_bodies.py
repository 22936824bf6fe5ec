"""The one reader of JSON bodies: strict, bounded, and the same for every route.

Refused as malformed (RFC 8259, RFC 8785 §3.1), before anything is made of it: an encoding other
than UTF-8, a name that stands twice in an object, NaN and Infinity, a number no IEEE 754 double or
64-bit integer holds, and nesting deeper than `MAX_DEPTH`. Which of two equal names counts, or how
many digits of a number survive, differs between parsers; a gateway and the service behind it must
never read one body in two ways.
"""

import json
import math
from typing import Any, Final, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from registry.errors import MalformedJson, UnsupportedMediaType, ValidationFailed, Violation

JSON: Final = "application/json"
MAX_JSON_BYTES: Final = 8 * 1024  # no route here takes more than a few names
MAX_DEPTH: Final = 16
MAX_DIGITS: Final = 19  # of an integer: int() takes quadratic time
_OPENING, _CLOSING, _QUOTE, _ESCAPE = b"[{", b"]}", ord('"'), ord("\\")

T = TypeVar("T", bound=BaseModel)


async def read_json(request: Request, model: type[T]) -> T:
    """The body of `request` as a `model`.

    Raises:
        UnsupportedMediaType: The body does not say that it is JSON.
        MalformedJson: It is not JSON, or not in the form that this service takes.
        ValidationFailed: It is not what the model declares; every fault is named.
        PayloadTooLarge, RequestTimeout: While it is read.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != JSON:
        violation = Violation("content-type", limit=JSON)
        raise UnsupportedMediaType("the body comes as JSON", (violation,))
    document = parse(await request.body())
    try:
        # As JSON, so that a string may stand for a UUID or an enumeration, but no number for it.
        return model.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValidationFailed(
            "the body is not what this route takes", tuple(map(_violation, faults))
        ) from None


def parse(body: bytes) -> Any:
    """The document in `body`. Raises `MalformedJson`."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("encoding", "UTF-8") from None
    if _depth(body) > MAX_DEPTH:
        raise _malformed("nesting", f"at most {MAX_DEPTH} levels")
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_real,
        )
        json.dumps(document, ensure_ascii=False).encode()  # a lone surrogate is no character
    except MalformedJson:
        raise
    except ValueError:  # its text quotes the body
        raise _malformed("syntax", "RFC 8259") from None
    return document


def _depth(body: bytes) -> int:
    """How deep the brackets outside of strings nest; before the parser, which recurses."""
    depth = deepest = 0
    quoted = escaped = False
    for byte in body:
        if quoted:
            if escaped:
                escaped = False
            elif byte == _ESCAPE:
                escaped = True
            elif byte == _QUOTE:
                quoted = False
        elif byte == _QUOTE:
            quoted = True
        elif byte in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSING:
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _malformed("names", "each once in an object")
    return found


def _constant(_: str) -> NoReturn:
    raise _malformed("number", "finite")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS or not -(2**63) <= int(digits) < 2**63:
        raise _malformed("number", "64 bits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _malformed("number", "an IEEE 754 double")
    return number


def _malformed(rule: str, limit: str) -> MalformedJson:
    return MalformedJson("the body is not well-formed JSON", (Violation(rule, limit=limit),))


def _violation(fault: Any) -> Violation:
    # The name of an undeclared field is the caller's text.
    unknown = fault["type"] == "extra_forbidden"
    rule = "body" if unknown or not fault["loc"] else ".".join(map(str, fault["loc"]))
    return Violation(rule, advice="send no other field" if unknown else str(fault["msg"]))


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What a route that takes a `model` says of its body, for OpenAPI.

    Enumerations are referred to: the answers' models bring them into the document.
    """
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}

"""Examples in the OpenAPI document, made from what the schemas' own fields say.

A field's example stands at the field, so that it cannot be forgotten where the field is used, and
the example of a whole answer is put together from them: it never shows a field that is gone.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

_FORMATS: Final[Mapping[str, str]] = {
    "uuid": "019aa7f0-7a1e-7c3b-9d5e-0a4f5b6c7d8e",
    "date-time": "2026-11-24T08:00:00Z",
    "binary": "...",
}
_REFERENCE: Final = "#/components/schemas/"
_TEXTS: Final = ("...", "9f2c" * 16, "cxr-pneumonia", "1.0.0")  # free, a hash, a name, a version


def add_examples(document: dict[str, Any]) -> None:
    """Give every JSON body and answer of the document an example, where it has none."""
    schemas = document["components"]["schemas"]
    for item in document["paths"].values():
        for operation in item.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for body in bodies:
                for content in body.get("content", {}).values():
                    schema = content.get("schema")
                    if schema and not {"example", "examples"} & content.keys():
                        content["example"] = example_of(schema, schemas)


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """A value that fits `schema`; `schemas` holds what it refers to."""
    for said in ("example", "const", "default"):
        if schema.get(said) is not None:
            return schema[said]
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example_of(schema[choice][0], schemas)
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_REFERENCE)], schemas)
    return _by_type(schema, schemas)


def _by_type(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    example: Any = None
    match schema.get("type"):
        case "object":
            example = _object(schema, schemas)
        case "array":
            example = [example_of(schema.get("items", {}), schemas)]
        case "string":
            example = _FORMATS.get(schema.get("format", "")) or _text(schema.get("pattern", ""))
        case "integer":
            example = schema.get("minimum", 1)
        case "number":
            example = schema.get("minimum", schema.get("maximum", 0.5))
        case "boolean":
            example = True
    return example


def _text(pattern: str) -> str:
    return next((text for text in _TEXTS if re.search(pattern, text)), _TEXTS[0])


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: example_of(field, schemas) for name, field in schema.get("properties", {}).items()
    }
    further = schema.get("additionalProperties")
    if not given and isinstance(further, Mapping):
        given["..."] = example_of(further, schemas)
    return given

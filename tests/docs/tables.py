"""The tables of docs/api.md and docs/problems.md, from what they tell of.

python -m tests.docs.tables    writes them anew, between their marks
"""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from deployments.api.permissions import PERMISSIONS, Permission
from deployments.api.problems import STATUS
from registry.contract import Role

DOCS: Final = Path(__file__).parents[2] / "docs"
LEAST_FIRST: Final = (Role.VIEWER, Role.CLINICIAN, Role.ADMIN)


def endpoints() -> str:
    """Every operation of docs/openapi.json: who may, what it is for, how it answers."""
    document = json.loads((DOCS / "openapi.json").read_text("utf-8"))
    rows = ["| request | who | what | answers |", "| --- | --- | --- | --- |"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = sorted(operation["responses"])
            good = ", ".join(one for one in answers if one < "300")
            bad = ", ".join(one for one in answers if one >= "300")
            rows.append(
                f"| `{method.upper()} {path}` | {who(operation)} | {operation['summary']} "
                f"| **{good}** {bad} |"
            )
    return "\n".join(rows)


def who(operation: Mapping[str, Any]) -> str:
    """The least role that may; `anyone` where no token is asked for."""
    if "x-permission" not in operation:
        return "anyone"
    permission = Permission(operation["x-permission"])
    return next(role for role in LEAST_FIRST if permission in PERMISSIONS[role])


def problems() -> str:
    """Every code of a problem, by status; what it means is said by the error's docstring."""
    rows = ["| code | status | title | when |", "| --- | --- | --- | --- |"]
    for error, status in STATUS.items():
        when = " ".join((inspect.getdoc(error) or "").partition("\n\n")[0].split())
        rows.append(f"| `{error.code}` | {status} | {error.title} | {when} |")
    return "\n".join(rows)


TABLES: Final[Mapping[tuple[str, str], Callable[[], str]]] = MappingProxyType(
    {("api.md", "endpoints"): endpoints, ("problems.md", "problems"): problems}
)


def parts(text: str, mark: str) -> tuple[str, str, str]:
    """What stands before, between and behind two marks. Raises `ValueError` where none are."""
    head, opening, rest = text.partition(f"<!-- {mark} -->\n")
    middle, closing, tail = rest.partition(f"\n<!-- /{mark} -->")
    if not opening or not closing:
        raise ValueError(f"no marks named {mark}")
    return head + opening, middle, closing + tail


def main() -> None:
    """Write every table anew."""
    for (name, mark), table in TABLES.items():
        file = DOCS / name
        head, _, tail = parts(file.read_text("utf-8"), mark)
        file.write_text(f"{head}{table()}{tail}", "utf-8")


if __name__ == "__main__":
    main()

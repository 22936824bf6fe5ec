"""Every claim of docs/compliance.md is tied to a test that exists, or says that there is none."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "compliance.md").read_text()
STATUS = ("met", "partly", "not met", "hospital")
NAMED = re.compile(r"`([a-z_/]+\.py)::(\w+)`")

PART_11 = (
    *(f"11.10({letter})" for letter in "abcdefghijk"),
    *("11.30", "11.50", "11.70", "11.100(a)", "11.100(b)", "11.100(c)", "11.200(a)", "11.200(b)"),
    *(f"11.300({letter})" for letter in "abcde"),
)
HIPAA = tuple(
    f"164.312{part}"
    for part in (
        *("(a)(1)", "(a)(2)(i)", "(a)(2)(ii)", "(a)(2)(iii)", "(a)(2)(iv)", "(b)", "(c)(1)"),
        *("(c)(2)", "(d)", "(e)(1)", "(e)(2)(i)", "(e)(2)(ii)"),
    )
)
ISO_13485 = ("4.1.6", "4.2.4", "4.2.5", "7.3.7", "7.3.9", "7.5.9", "8.3")
AI_ACT = ("Art. 12", *(f"Art. 14(4)({letter})" for letter in "abcde"), "Art. 19")
REQUIRED = (*PART_11, *HIPAA, *ISO_13485, *AI_ACT)


@dataclass(frozen=True, slots=True)
class Row:
    """One clause of a table."""

    clause: str
    status: str
    means: str
    proof: str
    duty: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Files and functions."""
        return NAMED.findall(self.proof)


def rows() -> list[Row]:
    return [
        Row(*(cell.strip() for cell in line.strip().strip("|").split("|")))
        for line in DOCUMENT.splitlines()
        if line.startswith("| ") and not line.startswith(("| clause", "| ---"))
    ]


@cache
def functions(file: str) -> frozenset[str]:
    """The tests of one file, also those in classes."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.clause)
def test_a_claim_has_a_proof_and_its_absence_is_said(row: Row) -> None:
    assert row.status in STATUS
    if row.status in {"met", "partly"}:
        assert row.tests
    if row.status == "hospital":
        assert row.duty
        assert not row.tests
    if row.status != "hospital":
        assert row.means, "what there is, or what is missing, is to be said"


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(DOCUMENT)

    assert len(named) > 100
    assert [pair for pair in named if pair[1] not in functions(pair[0])] == []


def test_nothing_that_looks_like_a_test_escapes_the_comparison() -> None:
    assert len(NAMED.findall(DOCUMENT)) == DOCUMENT.count("::test_")


@pytest.mark.parametrize("clause", REQUIRED)
def test_no_clause_is_left_out(clause: str) -> None:
    assert [
        row
        for row in rows()
        if row.clause.split(" ")[0] == clause or row.clause.startswith(f"{clause} ")
    ]


def test_every_control_of_annex_a_has_its_number_of_2013_or_is_new() -> None:
    controls = [row.clause for row in rows() if row.clause.startswith("A.")]

    assert len(controls) >= 15
    for control in controls:
        assert re.search(r"\((2013: )?(A\.\d+\.\d+(\.\d+)?(, )?)+\)$|\(new\)$", control), control


def test_a_name_that_is_nobodys_is_found() -> None:
    assert "test_that_was_never_written" not in functions("deploy/test_compliance.py")
    assert functions("deploy/no_such_file.py") == frozenset()

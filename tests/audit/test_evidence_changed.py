"""Nothing in an evidence record can be changed unnoticed; what is none of ours is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments import medai_verify
from storage.notes import VerifierKey
from tests.audit.verifier import TAMPERED, UNVERIFIABLE, url

if TYPE_CHECKING:
    from conftest import Case, Verify

__all__ = ["url"]


def mutations(value: Any) -> Iterator[Any]:
    """Every document in which one value is another, one name is another, or one is more."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ({**value, name: changed} for changed in mutations(inner))
            yield {(f"{name}x" if key == name else key): kept for key, kept in value.items()}
        yield {**value, "more": "said"}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            for changed in mutations(inner):
                yield [*value[:place], changed, *value[place + 1 :]]
        yield [*value, "more"]
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, str):
        yield from (value[:place] + "x" + value[place + 1 :] for place in range(0, len(value), 7))
        yield value + " "
    else:
        yield "something"


async def test_no_change_of_it_goes_unnoticed(case: "Case") -> None:
    unnoticed, tried = [], 0
    for document in mutations(case.document):
        if document == case.document:
            continue
        tried += 1
        try:
            wrong, facts = case.check(document)
        except medai_verify.Unverifiable:
            continue
        if not wrong or facts:
            unnoticed.append(document)

    assert unnoticed == []
    assert tried > 500


async def test_no_other_spelling_of_its_signatures_goes_unnoticed(case: "Case") -> None:
    """Base64 of 68 bytes leaves bits that a lenient reader does not look at."""
    for line in case.document["checkpoint"].split("\n")[4:6]:
        other = line.replace("=", "").removesuffix(line.rstrip("=")[-1])
        last = line.rstrip("=")[-1]
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
            if letter == last:
                continue
            spelt = other + letter + "=" * line.count("=")
            note = case.document["checkpoint"].replace(line, spelt)

            wrong, _ = case.check({**case.document, "checkpoint": note})

            assert wrong == ["checkpoint: not signed by the log's key"]


async def test_one_more_signature_does_not_go_unnoticed(case: "Case") -> None:
    note = case.document["checkpoint"] + "— somebody AAAAAAAA\n"

    wrong, _ = case.check({**case.document, "checkpoint": note})

    assert wrong == ["checkpoint: a signature is missing, or there is one more"]


async def test_a_name_that_comes_twice_is_refused(
    case: "Case", verify: "Verify", tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    text = json.dumps(case.document)
    path.write_text(text.replace('"prediction":', '"prediction": "normal", "prediction":', 1))

    code, report = verify("evidence", path, "--vkey", case.vkey)

    assert code == UNVERIFIABLE
    assert "names something twice" in report["doubts"][0]


async def test_parts_may_be_left_out(case: "Case") -> None:
    wrong, facts = case.check(
        {**case.document, "registration": None, "card": None, "subject": None}
    )

    assert wrong == []
    assert "preprocessing" not in facts
    assert facts["prediction"] == "pneumonia"


async def test_a_card_without_its_registration_is_refused(case: "Case") -> None:
    wrong, _ = case.check({**case.document, "registration": None})

    assert wrong == ["card: no entry vouches for it"]


async def test_the_evidence_of_another_result_does_not_fit(case: "Case") -> None:
    other = {**case.document["entry"], "proof": case.document["registration"]["proof"]}

    wrong, _ = case.check({**case.document, "entry": other})

    assert wrong == ["entry: the log that was signed does not hold it"]


async def test_with_another_key_nobody_can_tell(case: "Case", key: Ed25519PrivateKey) -> None:
    other = VerifierKey.of("medaiflow/other", key)

    with pytest.raises(medai_verify.Unverifiable, match="no key given"):
        medai_verify.check_evidence(case.document, [medai_verify.Key(str(other))])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"format":"medaiflow/evidence/v1"}', "[" * 99999]
)
async def test_what_is_no_evidence_is_told(
    content: str, case: "Case", verify: "Verify", tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(content)

    code, report = verify("evidence", path, "--vkey", case.vkey)

    assert code == UNVERIFIABLE
    assert report["doubts"]


async def test_a_changed_evidence_ends_with_1(
    case: "Case", verify: "Verify", tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(
        json.dumps(case.document).replace('"prediction": "pneumonia"', '"prediction": "normal"')
    )

    code, report = verify("evidence", path, "--vkey", case.vkey)

    assert code == TAMPERED
    assert report["findings"] == [
        "record: not the one that was recorded",
        "entry: the log that was signed does not hold it",
    ]

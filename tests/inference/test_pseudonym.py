"""Pseudonyms: stable, keyed, and never the id."""

from pathlib import Path

import pytest

from deployments.inference.pseudonym import Pseudonyms
from registry.errors import InvalidConfiguration

KEY = bytes(range(32))


def test_a_pseudonym_is_pinned_by_its_key() -> None:
    # By openssl dgst -sha256 -mac HMAC over "medaiflow/patient/v1\n4MR1".
    assert Pseudonyms(KEY, version=1).of("4MR1") == "p1:8dbf0cbdd202c115070fa8329a048165"


def test_space_and_case_around_an_id_do_not_matter() -> None:
    pseudonyms = Pseudonyms(KEY, version=1)

    assert pseudonyms.of(" ab-1 \0") == pseudonyms.of("AB-1")
    assert pseudonyms.of("AB-1") != pseudonyms.of("AB-2")


def test_another_key_gives_another_pseudonym_and_another_version_another_prefix() -> None:
    first, other = Pseudonyms(KEY, version=1), Pseudonyms(KEY[::-1], version=2)

    assert first.of("AB-1") != other.of("AB-1")
    assert str(other.of("AB-1")).startswith("p2:")


@pytest.mark.parametrize("nothing", ["", "  ", "\0"])
def test_an_empty_id_has_no_pseudonym(nothing: str) -> None:
    assert Pseudonyms(KEY, version=1).of(nothing) is None


def test_an_id_in_any_script_has_a_pseudonym() -> None:
    assert Pseudonyms(KEY, version=1).of("山田-\udcff") is not None


def test_a_short_key_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="31 bytes"):
        Pseudonyms(KEY[1:], version=1)


def test_a_missing_key_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as refusal:
        Pseudonyms.from_file(tmp_path / "none.key", version=1)

    assert str(tmp_path) not in str(refusal.value)


def test_a_key_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)

    assert Pseudonyms.from_file(tmp_path / "key", version=1).of("x") == Pseudonyms(
        KEY, version=1
    ).of("x")

"""The signing keys: made once, kept private, rotated by name."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from registry.errors import InvalidConfiguration
from storage.signing_keys import load_keys, pending_key, put_in_force, read_key

TODAY = date(2026, 11, 24)


def write_key(directory: Path, kid: str, *, mode: int = 0o600) -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / f"{kid}.pem"
    file.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    file.chmod(mode)
    return file


def test_the_first_start_makes_a_key_only_its_owner_reads(tmp_path: Path) -> None:
    keys = load_keys(tmp_path / "keys", generate=True, today=TODAY)

    (file,) = (tmp_path / "keys").iterdir()
    assert keys.created
    assert file.name == f"{keys.kid}.pem"
    assert keys.kid.startswith("20261124-")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(InvalidConfiguration, match="cannot be written"):
        load_keys(tmp_path, generate=True)


def test_the_second_start_takes_the_same_key(tmp_path: Path) -> None:
    first = load_keys(tmp_path, generate=True)

    second = load_keys(tmp_path, generate=True)

    assert second.kid == first.kid
    assert not second.created


def test_replicas_that_start_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: load_keys(tmp_path, generate=True), range(8)))

    assert len({keys.kid for keys in made}) == 1
    assert sum(keys.created for keys in made) == 1


def test_production_does_not_make_a_key_and_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_keys(tmp_path, generate=False)

    (violation,) = caught.value.violations
    assert violation.rule.startswith("MEDAI_AUTH__KEY_DIR")
    assert "MEDAI_AUDIT__KEY_DIR" in violation.rule
    assert "openssl genpkey -algorithm ed25519" in violation.advice
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_touch_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    write_key(tmp_path, "main", mode=mode)

    with pytest.raises(InvalidConfiguration) as caught:
        load_keys(tmp_path, generate=True)

    (violation,) = caught.value.violations
    assert violation.measured == f"main.pem has mode {mode:04o}"
    assert violation.advice.startswith("chmod 600 main.pem")
    assert str(tmp_path) not in str(caught.value)


def test_the_last_key_by_name_signs_and_all_verify(tmp_path: Path) -> None:
    for kid in ("20260101-old", "20261101-current", "20261124-today"):
        write_key(tmp_path, kid)

    keys = load_keys(tmp_path, generate=False, today=TODAY)

    assert keys.kid == "20261124-today"
    assert set(keys.public) == {"20260101-old", "20261101-current", "20261124-today"}


def test_a_key_whose_date_is_to_come_verifies_but_does_not_sign(tmp_path: Path) -> None:
    write_key(tmp_path, "20261101-current")
    write_key(tmp_path, "20261125-next")

    keys = load_keys(tmp_path, generate=False, today=TODAY)

    assert keys.kid == "20261101-current"
    assert "20261125-next" in keys.public


def test_a_name_with_a_longer_number_is_no_date(tmp_path: Path) -> None:
    write_key(tmp_path, "999999999")

    assert load_keys(tmp_path, generate=False, today=TODAY).kid == "999999999"


def test_nothing_but_keys_to_come_is_refused(tmp_path: Path) -> None:
    write_key(tmp_path, "20261125-next")

    with pytest.raises(InvalidConfiguration, match="still to come"):
        load_keys(tmp_path, generate=True, today=TODAY)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "rsa.pem"
    file.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)

    with pytest.raises(InvalidConfiguration, match="not an unencrypted Ed25519"):
        load_keys(tmp_path, generate=True)


def test_a_file_that_is_no_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "main.pem"
    file.write_text("-----BEGIN SECRET-----")
    file.chmod(0o600)

    with pytest.raises(InvalidConfiguration) as caught:
        load_keys(tmp_path, generate=True)

    assert "SECRET" not in str(caught.value)


def test_a_name_that_is_no_key_id_is_refused(tmp_path: Path) -> None:
    write_key(tmp_path, "my key")

    with pytest.raises(InvalidConfiguration, match="not fit for a key id"):
        load_keys(tmp_path, generate=True)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")

    with pytest.raises(InvalidConfiguration, match="cannot be made"):
        load_keys(tmp_path / "keys", generate=True)


@pytest.mark.parametrize(
    "present", ["20261124", "20261124-ffffffff", "main", "main-20261123-ffffffff"]
)
def test_a_pending_key_signs_only_once_it_is_in_force(tmp_path: Path, present: str) -> None:
    keys = tmp_path / "keys"
    write_key(keys, present)

    pending = pending_key(keys, after=present, today=TODAY)

    assert pending_key(keys, after=present, today=TODAY) == pending
    assert pending.stat().st_mode & 0o777 == 0o600
    assert load_keys(keys, generate=False, today=TODAY).kid == present
    put_in_force(pending)
    after = load_keys(keys, generate=False, today=TODAY)
    assert after.kid == pending.stem
    assert set(after.public) == {present, pending.stem}
    assert len(pending.stem) < 2 * len("20261124-00000000")


def test_where_no_name_sorts_after_the_present_keys_that_is_said(tmp_path: Path) -> None:
    write_key(tmp_path / "keys", "z" * 64)

    with pytest.raises(InvalidConfiguration, match="name it"):
        pending_key(tmp_path / "keys", after="z" * 64, today=TODAY)


def test_two_pending_keys_are_told_apart_by_a_person(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_key(keys, "main")
    for name in ("a", "b"):
        (keys / f"{name}.pending").touch()

    with pytest.raises(InvalidConfiguration, match=r"a\.pending, b\.pending"):
        pending_key(keys, after="main", today=TODAY)


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"next\.pem"):
        read_key(tmp_path / "next.pem")

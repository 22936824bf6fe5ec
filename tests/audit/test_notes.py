"""Signed notes, pinned by those of others, and by literals, because they are stored for ever.

The others are the Go checksum database's and a Certificate Transparency log's, with its witness.
"""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage.notes import (
    Checkpoint,
    Note,
    SignatureType,
    VerifierKey,
    open_checkpoint,
    open_rotation,
    sign,
    sign_rotation,
)

# golang.org/x/mod/sumdb/note, the package's example
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_KEY = Ed25519PrivateKey.from_private_bytes(
    base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
)
NEUMANN_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NEUMANN_NOTE = (
    NEUMANN_TEXT + "\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# A checkpoint of a public log with the cosignature of a public witness.
ARCHE = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
ARCHE_NOTE = (
    "arche2025h1.staging.ct.transparency.dev\n"
    "1432088532\n"
    "U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n"
    "\n"
    "— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMH"
    "bdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=\n"
    "— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3Ny"
    "gNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n"
    "— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sX"
    "Tynk5XeU/zZ0WBxtqB0DrAWfBw==\n"
)

ORIGIN = "medaiflow/00000000-0000-4000-8000-000000000000"
AT = datetime(2026, 11, 24, 8, 0, 0, 999_999, tzinfo=UTC)


@pytest.fixture
def head() -> Checkpoint:
    return Checkpoint(ORIGIN, 12, bytes(range(32)))


@pytest.fixture
def public(key: Ed25519PrivateKey) -> VerifierKey:
    return VerifierKey.of(ORIGIN, key)


def test_the_example_of_the_go_checksum_database_is_verified_and_made() -> None:
    key = VerifierKey.parse(NEUMANN)
    note = Note.parse(NEUMANN_NOTE)

    assert str(key) == NEUMANN
    assert str(note) == NEUMANN_NOTE
    assert note.text == NEUMANN_TEXT
    assert len(note.verify([key])) == 1
    assert NEUMANN_KEY.sign(NEUMANN_TEXT.encode()) == note.signatures[0].value


def test_a_public_logs_checkpoint_and_its_witness_are_verified() -> None:
    log, witness = VerifierKey.parse(ARCHE), VerifierKey.parse(REMORA)
    note = Note.parse(ARCHE_NOTE)

    checkpoint, time = open_checkpoint(note, log)

    assert checkpoint.size == 1432088532
    assert str(checkpoint) == note.text
    assert time is None  # it is the witness who says when, not the log
    assert witness.kind is SignatureType.COSIGNATURE
    assert len(note.verify([log, witness])) == 2
    assert str(note) == ARCHE_NOTE


def test_a_changed_public_checkpoint_is_refused() -> None:
    note = Note.parse(ARCHE_NOTE.replace("1432088532", "1432088533"))

    for vkey in (ARCHE, REMORA):
        with pytest.raises(ValueError, match="wrong"):
            note.verify([VerifierKey.parse(vkey)])


def test_our_note_is_what_it_will_always_be(
    head: Checkpoint, key: Ed25519PrivateKey, public: VerifierKey
) -> None:
    note = sign(head, key, at=AT)

    assert str(public) == f"{ORIGIN}+51417e71+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    assert str(note) == (
        f"{ORIGIN}\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n"
        f"— {ORIGIN} "
        "UUF+cXLuvuee5WCHxHHXdCeddTQYg4rFYuhrJjQsZgZdEVKxt9N7LA9eLRrC"
        "cQhh+em4WeA5znW4omfNmBmzOaYNhgs=\n"
        f"— {ORIGIN} "
        "koBRtgAAAABrBUQAcMcymdjwcdi5mD5VV3Je3SEGPCcncf38VPV3exJnEqy4"
        "31wmsfoZzVmABkp6n/m0/7EM57SymgzRrZz73XQtAA==\n"
    )
    assert open_checkpoint(note, public) == (head, 1795507200)


def test_the_time_is_signed(head: Checkpoint, key: Ed25519PrivateKey, public: VerifierKey) -> None:
    note = sign(head, key, at=AT)
    signature = note.signatures[1]
    moved = (1795507201).to_bytes(8, "big") + signature.value[8:]

    forged = Note(note.text, (note.signatures[0], type(signature)(ORIGIN, signature.key_id, moved)))

    with pytest.raises(ValueError, match="wrong"):
        open_checkpoint(forged, public)


def test_a_note_that_only_another_key_signed_is_refused(
    head: Checkpoint, public: VerifierKey
) -> None:
    note = sign(head, Ed25519PrivateKey.generate(), at=AT)

    with pytest.raises(ValueError, match="no known key"):
        open_checkpoint(note, public)


def test_a_cosignature_alone_does_not_make_a_checkpoint(
    head: Checkpoint, key: Ed25519PrivateKey, public: VerifierKey
) -> None:
    note = sign(head, key, at=AT)

    with pytest.raises(ValueError, match="as the log"):
        open_checkpoint(Note(note.text, note.signatures[1:]), public)


def test_a_checkpoint_of_another_log_is_refused(key: Ed25519PrivateKey, head: Checkpoint) -> None:
    other = VerifierKey.of("medaiflow/other", key)
    text = str(head)
    signed = Note(text, (sign(Checkpoint("medaiflow/other", 1, bytes(32)), key, at=AT).signatures))
    forged = Note(
        text,
        (type(signed.signatures[0])(other.name, other.key_id, key.sign(text.encode())),),
    )

    with pytest.raises(ValueError, match="another log"):
        open_checkpoint(forged, other)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+c74f20a3",
        "PeterNeumann+00000000+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AxpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # type 3
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy1w==",  # too short
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T!",
        "PeterNeumann+c74f20a3+",
    ],
)
def test_what_is_no_vkey_is_refused(vkey: str) -> None:
    with pytest.raises(ValueError, match=r"vkey|key|base64"):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name AAAAAAAA",  # no line feed at the end
        "text\n\n- name AAAAAAAA\n",  # a hyphen
        "text\n\n— name\n",
        "text\n\n— na+me AAAAAAAA\n",
        "text\n\n— name AAAA\n",  # no more than the key's id
        "text\n\n— name AAAAAAA=\n"[:-2] + "!\n",
        "text\n\n— name AAAAAAB=\n",  # another spelling of AAAAAAA=
        "te\txt\n\n— name AAAAAAAA\n",
        "text\n\n" + "— name AAAAAAAA\n" * 65,
    ],
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(ValueError, match=r"note|signature|base64"):
        Note.parse(note)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{ORIGIN}\n12\n",
        f"{ORIGIN}\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        f"{ORIGIN}\n012\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        f"{ORIGIN}\n-1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        f"{ORIGIN}\n\u0661\u0662\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        f"{ORIGIN}\n12\nAAEC\n",
        f"{ORIGIN}\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nmore\n",
        "\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "cosignature/v1\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"checkpoint|name|head|base64"):
        Checkpoint.parse(text)


def test_a_key_names_its_successor(key: Ed25519PrivateKey, public: VerifierKey) -> None:
    new = Ed25519PrivateKey.generate()

    note = sign_rotation(key, new, ORIGIN)

    assert open_rotation(Note.parse(str(note))) == (public, VerifierKey.of(ORIGIN, new))


@pytest.mark.parametrize("signer", [0, 1], ids=["old", "new"])
def test_neither_key_changes_it_alone(key: Ed25519PrivateKey, signer: int) -> None:
    """A thief of one of them could bring in another, or sign a log that he made up."""
    note = sign_rotation(key, Ed25519PrivateKey.generate(), ORIGIN)
    alone = Note(note.text, (note.signatures[signer],))

    with pytest.raises(ValueError, match="one of the two keys has not signed"):
        open_rotation(alone)


def test_what_is_no_rotation_is_refused(head: Checkpoint, key: Ed25519PrivateKey) -> None:
    new = Ed25519PrivateKey.generate()
    note = sign_rotation(key, new, ORIGIN)
    public = VerifierKey.of(ORIGIN, new)
    of_a_witness = Note(note.text.replace(str(public), str(public.cosigner)), note.signatures)

    with pytest.raises(ValueError, match="not the rotation"):
        open_rotation(sign(head, key, at=AT))
    with pytest.raises(ValueError, match="not from one key"):
        open_rotation(of_a_witness)

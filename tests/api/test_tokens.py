"""Access tokens: what is accepted, and everything that is not."""

import base64
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from configs.settings import AuthSettings
from deployments.api import tokens as module
from deployments.api.tokens import MAX_TOKEN_BYTES, AccessTokens, Claims, Refusal
from storage.signing_keys import KeySet, load_keys

NOW = 1_800_000_000.25
USER = uuid4()


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> KeySet:
    return load_keys(tmp_path, generate=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(keys: KeySet, clock: Clock) -> AccessTokens:
    return AccessTokens(keys, AuthSettings(), clock)


def forged(keys: KeySet, *, headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A token signed with our key, with claims of one's own. None leaves a claim out."""
    payload = {
        "iss": "medai-flow",
        "aud": "medai-flow",
        "sub": str(USER),
        "preferred_username": "rivera",
        "jti": "some-token",
        "iat": NOW,
        "nbf": int(NOW),
        "exp": int(NOW) + 900,
        **claims,
    }
    present = {name: value for name, value in payload.items() if value is not None}
    header = {"kid": keys.kid, "typ": "at+jwt", **(headers or {})}
    return jwt.encode(present, keys.private, algorithm="EdDSA", headers=header).encode()


def test_an_issued_token_says_who_and_until_when(tokens: AccessTokens) -> None:
    token = tokens.issue(USER, "rivera")

    claims = tokens.verify(token.text.encode())

    assert claims == token.claims
    assert isinstance(claims, Claims)
    assert (claims.user_id, claims.username) == (USER, "rivera")
    assert claims.issued_at == NOW
    assert claims.expires_at == int(NOW) + 900
    assert token.lifetime_s == 900


def test_a_token_carries_the_headers_of_rfc_9068(tokens: AccessTokens, keys: KeySet) -> None:
    header = jwt.get_unverified_header(tokens.issue(USER, "rivera").text)

    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": keys.kid}


def test_a_token_id_has_128_random_bits(tokens: AccessTokens) -> None:
    ids = {tokens.issue(USER, "rivera").claims.token_id for _ in range(100)}

    assert len(ids) == 100
    assert {len(base64.urlsafe_b64decode(f"{jti}==")) for jti in ids} == {16}


def test_a_token_of_our_own_making_is_accepted(tokens: AccessTokens, keys: KeySet) -> None:
    assert isinstance(tokens.verify(forged(keys)), Claims)
    assert isinstance(tokens.verify(forged(keys, headers={"typ": "application/at+jwt"})), Claims)


@pytest.mark.parametrize(
    "claim", ["iss", "aud", "sub", "jti", "iat", "nbf", "exp", "preferred_username"]
)
def test_every_claim_is_required(tokens: AccessTokens, keys: KeySet, claim: str) -> None:
    assert tokens.verify(forged(keys, **{claim: None})) is Refusal.CLAIMS


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "somebody-else"),
        ("aud", "another-service"),
        ("sub", "admin"),
        ("iat", NOW + 31),
        ("nbf", NOW + 31),
        ("exp", "soon"),
        ("iat", "now"),
        ("nbf", [1]),
    ],
)
def test_a_wrong_claim_is_refused(
    tokens: AccessTokens, keys: KeySet, claim: str, value: Any
) -> None:
    assert tokens.verify(forged(keys, **{claim: value})) is Refusal.CLAIMS


@pytest.mark.parametrize("typ", ["JWT", "at+jwtx", "", "id+jwt"])
def test_a_token_of_another_kind_is_refused(tokens: AccessTokens, keys: KeySet, typ: str) -> None:
    assert tokens.verify(forged(keys, headers={"typ": typ})) is Refusal.CLAIMS


def test_a_critical_extension_is_refused(tokens: AccessTokens, keys: KeySet) -> None:
    assert isinstance(tokens.verify(forged(keys, headers={"crit": ["x"], "x": 1})), Refusal)


@pytest.mark.parametrize("header", ["jku", "x5u", "jwk"])
def test_a_key_is_never_taken_from_the_token(
    tokens: AccessTokens, keys: KeySet, header: str
) -> None:
    stranger = KeySet("another", Ed25519PrivateKey.generate(), {})

    assert tokens.verify(forged(stranger, headers={header: "x"})) is Refusal.SIGNATURE


def test_a_clock_that_is_a_little_ahead_is_forgiven(tokens: AccessTokens, keys: KeySet) -> None:
    assert isinstance(tokens.verify(forged(keys, iat=NOW + 29, nbf=NOW + 29)), Claims)


def test_a_token_ends(tokens: AccessTokens, clock: Clock) -> None:
    token = tokens.issue(USER, "rivera").text.encode()
    assert isinstance(tokens.verify(token), Claims)

    clock.now = int(NOW) + 900 + 29.9
    assert isinstance(tokens.verify(token), Claims)
    clock.now = int(NOW) + 900 + 30

    assert tokens.verify(token) is Refusal.EXPIRED
    assert tokens.verify(token) is Refusal.EXPIRED


def test_another_key_is_refused(tokens: AccessTokens, keys: KeySet) -> None:
    stranger = KeySet(keys.kid, Ed25519PrivateKey.generate(), keys.public)

    assert tokens.verify(forged(stranger)) is Refusal.SIGNATURE


def test_an_unknown_key_id_is_refused(tokens: AccessTokens, keys: KeySet) -> None:
    assert tokens.verify(forged(keys, headers={"kid": "another"})) is Refusal.SIGNATURE


def test_no_algorithm_is_refused(tokens: AccessTokens, keys: KeySet) -> None:
    head, body, _ = forged(keys).split(b".")
    header = json.loads(base64.urlsafe_b64decode(head + b"=="))
    unsigned = base64.urlsafe_b64encode(json.dumps({**header, "alg": "none"}).encode())

    assert isinstance(tokens.verify(unsigned.rstrip(b"=") + b"." + body + b"."), Refusal)


def test_the_public_key_is_no_shared_secret(tokens: AccessTokens, keys: KeySet) -> None:
    public = keys.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    confused = jwt.encode(
        jwt.decode(forged(keys), options={"verify_signature": False}),
        public,
        algorithm="HS256",
        headers={"kid": keys.kid, "typ": "at+jwt"},
    )

    assert isinstance(tokens.verify(confused.encode()), Refusal)


def test_every_changed_character_is_refused(tokens: AccessTokens) -> None:
    token = bytearray(tokens.issue(USER, "rivera").text.encode())
    # The last character of the signature holds four bits that decode to nothing.
    for position in range(len(token) - 1):
        changed = token.copy()
        changed[position] = ord("A") if token[position] != ord("A") else ord("B")

        assert isinstance(tokens.verify(bytes(changed)), Refusal), position


@pytest.mark.parametrize(
    "text", [b"", b".", b"a.b.c", b"\xff\xfe", b"a" * MAX_TOKEN_BYTES, b"e30.e30."]
)
def test_what_is_no_token_is_refused(tokens: AccessTokens, text: bytes) -> None:
    assert isinstance(tokens.verify(text), Refusal)


def test_a_token_over_4_kb_is_refused_whatever_it_says(tokens: AccessTokens, keys: KeySet) -> None:
    assert tokens.verify(forged(keys, padding="x" * MAX_TOKEN_BYTES)) is Refusal.MALFORMED


def test_the_cache_of_verified_tokens_is_bounded(
    tokens: AccessTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    issued = [tokens.issue(USER, "rivera").text.encode() for _ in range(5)]

    for token in issued:
        tokens.verify(token)

    assert len(tokens._verified) == 3
    assert all(isinstance(tokens.verify(token), Claims) for token in issued)


def test_a_refused_token_is_not_kept(tokens: AccessTokens) -> None:
    tokens.verify(b"a.b.c")

    assert tokens._verified == {}

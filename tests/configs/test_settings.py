"""What an operator sets is what is in force, and what nobody knows is refused."""

from pathlib import Path

import pytest

from configs.settings import Settings
from registry.errors import InvalidConfiguration


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from an environment without `MEDAI_*`."""
    import os

    for name in [name for name in os.environ if name.startswith("MEDAI_")]:
        monkeypatch.delenv(name)


def production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All that the production profile asks for."""
    monkeypatch.setenv("MEDAI_PROFILE", "production")
    monkeypatch.setenv("MEDAI_AUTH__KEY_DIR", str(tmp_path / "keys"))
    monkeypatch.setenv("MEDAI_PRIVACY__PSEUDONYM_KEY_FILE", str(tmp_path / "pseudonym.key"))
    monkeypatch.setenv("MEDAI_SERVER__TLS_TERMINATED", "true")


def test_without_any_setting_everything_lives_below_var() -> None:
    settings = Settings.load()

    home = Path.cwd() / "var"
    assert settings.home_dir == home
    assert settings.database_url == f"sqlite+aiosqlite:///{home / 'medai.db'}"
    assert settings.key_dir == home / "keys"
    assert settings.pseudonym_key_file == home / "keys" / "pseudonym.key"
    assert settings.model_dir == home / "models"


def test_the_home_variable_moves_all_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path))

    settings = Settings.load()

    assert settings.database_url.endswith(f"{tmp_path}/medai.db")


def test_the_pool_is_ten_and_twenty_and_gives_up_within_seconds() -> None:
    database = Settings.load().database

    assert (database.pool_size, database.max_overflow) == (10, 20)
    assert database.pool_timeout_s == 2
    assert database.pool_recycle_s == 3600


def test_an_environment_variable_wins_over_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_LOG__LEVEL", "ERROR")

    assert Settings.load().log.level == "ERROR"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("MEDAI_LIMTS__DEADLINE_S", "did you mean MEDAI_LIMITS?"),
        ("MEDAI_LIMITS__DEADLIN_S", "did you mean deadline_s?"),
        ("MEDAI_QQQQ", "unset MEDAI_QQQQ"),
        ("MEDAI_LIMITS__QQQQ", "no such setting"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_right_one(
    monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(InvalidConfiguration, match=r".") as refused:
        Settings.load()

    assert advice in str(refused.value)


def test_a_wrong_value_is_named_but_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__POOL_SIZE", "s3cret-by-mistake")

    with pytest.raises(InvalidConfiguration) as refused:
        Settings.load()

    assert "MEDAI_DATABASE__POOL_SIZE" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_an_unknown_profile_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDAI_PROFILE", "staging")

    with pytest.raises(InvalidConfiguration, match="development"):
        Settings.load()


def test_production_refuses_keys_made_by_itself_and_plain_http(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDAI_PROFILE", "production")

    with pytest.raises(InvalidConfiguration) as refused:
        Settings.load()

    assert "key_dir" in str(refused.value)
    assert "tls_terminated" in str(refused.value)


def test_production_refuses_to_generate_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    production(monkeypatch, tmp_path)
    monkeypatch.setenv("MEDAI_AUTH__GENERATE_KEYS", "true")

    with pytest.raises(InvalidConfiguration, match="bring your own signing key"):
        Settings.load()


def test_production_starts_with_its_own_keys_behind_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    production(monkeypatch, tmp_path)
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql+asyncpg://medai_app:pw@db/medai")

    settings = Settings.load()

    assert settings.log.format == "json"
    assert settings.auth.generate_keys is False
    assert settings.key_dir == tmp_path / "keys"
    assert settings.pseudonym_key_file == tmp_path / "pseudonym.key"


def test_a_password_in_the_database_url_is_hidden_when_settings_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql+asyncpg://app:hush-hush@db/medai")

    settings = Settings.load()

    assert "hush-hush" not in settings.model_dump_json()
    assert settings.database_url.endswith("app:hush-hush@db/medai")


def test_traces_are_off_without_an_endpoint() -> None:
    assert Settings.load().tracing.endpoint is None


def test_spans_are_posted_below_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", "https://otel.hospital.example/site-a/")

    assert Settings.load().tracing.url == "https://otel.hospital.example/site-a/v1/traces"


@pytest.mark.parametrize(
    "endpoint",
    [
        "otel:4318",
        "grpc://otel:4317",
        "http://",
        "http://otel:hush-hush",
        "http://[otel",
        "http://otel?key=hush-hush",
        "http://user:hush-hush@otel",
    ],
)
def test_an_endpoint_that_is_none_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", endpoint)

    with pytest.raises(InvalidConfiguration, match="MEDAI_TRACING__ENDPOINT") as refused:
        Settings.load()

    assert "otel" not in str(refused.value)
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize("headers", ['{"a b": "c"}', '{"a": "b\\nc: d"}', '{"": "b"}'])
def test_a_header_that_would_be_two_is_refused(
    monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    monkeypatch.setenv("MEDAI_TRACING__HEADERS", headers)

    with pytest.raises(InvalidConfiguration, match="MEDAI_TRACING__HEADERS"):
        Settings.load()


def test_a_collectors_credentials_are_hidden_when_settings_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDAI_TRACING__HEADERS", '{"authorization": "Bearer hush-hush"}')

    assert "hush-hush" not in Settings.load().model_dump_json()


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("http://otel.hospital.example:4318", False),
        ("http://10.0.0.7:4318", False),
        ("http://127.0.0.1:4318", True),
        ("http://[::1]:4318", True),
        ("http://localhost:4318", True),
        ("https://otel.hospital.example", True),
    ],
)
def test_production_sends_spans_to_another_host_by_tls_or_because_it_was_declared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str, allowed: bool
) -> None:
    production(monkeypatch, tmp_path)
    monkeypatch.setenv("MEDAI_TRACING__ENDPOINT", endpoint)

    if not allowed:
        with pytest.raises(InvalidConfiguration, match=r"tracing\.allow_plain_http"):
            Settings.load()
        monkeypatch.setenv("MEDAI_TRACING__ALLOW_PLAIN_HTTP", "true")
    assert Settings.load().tracing.endpoint == endpoint

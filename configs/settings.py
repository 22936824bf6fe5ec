"""Every setting, in one frozen tree; the only reader of the environment.

Sources, the first that speaks wins: arguments, `MEDAI_*` environment variables (sections joined by
two underscores: `MEDAI_DATABASE__URL`), then the profile (`configs/profiles/<profile>.yaml`, chosen
by `MEDAI_PROFILE`). A name nobody knows is refused with the nearest right one, because a misspelt
limit must not be a missing one.

Functions take the section they need, never the whole tree. Topology (replicas, batch sizes) is not
here but in `serve_config.yaml`.
"""

import os
from difflib import get_close_matches
from functools import cached_property
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from registry.errors import InvalidConfiguration, Violation

PREFIX = "MEDAI_"
DELIMITER = "__"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Days = Annotated[float, Field(gt=0, le=90 * 86_400)]  # in seconds
Rate = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}/(second|minute|hour|day))?$")]  # "": none
Port = Annotated[int, Field(ge=1, le=65_535)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]  # RFC 9110


class Section(BaseModel):
    """A part of the tree. Frozen; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(Section):
    """Where records are kept. Without a URL: a SQLite file in the home directory."""

    url: SecretStr | None = None  # postgresql+asyncpg://user:password@host/name
    pool_size: int = Field(default=10, ge=1, le=200)
    max_overflow: int = Field(default=20, ge=0, le=200)
    pool_timeout_s: Seconds = 2.0  # an outage must become an error, not a queue
    pool_recycle_s: Seconds = 3600.0
    connect_timeout_s: Seconds = 2.0
    command_timeout_s: Seconds = 5.0


class AuthSettings(Section):
    """Tokens and passwords."""

    issuer: str = "medai-flow"
    audience: str = "medai-flow"
    access_token_s: Seconds = 900.0
    refresh_idle_s: Days = 8 * 3600.0  # how long a session may rest: a shift
    refresh_absolute_s: Days = 7 * 86_400.0  # after which the password is asked for in any case
    reset_token_s: Seconds = 900.0  # how long a right to set a password once is good
    clock_leeway_s: float = Field(default=30.0, ge=0, le=60)
    key_dir: Path | None = None  # Ed25519 keys, one `<kid>.pem` each; default `<home>/keys`
    generate_keys: bool = True  # make what is missing at first start; production says false
    password_min_length: int = Field(default=15, ge=8, le=128)  # NIST SP 800-63B-4 §3.1.1.2
    password_threads: int = Field(default=2, ge=1, le=16)  # each verification takes 64 MiB
    password_queue: int = Field(default=20, ge=1, le=1000)
    state_refresh_s: Seconds = 0.5  # how old the picture of revoked tokens and users may be
    state_max_age_s: Seconds = 5.0  # older than this, nobody is let in


class LimitSettings(Section):
    """Bounds of one request and of all at once."""

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, le=60 * 2**20)  # a hop takes 64 MiB
    max_model_bytes: int = Field(default=256 * 2**20, ge=1024, le=2**31)  # POST /admin/models
    max_pixels: int = Field(default=40_000_000, ge=1024)  # a mammogram has about 28 million
    max_frames: int = Field(default=1000, ge=1)
    deadline_s: Seconds = 30.0  # of one inference; must stay below Serve's request_timeout_s
    header_timeout_s: Seconds = 10.0  # by HAProxy, where `medai serve` starts it
    body_timeout_s: Seconds = 20.0
    audit_timeout_s: Seconds = 1.8  # so that a caller hears within 2 s that nothing was recorded
    max_in_progress: int = Field(default=256, ge=1, le=10_000)  # requests a gateway works on
    retry_after_s: int = Field(default=1, ge=1, le=3600)


class RateLimitSettings(Section):
    """How often one may ask; see `api.rate_limits`. An empty rate sets no limit.

    The defaults stop a client that runs away, not one that works: a user, who may be a whole
    application, has 2,000 requests a second on each gateway (on all together with Redis).
    """

    storage: SecretStr = SecretStr("memory://")  # or redis://[:password@]host:port[/db], rediss://
    per_user: Rate = "2000/second"
    per_address: Rate = "200/second"  # requests that prove nobody's identity
    login: Rate = "10/minute"  # of one address for one user name
    login_per_address: Rate = "100/minute"  # a ward behind one address logs in at shift change
    trusted_proxies: tuple[str, ...] = ()  # networks, as in 10.0.0.0/8: X-Forwarded-For counts
    storage_timeout_s: Seconds = 0.25

    @field_validator("storage")
    @classmethod
    def _a_storage_we_know(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("memory://", "redis://", "rediss://")):
            raise ValueError("say memory://, redis://host:port or rediss://host:port")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # raises ValueError
        return networks


class PrivacySettings(Section):
    """How patients are made unrecognisable."""

    pseudonym_key_file: Path | None = None  # 32 bytes or more; default `<home>/keys/pseudonym.key`
    pseudonym_key_version: int = Field(default=1, ge=1)
    burned_in_annotation: Literal["refuse", "review", "accept"] = "refuse"
    secondary_capture: Literal["refuse", "review", "accept"] = (
        "review"  # screenshots, scanned films
    )
    patient_mismatch: Literal["refuse", "review", "accept"] = "refuse"  # form and header differ


class AuditSettings(Section):
    """How the audit log is signed and anchored (docs/audit.md)."""

    anchor_file: Path | None = None  # on another volume if you can; default `<home>/anchors.jsonl`
    key_dir: Path | None = None  # the log's own signing key; default `<key_dir>/log`
    checkpoint_entries: int = Field(default=1000, ge=2, le=100_000)  # at most so many unsigned
    checkpoint_interval_s: Seconds = 10.0
    anchor_patience_s: Seconds = 900.0  # without an anchor for so long, nothing is recorded


class ModelSettings(Section):
    """How models are changed and looked after (docs/adr/0011)."""

    golden_interval_s: Seconds = 86_400.0  # between two self-tests of a replica, beside its start
    activation_timeout_s: Seconds = 120.0  # how long replicas may take to load a version


class LogSettings(Section):
    """What the service says of itself."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal
    pipe: Path | None = None  # set by `medai serve`: every replica's lines go to its output


class TracingSettings(Section):
    """Traces of requests, sent to an OpenTelemetry collector. Off without an endpoint."""

    endpoint: str | None = None  # http[s]://host[:port][/prefix]; `/v1/traces` is added
    sample_ratio: float = Field(default=0.1, ge=0, le=1)  # of requests whose caller does not say
    headers: dict[HeaderName, SecretStr] = {}  # sent to the collector, such as authorization
    ca_file: Path | None = None  # whom the collector's certificate must come from
    allow_plain_http: bool = False  # production wants to be told that the network is a private one
    timeout_s: Seconds = 5.0  # of one export; what is not delivered by then is dropped
    queue_size: int = Field(default=2048, ge=64, le=65_536)  # spans that may wait; more are dropped

    @field_validator("endpoint")
    @classmethod
    def _a_collector(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        form = "say http[s]://host[:port][/prefix]"
        try:
            url = urlsplit(endpoint)
            complete = bool(url.hostname) and url.port != 0
        except ValueError:  # its text repeats what was set
            raise ValueError(form) from None
        if url.username is not None:
            raise ValueError("put credentials into tracing.headers, not into the URL")
        if url.scheme not in {"http", "https"} or not complete or url.query or url.fragment:
            raise ValueError(form)
        return endpoint.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _one_line_each(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for value in headers.values():
            text = value.get_secret_value()
            if not text.isascii() or not text.isprintable():
                raise ValueError("a value is visible ASCII characters and spaces")
        return headers

    @property
    def url(self) -> str:
        """Where spans are posted to. Only where tracing is on."""
        assert self.endpoint is not None
        return f"{self.endpoint}/v1/traces"

    @property
    def leaves_in_the_clear(self) -> bool:
        """Whether spans would leave this host without TLS."""
        url = urlsplit(self.endpoint or "")
        return url.scheme == "http" and not _is_this_host(url.hostname or "")


def _is_this_host(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class ServerSettings(Section):
    """Where `medai serve` listens. The ports are loopback's unless `host` says otherwise."""

    host: str = "127.0.0.1"
    port: Port = 8000
    config: Path | None = None  # default: ./serve_config.yaml, else the one in the package
    drain_s: Seconds = 20.0  # after SIGTERM: how long requests in flight may take
    replica_ports: tuple[Port, Port] = (30_000, 30_499)
    fallback_port: Port = 8500
    haproxy_metrics_port: Port = 9101
    haproxy_stats_port: Port = 8404
    metrics_port: Port = 8090  # Prometheus scrapes every node here
    local_calls: bool = True  # replicas of one machine call each other over a socket, not by RPC
    tls_terminated: bool = False  # production wants to be told that a proxy in front speaks TLS


class Settings(BaseSettings):
    """The whole tree. Build it once, at the edge: `Settings.load()`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    profile: Literal["development", "production"] = "development"
    home: Path = Path("var")
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    ratelimit: RateLimitSettings = RateLimitSettings()
    privacy: PrivacySettings = PrivacySettings()
    audit: AuditSettings = AuditSettings()
    models: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    server: ServerSettings = ServerSettings()

    @classmethod
    def load(cls) -> Self:
        """Read the environment and the profile. Raises `InvalidConfiguration`, all faults named."""
        _refuse_unknown_names()
        try:
            return cls()
        except ValidationError as error:
            raise InvalidConfiguration(
                "a setting is wrong",
                tuple(one for fault in error.errors() for one in _violations(fault)),
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the profile. No .env file: one place to look."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, ProfileSource(settings_cls)

    @model_validator(mode="after")
    def _production_is_explicit(self) -> Self:
        if self.profile == "production":
            faults = []
            if self.auth.generate_keys:
                faults.append("auth.generate_keys must be false: bring your own signing key")
            if self.auth.key_dir is None or self.privacy.pseudonym_key_file is None:
                faults.append("auth.key_dir and privacy.pseudonym_key_file must be set")
            if not self.server.tls_terminated:
                faults.append("server.tls_terminated must be true: put a TLS proxy in front")
            if self.tracing.leaves_in_the_clear and not self.tracing.allow_plain_http:
                faults.append(
                    "tracing.endpoint must be https, or tracing.allow_plain_http true: "
                    "the network to the collector is a private one"
                )
            if faults:
                raise ValueError("; ".join(faults))
        return self

    @cached_property
    def home_dir(self) -> Path:
        """The absolute directory that holds all state."""
        return self.home.expanduser().absolute()

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL, with its password: never log it."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.home_dir / 'medai.db'}"

    @property
    def key_dir(self) -> Path:
        """Where the signing keys are."""
        return self.auth.key_dir or self.home_dir / "keys"

    @property
    def log_key_dir(self) -> Path:
        """Where the key is that signs the audit log's checkpoints, and nothing else."""
        return self.audit.key_dir or self.key_dir / "log"

    @property
    def anchor_file(self) -> Path:
        """Where the audit log's signed heads are kept, outside the database."""
        return self.audit.anchor_file or self.home_dir / "anchors.jsonl"

    @property
    def pseudonym_key_file(self) -> Path:
        """Where the key of the patients' pseudonyms is."""
        return self.privacy.pseudonym_key_file or self.home_dir / "keys" / "pseudonym.key"

    @property
    def model_dir(self) -> Path:
        """Where registered model files are, each as `<sha256>.onnx`."""
        return self.home_dir / "models"


class ProfileSource(PydanticBaseSettingsSource):
    """The defaults of `configs/profiles/<profile>.yaml`."""

    def get_field_value(self, field: object, field_name: str) -> tuple[object, str, bool]:
        """Not used: `__call__` gives the whole document at once."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, object]:
        """The profile's document, with its own name added."""
        name = self.current_state.get("profile", os.environ.get(f"{PREFIX}PROFILE", "development"))
        file = resources.files("configs") / "profiles" / f"{name}.yaml"
        if not file.is_file():
            return {}  # the field's own type names the profiles there are
        document = yaml.safe_load(file.read_text("utf-8")) or {}
        return {"profile": name, **document}


def _refuse_unknown_names() -> None:
    """pydantic-settings ignores a misspelt section; this does not."""
    known = {name.upper() for name in Settings.model_fields}
    faults = []
    for name in sorted(os.environ):
        if not name.startswith(PREFIX):
            continue
        section = name.removeprefix(PREFIX).split(DELIMITER, 1)[0].upper()
        if section not in known:
            near = get_close_matches(section, known, n=1)
            advice = f"did you mean {PREFIX}{near[0]}?" if near else f"unset {name}"
            faults.append(Violation(name, "unknown", advice=advice))
    if faults:
        raise InvalidConfiguration("unknown setting in the environment", tuple(faults))


def _violations(fault: object) -> list[Violation]:
    """One pydantic error, without the offending value: it may be a secret."""
    assert isinstance(fault, dict)
    place = DELIMITER.join(str(part) for part in fault["loc"])
    name = f"{PREFIX}{place.upper()}" if place else "settings"
    advice = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        section = getattr(Settings.model_fields.get(str(fault["loc"][0])), "annotation", None)
        fields = getattr(section, "model_fields", {})
        near = get_close_matches(str(fault["loc"][-1]), list(fields), n=1)
        advice = f"did you mean {near[0]}?" if near else "no such setting"
    if not place:  # rules for the whole tree come together
        return [Violation(name, advice=one) for one in advice.split("; ")]
    return [Violation(name, advice=advice)]

"""What is recorded: audit events, and the changes that are committed together with them.

An event and its changes are one transaction: no change without its entry, no entry without its
change. The values of `AuditAction` are stored for ever; never rename one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from registry.contract import ModelRef, Principal, Role, Verdict
from registry.lifecycle import ModelStatus
from registry.message import Message

ContextValue: TypeAlias = "str | int | bool | list[ContextValue] | dict[str, ContextValue] | None"
"""What an audit payload may hold. No floats: JSON writers differ in their text form (RFC 8785)."""


class AuditAction(StrEnum):
    """What happened, as `subject.act`."""

    LOG_GENESIS = "log.genesis"
    WRITER_START = "log.writer_start"
    WRITER_STOP = "log.writer_stop"
    CLOCK_STEP = "log.clock_step"
    LOG_RECOVERY = "log.recovery"
    LOGIN_OK = "login.ok"
    LOGIN_FAILED = "login.failed"
    LOGIN_LOCKED = "login.locked"
    LOGIN_UNLOCKED = "login.unlocked"
    LOGOUT = "logout"
    REFRESHED = "refresh.ok"
    REFRESH_REJECTED = "refresh.rejected"
    REFRESH_REUSED = "refresh.reused"
    TOKEN_REJECTED = "token.rejected"  # noqa: S105  # the name of an act, not a secret
    ACCESS_DENIED = "access.denied"
    USER_CREATED = "user.created"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_ROLE_CHANGED = "user.role_changed"
    USERS_LISTED = "users.listed"
    RESET_ISSUED = "reset.issued"
    RESET_REJECTED = "reset.rejected"
    PASSWORD_REFUSED = "password.refused"  # noqa: S105  # the name of an act, not a secret
    PASSWORD_CHANGED = "password.changed"  # noqa: S105  # the name of an act, not a secret
    INFERENCE = "inference"
    INFERENCE_REJECTED = "inference.rejected"
    INFERENCE_FAILED = "inference.failed"
    RESULT_READ = "result.read"
    RESULTS_LISTED = "results.listed"
    AUDIT_READ = "audit.read"
    AUDIT_EXPORTED = "audit.exported"
    AUDIT_ARCHIVED = "audit.archived"
    KEY_ROTATED = "key.rotated"
    PATIENT_ERASED = "patient.erased"
    MODEL_REGISTERED = "model.registered"
    MODEL_VALIDATED = "model.validated"
    MODEL_APPROVED = "model.approved"
    MODEL_STAGED = "model.staged"
    MODEL_ACTIVATION_REFUSED = "model.activation_refused"
    MODEL_ACTIVATED = "model.activated"
    MODEL_ROLLED_BACK = "model.rolled_back"
    MODEL_HALTED = "model.halted"
    MODEL_RESUMED = "model.resumed"
    MODEL_RETIRED = "model.retired"
    SHADOW_STARTED = "model.shadow_started"
    SHADOW_ENDED = "model.shadow_ended"


class AuditOutcome(StrEnum):
    """How an act ended (FHIR AuditEvent.outcome, shortened)."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Actor(Message):
    """Who acted. `kind` tells people from the system and the command line on the host."""

    kind: str  # "user", "cli", "system", "anonymous"
    user_id: UUID | None = None
    role: Role | None = None
    token_id: str | None = None

    @classmethod
    def user(cls, principal: Principal) -> "Actor":
        """The actor of an authenticated request."""
        return cls("user", principal.user_id, principal.role, principal.token_id)


SYSTEM = Actor("system")
CLI = Actor("cli")
ANONYMOUS = Actor("anonymous")


@dataclass(frozen=True, slots=True)
class NewResult(Message):
    """An inference, whatever its outcome: one row of results, one of validations."""

    result_id: UUID
    model: ModelRef
    verdict: Verdict
    created_by: UUID
    created_at: datetime
    idempotency_key: str | None = None
    request_digest: bytes | None = None  # SHA-256 of what the key was used for


@dataclass(frozen=True, slots=True)
class NewUser(Message):
    """A user account. `password_hash` is an Argon2id string."""

    user_id: UUID
    username: str
    role: Role
    password_hash: str
    email: str | None = None
    must_change_password: bool = False


@dataclass(frozen=True, slots=True)
class TokenRevoked(Message):
    """An access token that is refused from now on, until it would have ended anyway."""

    token_id: str
    user_id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RefreshIssued(Message):
    """A refresh token, and the access token that was given together with it.

    Attributes:
        token_hash: SHA-256 of the token; the token itself is nowhere.
        family_id: Everything that came from one log-in.
        replaces: SHA-256 of the token that was paid for this one; None at a log-in. `Conflict`
            where it was used, revoked or has ended meanwhile: a token is good once.
        access_token_id: The access token's jti.
        access_expires_at: When the access token ends.
        expires_at: When this token ends unused.
        family_expires_at: When the family ends, however much it is used.
        proved_at: When the user's standing was read. `Conflict` where the account was disabled or
            its sessions were all ended since.
    """

    token_hash: bytes
    family_id: UUID
    user_id: UUID
    access_token_id: str
    access_expires_at: datetime
    expires_at: datetime
    family_expires_at: datetime
    proved_at: datetime
    replaces: bytes | None = None


@dataclass(frozen=True, slots=True)
class FamilyRevoked(Message):
    """A session that ends: no refresh token of it is good any longer, nor any access token."""

    family_id: UUID
    user_id: UUID


@dataclass(frozen=True, slots=True)
class UserRoleChanged(Message):
    """Another role. Ends the user's sessions. `Conflict` where no enabled administrator is left."""

    user_id: UUID
    role: Role


@dataclass(frozen=True, slots=True)
class UserDisabled(Message):
    """An account that is closed. Ends its sessions. `Conflict` as for `UserRoleChanged`."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class UserEnabled(Message):
    """An account that is opened again; the sessions it had stay ended."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class UserUnlocked(Message):
    """The failures of a locked account are forgotten."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class ResetIssued(Message):
    """A right to set a user's password once. Any earlier one of the user ends.

    `token_hash` is SHA-256 of the token; the token itself is nowhere.
    """

    token_hash: bytes
    user_id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PasswordSet(Message):
    """A user's new password. Ends the user's sessions.

    Attributes:
        user_id: Whose.
        password_hash: An Argon2id string.
        valid_after: Access tokens issued before this moment are refused.
        replaces: The hash that the old password was verified against; `Conflict` where it is
            another by now. None where `reset_hash` stands for it.
        reset_hash: SHA-256 of the reset token; `Conflict` where it is not good any longer.
    """

    user_id: UUID
    password_hash: str
    valid_after: datetime
    replaces: str | None = None
    reset_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class NewModelVersion(Message):
    """A registered model version. `card` is the card's JSON text, `path` relative to the home."""

    model: ModelRef
    card: str
    path: str
    size_bytes: int
    clinical_domain: str
    confidence_threshold: float
    registered_by: str


@dataclass(frozen=True, slots=True)
class ModelTransition(Message):
    """A step in a model version's life. Refused where its present status is not `before`."""

    model: ModelRef
    before: ModelStatus
    after: ModelStatus
    by: str


@dataclass(frozen=True, slots=True)
class VersionStaged(Message):
    """An approved version that replicas load, so that it can be activated.

    It takes the place of one that is staged already, whose activation then ends with `Conflict`.
    """

    model: ModelRef
    by: str


@dataclass(frozen=True, slots=True)
class VersionUnstaged(Message):
    """A staged version that is not activated after all. Nothing where it is not staged."""

    model: ModelRef
    by: str


@dataclass(frozen=True, slots=True)
class ServiceHalted(Message):
    """A model name that answers nothing from now on. `NotFound` where there is no such name."""

    name: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class ServiceResumed(Message):
    """A halted model name that answers again. `Conflict` where it is not halted."""

    name: str
    by: str


@dataclass(frozen=True, slots=True)
class ShadowStarted(Message):
    """An approved version that is compared with the active one from now on, unheard.

    Attributes:
        shadow_id: The comparison's id.
        model: The challenger.
        share: Of the active version's calls that it scores too, above 0 to 1.
        by: Who wants it.

    `Conflict` where the model has a challenger already, is halted or has no active version;
    `IllegalTransition` where the two cannot be compared (`registry.shadow`).
    """

    shadow_id: UUID
    model: ModelRef
    share: float
    by: str


@dataclass(frozen=True, slots=True)
class ShadowEnded(Message):
    """A comparison that ends; its counts stay. `Conflict` where there is none.

    An activation, a retirement of either version and a halt end it too.
    """

    name: str
    by: str


@dataclass(frozen=True, slots=True)
class PatientErased(Message):
    """A patient who is forgotten: results and log keep nothing that leads to the pseudonym.

    `NotFound` where no result is the patient's.
    """

    pseudonym: str


AccountChange: TypeAlias = (
    NewUser
    | TokenRevoked
    | RefreshIssued
    | FamilyRevoked
    | UserRoleChanged
    | UserDisabled
    | UserEnabled
    | UserUnlocked
    | ResetIssued
    | PasswordSet
)
ServiceChange: TypeAlias = (
    VersionStaged | VersionUnstaged | ServiceHalted | ServiceResumed | ShadowStarted | ShadowEnded
)
Change: TypeAlias = (
    NewResult | NewModelVersion | ModelTransition | ServiceChange | PatientErased | AccountChange
)


@dataclass(frozen=True, slots=True)
class AuditEvent(Message):
    """One thing that happened, before it has a place in the chain.

    Attributes:
        event_id: UUIDv7; the same event offered twice is recorded once.
        description: One constant sentence for people; values go into `context`.
        context: The details. Never a name, an id of a patient, or text that came from outside.
        changes: What is committed in the same transaction.
        trace: The span that waits for the commit, as a W3C traceparent; never recorded.
    """

    event_id: UUID
    action: AuditAction
    description: str
    actor: Actor
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    request_id: str | None = None
    context: dict[str, ContextValue] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    trace: str | None = None

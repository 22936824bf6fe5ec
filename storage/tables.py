"""The tables. The names of tables and fields are a contract; migrations/ holds their history.

Relationships never load by themselves (`lazy="raise"`): a forgotten load fails in the first test,
where a silent query a row would only be slow. Enumerations are text with a CHECK, so that a new
value is an ordinary migration on both databases.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from registry.contract import Outcome, Role
from registry.lifecycle import ModelStatus, ReplicaState


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on both databases, also on SQLite, which has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a naive datetime has no place in a record"
            raise ValueError(msg)
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back what was stored, aware."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC) if not value.tzinfo else value


def one_of(column: str, values: Any) -> CheckConstraint:
    """CHECK that `column` holds one of the enumeration's values."""
    return CheckConstraint(
        f"{column} IN ({', '.join(repr(str(value)) for value in values)})", name=f"{column}_known"
    )


class Table(DeclarativeBase):
    """The base of every table. Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, UUID: Uuid}  # noqa: RUF012


class ModelVersion(Table):
    """One version of one model: its card, its file and where it stands."""

    __tablename__ = "model_versions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    model_name: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(20))
    status: Mapped[ModelStatus] = mapped_column(String(16))
    file_path: Mapped[str] = mapped_column(String(512))  # relative to the model directory
    file_hash: Mapped[str] = mapped_column(String(64))
    file_size_bytes: Mapped[int] = mapped_column(BigInteger)
    clinical_domain: Mapped[str] = mapped_column(String(64), index=True)
    confidence_threshold: Mapped[float]
    card: Mapped[str] = mapped_column(Text)  # the card's JSON text, exactly as approved
    registered_by: Mapped[str] = mapped_column(String(64))
    approved_by: Mapped[str | None] = mapped_column(String(64))
    status_changed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    results: Mapped[list["InferenceResult"]] = relationship(back_populates="model", lazy="raise")

    __table_args__ = (
        Index("uq_model_versions_name_version", "model_name", "version", unique=True),
        Index(
            "uq_model_versions_one_active",
            "model_name",
            unique=True,
            sqlite_where=text("status = 'active'"),
            postgresql_where=text("status = 'active'"),
        ),
        one_of("status", ModelStatus),
        CheckConstraint("length(file_hash) = 64", name="file_hash_length"),
        CheckConstraint(
            "confidence_threshold >= 0 AND confidence_threshold <= 1", name="threshold_range"
        ),
    )


class ModelService(Table):
    """How one model name is served, beside which version is active: see `registry.lifecycle`."""

    __tablename__ = "model_services"

    model_name: Mapped[str] = mapped_column(String(63), primary_key=True)
    staged_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    previous_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    halt_reason: Mapped[str | None] = mapped_column(String(64))
    halted_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(halt_reason IS NULL) = (halted_at IS NULL)", name="halt_is_whole"),
    )


class ModelReplica(Table):
    """What one replica holds of one version, as it says itself. Not a record: it may be lost."""

    __tablename__ = "model_replicas"

    replica_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_version_id: Mapped[UUID] = mapped_column(
        ForeignKey("model_versions.id"), primary_key=True
    )
    model_name: Mapped[str] = mapped_column(String(63), index=True)
    state: Mapped[ReplicaState] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(255))
    heartbeat_at: Mapped[datetime]

    __table_args__ = (one_of("state", ReplicaState),)


class User(Table):
    """A person, or an application acting for itself. Never deleted: ids are never used again."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    username: Mapped[str] = mapped_column(String(64), unique=True)  # lower case
    email: Mapped[str | None] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[Role] = mapped_column(String(16))
    must_change_password: Mapped[bool] = mapped_column(server_default=false())
    failed_login_attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    locked_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    tokens_valid_after: Mapped[datetime | None]  # older access tokens are refused

    results: Mapped[list["InferenceResult"]] = relationship(back_populates="user", lazy="raise")

    __table_args__ = (
        one_of("role", Role),
        CheckConstraint("failed_login_attempts >= 0", name="attempts_not_negative"),
    )


class RevokedToken(Table):
    """An access token that was ended before its time. Kept until it would have ended anyway."""

    __tablename__ = "revoked_tokens"

    token_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class RefreshToken(Table):
    """A refresh token, by its hash, and the access token that came with it.

    Used and revoked ones stay until their family would have ended, so that a second use is known
    for what it is.
    """

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)  # SHA-256
    family_id: Mapped[UUID] = mapped_column(index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    family_expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    access_token_id: Mapped[str] = mapped_column(String(64), unique=True)
    access_expires_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("length(token_hash) = 32", name="token_hash_length"),)


class PasswordReset(Table):
    """A right to set one user's password once, by the hash of its token. At most one a user."""

    __tablename__ = "password_resets"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)  # SHA-256
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("length(token_hash) = 32", name="token_hash_length"),)


class InferenceResult(Table):
    """What was said of one image, or why nothing was. Written once, never changed."""

    __tablename__ = "inference_results"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    model_version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    outcome: Mapped[Outcome] = mapped_column(String(16))
    prediction: Mapped[str | None] = mapped_column(String(64))
    confidence_score: Mapped[float | None]
    scores: Mapped[str | None] = mapped_column(Text)  # JSON object, label to score
    reasons: Mapped[str] = mapped_column(String(255), server_default=text("''"))  # commas between
    needs_review: Mapped[bool] = mapped_column(server_default=false())
    error_code: Mapped[str | None] = mapped_column(String(64))
    patient_id: Mapped[str | None] = mapped_column(String(64))  # pseudonym; erasable
    image_sha256: Mapped[str] = mapped_column(String(64))
    image_facts: Mapped[str] = mapped_column(Text)  # JSON: width, height, modality, view, ...
    gate: Mapped[str | None] = mapped_column(Text)  # JSON: what the gate model said
    inference_latency_ms: Mapped[float]
    preprocessing_latency_ms: Mapped[float]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    idempotency_key: Mapped[str | None] = mapped_column(String(128))
    record_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    # SHA-256 of what the key was used for; not under the record's hash.
    request_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))

    model: Mapped[ModelVersion] = relationship(back_populates="results", lazy="raise")
    user: Mapped[User] = relationship(back_populates="results", lazy="raise")
    validation: Mapped["ValidationResult | None"] = relationship(
        back_populates="result", lazy="raise"
    )
    audit_entry: Mapped["AuditLog | None"] = relationship(
        back_populates="result", lazy="raise", viewonly=True
    )

    __table_args__ = (
        one_of("outcome", Outcome),
        CheckConstraint("length(image_sha256) = 64", name="image_sha256_length"),
        CheckConstraint("length(record_hash) = 32", name="record_hash_length"),
        CheckConstraint(
            "confidence_score IS NULL OR (confidence_score >= 0 AND confidence_score <= 1)",
            name="confidence_range",
        ),
        CheckConstraint(
            "(outcome = 'predicted') = (prediction IS NOT NULL)", name="label_only_if_predicted"
        ),
        # Each filter of a list, in the order of the list: ids are UUIDv7, so by time.
        Index("ix_inference_results_created_by_id", "created_by", "id"),
        Index("ix_inference_results_model_version_id_id", "model_version_id", "id"),
        Index("ix_inference_results_outcome_id", "outcome", "id"),
        Index("ix_inference_results_needs_review_id", "needs_review", "id"),
        Index("ix_inference_results_patient_id_id", "patient_id", "id"),
        Index(
            "uq_inference_results_idempotency",
            "created_by",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )


class ValidationResult(Table):
    """The rules applied to one image, as numbers. One row a result that was measured."""

    __tablename__ = "validation_results"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    inference_result_id: Mapped[UUID] = mapped_column(
        ForeignKey("inference_results.id"), unique=True
    )
    brightness_valid: Mapped[bool]
    contrast_valid: Mapped[bool]
    motion_artifact_free: Mapped[bool]
    is_valid: Mapped[bool]
    validation_score: Mapped[float]
    error_codes: Mapped[str] = mapped_column(Text)  # JSON array
    measurements: Mapped[str] = mapped_column(Text)  # JSON array of checks

    result: Mapped[InferenceResult] = relationship(back_populates="validation", lazy="raise")

    __table_args__ = (
        CheckConstraint("validation_score >= 0 AND validation_score <= 1", name="score_range"),
    )


class AuditLog(Table):
    """The audit log. Append-only: triggers and grants refuse everything else.

    `payload` holds exactly the bytes that were hashed; the other columns repeat parts of it for
    searching, and the verifier compares them. The arithmetic is in `storage.hashchain`.
    """

    __tablename__ = "audit_logs"

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"),  # INTEGER there: the table's own order
        primary_key=True,
        autoincrement=False,
    )
    event_id: Mapped[UUID] = mapped_column(unique=True)
    created_at: Mapped[str] = mapped_column(String(27), index=True)  # the payload's own text form
    epoch: Mapped[int]
    action: Mapped[str] = mapped_column(String(64), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(String(255))
    context: Mapped[str] = mapped_column(Text)  # JSON, part of the payload
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"), index=True)
    model_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    inference_result_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("inference_results.id"), index=True
    )
    previous_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    entry_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    payload: Mapped[str] = mapped_column(Text)

    result: Mapped[InferenceResult | None] = relationship(
        back_populates="audit_entry", lazy="raise", viewonly=True
    )

    __table_args__ = (
        CheckConstraint("seq >= 1", name="seq_from_one"),
        CheckConstraint("length(previous_hash) = 32", name="previous_hash_length"),
        CheckConstraint("length(entry_hash) = 32", name="entry_hash_length"),
        CheckConstraint("length(leaf_hash) = 32", name="leaf_hash_length"),
    )


class AuditState(Table):
    """The tip of the chain, one row. A writer moves it by compare-and-swap; see storage.ledger."""

    __tablename__ = "audit_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    origin: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    tip_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    frontier: Mapped[bytes] = mapped_column(LargeBinary)  # RFC 6962 compact range, <= 64 hashes
    epoch: Mapped[int]
    writer_id: Mapped[str] = mapped_column(String(64))

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class AuditCheckpoint(Table):
    """A signed head of the log (C2SP tlog-checkpoint)."""

    __tablename__ = "audit_checkpoints"

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    note: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class AuditSubject(Table):
    """What binds a log entry to a patient's pseudonym. Deleting the row forgets the patient.

    The entry itself holds only SHA-256(domain || salt || pseudonym), which tells nothing once the
    salt is gone.
    """

    __tablename__ = "audit_subjects"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    salt: Mapped[bytes] = mapped_column(LargeBinary(32))
    patient_id: Mapped[str] = mapped_column(String(64), index=True)

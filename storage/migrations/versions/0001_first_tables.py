"""The first tables, and an audit log that can only grow.

Revision ID: 0001
Revises:

Forward only: a migration never drops a record. To go back, restore a backup.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
HASH = sa.LargeBinary(32)
SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # INTEGER: the table's own order

SQLITE_APPEND_ONLY = (
    """
    CREATE TRIGGER audit_logs_no_update BEFORE UPDATE ON audit_logs
    BEGIN SELECT RAISE(ABORT, 'audit_logs is append-only'); END
    """,
    """
    CREATE TRIGGER audit_logs_no_delete BEFORE DELETE ON audit_logs
    BEGIN SELECT RAISE(ABORT, 'audit_logs is append-only'); END
    """,
)
# ENABLE ALWAYS: also where session_replication_role is set to leave triggers out.
POSTGRESQL_APPEND_ONLY = (
    """
    CREATE FUNCTION audit_logs_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_logs is append-only' USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """,
    """
    CREATE TRIGGER audit_logs_no_change BEFORE UPDATE OR DELETE ON audit_logs
    FOR EACH ROW EXECUTE FUNCTION audit_logs_append_only()
    """,
    """
    CREATE TRIGGER audit_logs_no_truncate BEFORE TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_logs_append_only()
    """,
    "ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER audit_logs_no_change",
    "ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER audit_logs_no_truncate",
)


def upgrade() -> None:
    create_registry()
    create_users()
    create_results()
    create_audit_log()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_APPEND_ONLY if sqlite else POSTGRESQL_APPEND_ONLY:
        op.execute(statement)


def create_registry() -> None:
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("model_name", sa.String(63), nullable=False),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("file_path", sa.String(512), nullable=False),
        sa.Column("file_hash", sa.String(64), nullable=False),
        sa.Column("file_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("clinical_domain", sa.String(64), nullable=False),
        sa.Column("confidence_threshold", sa.Double(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("registered_by", sa.String(64), nullable=False),
        sa.Column("approved_by", sa.String(64)),
        sa.Column("status_changed_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "status IN ('registered', 'validated', 'approved', 'active', 'retired')",
            name=op.f("ck_model_versions_status_known"),
        ),
        sa.CheckConstraint(
            "length(file_hash) = 64", name=op.f("ck_model_versions_file_hash_length")
        ),
        sa.CheckConstraint(
            "confidence_threshold >= 0 AND confidence_threshold <= 1",
            name=op.f("ck_model_versions_threshold_range"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
    )
    op.create_index(
        op.f("ix_model_versions_clinical_domain"), "model_versions", ["clinical_domain"]
    )
    op.create_index(
        "uq_model_versions_name_version", "model_versions", ["model_name", "version"], unique=True
    )
    op.create_index(
        "uq_model_versions_one_active",
        "model_versions",
        ["model_name"],
        unique=True,
        sqlite_where=sa.text("status = 'active'"),
        postgresql_where=sa.text("status = 'active'"),
    )


def create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("email", sa.String(254)),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("must_change_password", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("failed_login_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("locked_until", TIME),
        sa.Column("disabled_at", TIME),
        sa.Column("tokens_valid_after", TIME),
        sa.CheckConstraint(
            "role IN ('admin', 'clinician', 'viewer')", name=op.f("ck_users_role_known")
        ),
        sa.CheckConstraint(
            "failed_login_attempts >= 0", name=op.f("ck_users_attempts_not_negative")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "revoked_tokens",
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_revoked_tokens_user_id_users")
        ),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_revoked_tokens")),
    )
    op.create_index(op.f("ix_revoked_tokens_expires_at"), "revoked_tokens", ["expires_at"])


def create_results() -> None:
    op.create_table(
        "inference_results",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("prediction", sa.String(64)),
        sa.Column("confidence_score", sa.Double()),
        sa.Column("scores", sa.Text()),
        sa.Column("reasons", sa.String(255), server_default=sa.text("''"), nullable=False),
        sa.Column("needs_review", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("patient_id", sa.String(64)),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("image_facts", sa.Text(), nullable=False),
        sa.Column("gate", sa.Text()),
        sa.Column("inference_latency_ms", sa.Double(), nullable=False),
        sa.Column("preprocessing_latency_ms", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.String(128)),
        sa.Column("record_hash", HASH, nullable=False),
        sa.CheckConstraint(
            "outcome IN ('predicted', 'abstained', 'rejected', 'failed')",
            name=op.f("ck_inference_results_outcome_known"),
        ),
        sa.CheckConstraint(
            "length(image_sha256) = 64", name=op.f("ck_inference_results_image_sha256_length")
        ),
        sa.CheckConstraint(
            "length(record_hash) = 32", name=op.f("ck_inference_results_record_hash_length")
        ),
        sa.CheckConstraint(
            "confidence_score IS NULL OR (confidence_score >= 0 AND confidence_score <= 1)",
            name=op.f("ck_inference_results_confidence_range"),
        ),
        sa.CheckConstraint(
            "(outcome = 'predicted') = (prediction IS NOT NULL)",
            name=op.f("ck_inference_results_label_only_if_predicted"),
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_inference_results_model_version_id_model_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_inference_results_created_by_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inference_results")),
    )
    op.create_index(
        op.f("ix_inference_results_model_version_id"), "inference_results", ["model_version_id"]
    )
    op.create_index(
        "ix_inference_results_created_by_id", "inference_results", ["created_by", "id"]
    )
    op.create_index(
        "ix_inference_results_patient_id_id", "inference_results", ["patient_id", "id"]
    )
    op.create_index(
        "uq_inference_results_idempotency",
        "inference_results",
        ["created_by", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "validation_results",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("inference_result_id", sa.Uuid(), nullable=False),
        sa.Column("brightness_valid", sa.Boolean(), nullable=False),
        sa.Column("contrast_valid", sa.Boolean(), nullable=False),
        sa.Column("motion_artifact_free", sa.Boolean(), nullable=False),
        sa.Column("is_valid", sa.Boolean(), nullable=False),
        sa.Column("validation_score", sa.Double(), nullable=False),
        sa.Column("error_codes", sa.Text(), nullable=False),
        sa.Column("measurements", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "validation_score >= 0 AND validation_score <= 1",
            name=op.f("ck_validation_results_score_range"),
        ),
        sa.ForeignKeyConstraint(
            ["inference_result_id"],
            ["inference_results.id"],
            name=op.f("fk_validation_results_inference_result_id_inference_results"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_validation_results")),
        sa.UniqueConstraint(
            "inference_result_id", name=op.f("uq_validation_results_inference_result_id")
        ),
    )


def create_audit_log() -> None:
    op.create_table(
        "audit_logs",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid()),
        sa.Column("model_version_id", sa.Uuid()),
        sa.Column("inference_result_id", sa.Uuid()),
        sa.Column("previous_hash", HASH, nullable=False),
        sa.Column("entry_hash", HASH, nullable=False),
        sa.Column("leaf_hash", HASH, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_audit_logs_seq_from_one")),
        sa.CheckConstraint(
            "length(previous_hash) = 32", name=op.f("ck_audit_logs_previous_hash_length")
        ),
        sa.CheckConstraint("length(entry_hash) = 32", name=op.f("ck_audit_logs_entry_hash_length")),
        sa.CheckConstraint("length(leaf_hash) = 32", name=op.f("ck_audit_logs_leaf_hash_length")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_audit_logs_user_id_users")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_audit_logs_model_version_id_model_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["inference_result_id"],
            ["inference_results.id"],
            name=op.f("fk_audit_logs_inference_result_id_inference_results"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_logs")),
        sa.UniqueConstraint("event_id", name=op.f("uq_audit_logs_event_id")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_audit_logs_previous_hash")),
        sa.UniqueConstraint("entry_hash", name=op.f("uq_audit_logs_entry_hash")),
    )
    op.create_index(op.f("ix_audit_logs_action"), "audit_logs", ["action"])
    op.create_index(op.f("ix_audit_logs_user_id"), "audit_logs", ["user_id"])
    op.create_index(
        op.f("ix_audit_logs_inference_result_id"), "audit_logs", ["inference_result_id"]
    )
    op.create_table(
        "audit_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("tip_hash", HASH, nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("writer_id", sa.String(64), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_state")),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", HASH, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_audit_checkpoints")),
    )
    op.create_table(
        "audit_subjects",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("salt", HASH, nullable=False),
        sa.Column("patient_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_audit_subjects")),
    )
    op.create_index(op.f("ix_audit_subjects_patient_id"), "audit_subjects", ["patient_id"])

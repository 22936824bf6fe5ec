"""Models changed without downtime: what is staged, halted and was before, and what replicas hold.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "model_services",
        sa.Column("model_name", sa.String(63), nullable=False),
        sa.Column("staged_id", sa.Uuid()),
        sa.Column("previous_id", sa.Uuid()),
        sa.Column("halt_reason", sa.String(64)),
        sa.Column("halted_at", TIME),
        sa.CheckConstraint(
            "(halt_reason IS NULL) = (halted_at IS NULL)",
            name=op.f("ck_model_services_halt_is_whole"),
        ),
        sa.ForeignKeyConstraint(
            ["staged_id"],
            ["model_versions.id"],
            name=op.f("fk_model_services_staged_id_model_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"],
            ["model_versions.id"],
            name=op.f("fk_model_services_previous_id_model_versions"),
        ),
        sa.PrimaryKeyConstraint("model_name", name=op.f("pk_model_services")),
    )
    op.create_table(
        "model_replicas",
        sa.Column("replica_id", sa.String(64), nullable=False),
        sa.Column("model_version_id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(255)),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.CheckConstraint(
            "state IN ('loading', 'ready', 'failed')", name=op.f("ck_model_replicas_state_known")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_model_replicas_model_version_id_model_versions"),
        ),
        sa.PrimaryKeyConstraint("replica_id", "model_version_id", name=op.f("pk_model_replicas")),
    )
    op.create_index(op.f("ix_model_replicas_model_name"), "model_replicas", ["model_name"])

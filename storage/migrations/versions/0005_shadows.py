"""Challengers in the shadow: which version is compared with which, and what replicas counted.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "model_shadows",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.String(63), nullable=False),
        sa.Column("answering_id", sa.Uuid(), nullable=False),
        sa.Column("challenger_id", sa.Uuid(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.CheckConstraint(
            "share > 0 AND share <= 1", name=op.f("ck_model_shadows_share_range")
        ),
        sa.ForeignKeyConstraint(
            ["answering_id"],
            ["model_versions.id"],
            name=op.f("fk_model_shadows_answering_id_model_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["challenger_id"],
            ["model_versions.id"],
            name=op.f("fk_model_shadows_challenger_id_model_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_shadows")),
    )
    op.create_index(op.f("ix_model_shadows_model_name"), "model_shadows", ["model_name"])
    op.create_index(
        "uq_model_shadows_one_open",
        "model_shadows",
        ["model_name"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "shadow_counts",
        sa.Column("shadow_id", sa.Uuid(), nullable=False),
        sa.Column("replica_id", sa.String(64), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("counted_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["shadow_id"],
            ["model_shadows.id"],
            name=op.f("fk_shadow_counts_shadow_id_model_shadows"),
        ),
        sa.PrimaryKeyConstraint("shadow_id", "replica_id", name=op.f("pk_shadow_counts")),
    )

"""What answering twice and listing need: the digest of a request, and indexes in the order of ids.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not under the record's hash: it says what was asked, and the hash covers what was answered.
    op.add_column("inference_results", sa.Column("request_digest", sa.LargeBinary(32)))
    op.drop_index(
        op.f("ix_inference_results_model_version_id"), table_name="inference_results"
    )
    op.create_index(
        "ix_inference_results_model_version_id_id",
        "inference_results",
        ["model_version_id", "id"],
    )
    op.create_index(
        "ix_inference_results_outcome_id", "inference_results", ["outcome", "id"]
    )
    op.create_index(
        "ix_inference_results_needs_review_id", "inference_results", ["needs_review", "id"]
    )
    op.create_index(op.f("ix_audit_logs_created_at"), "audit_logs", ["created_at"])

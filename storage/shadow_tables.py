"""The tables of challengers in the shadow; as in `storage.tables`."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.tables import Table


class ModelShadow(Table):
    """One comparison of a challenger with the version that answers. At most one a name is open."""

    __tablename__ = "model_shadows"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(String(63), index=True)
    answering_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    challenger_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    share: Mapped[float]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_model_shadows_one_open",
            "model_name",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        CheckConstraint("share > 0 AND share <= 1", name="share_range"),
    )


class ShadowCount(Table):
    """What one replica has counted of one comparison: totals of its own life, no image's data."""

    __tablename__ = "shadow_counts"

    shadow_id: Mapped[UUID] = mapped_column(ForeignKey("model_shadows.id"), primary_key=True)
    replica_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    counts: Mapped[str] = mapped_column(Text)  # JSON: `registry.shadow.Tally.document`
    counted_at: Mapped[datetime]

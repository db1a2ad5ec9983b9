"""What the usage report counts: size and idle time of runs, free places of pools, homes, groups of users."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004_usage"
down_revision = "0003_scheduled_starts"

_INSTANT = sa.DateTime(timezone=True)
_TABLES = ("history_user_groups", "history_home_days", "history_pool_places")
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "cpu": sa.Float(),
    "memory_gib": sa.Float(),
    "idle_since": _INSTANT,
    "idle_seconds": sa.Float(),
}


def upgrade() -> None:
    """Add tables and columns; runs from before have GPUs alone."""
    for name, kind in _COLUMNS.items():
        op.add_column("history_runs", sa.Column(name, kind, nullable=True))
    op.create_table(
        "history_pool_places",
        sa.Column("at", _INSTANT, nullable=False),
        sa.Column("pool", sa.String(length=253), nullable=False),
        sa.Column("template", sa.String(length=253), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("cpu", sa.Float(), nullable=False),
        sa.Column("memory_gib", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("at", "pool", name="pk_history_pool_places"),
    )
    op.create_table(
        "history_home_days",
        sa.Column("day", _INSTANT, nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=254), nullable=False),
        sa.Column("template", sa.String(length=253), nullable=False),
        sa.Column("gib", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("day", "uid", name="pk_history_home_days"),
    )
    op.create_table(
        "history_user_groups",
        sa.Column("month", _INSTANT, nullable=False),
        sa.Column("owner", sa.String(length=254), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("month", "owner", name="pk_history_user_groups"),
    )


def downgrade() -> None:
    """Remove them."""
    for name in _TABLES:
        op.drop_table(name)
    for name in _COLUMNS:
        op.drop_column("history_runs", name)

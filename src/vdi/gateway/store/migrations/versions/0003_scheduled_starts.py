"""Starts that people schedule."""

import sqlalchemy as sa
from alembic import op

revision = "0003_scheduled_starts"
down_revision = "0002_graphics"

_TABLE = "scheduled_starts"
_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        _TABLE,
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=254), nullable=False),
        sa.Column("template", sa.String(length=253), nullable=False),
        sa.Column("session", sa.String(length=63), nullable=False),
        sa.Column("time", sa.String(length=5), nullable=False),
        sa.Column("days", sa.String(length=32), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("created", _INSTANT, nullable=False),
        sa.Column("next_time", _INSTANT, nullable=False),
        sa.Column("claimed_until", _INSTANT, nullable=True),
        sa.Column("last_time", _INSTANT, nullable=True),
        sa.Column("last_result", sa.String(length=32), nullable=False),
        sa.Column("last_message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_scheduled_starts"),
    )
    op.create_index("ix_scheduled_starts_owner", _TABLE, ["owner"])
    op.create_index("ix_scheduled_starts_next_time", _TABLE, ["next_time"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table(_TABLE)

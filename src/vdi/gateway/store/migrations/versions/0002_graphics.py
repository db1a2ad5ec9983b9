"""What drew and encoded a run's desktop."""

import sqlalchemy as sa
from alembic import op

revision = "0002_graphics"
down_revision = "0001_c65dbe3c"

_COLUMNS = ("renderer", "encoder")


def upgrade() -> None:
    """Add the columns; runs from before say nothing."""
    for name in _COLUMNS:
        op.add_column("history_runs", sa.Column(name, sa.String(length=32), nullable=True))


def downgrade() -> None:
    """Remove the columns."""
    for name in _COLUMNS:
        op.drop_column("history_runs", name)

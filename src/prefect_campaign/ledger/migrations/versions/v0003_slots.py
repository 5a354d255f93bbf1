"""How many slots an experiment without GPUs waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column."""
    op.add_column("waits", sa.Column("slots", sa.Integer(), nullable=False, server_default="1"))

"""Calls know the app whose container made them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("caller_app_id", sa.String(length=32), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("calls", "caller_app_id")

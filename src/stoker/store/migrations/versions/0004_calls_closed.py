"""A call's mark that no more inputs will come is gone: nothing ever asked for it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("calls", "closed")


def downgrade() -> None:
    op.add_column("calls", sa.Column("closed", sa.Boolean(), nullable=False, server_default=sa.false()))

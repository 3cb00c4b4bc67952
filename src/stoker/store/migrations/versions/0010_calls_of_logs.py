"""Log entries know the calls that they may belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("logs", sa.Column("call_ids", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("logs", "call_ids")

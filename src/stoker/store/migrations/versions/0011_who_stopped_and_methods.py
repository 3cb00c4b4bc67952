"""Apps know who stopped them, and inputs which method they are for."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("apps", sa.Column("stopped_by", sa.String(64), nullable=False, server_default=""))
    op.add_column("inputs", sa.Column("method", sa.String(256), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("inputs", "method")
    op.drop_column("apps", "stopped_by")

"""Numbers of log entries have the time in them, for which PostgreSQL needs a longer type. SQLite's integers are long enough."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _set_type(sa.BigInteger())


def downgrade() -> None:
    _set_type(sa.Integer())


def _set_type(type_: sa.types.TypeEngine[int]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("logs", "seq", type_=type_)

"""Answers of dicts to requests that may come again."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dict_answers",
        sa.Column("request", sa.LargeBinary(length=32), nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("request"),
    )


def downgrade() -> None:
    op.drop_table("dict_answers")

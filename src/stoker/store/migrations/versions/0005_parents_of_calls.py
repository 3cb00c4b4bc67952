"""The calls that an input made are found without reading all calls."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_calls_parent_input_id"), "calls", ["parent_input_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_calls_parent_input_id"), table_name="calls")

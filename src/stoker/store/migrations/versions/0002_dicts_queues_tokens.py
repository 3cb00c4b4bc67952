"""Dicts, queues, network file systems, published images, proxy tokens; tokens that expire."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires_at", sa.Float(), nullable=True))
    op.create_table(
        "proxy_tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("scoped", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "proxy_token_environments",
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("token_id", "environment_id"),
    )
    op.create_table(
        "image_revisions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("environment_id", sa.String(length=32), nullable=False),
        sa.Column("tag", sa.String(length=256), nullable=False),
        sa.Column("image_id", sa.String(length=32), nullable=False),
        sa.Column("published_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("image_revisions_by_tag", "image_revisions", ["environment_id", "tag"], unique=False)
    for name in ("shared_volumes", "dicts", "queues"):
        op.create_table(
            name,
            sa.Column("id", sa.String(length=32), nullable=False),
            sa.Column("environment_id", sa.String(length=32), nullable=False),
            sa.Column("name", sa.String(length=64), nullable=True),
            sa.Column("created_at", sa.Float(), nullable=False),
            sa.Column("heartbeat_at", sa.Float(), nullable=True),
            sa.PrimaryKeyConstraint("id"),
            sa.UniqueConstraint("environment_id", "name"),
        )
    op.create_table(
        "dict_entries",
        sa.Column("dict_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("dict_id", "digest"),
    )
    op.create_table(
        "queue_items",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("queue_id", sa.String(length=32), nullable=False),
        sa.Column("partition", sa.LargeBinary(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("put_by", sa.String(length=64), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=True),
        sa.Column("taken_by", sa.String(length=64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("queue_items_by_partition", "queue_items", ["queue_id", "partition"], unique=False)

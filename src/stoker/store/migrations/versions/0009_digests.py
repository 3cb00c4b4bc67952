"""Digests of what lies in files, and what was found damaged. What earlier versions stored has none."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blobs", sa.Column("sums", sa.LargeBinary(), nullable=True))
    op.create_table(
        "volume_sums",
        sa.Column("volume_id", sa.String(length=32), nullable=False),
        sa.Column("path_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("ctime_ns", sa.BigInteger(), nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("volume_id", "path_key"),
    )
    op.create_table(
        "volume_writers",
        sa.Column("volume_id", sa.String(length=32), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("volume_id"),
    )
    op.create_table(
        "damages",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("found_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("damages")
    op.drop_table("volume_writers")
    op.drop_table("volume_sums")
    with op.batch_alter_table("blobs") as batch:
        batch.drop_column("sums")

"""which worker session has code for which function

Revision 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worker_function",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("name", "session_id", name=op.f("pk_worker_function")),
    )


def downgrade() -> None:
    op.drop_table("worker_function")

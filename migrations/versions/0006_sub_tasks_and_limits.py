"""sub-tasks that failed do not count for their run besides; limits that operators set

Revision 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("awaited", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "concurrency_limit",
        sa.Column("is_fixed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    # Runs that have ended keep the state that they were told to have ended with.
    op.execute(
        "UPDATE run SET awaited = (SELECT count(*) FROM task_state JOIN task ON task.id = task_state.task_id "
        "JOIN edge ON edge.parent_id = task.id AND edge.child_id = task.parent_id "
        "WHERE task.run_id = run.id AND task_state.state IN ('failed', 'cancelled')) "
        "WHERE failed + cancelled > 0"
    )


def downgrade() -> None:
    with op.batch_alter_table("concurrency_limit", schema=None) as batch_op:
        batch_op.drop_column("is_fixed")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_column("awaited")

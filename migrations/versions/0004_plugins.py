"""plug-ins: bindings, and relays that are over

Revision 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plugin_binding",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("condition", sa.Text(), nullable=True),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plugin_binding")),
    )
    op.add_column(
        "relay", sa.Column("is_over", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute(
        "UPDATE relay SET is_over = true WHERE EXISTS (SELECT 1 FROM run WHERE run.id = relay.run_id "
        "AND run.finished_at IS NOT NULL AND run.event_count <= relay.number)"
    )
    op.create_index(
        "ix_relay_open",
        "relay",
        ["run_id"],
        postgresql_where=sa.text("NOT is_over"),
        sqlite_where=sa.text("is_over = 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_relay_open", "relay")
    with op.batch_alter_table("relay", schema=None) as batch_op:
        batch_op.drop_column("is_over")
    op.drop_table("plugin_binding")

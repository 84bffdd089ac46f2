"""workflows

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


AVAILABLE = sa.text("state = 'available'")
UNLIMITED = sa.text("state = 'available' AND limit_keys IS NULL")
LIMITED = sa.text("state = 'available' AND limit_keys IS NOT NULL")
SLOTS = sa.text("state = 'running' AND limit_keys IS NOT NULL")
CLAIM_ORDER = ["rank", "available_at", "task_id"]


def upgrade() -> None:
    with op.batch_alter_table("task_state", schema=None) as batch_op:
        batch_op.add_column(sa.Column("limit_keys", sa.Text(), nullable=True))
    op.drop_index("ix_task_state_claim", "task_state")
    for name, columns, where in (
        ("ix_task_state_claim", ["queue", *CLAIM_ORDER], UNLIMITED),
        ("ix_task_state_limited", ["queue", "limit_keys", *CLAIM_ORDER], LIMITED),
        ("ix_task_state_slot", ["limit_keys"], SLOTS),
    ):
        op.create_index(name, "task_state", columns, postgresql_where=where, sqlite_where=where)
    op.create_table(
        "concurrency_limit",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at_most", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_concurrency_limit")),
    )
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.add_column(sa.Column("inputs", sa.JSON(none_as_null=True), nullable=True))

    op.create_table(
        "workflow",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflow")),
        sa.UniqueConstraint("name", name=op.f("uq_workflow_name")),
    )
    op.create_table(
        "workflow_version",
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("task_count", sa.Integer(), nullable=False),
        sa.Column("definition", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "version", name=op.f("pk_workflow_version")),
    )
    op.create_table(
        "workflow_run",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("workflow_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rerun_of", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_workflow_run")),
    )
    with op.batch_alter_table("workflow_run", schema=None) as batch_op:
        batch_op.create_index("ix_workflow_run_workflow_id_run_id", ["workflow_id", "run_id"], unique=False)

    op.create_table(
        "saga",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("compensation_run_id", sa.BigInteger(), nullable=True),
        sa.Column("signed_off_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("signed_off_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_saga")),
    )
    with op.batch_alter_table("saga", schema=None) as batch_op:
        batch_op.create_index("ix_saga_compensation_run_id", ["compensation_run_id"], unique=False)

    op.create_table(
        "compensation",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("retry", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_compensation")),
    )
    op.create_table(
        "schedule",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("expression", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catch_up", sa.Text(), nullable=False),
        sa.Column("catch_up_limit", sa.Integer(), nullable=False),
        sa.Column("is_paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("anchor_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule")),
        sa.UniqueConstraint("name", name=op.f("uq_schedule_name")),
    )
    with op.batch_alter_table("schedule", schema=None) as batch_op:
        batch_op.create_index("ix_schedule_workflow_id", ["workflow_id"], unique=False)

    op.create_table(
        "firing",
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("nominal_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "nominal_at", name=op.f("pk_firing")),
    )
    with op.batch_alter_table("firing", schema=None) as batch_op:
        batch_op.create_index("ix_firing_run_id", ["run_id"], unique=False)

    op.create_table(
        "step",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "name", name=op.f("pk_step")),
    )
    op.create_table(
        "relay",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("callbacks", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_relay")),
    )
    op.create_table(
        "signal",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("taken_by", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_signal")),
    )
    op.create_table(
        "function",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("schema", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_function")),
    )


def downgrade() -> None:
    op.drop_table("function")
    op.drop_table("signal")
    op.drop_table("relay")
    op.drop_table("step")
    with op.batch_alter_table("firing", schema=None) as batch_op:
        batch_op.drop_index("ix_firing_run_id")

    op.drop_table("firing")
    with op.batch_alter_table("schedule", schema=None) as batch_op:
        batch_op.drop_index("ix_schedule_workflow_id")

    op.drop_table("schedule")
    op.drop_table("compensation")
    with op.batch_alter_table("saga", schema=None) as batch_op:
        batch_op.drop_index("ix_saga_compensation_run_id")

    op.drop_table("saga")
    with op.batch_alter_table("workflow_run", schema=None) as batch_op:
        batch_op.drop_index("ix_workflow_run_workflow_id_run_id")

    op.drop_table("workflow_run")
    op.drop_table("workflow_version")
    op.drop_table("workflow")
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.drop_column("inputs")
    op.drop_table("concurrency_limit")
    for name in ("ix_task_state_slot", "ix_task_state_limited", "ix_task_state_claim"):
        op.drop_index(name, "task_state")
    op.create_index(
        "ix_task_state_claim",
        "task_state",
        ["queue", *CLAIM_ORDER],
        postgresql_where=AVAILABLE,
        sqlite_where=AVAILABLE,
    )
    with op.batch_alter_table("task_state", schema=None) as batch_op:
        batch_op.drop_column("limit_keys")

"""Tables, constraints and indexes: one schema for every database. CHECKs come from `model.states`.

`task` is what was submitted and never changes; `task_state` is the narrow row that is claimed and
finished; `attempt`, `event` and `task_log` are only appended to. Hot tables have no foreign keys:
each would lock a parent row for every child row written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect as SaDialect

from engine.model.states import RunState, TaskState

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC. Naive datetimes are refused on the way in; what comes out is aware."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: SaDialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: SaDialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = sa.JSON(none_as_null=True)
Id = sa.BigInteger()

# Rows that are updated often keep half of each page free, so that a new version stays on its page.
_HOT = {"fillfactor": "50", "autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"}


def _one_of(column: str, states: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(state)) for state in states)})"


def state_is(column: sa.ColumnElement[Any], *states: TaskState) -> sa.ColumnElement[bool]:
    """`column` is one of `states`, with the names in the SQL text.

    Bound as a parameter, Postgres' generic plan could not use the partial indexes.
    """
    literals: list[sa.ColumnElement[Any]] = [sa.literal_column(repr(str(state))) for state in states]
    return column == literals[0] if len(literals) == 1 else column.in_(literals)


def is_still(column: sa.ColumnElement[Any], *states: TaskState) -> sa.ColumnElement[bool]:
    """The guard on rows that are found by id: `column` is one of `states`, hidden from the planner.

    With the plain form Postgres found 200 rows by id through the partial index of all running ones, once
    per row: 19 ms instead of 1.5 ms for a batch. Nor must the planner think that it leaves few rows: for what
    waited for 12,000 tasks it then preferred to read whole tables, 12.8 s instead of 0.5 s.
    """
    return sa.func.coalesce(state_is(column.concat(sa.literal_column("''")), *states), sa.false())


run = sa.Table(
    "run",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("labels", Json),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("is_cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("event_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("total", sa.Integer, nullable=False, server_default="0"),
    sa.Column("running", sa.Integer, nullable=False, server_default="0"),
    sa.Column("succeeded", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("skipped", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.Integer, nullable=False, server_default="0"),
    sa.Column("awaited", sa.Integer, nullable=False, server_default="0"),  # failed or cancelled sub-tasks
    sa.CheckConstraint(_one_of("state", RunState), name="state"),
    postgresql_with=_HOT,
)
sa.Index(
    "ix_run_finished_at",
    run.c.finished_at,
    postgresql_where=run.c.finished_at.is_not(None),
    sqlite_where=run.c.finished_at.is_not(None),
)

task = sa.Table(
    "task",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=False),
    sa.Column("run_id", Id, nullable=False),
    sa.Column("parent_id", Id),  # the task that added this one while it ran
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("params", Json),
    sa.Column("timeout_ms", sa.BigInteger),
    sa.Column("retry", Json),
    sa.Column("client", Json),
    sa.Column("inputs", Json),  # what is put together from upstream results before an attempt
    sa.Column("reach", sa.Text, nullable=False, server_default="release"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("run_id", "name"),
)

task_state = sa.Table(
    "task_state",
    metadata,
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("run_id", Id, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),  # -priority: claims go up
    sa.Column("available_at", UtcDateTime),  # taken afresh each time the task becomes available
    sa.Column("delay_ms", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rule", sa.Text),  # null: all_success
    sa.Column("waiting_on", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed_on", sa.Integer, nullable=False, server_default="0"),
    sa.Column("skipped_on", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("session_id", Id),
    sa.Column("token", sa.Text),
    sa.Column("started_at", UtcDateTime),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.Column("is_cancelling", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("branch", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("limit_keys", sa.Text),  # those of `concurrency_limit`, one a line, sorted; null: unlimited
    sa.CheckConstraint(_one_of("state", TaskState), name="state"),
    sa.CheckConstraint("waiting_on >= 0", name="waiting_on"),
    postgresql_with=_HOT,
)
is_limited = task_state.c.limit_keys.is_not(None)


def _partial(where: sa.ColumnElement[bool]) -> dict[str, Any]:
    return {"postgresql_where": where, "sqlite_where": where}


claim_index = sa.Index(
    "ix_task_state_claim",
    task_state.c.queue,
    task_state.c.rank,
    task_state.c.available_at,
    task_state.c.task_id,
    **_partial(sa.and_(state_is(task_state.c.state, TaskState.AVAILABLE), task_state.c.limit_keys.is_(None))),
)
limited_index = sa.Index(
    "ix_task_state_limited",
    task_state.c.queue,
    task_state.c.limit_keys,
    task_state.c.rank,
    task_state.c.available_at,
    task_state.c.task_id,
    **_partial(sa.and_(state_is(task_state.c.state, TaskState.AVAILABLE), is_limited)),
)
slot_index = sa.Index(
    "ix_task_state_slot",
    task_state.c.limit_keys,
    **_partial(sa.and_(state_is(task_state.c.state, TaskState.RUNNING), is_limited)),
)
lease_index = sa.Index(
    "ix_task_state_lease",
    task_state.c.session_id,
    **_partial(state_is(task_state.c.state, TaskState.RUNNING)),
)

concurrency_limit = sa.Table(
    "concurrency_limit",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at_most", sa.Integer, nullable=False),
    sa.Column("is_fixed", sa.Boolean, nullable=False, server_default=sa.false()),  # by an operator
)

edge = sa.Table(
    "edge",
    metadata,
    sa.Column("parent_id", Id, primary_key=True, autoincrement=False),
    sa.Column("child_id", Id, primary_key=True, autoincrement=False),
    sa.Column("condition", sa.Text),  # taken only if the parent succeeded with this branch
)
# Read when a run is retried and when a task shows what it depends on.
sa.Index("ix_edge_child_id", edge.c.child_id)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("session_id", Id),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("result", Json),
    sa.Column("error", Json),
    sa.Column("cpu_ms", sa.BigInteger),
    sa.Column("max_rss_kib", sa.BigInteger),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("run_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("task_id", Id),
    sa.Column("attempt", sa.Integer),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("detail", Json),
)

task_log = sa.Table(
    "task_log",
    metadata,
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

task_progress = sa.Table(
    "task_progress",
    metadata,
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("document", Json),
)

worker_session = sa.Table(
    "worker_session",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("queues", Json),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("end_reason", sa.Text),
    postgresql_with={"fillfactor": "50"},
)

queue = sa.Table("queue", metadata, sa.Column("name", sa.Text, primary_key=True))

alias = sa.Table(
    "alias",
    metadata,
    # A name that a client contract gave to a task; a resubmission moves it, history stays.
    sa.Column("contract", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("task_id", Id, nullable=False),
    sa.Column("moved_at", UtcDateTime, nullable=False),
)
sa.Index("ix_alias_task_id", alias.c.task_id)

idempotency_key = sa.Table(
    "idempotency_key",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("run_id", Id, nullable=False),
    sa.Column("answer", Json),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
sa.Index("ix_idempotency_key_created_at", idempotency_key.c.created_at)

token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("secret_sha256", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column("last_used_at", UtcDateTime),
)

counter = sa.Table(
    "counter",
    metadata,
    # Totals since the database was made. Each process adds to a shard of its own, readers sum.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.BigInteger, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

workflow = sa.Table(
    "workflow",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("version", sa.Integer, nullable=False),  # the newest
    sa.Column("is_enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)

workflow_version = sa.Table(
    "workflow_version",
    metadata,
    sa.Column("workflow_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("task_count", sa.Integer, nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

# Which workflow a run is a run of. It keeps the name: the workflow may be deleted before its runs.
workflow_run = sa.Table(
    "workflow_run",
    metadata,
    sa.Column("run_id", Id, primary_key=True, autoincrement=False),
    sa.Column("workflow_id", sa.Text, nullable=False),
    sa.Column("workflow_name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("params", Json),
    sa.Column("rerun_of", Id),
)
sa.Index("ix_workflow_run_workflow_id_run_id", workflow_run.c.workflow_id, workflow_run.c.run_id)

saga = sa.Table(
    "saga",
    metadata,
    # A run with compensations. What they come to is read off the state of the run that performs them.
    sa.Column("run_id", Id, primary_key=True, autoincrement=False),
    sa.Column("compensation_run_id", Id),  # set by the transaction that makes the run fail
    sa.Column("signed_off_at", UtcDateTime),
    sa.Column("signed_off_by", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("skipped", Json),  # [{task_ids, actor, reason}]: tasks of that run that nobody runs again
)
sa.Index("ix_saga_compensation_run_id", saga.c.compensation_run_id)

compensation = sa.Table(
    "compensation",
    metadata,
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("params", Json),
    sa.Column("timeout_ms", sa.BigInteger),
    sa.Column("retry", Json),
)

schedule = sa.Table(
    "schedule",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("workflow_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("expression", sa.Text, nullable=False),
    sa.Column("zone", sa.Text, nullable=False),
    sa.Column("params", Json),
    sa.Column("overlap", sa.Text, nullable=False),
    sa.Column("catch_up", sa.Text, nullable=False),
    sa.Column("catch_up_limit", sa.Integer, nullable=False),
    sa.Column("is_paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("anchor_at", UtcDateTime, nullable=False),  # what `@every` counts from
    sa.Column("next_at", UtcDateTime),  # the next nominal time; null: it never fires again
    sa.Column("last_at", UtcDateTime),  # the nominal time that fired last
    sa.Column("queued_at", UtcDateTime),  # a nominal time that waits for the run before it
    sa.Column("error", sa.Text),  # why the last firing started no run
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)
sa.Index("ix_schedule_workflow_id", schedule.c.workflow_id)

# One row for each nominal time that was decided about: nobody decides twice.
firing = sa.Table(
    "firing",
    metadata,
    sa.Column("schedule_id", sa.Text, primary_key=True),
    sa.Column("nominal_at", UtcDateTime, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),  # started, skipped, missed, queued, replaced, failed
    sa.Column("run_id", Id),
    sa.Column("detail", sa.Text),
    sa.Column("at", UtcDateTime, nullable=False),
)
sa.Index("ix_firing_run_id", firing.c.run_id)

step = sa.Table(
    "step",
    metadata,
    # What a task has done so far; later attempts find it and do not do it again.
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("result", Json),
    sa.Column("due_at", UtcDateTime),  # of a sleep or a wait: when it is over
    sa.Column("at", UtcDateTime, nullable=False),
)

relay = sa.Table(
    "relay",
    metadata,
    # A run whose events callbacks or plug-ins are told of, and the last one that was dealt with.
    sa.Column("run_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("workflow_id", sa.Text, nullable=False),
    sa.Column("callbacks", Json, nullable=False),
    # The run has ended and everything is told: nobody looks at it again unless it is retried.
    sa.Column("is_over", sa.Boolean, nullable=False, server_default=sa.false()),
)
sa.Index("ix_relay_open", relay.c.run_id, **_partial(sa.not_(relay.c.is_over)))

plugin_binding = sa.Table(
    "plugin_binding",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("plugin", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("condition", sa.Text),  # CEL; null: at each event
    sa.Column("params", Json, nullable=False),
    sa.Column("workflow_id", sa.Text),  # null: of every workflow
    sa.Column("is_enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

signal = sa.Table(
    "signal",
    metadata,
    sa.Column("run_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("payload", Json),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("taken_by", Id),  # the task whose wait it ended
)

function = sa.Table(
    "function",
    metadata,
    # Functions that some process has registered; code is found by name.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),  # module:qualified.name
    sa.Column("schema", Json),  # JSON Schema of the parameters
    sa.Column("options", Json),  # of tasks that call it: see `model.run_defaults`
    sa.Column("registered_at", UtcDateTime, nullable=False),
)

# Which worker session has code for which function.
worker_function = sa.Table(
    "worker_function",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("session_id", Id, primary_key=True, autoincrement=False),
)

# Ids are drawn in blocks, so that a graph knows the ids of its rows before it writes them. Databases
# with sequences draw from these; the others count in `id_block`, inside the submitting transaction.
BLOCK_SIZE = {"run": 8, "task": 512}
for _name, _size in BLOCK_SIZE.items():
    sa.Sequence(f"{_name}_id_block", start=1, increment=_size, metadata=metadata)

id_block = sa.Table(
    "id_block",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
)

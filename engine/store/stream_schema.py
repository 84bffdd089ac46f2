"""Tables of streaming tasks; those of `schema` and these share one `metadata`."""

from __future__ import annotations

import sqlalchemy as sa

from engine.store.schema import Id, Json, UtcDateTime, metadata

stream = sa.Table(
    "stream",
    metadata,
    # How far a streaming task has come. Items are numbered as they are accepted.
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("offset", Json),  # behind the last item that was dealt with
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),  # its number
    sa.Column("received", sa.BigInteger, nullable=False, server_default="0"),  # the last number given
    sa.Column("processed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("dropped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("batches", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("gaps", sa.Integer, nullable=False, server_default="0"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("opened_at", UtcDateTime),  # null: items wait for a task that has not started
    sa.Column("seen_at", UtcDateTime),  # the last write by an attempt that was connected to its source
    sa.Column("changed_at", UtcDateTime, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

stream_item = sa.Table(
    "stream_item",
    metadata,
    # Items that cannot be read again, from when they come until their batch is dealt with.
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("payload", Json),
    sa.Column("received_at", UtcDateTime, nullable=False),
)

stream_batch = sa.Table(
    "stream_batch",
    metadata,
    # The newest batches of a stream, and what became of them.
    sa.Column("task_id", Id, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("first_sequence", sa.BigInteger, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("result", Json),
    sa.Column("error", sa.Text),
    sa.Column("at", UtcDateTime, nullable=False),
)

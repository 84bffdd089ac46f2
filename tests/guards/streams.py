"""Guards of streams: fences, numbers, gaps, and rows that are written late."""

from tests.guards.guard import Guard

STORE = "engine/store/stream_state.py"
WORKER = "tests/worker/test_streaming.py"
LOOP = "tests/streams/test_loop.py"
SOURCES = "tests/streams/test_sources.py"

GUARDS = [
    Guard(
        "token fence in batches",
        "a worker that lost its lease would move the offset of the one that reads on",
        STORE,
        "    if not holds(tx, lease):\n        return None\n    row = stream.c\n",
        "    row = stream.c\n",
        f"{WORKER}::test_a_lost_lease_commits_nothing",
    ),
    Guard(
        "a batch once",
        "a commit that is repeated after a lost answer would count its items twice",
        STORE,
        "        .where(row.task_id == lease.task_id, row.batches == number - 1)\n",
        "        .where(row.task_id == lease.task_id)\n",
        f"{WORKER}::test_a_lost_lease_commits_nothing",
    ),
    Guard(
        "stored before handled",
        "messages in the buffer of a worker that dies would be lost",
        "engine/streams/reader.py",
        "is_ready=self._source.replayable",
        "is_ready=True",
        f"{LOOP}::test_items_that_cannot_be_read_again_are_stored_before_they_are_handled",
    ),
    Guard(
        "start of a gap",
        "what was missed before the death of a worker that had no connection would not be told",
        "engine/streams/telling.py",
        "        self.is_connected = False\n        await self._connection(EventType.CONNECTION_LOST",
        "        await self._connection(EventType.CONNECTION_LOST",
        f"{LOOP}::test_a_gap_begins_when_the_source_was_seen_last_not_when_somebody_wrote_last",
    ),
    Guard(
        "buffer handled when a worker stops",
        "a worker that stops would wait for streams until its patience ends",
        "engine/worker/service.py",
        "        self._around.draining.set()\n",
        "        pass\n",
        f"{WORKER}::test_a_worker_that_stops_handles_what_it_has_read_and_does_not_wait_for_more",
    ),
    Guard(
        "wait for those who write to a table",
        "a row with a smaller key, committed later, would never be read",
        "engine/streams/postgres.py",
        'while (await self._one(connection, _STILL_WRITES, writers=found["writers"]))["it_does"]:',
        "while False:",
        f"{SOURCES}::test_a_row_is_not_lost_whose_key_was_taken_before_its_transaction_wrote",
    ),
    Guard(
        "a cancellation that nobody asked for",
        "a source that raises one would end the stream as if it were over",
        "engine/streams/reader.py",
        "            except (Exception, asyncio.CancelledError) as error:  # a source can raise anything\n",
        "            except Exception as error:  # a source can raise anything\n",
        f"{LOOP}::test_a_source_that_raises_a_cancellation_has_lost_its_connection",
    ),
]

"""What must hold in the database at any instant, whatever was killed: plain SQL, no code of the engine.

Letters as in the list of invariants that all fault tests share (O2 nothing invented, O4 counters, …).
Each query finds what must not be there.
"""

from __future__ import annotations

from engine.store.database import Database
from tests.factories import rows

_FINAL = "('succeeded', 'failed', 'skipped', 'cancelled')"

BROKEN = {
    "O1 a run without all of its tasks": """
        SELECT r.id, r.total FROM run r
        WHERE r.total <> (SELECT count(*) FROM task t JOIN task_state s ON s.task_id = t.id
                          WHERE t.run_id = r.id AND s.run_id = r.id)
    """,
    "O1 a task without its edges": """
        SELECT s.task_id FROM task_state s WHERE s.state = 'blocked'
        AND NOT EXISTS (SELECT 1 FROM edge e WHERE e.child_id = s.task_id)
    """,
    "O2 rows of a run that is not there": """
        SELECT 'task', t.id FROM task t WHERE t.run_id NOT IN (SELECT id FROM run)
        UNION ALL SELECT 'state', s.task_id FROM task_state s WHERE s.task_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'edge', e.child_id FROM edge e
            WHERE e.child_id NOT IN (SELECT id FROM task) OR e.parent_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'attempt', a.task_id FROM attempt a WHERE a.task_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'log', l.task_id FROM task_log l WHERE l.task_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'progress', p.task_id FROM task_progress p
            WHERE p.task_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'event', v.run_id FROM event v WHERE v.run_id NOT IN (SELECT id FROM run)
        UNION ALL SELECT 'alias', x.task_id FROM alias x WHERE x.task_id NOT IN (SELECT id FROM task)
        UNION ALL SELECT 'key', k.run_id FROM idempotency_key k WHERE k.run_id NOT IN (SELECT id FROM run)
    """,
    "O3 blocked although nothing is waited for": """
        SELECT s.task_id FROM task_state s WHERE s.state = 'blocked' AND s.rule IS NULL
        AND NOT EXISTS (SELECT 1 FROM edge e JOIN task_state p ON p.task_id = e.parent_id
                        WHERE e.child_id = s.task_id AND p.state NOT IN ('succeeded', 'failed', 'skipped',
                                                                         'cancelled'))
    """,
    "O3 running without an owner": """
        SELECT s.task_id FROM task_state s WHERE s.state = 'running' AND (s.token IS NULL
        OR s.session_id IS NULL OR s.session_id NOT IN (SELECT id FROM worker_session) OR s.attempt = 0)
    """,
    "O4 what a blocked task waits for is miscounted": f"""
        SELECT s.task_id, s.waiting_on FROM task_state s WHERE s.state = 'blocked'
        AND s.waiting_on <> (SELECT count(*) FROM edge e JOIN task_state p ON p.task_id = e.parent_id
                             WHERE e.child_id = s.task_id AND p.state NOT IN {_FINAL})
    """,
    "O4 less is left to count off than upstreams are open": f"""
        SELECT s.task_id, s.waiting_on FROM task_state s
        WHERE s.waiting_on < (SELECT count(*) FROM edge e JOIN task_state p ON p.task_id = e.parent_id
                              WHERE e.child_id = s.task_id AND p.state NOT IN {_FINAL})
    """,
    "O5 started before its upstreams succeeded": """
        SELECT s.task_id FROM task_state s WHERE s.rule IS NULL
        AND s.state IN ('available', 'held', 'running', 'succeeded', 'failed')
        AND EXISTS (SELECT 1 FROM edge e JOIN task_state p ON p.task_id = e.parent_id
                    WHERE e.child_id = s.task_id AND p.state <> 'succeeded')
    """,
    "O7 attempts are not 1, 2, 3 … with one outcome each": """
        SELECT s.task_id, s.attempt FROM task_state s LEFT JOIN attempt a ON a.task_id = s.task_id
        GROUP BY s.task_id, s.attempt, s.state
        HAVING count(a.number) <> s.attempt - CASE WHEN s.state = 'running' THEN 1 ELSE 0 END
        OR coalesce(max(a.number), 0) <> count(a.number)
    """,
    "O8 an attempt without the event of its start": """
        SELECT s.task_id, s.attempt FROM task_state s WHERE s.attempt <>
        (SELECT count(*) FROM event v WHERE v.run_id = s.run_id AND v.task_id = s.task_id
         AND v.kind = 'started')
    """,
    "O10 events are not 1 to n": """
        SELECT r.id, r.event_count FROM run r LEFT JOIN event v ON v.run_id = r.id
        GROUP BY r.id, r.event_count
        HAVING count(v.number) <> r.event_count OR max(v.number) <> r.event_count OR min(v.number) <> 1
    """,
    "O10 a state that is not the last event's": """
        SELECT s.task_id, s.state, v.kind FROM task_state s
        JOIN event v ON v.run_id = s.run_id AND v.task_id = s.task_id
        WHERE v.kind <> 'extended' AND v.number = (SELECT max(w.number) FROM event w
            WHERE w.run_id = s.run_id AND w.task_id = s.task_id AND w.kind <> 'extended')
        AND s.state <> CASE v.kind WHEN 'started' THEN 'running' WHEN 'retried_held' THEN 'held'
            WHEN 'unblocked_held' THEN 'held' WHEN 'retried' THEN 'available'
            WHEN 'unblocked' THEN 'available' WHEN 'resumed' THEN 'available'
            WHEN 'rerun' THEN 'blocked' WHEN 'awaiting' THEN 'blocked' ELSE v.kind END
    """,
    "a run's counters are wrong": """
        SELECT r.id FROM run r JOIN task_state s ON s.run_id = r.id
        GROUP BY r.id, r.running, r.succeeded, r.failed, r.skipped, r.cancelled
        HAVING r.running <> sum(CASE s.state WHEN 'running' THEN 1 ELSE 0 END)
        OR r.succeeded <> sum(CASE s.state WHEN 'succeeded' THEN 1 ELSE 0 END)
        OR r.failed <> sum(CASE s.state WHEN 'failed' THEN 1 ELSE 0 END)
        OR r.skipped <> sum(CASE s.state WHEN 'skipped' THEN 1 ELSE 0 END)
        OR r.cancelled <> sum(CASE s.state WHEN 'cancelled' THEN 1 ELSE 0 END)
    """,
    "a run is over before or after its tasks": f"""
        SELECT r.id, r.state FROM run r JOIN task_state s ON s.run_id = r.id
        GROUP BY r.id, r.state, r.finished_at
        HAVING (max(CASE WHEN s.state IN {_FINAL} THEN 0 ELSE 1 END) = 0)
            <> (r.state IN ('succeeded', 'failed', 'cancelled'))
        OR (r.state IN ('succeeded', 'failed', 'cancelled')) <> (r.finished_at IS NOT NULL)
    """,
    "P14 claimable in a paused run, or held in another": """
        SELECT s.task_id FROM task_state s JOIN run r ON r.id = s.run_id
        WHERE (s.state = 'available' AND r.state = 'paused') OR (s.state = 'held' AND r.state <> 'paused')
    """,
    "P13 claimable in a run that was cancelled": """
        SELECT s.task_id FROM task_state s JOIN run r ON r.id = s.run_id
        WHERE r.is_cancelling AND s.state IN ('blocked', 'available', 'held')
    """,
    "totals are wrong": f"""
        SELECT c.name, c.value FROM (SELECT name, sum(value) AS value FROM counter GROUP BY name) c
        WHERE (c.name = 'open'
               AND c.value <> (SELECT count(*) FROM task_state WHERE state NOT IN {_FINAL}))
        OR (c.name = 'running' AND c.value <> (SELECT count(*) FROM task_state WHERE state = 'running'))
    """,
}


def check(database: Database, when: str) -> None:
    """Raise with what is wrong and `when` it came about."""
    for what, query in BROKEN.items():
        found = rows(database, query)
        assert not found, f"{when}: {what}: {found[:5]}"

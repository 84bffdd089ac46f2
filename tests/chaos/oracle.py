"""Judges a history by plain SQL, the tasks' ledger and the fault ledger. Knows nothing of the engine's code.

The numbers of the checks are those of the invariants in docs/measurements.md.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
FINAL = {"succeeded", "failed", "skipped", "cancelled"}
OUTCOMES = {"succeeded", "failed", "cancelled", "retried", "retried_held", "awaiting"}


class Look:
    """Questions to a database, in plain SQL, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, query: str) -> list[Any]:
        if self._url.startswith("sqlite"):
            connection = sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30)
            try:
                return connection.execute(query).fetchall()
            finally:
                connection.close()
        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as other:
            return other.execute(query).fetchall()  # type: ignore[arg-type]

    def do(self, statement: str) -> None:
        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute(statement)  # type: ignore[arg-type]

    def one(self, query: str) -> Any:
        return self(query)[0][0]

    def is_over(self) -> bool:
        return not self.one("SELECT count(*) FROM run WHERE finished_at IS NULL")

    def holders(self) -> list[tuple[int, int]]:
        """(session, pid) of living sessions that hold leases."""
        return self(
            "SELECT DISTINCT s.id, s.pid FROM worker_session s JOIN task_state t ON t.session_id = s.id "
            "WHERE t.state = 'running' AND s.ended_at IS NULL ORDER BY s.id"
        )

    def late(self) -> int:
        return int(self.one("SELECT coalesce(sum(value), 0) FROM counter WHERE name = 'late'"))


@dataclass(frozen=True)
class Body:
    """One execution of a task's body, as the body itself wrote it down. Times are boot time."""

    task: int
    attempt: int
    token: str
    session: int
    pid: int
    start: float
    end: float | None


@dataclass
class Report:
    wrong: list[str] = field(default_factory=list)
    tasks: int = 0
    starts: int = 0
    repeats: int = 0  # Σ(starts − 1), without those that a planned failure explains
    late: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)  # from a kill until what it hit could be claimed

    def check(self, is_right: bool, text: str) -> None:
        if not is_right and len(self.wrong) < 50:
            self.wrong.append(text)

    def __str__(self) -> str:
        ordered = sorted(self.recoveries)
        recovery = "none"
        if ordered:
            recovery = f"median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s"
        return (
            f"{self.tasks} tasks, {self.starts} starts in {self.seconds:.1f} s, {self.repeats} repeated "
            f"after an interruption, {self.late} late outcomes; interrupted tasks claimable: {recovery}"
        )


def read_ledger(path: Path) -> list[Body]:
    starts: dict[tuple[int, int, str, int], tuple[int, float]] = {}
    ends: dict[tuple[int, int, str, int], float] = {}
    repeated = []
    for line in path.read_text().splitlines() if path.exists() else []:
        _, task, attempt, token, session, pid, word, at = line.split()
        key = (int(task), int(attempt), token, int(session))
        if word == "start":
            if key in starts:
                repeated.append(Body(*key, int(pid), float(at), None))
            starts[key] = (int(pid), float(at))
        else:
            ends[key] = float(at)
    bodies = [Body(*key, pid, at, ends.get(key)) for key, (pid, at) in starts.items()]
    return sorted(bodies + repeated, key=lambda body: body.start)


def judge(
    look: Look,
    ledger: Path,
    *,
    killed: Mapping[int, float] | None = None,
    stopped: Mapping[int, tuple[float, float]] | None = None,
    runs: int = 1,
    tasks: int,
    may_release: bool = False,
) -> Report:
    """`killed` and `stopped` say from when (to when) a session could not work; nothing else is an excuse.

    `may_release` also excuses attempts that a worker gave back because it could not reach the database.
    """
    killed, stopped = killed or {}, stopped or {}
    report = Report(tasks=tasks)
    bodies = read_ledger(ledger)
    by_task: dict[int, list[Body]] = {}
    for body in bodies:
        by_task.setdefault(body.task, []).append(body)
    report.starts = len(bodies)
    if bodies:
        report.seconds = max(body.end or body.start for body in bodies) - bodies[0].start
    report.late = look.late()

    # O1, O2: what was submitted is there, once
    report.check(look.one("SELECT count(*) FROM run") == runs, "O2: number of runs")
    report.check(look.one("SELECT count(*) FROM task") == tasks, "O1: number of tasks")

    # O3: nothing is stuck
    states = dict(look("SELECT task_id, state FROM task_state"))
    for task, state in states.items():
        report.check(state in FINAL, f"O3: task {task} is {state}")
    for run, state in look("SELECT id, state FROM run"):
        report.check(state in {"succeeded", "failed", "cancelled"}, f"O3: run {run} is {state}")

    # O4: stored counts are what a recount gives
    recount = (
        "SELECT c.task_id, c.waiting_on, (SELECT count(*) FROM edge e JOIN task_state p "
        "ON p.task_id = e.parent_id WHERE e.child_id = c.task_id AND p.state NOT IN "
        "('succeeded', 'failed', 'skipped', 'cancelled')) FROM task_state c"
    )
    for task, stored, counted in look(recount):
        report.check(stored == counted, f"O4: task {task} waits for {counted}, stored is {stored}")
    tallies = Counter(states.values())
    for total, succeeded, failed, skipped, running in [
        look("SELECT sum(total), sum(succeeded), sum(failed), sum(skipped), sum(running) FROM run")[0]
    ]:
        told = (total, succeeded, failed, skipped, running)
        found = (tasks, *(tallies[word] for word in ("succeeded", "failed", "skipped", "running")))
        report.check(told == found, f"O4: runs say {told}, tasks say {found}")

    # O10: events are numbered without gaps
    numbers = "SELECT r.id, r.event_count, count(e.number), coalesce(max(e.number), 0) FROM run r "
    for run, told, count, last in look(numbers + "LEFT JOIN event e ON e.run_id = r.id GROUP BY r.id"):
        report.check(told == count == last, f"O10: run {run} has {count} events up to {last}, says {told}")

    # O7: one outcome per attempt, nothing after the end; O8: attempts count 1, 2, 3
    events: dict[int, list[tuple[int, str, int | None]]] = defaultdict(list)
    rows = look("SELECT task_id, number, kind, attempt FROM event WHERE task_id IS NOT NULL ORDER BY number")
    for task, number, kind, attempt in rows:
        events[task].append((number, kind, attempt))
    ended: dict[int, int] = {}  # task → number of its final event
    first: dict[int, int] = {}
    for task, history in events.items():
        outcomes = Counter(attempt for _, kind, attempt in history if kind in OUTCOMES and attempt)
        started = [attempt for _, kind, attempt in history if kind == "started"]
        report.check(max(outcomes.values(), default=0) <= 1, f"O7: task {task} has two outcomes {history}")
        report.check(started == list(range(1, len(started) + 1)), f"O8: task {task} claims {started}")
        finals = [number for number, kind, _ in history if kind in FINAL]
        report.check(len(finals) == 1 and finals[0] == history[-1][0], f"O7: task {task} ended as {history}")
        ended[task] = finals[0] if finals else 0
        first[task] = next((number for number, kind, _ in history if kind == "started"), 0)
    recorded: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for task, number, word, session in look(
        "SELECT task_id, number, outcome, session_id FROM attempt ORDER BY task_id, number"
    ):
        recorded[task].append((number, word, session))
    for task, history in recorded.items():
        got = [number for number, _, _ in history]
        report.check(got == list(range(1, len(got) + 1)), f"O8: task {task} has attempts {got}")

    # O5: upstreams are committed, and their bodies over, before a body starts
    for parent, child in look("SELECT parent_id, child_id FROM edge"):
        if child not in by_task:
            continue
        report.check(ended.get(parent, 0) < first.get(child, 0), f"O5: {child} started before {parent} ended")
        above = [body.end for body in by_task.get(parent, []) if body.end is not None]
        is_after = bool(above) and min(above) <= by_task[child][0].start
        report.check(is_after, f"O5: body of {child} started before that of {parent} ended")

    # O6: only interrupted attempts are repeated; O8: what was recorded was said by who held the lease
    planned = dict.fromkeys(states, 0)
    for task, starts in by_task.items():
        per_attempt = Counter(body.attempt for body in starts)
        report.check(max(per_attempt.values()) == 1, f"O6: task {task} started an attempt twice: {starts}")
        holders = {body.attempt: body.session for body in starts}
        history = recorded[task]
        for number, word, session in history:
            report.check(
                holders.get(number, session) == session, f"O8: task {task} attempt {number}: session"
            )
            if word == "succeeded":
                report.check(number in holders, f"O8: task {task} attempt {number} succeeded without a body")
            if word == "crashed":
                report.check(session in killed or session in stopped, f"O6: {task}/{number} crashed unhurt")
            if word == "released":
                report.check(may_release, f"O6: {task}/{number} was released")
        planned[task] = sum(word == "failed" for _, word, _ in history[:-1])
        report.repeats += len(starts) - 1 - planned[task]

        # O9: attempts of a task do not overlap
        for earlier, later in pairwise(starts):
            end = earlier.end
            if earlier.session in killed and (end is None or end > killed[earlier.session]):
                end = killed[earlier.session]
            if earlier.session in stopped:
                end = min(end or float("inf"), stopped[earlier.session][0])
            if end is None and may_release:
                end = earlier.start
            report.check(
                end is not None and end <= later.start + 0.001, f"O9: task {task} overlaps: {earlier} {later}"
            )

    # Only who was killed too often has no body, and who was below such a one.
    for task in states.keys() - by_task.keys():
        words = {word for _, word, _ in recorded[task]}
        was_killed = states[task] == "failed" and words == {"crashed"}
        is_excused = was_killed or states[task] in {"skipped", "cancelled"}
        report.check(is_excused, f"O3: task {task} is {states[task]} without a body, after {words}")

    # P9: how soon what was interrupted could be claimed again
    now, boot_at_zero = time.time(), time.time() - time.clock_gettime(_BOOT)
    for session, at in look("SELECT session_id, finished_at FROM attempt WHERE outcome = 'crashed'"):
        hurt = killed.get(session) or stopped.get(session, (now,))[0]
        report.recoveries.append(_seconds(at) - boot_at_zero - hurt)
    return report


def _seconds(at: datetime | str) -> float:
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

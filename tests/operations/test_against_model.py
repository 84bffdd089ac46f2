"""Random graphs under random events, on every database, against the plain-Python model after each step."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import Conflict
from engine.model.graph import Dependency, Graph, Rule, TaskSpec
from engine.model.outcomes import Cancelled, Failed, Outcome, Released, Succeeded
from engine.model.records import Lease
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, tasks, totals, workers
from engine.store.database import Database
from tests import factories
from tests.factories import do, rows
from tests.operations.model import FINAL_RUN, ModelRun, ModelTask, Refused

EXAMPLES = int(os.environ.get("ENGINE_TEST_EXAMPLES", "60"))
_numbers = count(1)

# --- what is drawn


@st.composite
def specs(draw: st.DrawFn, prefix: str = "t", most: int = 8) -> tuple[TaskSpec, ...]:
    drawn = []
    for number in range(draw(st.integers(1, most))):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        condition = st.sampled_from([None, None, None, "x", "y"])
        drawn.append(
            TaskSpec(
                name=f"{prefix}{number}",
                kind="noop",
                depends_on=tuple(Dependency(f"{prefix}{p}", draw(condition)) for p in sorted(parents)),
                rule=draw(st.sampled_from([Rule.ALL_SUCCESS, Rule.ALL_SUCCESS, *Rule])),
                priority=draw(st.sampled_from([0, 0, 10])),
                retry=RetryPolicy(draw(st.integers(1, 2)), draw(st.integers(1, 2)), Backoff.FIXED, 0),
            )
        )
    return tuple(drawn)


_which = st.integers(0, 20)
OUTCOMES = ["succeed", "succeed", "succeed", "branch", "fail", "fail", "permanent", "release", "stopped"]
ACTIONS = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from([1, 2, 3, 100]), st.integers(0, 1)),
    st.tuples(st.just("claim"), st.sampled_from([1, 2, 3, 100]), st.integers(0, 1)),
    st.tuples(
        st.just("finish"), st.lists(st.tuples(_which, st.sampled_from(OUTCOMES)), min_size=1, max_size=4)
    ),
    st.tuples(
        st.just("finish"), st.lists(st.tuples(_which, st.sampled_from(OUTCOMES)), min_size=1, max_size=4)
    ),
    st.tuples(st.just("late"), _which, st.sampled_from(OUTCOMES)),
    st.tuples(st.just("repeat"), _which),
    st.tuples(st.sampled_from(["expire", "sign_off"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(["hold", "resume", "cancel", "retry", "retry"])),
    st.tuples(st.just("cancel_task"), _which),
    st.tuples(st.just("spawn"), _which, specs(prefix="s", most=3)),
)


def outcome_of(word: str) -> Outcome:
    match word:
        case "succeed":
            return Succeeded({"n": 1})
        case "branch":
            return Succeeded(branch="x")
        case "fail" | "permanent":
            return Failed("no", is_permanent=word == "permanent")
        case "release":
            return Released()
        case _:
            return Cancelled()


# --- the engine and the model side by side


class Pair:
    """One run in the database and in the model; each method is one event, and `check` compares."""

    def __init__(self, database: Database, graph: tuple[TaskSpec, ...]) -> None:
        self.database = database
        self.queue = f"q{next(_numbers)}"  # what an earlier example left over is not claimed here
        self.before = do(totals.read(database))
        self.sessions = [factories.session(database) for _ in range(2)]
        self.leases: list[Lease] = []
        self.recorded: list[tuple[Lease, Outcome]] = []
        self.lost: list[tuple[Lease, str]] = []  # and what is recorded of them
        self.refused = 0
        self.model = ModelRun([model_task(spec) for spec in graph])
        self.run_id = factories.submit(database, Graph(self._queued(graph))).run_id
        self.check()

    def _queued(self, graph: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        return tuple(replace(spec, queue=self.queue) for spec in graph)

    def step(self, action: tuple[Any, ...]) -> None:
        name, *arguments = action
        getattr(self, name)(*arguments)
        self.check()

    def claim(self, limit: int, session: int) -> None:
        free = self.model.named("available")
        leases = factories.claim(self.database, self.sessions[session], limit, queue=self.queue)
        assert len(leases) == min(limit, len(free))
        taken = [self.model.tasks[lease.name] for lease in leases]
        for task in taken:
            self.model.claim(task)
        assert [lease.attempt for lease in leases] == [task.attempt for task in taken]
        self.leases += leases

    def finish(self, chosen: list[tuple[int, str]]) -> None:
        batch: list[tuple[Lease, str]] = []
        for which, word in chosen:
            if self.leases:
                batch.append((self.leases.pop(which % len(self.leases)), word))
        ended = [(lease, outcome_of(word)) for lease, word in batch]
        assert factories.finish(self.database, *ended) == []
        self.recorded += ended
        for lease, word in batch:
            self._end(self.model.tasks[lease.name], word)

    def _end(self, task: ModelTask, word: str) -> None:
        match word:
            case "succeed" | "branch":
                self.model.succeed(task, "x" if word == "branch" else None)
            case "fail" | "permanent":
                self.model.fail(task, is_permanent=word == "permanent")
            case "release":
                self.model.release(task)
            case _:
                self.model.stop(task)

    def late(self, which: int, word: str) -> None:
        """An outcome from a lease that others have taken back changes nothing."""
        if self.lost:
            lease, recorded = self.lost[which % len(self.lost)]
            if recorded == word:
                return  # says what is known already
            assert factories.finish(self.database, (lease, outcome_of(word))) == [lease]
            self.refused += 1

    def repeat(self, which: int) -> None:
        """The answer of a finish was lost: the same again is recognised and changes nothing."""
        if self.recorded:
            assert factories.finish(self.database, self.recorded[which % len(self.recorded)]) == []

    def expire(self, session: int) -> None:
        self._lose(session, "crash", self.model.crash, self._expire)

    def sign_off(self, session: int) -> None:
        end = partial(workers.end, self.database, reason="stopped")
        self._lose(session, "release", self.model.release, end)

    def _expire(self, session_id: int) -> Any:
        [seen] = [one for one in do(workers.live(self.database)) if one.id == session_id]
        return workers.expire(self.database, seen, 0)

    def _lose(
        self, session: int, word: str, effect: Callable[[ModelTask], None], end: Callable[[int], Any]
    ) -> None:
        lost = [lease for lease in self.leases if lease.session_id == self.sessions[session]]
        assert do(end(self.sessions[session])) == len(lost)
        assert factories.claim(self.database, self.sessions[session], queue=self.queue) == []
        self.sessions[session] = factories.session(self.database)
        for lease in lost:
            self.leases.remove(lease)
            effect(self.model.tasks[lease.name])
            self.lost.append((lease, word))

    def control(self, operation: Any, effect: Callable[[], None]) -> None:
        try:
            effect()
        except Refused:
            try:
                do(operation)
            except Conflict:
                return
            raise AssertionError("accepted what the state of the run forbids") from None
        do(operation)

    def hold(self) -> None:
        self.control(runs.hold(self.database, self.run_id), self.model.hold)

    def resume(self) -> None:
        self.control(runs.resume(self.database, self.run_id), self.model.resume)

    def cancel(self) -> None:
        self.control(runs.cancel(self.database, self.run_id), self.model.cancel)

    def retry(self) -> None:
        self.control(runs.retry(self.database, self.run_id), self.model.retry)

    def cancel_task(self, which: int) -> None:
        task = list(self.model.tasks.values())[which % len(self.model.tasks)]
        task_id = factories.task_of(self.database, self.run_id, task.name).id
        self.control(tasks.cancel(self.database, task_id), lambda: self.model.cancel_task(task))

    def spawn(self, which: int, graph: tuple[TaskSpec, ...]) -> None:
        if not self.leases:
            return
        lease = self.leases[which % len(self.leases)]
        prefix = f"{len(self.model.tasks)}."
        renamed = tuple(_prefixed(spec, prefix) for spec in self._queued(graph))
        parent = self.model.tasks[lease.name]
        children = [model_task(spec) for spec in renamed]
        operation = tasks.spawn(self.database, lease, renamed, actor="worker")
        self.control(operation, lambda: self.model.spawn(parent, children))

    def drain(self) -> None:
        """Whatever happened, the run comes to its end when its tasks succeed."""
        if self.model.state == "paused":
            self.step(("resume",))
        while self.model.state not in FINAL_RUN:
            self.step(("claim", 100, 0))
            assert self.leases, "nothing runs and nothing can be claimed, but the run is open"
            self.step(("finish", [(0, "succeed")] * len(self.leases)))

    # --- comparing

    def check(self) -> None:
        self._check_tasks()
        self._check_run()
        self._check_events()
        self._check_attempts()
        self._check_totals()

    def _check_tasks(self) -> None:
        found = rows(
            self.database,
            "SELECT t.name, s.* FROM task t JOIN task_state s ON s.task_id = t.id WHERE t.run_id = :run",
            run=self.run_id,
        )
        model = self.model
        assert {row.name for row in found} == set(model.tasks)
        for row in found:
            task = model.tasks[row.name]
            expected: tuple[Any, ...] = (task.state, task.attempt, task.failures, task.crashes)
            assert (row.state, row.attempt, row.failures, row.crashes) == expected, row.name
            if task.state == "blocked":
                expected = (model.waiting_on(task), model.failed_on(task), model.missed_on(task))
                assert (row.waiting_on, row.failed_on, row.skipped_on) == expected, row.name
            # Enough is left to count off, so that no upstream's end can be refused by the database.
            assert row.waiting_on >= model.waiting_on(task), row.name
            if task.state == "running":
                assert bool(row.is_cancelling) == task.is_cancelling

    def _check_run(self) -> None:
        run = factories.run_of(self.database, self.run_id)
        model = self.model
        assert run.state == model.state
        assert run.is_cancelling == model.is_cancelling
        assert run.total == len(model.tasks)
        assert (run.started_at is not None) == model.has_started
        assert (run.finished_at is not None) == (model.state in FINAL_RUN)
        for state in ("running", "succeeded", "failed", "skipped", "cancelled"):
            assert getattr(run, state) == len(model.named(state)), state

    def _check_events(self) -> None:
        found = factories.events(self.database, self.run_id)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        assert factories.run_of(self.database, self.run_id).events == len(found)
        of_run = [e.kind for e in found if e.kind == "extended" or e.kind.startswith("run.")]
        assert of_run == self.model.events
        of_tasks: dict[str | None, list[str]] = defaultdict(list)
        for event in found:
            if event.kind != "extended" and not event.kind.startswith("run."):
                of_tasks[event.task_name].append(event.kind)
        assert of_tasks == {task.name: task.events for task in self.model.tasks.values() if task.events}

    def _check_attempts(self) -> None:
        found = rows(
            self.database,
            "SELECT t.name, a.number, a.outcome FROM task t JOIN attempt a ON a.task_id = t.id"
            " WHERE t.run_id = :run ORDER BY a.number",
            run=self.run_id,
        )
        words = defaultdict(list)
        for row in found:
            words[row.name].append(row.outcome)
            assert row.number == len(words[row.name])
        assert words == {task.name: task.words for task in self.model.tasks.values() if task.words}

    def _check_totals(self) -> None:
        gained = do(totals.read(self.database))
        gained.subtract(self.before)
        expected = Counter(self.model.totals)
        expected["running"] = len(self.model.named("running"))
        expected["open"] = len(self.model.named("blocked", "available", "held", "running"))
        expected["late"] = self.refused
        assert {k: v for k, v in gained.items() if v} == {k: v for k, v in expected.items() if v}


def model_task(spec: TaskSpec) -> ModelTask:
    rule = "all_done" if spec.rule is Rule.ALWAYS else str(spec.rule)
    parents = {dependency.name: dependency.condition for dependency in spec.depends_on}
    return ModelTask(spec.name, rule, parents, spec.retry.max_attempts, spec.retry.max_crashes)


def _prefixed(spec: TaskSpec, prefix: str) -> TaskSpec:
    edges = tuple(replace(edge, name=prefix + edge.name) for edge in spec.depends_on)
    return replace(spec, name=prefix + spec.name, depends_on=edges)


# --- the test


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(graph=specs(), actions=st.lists(ACTIONS, max_size=25))
def test_the_engine_does_what_the_model_says(
    database: Database, graph: tuple[TaskSpec, ...], actions: list[tuple[Any, ...]]
) -> None:
    pair = Pair(database, graph)
    for action in actions:
        pair.step(action)
    pair.drain()

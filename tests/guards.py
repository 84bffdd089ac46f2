"""Takes each guard out of a copy of the source and demands that its test fails.

    python -m tests.guards              all of them (minutes), two at a time
    python -m tests.guards fence beat   those whose name contains one of the words

A guard that can be deleted without a red test is not tested. `docs/guards.md` is the list to read;
`python -m tests.guards --table` prints its table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240
_COPIED = ("engine", "migrations", "tests", "pyproject.toml", "README.md", "alembic.ini")


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    keeps: str  # what would go wrong without it
    file: str
    old: str
    new: str
    test: str  # a pytest id, that has to fail


STORE = "engine/store"
FINISHES = "tests/store/test_finish_races.py"
CLAIMS = "tests/store/test_claim_races.py"
CONTROLS = "tests/store/test_control_races.py"
SUBMITS = "tests/store/test_submit_races.py"
SESSIONS = "tests/store/test_session_races.py"
TASKS = "tests/operations/test_tasks.py"
RUNS = "tests/operations/test_runs.py"
CLAIM = "tests/store/test_claim.py"
DATABASE = "tests/store/test_database.py"

GUARDS = [
    Guard(
        "token fence in finish",
        "a late outcome would be recorded over a newer attempt",
        f"{STORE}/tasks.py",
        "        lambda rows: task_state.c.token == rows.c.token,  # the fence\n",
        "",
        f"{TASKS}::test_outcome_of_a_lost_lease_changes_nothing",
    ),
    Guard(
        "token fence in log lines",
        "lines of a lost attempt would mix with those of its successor",
        f"{STORE}/workers.py",
        "        task_state.c.token == rows.c.token,\n        task_state.c.attempt == rows.c.attempt,\n",
        "",
        f"{TASKS}::test_log_lines_of_a_lost_lease_are_dropped",
    ),
    Guard(
        "token fence in progress and spawn",
        "a lost attempt would add tasks and overwrite progress",
        f"{STORE}/workers.py",
        "        task_state.c.token == lease.token,\n",
        "",
        f"{TASKS}::test_a_lost_lease_adds_no_tasks",
    ),
    Guard(
        "state beside the token in progress and spawn",
        "a lease that was taken back, and not claimed anew yet, would still count",
        f"{STORE}/workers.py",
        "        is_still(task_state.c.state, TaskState.RUNNING),\n    )\n\n\ndef holds",
        "    )\n\n\ndef holds",
        f"{TASKS}::test_progress_of_a_lost_lease_is_refused",
    ),
    Guard(
        "fence by attempt in a batch",
        "an earlier attempt's outcome would be recorded beside the current one's",
        f"{STORE}/tasks.py",
        "    return [ending for ending in endings if ending.fence in written]",
        "    return [e for e in endings if e.lease.task_id in {task_id for task_id, _ in written}]",
        f"{TASKS}::test_an_earlier_and_the_current_attempt_in_one_batch",
    ),
    Guard(
        "first of two endings in a batch",
        "one attempt said twice would fail the whole batch",
        f"{STORE}/tasks.py",
        "    endings = list(firsts.values())\n",
        "",
        f"{TASKS}::test_of_two_outcomes_in_one_batch_the_first_counts",
    ),
    Guard(
        "recognition of what was recorded",
        "a repeated outcome would be reported as lost after a lost answer",
        "engine/operations/tasks.py",
        "    earlier = store.recorded_attempts(tx, [ending.fence for ending in missing])",
        "    earlier: dict[tuple[int, int], str] = {}",
        f"{TASKS}::test_an_outcome_that_was_recorded_is_recognised",
    ),
    Guard(
        "state in every move",
        "a task could change from any state into any other",
        f"{STORE}/moves.py",
        "            is_still(task_state.c.state, *sources),\n",
        "",
        "tests/store/test_moves.py::test_a_move_changes_exactly_its_source_states",
    ),
    Guard(
        "rows locked in order before a finish",
        "two batches that share children would dead-lock",
        f"{STORE}/tasks.py",
        "    _lock_rows(tx, concerned)\n",
        "",
        f"{FINISHES}::test_parents_and_children_are_locked_in_id_order_before_anything_is_written",
    ),
    Guard(
        "the order of those locks",
        "as above: locked, but each batch in an order of its own",
        f"{STORE}/tasks.py",
        "        .order_by(task_state.c.task_id)\n"
        "        .with_for_update(of=task_state)\n    )\n\n\n@statement\ndef _told_to_stop",
        "        .order_by((task_state.c.task_id * sa.func.pg_backend_pid()) % 997)\n"
        "        .with_for_update(of=task_state)\n    )\n\n\n@statement\ndef _told_to_stop",
        f"{FINISHES}::test_parents_and_children_are_locked_in_id_order_before_anything_is_written",
    ),
    Guard(
        "work alone where a success can skip",
        "what is skipped lies below the locked rows: dead-locks until the database seems down",
        f"{STORE}/tasks.py",
        "    return reach is Reach.SKIP or (",
        "    return (",
        f"{FINISHES}::test_finishers_of_a_run_work_alone_where_a_success_can_skip",
    ),
    Guard(
        "SKIP LOCKED in claim",
        "claimers would queue behind each other",
        f"{STORE}/tasks.py",
        ".with_for_update(skip_locked=True, of=waiting)",
        ".with_for_update(of=waiting)",
        f"{CLAIMS}::test_a_claim_leaves_what_another_is_taking",
    ),
    Guard(
        "lock in claim",
        "two claimers would get one task",
        f"{STORE}/tasks.py",
        "        .with_for_update(skip_locked=True, of=waiting)\n",
        "",
        f"{CLAIMS}::test_eight_claimers_take_everything_exactly_once",
    ),
    Guard(
        "limit asserted after a claim",
        "a plan that runs the sub-select per row would hand out a whole queue",
        f"{STORE}/tasks.py",
        '    assert len(rows) <= request.limit, f"{len(rows)} rows claimed for a limit of {request.limit}"\n',
        "",
        f"{CLAIM}::test_more_rows_than_asked_for_are_refused_before_anything_commits",
    ),
    Guard(
        "live session in claim",
        "a worker that was declared dead would start tasks",
        f"{STORE}/tasks.py",
        "            alive,\n",
        "",
        f"{CLAIMS}::test_a_claim_by_a_session_that_has_ended_takes_nothing",
    ),
    Guard(
        "beat compared when a session is ended",
        "a sweeper that looked too long ago would end a healthy session",
        f"{STORE}/workers.py",
        "        update = update.where(worker_session.c.beat == beat)\n",
        "        pass\n",
        f"{SESSIONS}::test_a_beat_saves_the_session",
    ),
    Guard(
        "a session ends once",
        "two sweepers would both take its tasks back",
        "engine/operations/workers.py",
        '    if not workers.end(tx, session.id, "heartbeat lost", session.beat):\n        return None\n',
        '    workers.end(tx, session.id, "heartbeat lost", session.beat)\n',
        f"{SESSIONS}::test_of_two_expirers_one_takes_the_tasks",
    ),
    Guard(
        "sessions kept while they hold tasks",
        "tasks of a forgotten session would run for ever",
        f"{STORE}/workers.py",
        "        worker_session.c.ended_at < cutoff, worker_session.c.id.not_in(_holding())\n",
        "        worker_session.c.ended_at < cutoff\n",
        f"{SESSIONS}::test_a_forgotten_session_does_not_strand_what_it_holds",
    ),
    Guard(
        "advisory share in finish",
        "a pause would miss what a finisher is releasing",
        f"{STORE}/tasks.py",
        "        tx.dialect.share_runs(tx, run_ids)\n",
        "        pass\n",
        f"{CONTROLS}::test_a_pause_waits_for_a_finisher_and_holds_what_it_released",
    ),
    Guard(
        "advisory share in spawn",
        "tasks added during a pause would be claimable in it",
        "engine/operations/tasks.py",
        "    tx.dialect.share_runs(tx, [lease.run_id])\n",
        "",
        f"{SUBMITS}::test_a_pause_holds_what_is_being_added",
    ),
    Guard(
        "advisory ownership in pause, cancel and retry",
        "as above, from the other side",
        f"{STORE}/runs.py",
        "    tx.dialect.own_runs(tx, [run_id])\n",
        "",
        f"{CONTROLS}::test_a_finisher_waits_for_a_pause_and_promotes_to_held",
    ),
    Guard(
        "promotion to held while paused",
        "a paused run would go on with what its running tasks release",
        f"{STORE}/resolve.py",
        "(held if row.run_id in paused else unblocked).add(row.task_id)",
        "unblocked.add(row.task_id)",
        f"{RUNS}::test_nothing_starts_between_pause_and_resume",
    ),
    Guard(
        "retry to held while paused",
        "a failed attempt would be made again in a paused run",
        f"{STORE}/tasks.py",
        "groups[Move.RETRY_HELD if ending.lease.run_id in paused else Move.RETRY]",
        "groups[Move.RETRY]",
        f"{RUNS}::test_a_failed_attempt_of_a_paused_run_is_held",
    ),
    Guard(
        "no new attempt after a cancel",
        "an attempt that failed before it heard of the cancel would start again",
        f"{STORE}/tasks.py",
        "            if ending.lease.task_id in told_to_stop:",
        "            if False:",
        f"{CONTROLS}::test_after_a_cancel_no_attempt_is_made_again",
    ),
    Guard(
        "nothing added after a cancel",
        "a running task would add tasks that start after the cancel",
        "engine/operations/tasks.py",
        "    if submits.is_cancelling(tx, lease.run_id):\n",
        "    if False and submits.is_cancelling(tx, lease.run_id):\n",
        f"{CONTROLS}::test_a_running_task_cannot_add_tasks_to_a_run_that_is_being_cancelled",
    ),
    Guard(
        "unique idempotency key",
        "two submits at once with one key would make two runs",
        f"{STORE}/keys.py",
        "        raise LostRace\n",
        "        pass\n",
        f"{SUBMITS}::test_one_run_for_one_key_however_many_submit_at_once",
    ),
    Guard(
        "fingerprint of an idempotency key",
        "another request under a used key would get the first one's run",
        "engine/operations/runs.py",
        "    if earlier.fingerprint != key.fingerprint:\n",
        "    if False:\n",
        f"{RUNS}::test_a_key_that_was_used_gives_the_same_run",
    ),
    Guard(
        "order of aliases",
        "submits of the same names in opposite orders would dead-lock",
        f"{STORE}/aliases.py",
        "        .order_by(rows.c.contract, rows.c.name),\n",
        "        .order_by(rows.c.task_id),\n",
        f"{SUBMITS}::test_names_are_locked_in_their_order",
    ),
    Guard(
        "a name dropped for the task it meant",
        "a delete that met a resubmission would hide the new task and cancel the old one",
        "engine/operations/tasks.py",
        "        raise LostRace  # a resubmission moved the name meanwhile: it means another task now\n",
        "        pass\n",
        f"{SUBMITS}::test_a_delete_that_met_a_resubmission_means_the_new_task",
    ),
    Guard(
        "counters last in submit",
        "a submit and a delete of one name would dead-lock over a counter",
        "engine/operations/runs.py",
        "    accepted = dict(zip(fresh, _insert(tx, list(fresh.values())), strict=True))\n",
        "    store.count_submitted(tx, [item.plan for item in fresh.values()])\n"
        "    accepted = dict(zip(fresh, _insert(tx, list(fresh.values())), strict=True))\n",
        f"{SUBMITS}::test_a_delete_and_a_resubmission_do_not_dead_lock",
    ),
    Guard(
        "counters last in spawn",
        "adding tasks and finishing others of the run would dead-lock",
        f"{STORE}/submits.py",
        "    [tally] = lock_tallies(tx, [run_id])\n    tally.total += len(task_ids)\n",
        "    count_submitted(tx, [plan])\n    [tally] = lock_tallies(tx, [run_id])\n"
        "    tally.total += len(task_ids)\n",
        f"{SUBMITS}::test_adding_tasks_and_finishing_do_not_dead_lock",
    ),
    Guard(
        "ownership before a prune",
        "a prune and a retry of one run would dead-lock",
        f"{STORE}/removal.py",
        "    tx.dialect.own_runs(tx, sorted(run_ids))\n",
        "",
        f"{CONTROLS}::test_a_retry_and_a_prune_do_not_dead_lock",
    ),
    Guard(
        "check_storable on results",
        "one bad result would fail its whole batch, or be stored as something else",
        "engine/operations/tasks.py",
        "        check_storable(result, max_values=MAX_RESULT_BYTES)\n",
        "",
        f"{TASKS}::test_unstorable_results_in_a_batch_fail_alone",
    ),
    Guard(
        "storable words of errors",
        "an error message with a NUL would fail its whole batch",
        "engine/operations/tasks.py",
        "    outcome = _legible(outcome)\n",
        "",
        f"{TASKS}::test_why_something_failed_is_kept_whatever_its_text",
    ),
    Guard(
        "depth in check_storable",
        "a result that is stored could not be read back",
        "engine/model/json.py",
        "            if depth > max_depth:\n",
        "    if False:\n",
        "tests/model/test_json.py::test_refused_with_the_reason",
    ),
    Guard(
        "duplicate edges collapse",
        "a child would wait for ever for an upstream that is counted twice",
        "engine/model/graph.py",
        "    for parent, child, _ in edges:\n"
        "        children[parent].append(child)\n        waiting_on[child] += 1\n",
        "    for child, task in enumerate(tasks):\n        for dependency in task.depends_on:\n"
        "            children[position[dependency.name]].append(child)\n            waiting_on[child] += 1\n",
        f"{RUNS}::test_a_repeated_dependency_does_not_strand_the_child",
    ),
    Guard(
        "events numbered under the run's lock",
        "two commits would take one number, and a reader would skip events",
        f"{STORE}/moves.py",
        ".order_by(run.c.id).with_for_update()",
        ".order_by(run.c.id)",
        f"{CLAIMS}::test_an_event_number_is_not_taken_before_the_one_below_is_committed",
    ),
    Guard(
        "counted off only for accepted rows",
        "a late outcome would count an upstream off a second time",
        f"{STORE}/tasks.py",
        "    if not accepted:\n        return set(), []\n    _write_attempts(tx, accepted)\n    settled = {\n"
        "        change.task_id: change.target\n        for change in changes\n"
        "        if change.task_id in concerned and change.target in FINAL_TASK_STATES\n    }\n",
        "    _write_attempts(tx, accepted)\n    settled = {\n"
        "        e.lease.task_id: TRANSITIONS[e.decision.move].target\n        for e in endings\n"
        "        if TRANSITIONS[e.decision.move].target in FINAL_TASK_STATES\n    }\n",
        f"{TASKS}::test_outcome_of_a_lost_lease_changes_nothing",
    ),
    Guard(
        "recount below what is retried",
        "an upstream that ends a second time would be counted off below zero, and never be recorded",
        f"{STORE}/runs.py",
        "        recounted.update(tx.execute(_done_below",
        "        set().update(tx.execute(_done_below",
        f"{RUNS}::test_what_ran_below_a_failure_does_not_break_the_retry",
    ),
    Guard(
        "own time of what has not started",
        "a retry would start tasks that were asked for at a later time",
        f"{STORE}/runs.py",
        "        available_at=sa.case((task_state.c.attempt == 0, task_state.c.available_at)),\n",
        "        available_at=None,\n",
        f"{RUNS}::test_a_retry_keeps_the_time_of_what_has_not_started",
    ),
    Guard(
        "crash budget",
        "a task that kills its workers would do so for ever",
        "engine/model/outcomes.py",
        "            if crashes >= lease.retry.max_crashes:\n",
        "    if False:\n",
        f"{CLAIM}::test_a_task_that_takes_its_workers_along_is_given_up",
    ),
    Guard(
        "times in UTC",
        "a server with another time zone would shift times by hours",
        f"{STORE}/dialects/postgres.py",
        "    if isinstance(type_, UtcDateTime):",
        "    if False and isinstance(type_, UtcDateTime):",
        f"{CLAIM}::test_times_are_utc_whatever_the_zone_of_the_session",
    ),
    Guard(
        "BEGIN IMMEDIATE",
        "a write after a read would fail whenever another commit came between",
        f"{STORE}/dialects/sqlite.py",
        '"BEGIN" if read_only else "BEGIN IMMEDIATE"',
        '"BEGIN"',
        f"{DATABASE}::test_a_transaction_writes_alone_from_its_beginning",
    ),
    Guard(
        "synchronous=FULL on every connection",
        "a power cut would lose acknowledged work",
        f"{STORE}/dialects/sqlite.py",
        '            connection.execute("PRAGMA synchronous = FULL")\n',
        '            connection.execute("PRAGMA synchronous = NORMAL")\n',
        f"{DATABASE}::test_every_connection_to_a_file_is_fully_synchronous",
    ),
    Guard(
        "synchronous_commit of our own",
        "a weaker default of the server would lose acknowledged work",
        f"{STORE}/dialects/postgres.py",
        'if synchronous == "off":',
        "if False:",
        f"{DATABASE}::test_synchronous_commit_of_the_server_cannot_weaken_ours",
    ),
    Guard(
        "rollback after a failed commit",
        "a busy commit would poison the connection for all that comes after",
        f"{STORE}/prepared.py",
        "                self.driver.rollback()\n",
        "                pass\n",
        f"{DATABASE}::test_a_commit_that_a_reader_held_up_is_made_again",
    ),
    Guard(
        "answer of a commit",
        "a transaction that Postgres rolled back would be reported as stored",
        f"{STORE}/dialects/postgres.py",
        '        if cursor.statusmessage != "COMMIT":',
        '        if False and cursor.statusmessage != "COMMIT":',
        f"{DATABASE}::test_a_commit_that_postgres_turned_into_a_rollback_is_no_success",
    ),
    Guard(
        "commit as a statement",
        "the driver would not commit while a pipeline is open, and say nothing",
        f"{STORE}/dialects/postgres.py",
        '        cursor = self.send("COMMIT")\n'
        "        self.leave()\n"
        '        if cursor.statusmessage != "COMMIT":',
        "        transaction.commit()\n        self.leave()\n        if False:",
        f"{DATABASE}::test_a_transaction_whose_last_statement_was_answered_is_committed",
    ),
    Guard(
        "end of stalled transactions",
        "a process stopped while it sends would keep its locks",
        f"{STORE}/dialects/postgres.py",
        "        return len(tx.execute(_END_STALLED).all())",
        "        return 0",
        f"{DATABASE}::test_a_process_stopped_while_it_sends_does_not_keep_its_locks",
    ),
    Guard(
        "locks for tasks that others wait for",
        "batches that share children would dead-lock, or release them twice",
        f"{STORE}/submits.py",
        "        elif reaches[parent] is Reach.ITSELF:\n            reaches[parent] = Reach.RELEASE\n",
        "",
        f"{RUNS}::test_a_large_graph_runs_to_its_end",
    ),
    Guard(
        "failing alone",
        "one bad submit would fail those that share its transaction",
        f"{STORE}/together.py",
        "            if len(calls) > 1:",
        "            if False and len(calls) > 1:",
        "tests/store/test_together.py::test_who_cannot_be_served_fails_alone",
    ),
    Guard(
        "no second try of a shared transaction",
        "submits whose commit went unanswered would be stored twice",
        f"{STORE}/together.py",
        "        except StoreUnavailable as error:  # nobody knows whether it was committed\n"
        "            answers = [error] * len(calls)\n",
        "",
        "tests/store/test_together.py::test_nothing_is_tried_again_when_nobody_knows_what_happened",
    ),
    Guard(
        "no rerun after an unknown commit",
        "a submit without a key would be made twice",
        f"{STORE}/database.py",
        "        return not committing and reruns == 1 and self.dialect.is_disconnect(error)",
        "        return reruns == 1 and self.dialect.is_disconnect(error)",
        "tests/crash/test_nth_call.py::test_a_commit_without_an_answer_is_not_made_again",
    ),
    Guard(
        "one transaction per finish",
        "a crash between outcome and release would strand the dependents",
        f"{STORE}/tasks.py",
        "    released = release_dependents(tx, settled, set(paused_runs.scalars()))\n",
        "    tx.execute(sa.text('COMMIT'))\n    tx.execute(sa.text('BEGIN'))\n"
        "    released = release_dependents(tx, settled, set(paused_runs.scalars()))\n",
        "tests/crash/test_crash.py::test_killed_at_a_sample_of_boundaries",
    ),
]


def main(words: list[str]) -> int:
    if words == ["--table"]:
        print(table())
        return 0
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    with ThreadPoolExecutor(int(os.environ.get("ENGINE_TEST_PROCESSES", "2"))) as threads:
        verdicts = list(threads.map(verdict, chosen))
    for guard, said in zip(chosen, verdicts, strict=True):
        if said:
            print(f"NOT TESTED: {guard.name}: {said}")
    print(f"{len(chosen) - sum(map(bool, verdicts))} of {len(chosen)} guards are tested")
    return int(any(verdicts))


def verdict(guard: Guard) -> str:
    """Empty if the test fails without the guard, otherwise what is wrong."""
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        copy = Path(folder)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        target = copy / guard.file
        text = target.read_text()
        if text.count(guard.old) != 1:
            return f"its text is {text.count(guard.old)} times in {guard.file}"
        target.write_text(text.replace(guard.old, guard.new))
        code, output = _run(copy, guard.test)
    said = {0: "its test passes without it", 1: ""}.get(code, f"pytest ended with {code}:\n{output[-2000:]}")
    print("." if not said else "F", end="", flush=True)
    return said


def _run(folder: Path, test: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "--timeout=120", test]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "took too long"  # it hangs without the guard, which is a way to fail
    return done.returncode, done.stdout


def table() -> str:
    lines = ["| guard | where | without it | test that fails |", "| --- | --- | --- | --- |"]
    for guard in GUARDS:
        test = guard.test.removeprefix("tests/")
        where = guard.file.removeprefix("engine/")
        lines.append(f"| {guard.name} | `{where}` | {guard.keeps} | `{test}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Guards of runs: submit, controls, removal, what is stored."""

from tests.guards.guard import Guard

STORE = "engine/store"
RETRY = "tests/operations/test_retry.py"
SUBMIT = "tests/operations/test_submits.py"
RUNS = "tests/operations/test_runs.py"
CLAIMS = "tests/store/test_claim_races.py"
CONTROLS = "tests/store/test_control_races.py"
SUBMITS = "tests/store/test_submit_races.py"
TASKS = "tests/operations/test_tasks.py"
CLAIM = "tests/store/test_claim.py"

GUARDS = [
    Guard(
        "advisory share in finish",
        "a pause would miss what a finisher is releasing",
        f"{STORE}/successes.py",
        "    tx.dialect.share_runs(tx, sorted({ending.lease.run_id for ending in endings}))\n",
        "    endings = list(endings)\n",
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
        "promotion to held while paused, at once",
        "a paused run would go on with what its running tasks release",
        f"{STORE}/moves.py",
        "        (is_paused, _target(Move.UNBLOCK_HELD)),\n",
        "",
        f"{RUNS}::test_nothing_starts_between_pause_and_resume",
    ),
    Guard(
        "retry to held while paused",
        "a failed attempt would be made again in a paused run",
        f"{STORE}/finishes.py",
        "    return Move.RETRY_HELD if ending.lease.run_id in paused else Move.RETRY\n",
        "    return Move.RETRY\n",
        f"{RUNS}::test_a_failed_attempt_of_a_paused_run_is_held",
    ),
    Guard(
        "a waiting task's row is locked",
        "a task would wait for ever if its last sub-task ended while it began to wait",
        f"{STORE}/endings.py",
        "if ending.decision.move is Move.AWAIT}",
        "if False}",
        "tests/store/test_finish_races.py::test_a_task_whose_last_sub_task_ends_meanwhile_goes_on",
    ),
    Guard(
        "a sub-task is no plain success",
        "its count would be lost where its task is claimed in the same statement",
        f"{STORE}/endings.py",
        " or reach is Reach.PARENT)",
        ")",
        "tests/store/test_claim.py::test_a_sub_task_s_end_is_counted_though_its_task_is_claimed_with_it",
    ),
    Guard(
        "no new attempt after a cancel",
        "an attempt that failed before it heard of the cancel would start again",
        f"{STORE}/finishes.py",
        "    if row is not None and row.is_cancelling:",
        "    if False:",
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
        "engine/operations/submits.py",
        "    if earlier.fingerprint != key.fingerprint:\n",
        "    if False:\n",
        f"{SUBMIT}::test_a_key_that_was_used_gives_the_same_run",
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
        "engine/operations/submits.py",
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
        "                if len(within) > max_depth:\n",
        "                if False:\n",
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
        f"{SUBMIT}::test_a_repeated_dependency_does_not_strand_the_child",
    ),
    Guard(
        "events numbered under the run's lock",
        "two commits would take one number, and a reader would skip events",
        f"{STORE}/booked.py",
        "            .with_for_update(of=run)\n",
        "",
        f"{CLAIMS}::test_an_event_number_is_not_taken_before_the_one_below_is_committed",
    ),
    Guard(
        "counted off only for accepted rows",
        "a late outcome would count an upstream off a second time",
        f"{STORE}/finishes.py",
        "    if not accepted:\n        return refused, []\n    settled = {\n"
        "        change.task_id: change.target\n        for change in changes\n"
        "        if change.task_id in concerned and change.target in FINAL_TASK_STATES\n    }\n",
        "    settled = {\n"
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
        f"{RETRY}::test_what_ran_below_a_failure_does_not_break_the_retry",
    ),
    Guard(
        "own time of what has not started",
        "a retry would start tasks that were asked for at a later time",
        f"{STORE}/runs.py",
        "        available_at=sa.case((task_state.c.attempt == 0, task_state.c.available_at)),\n",
        "        available_at=None,\n",
        f"{RETRY}::test_a_retry_keeps_the_time_of_what_has_not_started",
    ),
    Guard(
        "crash budget",
        "a task that kills its workers would do so for ever",
        "engine/model/outcomes.py",
        "            if crashes >= lease.retry.max_crashes:\n",
        "            if False:\n",
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
]

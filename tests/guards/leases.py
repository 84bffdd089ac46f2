"""Guards of claims, outcomes and sessions."""

from tests.guards.guard import Guard

STORE = "engine/store"
FINISHES = "tests/store/test_finish_races.py"
CLAIMS = "tests/store/test_claim_races.py"
SESSIONS = "tests/store/test_session_races.py"
TASKS = "tests/operations/test_tasks.py"
CLAIM = "tests/store/test_claim.py"

GUARDS = [
    Guard(
        "token fence in finish",
        "a late outcome would be recorded over a newer attempt",
        f"{STORE}/endings.py",
        "    fence = task_state.c.token == rows.c.token\n",
        "    fence = sa.true()\n",
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
        f"{STORE}/finishes.py",
        "    return [(ending, started[fence]) for ending in endings if (fence := ending.fence) in started]",
        "    return [(e, at) for e in endings for (i, _), at in started.items() if i == e.lease.task_id]",
        f"{TASKS}::test_an_earlier_and_the_current_attempt_in_one_batch",
    ),
    Guard(
        "fence by attempt in a batch, at once",
        "an earlier attempt's outcome would count as recorded beside the current one's",
        f"{STORE}/successes.py",
        "    return missing(endings, list(zip(told.ended_ids or (), told.ended_attempts or (),"
        " strict=True)))",
        "    return [e for e in endings if e.lease.task_id not in (told.ended_ids or ())]",
        f"{TASKS}::test_an_earlier_and_the_current_attempt_in_one_batch",
    ),
    Guard(
        "first of two endings in a batch",
        "one attempt said twice would fail the whole batch",
        f"{STORE}/finishes.py",
        "        firsts.setdefault(ending.fence, ending)\n",
        "        firsts[(*ending.fence, id(ending))] = ending  # type: ignore[index]\n",
        f"{TASKS}::test_of_two_outcomes_in_one_batch_the_first_counts",
    ),
    Guard(
        "recognition of what was recorded",
        "a repeated outcome would be reported as lost after a lost answer",
        "engine/operations/tasks.py",
        "    earlier = finishes.recorded_attempts(tx, [ending.fence for ending in refused])",
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
        f"{STORE}/endings.py",
        "    _lock_rows(tx, concerned, awaiting)\n",
        "",
        f"{FINISHES}::test_parents_then_children_are_locked_in_id_order_before_anything_is_written",
    ),
    Guard(
        "the order of those locks",
        "as above: locked, but each batch in an order of its own",
        f"{STORE}/endings.py",
        "        .order_by(both.c.generation, task_state.c.task_id)\n"
        "        .with_for_update(of=task_state)\n    )\n\n\n# --- shared parts",
        "        .order_by(task_state.c.task_id.desc())\n"
        "        .with_for_update(of=task_state)\n    )\n\n\n# --- shared parts",
        f"{FINISHES}::test_parents_then_children_are_locked_in_id_order_before_anything_is_written",
    ),
    Guard(
        "the order in which successes release",
        "two batches that share children would dead-lock",
        f"{STORE}/successes.py",
        "            .order_by(children.c.child_id)\n",
        "            .order_by(children.c.child_id.desc())\n",
        f"{FINISHES}::test_what_successes_release_is_written_in_id_order",
    ),
    Guard(
        "kinds and queue of what is handed over",
        "a worker would be given tasks that it cannot perform",
        f"{STORE}/successes.py",
        "        takes = sa.and_(once, *is_wanted(dialect, task_state))\n",
        "        takes = once\n",
        f"{CLAIM}::test_what_the_finisher_did_not_ask_for_is_left_to_others",
    ),
    Guard(
        "time of what is handed over",
        "a task would start before its delay is over",
        f"{STORE}/moves.py",
        "sa.not_(is_paused), at <= now)",
        "sa.not_(is_paused))",
        f"{CLAIM}::test_what_the_finisher_did_not_ask_for_is_left_to_others",
    ),
    Guard(
        "work alone where a success can skip",
        "what is skipped lies below the locked rows: dead-locks until the database seems down",
        f"{STORE}/endings.py",
        "    return reach.can_skip or (",
        "    return (",
        f"{FINISHES}::test_finishers_of_a_run_work_alone_where_a_success_can_skip",
    ),
    Guard(
        "SKIP LOCKED in claim",
        "claimers would queue behind each other",
        f"{STORE}/candidates.py",
        ".with_for_update(skip_locked=True, of=waiting)",
        ".with_for_update(of=waiting)",
        f"{CLAIMS}::test_a_claim_leaves_what_another_is_taking",
    ),
    Guard(
        "lock in claim",
        "two claimers would get one task",
        f"{STORE}/candidates.py",
        "        .with_for_update(skip_locked=True, of=waiting)\n",
        "",
        f"{CLAIMS}::test_eight_claimers_take_everything_exactly_once",
    ),
    Guard(
        "limit asserted after a claim",
        "a plan that runs the sub-select per row would hand out a whole queue",
        f"{STORE}/claims.py",
        '    assert len(leases) <= request.limit, f"{len(leases)} claimed for a limit of {request.limit}"\n',
        "",
        f"{CLAIM}::test_more_rows_than_asked_for_are_refused_before_anything_commits",
    ),
    Guard(
        "live session in claim",
        "a worker that was declared dead would start tasks",
        f"{STORE}/candidates.py",
        'dialect.is_any(rows.c.kind, "kinds"), is_alive()',
        'dialect.is_any(rows.c.kind, "kinds")',
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
]

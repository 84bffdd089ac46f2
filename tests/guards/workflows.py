"""Guards of what workflows add: limits, sagas, schedules, steps."""

from tests.guards.guard import Guard

STORE = "engine/store"
LIMITS = "tests/store/test_limits.py"
SAGAS = "tests/operations/test_sagas.py"
PLUGINS = "tests/operations/test_plugins.py"
SCHEDULES = "tests/operations/test_schedules.py"

GUARDS = [
    Guard(
        "locks on limits",
        "two claims at the same time would both count the same free slots",
        f"{STORE}/limits.py",
        "rows.order_by(concurrency_limit.c.key).with_for_update()",
        "rows.order_by(concurrency_limit.c.key)",
        f"{LIMITS}::test_claims_at_the_same_time_share_one_count",
    ),
    Guard(
        "limited tasks apart from others",
        "tasks with limits would be claimed as if they had none",
        f"{STORE}/candidates.py",
        'sa.bindparam("from_queue", type_=sa.Text), rows.c.limit_keys.is_(None)\n',
        'sa.bindparam("from_queue", type_=sa.Text), sa.true()\n',
        f"{LIMITS}::test_released_children_with_a_limit_are_not_handed_over",
    ),
    Guard(
        "room under every key",
        "a task would run though one of its limits is full",
        f"{STORE}/limits.py",
        "if len(chosen) < limit and all(left[key] > 0 for key in keys):",
        "if len(chosen) < limit and any(left[key] > 0 for key in keys):",
        f"{LIMITS}::test_a_task_needs_room_under_each_of_its_keys",
    ),
    Guard(
        "compensation by the failing transaction",
        "a crash after the failure would leave what was done as it is",
        f"{STORE}/finishes.py",
        "        sagas.settle(tx, run_ids)\n",
        "        pass\n",
        f"{SAGAS}::test_what_succeeded_is_undone_last_first",
    ),
    Guard(
        "runs of sagas end in steps",
        "a run that fails early and ends with a success would not be undone",
        "engine/model/graph.py",
        "        return self is Reach.SKIP or self is Reach.SAGA\n",
        "        return self is Reach.SKIP\n",
        f"{SAGAS}::test_the_run_ends_first_other_branches_go_on",
    ),
    Guard(
        "undo of the unknown",
        "a charge whose answer was lost would stay",
        f"{STORE}/sagas.py",
        '        is_unknown = not has_succeeded and (row.error or {}).get("code") in _UNKNOWN\n',
        "        is_unknown = False\n",
        f"{SAGAS}::test_a_step_of_which_nobody_knows_how_far_it_came_is_undone_too",
    ),
    Guard(
        "order of compensations",
        "what was built last has to be torn down first",
        f"{STORE}/sagas.py",
        "        .order_by(ended.c.number.desc(), task.c.id.desc())\n",
        "        .order_by(ended.c.number)\n",
        f"{SAGAS}::test_what_succeeded_is_undone_last_first",
    ),
    Guard(
        "no retry of what is undone",
        "tasks would run again beside the run that undoes them",
        "engine/operations/runs.py",
        "    if (compensations := sagas.compensating(tx, run_id)) is not None:\n",
        "    if (compensations := None) is not None:\n",
        f"{SAGAS}::test_a_run_that_is_undone_cannot_be_retried",
    ),
    Guard(
        "one decision for each time",
        "a time would start two runs",
        "engine/operations/schedules.py",
        '    if not store.decide(tx, found.id, nominal, "started"):\n',
        '    if store.decide(tx, found.id, nominal, "started") is None:\n',
        f"{SCHEDULES}::test_a_time_that_was_decided_about_starts_nothing",
    ),
    Guard(
        "one teller of a run's events",
        "callbacks would be called twice",
        f"{STORE}/relays.py",
        ".where(relay.c.run_id == run_id).with_for_update(skip_locked=True)",
        ".where(relay.c.run_id == run_id)",
        "tests/operations/test_callbacks.py::test_processes_that_look_at_the_same_time_tell_once",
    ),
    Guard(
        "told once the run is reopened",
        "nobody would be told what became of a run that was retried",
        "engine/operations/runs.py",
        "    relays.reopen(tx, run_id)\n",
        "    pass\n",
        f"{PLUGINS}::test_a_run_that_goes_on_after_its_end_is_told_of_again",
    ),
    Guard(
        "a release is no retry",
        "a task that was given back would be told as one that failed",
        "engine/model/plugins.py",
        "        case Move.RETRY | Move.RETRY_HELD if happening.outcome in _TRIED:\n",
        "        case Move.RETRY | Move.RETRY_HELD:\n",
        f"{PLUGINS}::test_a_task_that_is_given_back_is_not_told_as_retried",
    ),
    Guard(
        "no time of a pause",
        "a schedule that is resumed would start runs for all that passed",
        "engine/operations/schedules.py",
        "queued_at=None, next_at=_cron(found, found.anchor_at).next(now)\n",
        "queued_at=None\n",
        f"{SCHEDULES}::test_a_paused_schedule_starts_nothing_and_goes_on_with_the_next_time",
    ),
    Guard(
        "an operator's limit",
        "whoever submits tasks could lift a limit that an operator has set",
        f"{STORE}/limits.py",
        "        if key not in fixed and known.get(key) != at_most\n",
        "        if known.get(key) != at_most\n",
        "tests/operations/test_limits.py::test_tasks_do_not_change_what_an_operator_has_said",
    ),
    Guard(
        "an operator's limit, once more",
        "two that look at the same time: the one that submits would still overwrite it",
        f"{STORE}/limits.py",
        "        where=None if by_operator else sa.not_(concurrency_limit.c.is_fixed),\n",
        "",
        "tests/store/test_submit_races.py::test_a_limit_that_an_operator_sets_meanwhile_stays",
    ),
    Guard(
        "sub-tasks count for their task",
        "a run would fail, and a saga be undone, though the failure is tolerated",
        f"{STORE}/bookkeeping.py",
        "    _count_awaited(tx, changes)\n",
        "",
        "tests/worker/test_sub_tasks.py::test_so_many_may_fail",
    ),
    Guard(
        "events in pages of so many bytes",
        "a few large results would be more than one statement can hold, and block all that follow",
        "engine/operations/relays.py",
        "place == _EVENTS or calls.size > _BYTES",
        "place == _EVENTS",
        "tests/operations/test_callbacks.py::test_events_are_dealt_with_in_pages_of_so_many_bytes",
    ),
    Guard(
        "an unknown plug-in uses no attempt",
        "an event would be lost where programs with other plug-ins share the database",
        "engine/executors/plugin.py",
        "            if _is_bound(context.lease.client):  # whoever bound it has it\n"
        "                return elsewhere(context.lease, str(error), error.code)\n",
        "",
        "tests/sdk/test_plugins.py::test_an_event_waits_for_a_worker_that_has_the_plug_in",
    ),
]

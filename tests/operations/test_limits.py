"""Limits that operators set, and the one that holds for every task."""

from __future__ import annotations

import pytest

from engine.errors import GraphError, InvalidInput, NotFound
from engine.model.graph import EVERY_TASK, Graph, Limit
from engine.model.records import LimitUse
from engine.operations import limits, submits, tasks
from engine.store.claims import ClaimRequest
from engine.store.database import Database
from tests.factories import KIND, do, session, spec


def claimed(database: Database, session_id: int, at_most: int = 100) -> int:
    """How many tasks one look at both kinds of tasks gives."""
    request = ClaimRequest(session_id, "f" * 32, "default", (KIND,), at_most)
    plain = do(tasks.claim(database, request, actor="worker"))
    limited, _ = do(tasks.claim_limited(database, request, "", actor="worker"))
    return len(plain) + len(limited)


def submit(database: Database, number: int, *given: Limit) -> None:
    specs = tuple(spec(f"t{place}", limits=given) for place in range(number))
    do(submits.submit(database, Graph(specs)))


def test_a_limit_holds_from_the_next_claim_on(database: Database) -> None:
    worker = session(database)
    submit(database, 5, Limit("few", 1))
    assert claimed(database, worker) == 1
    assert do(limits.put(database, "few", 3)) == LimitUse("few", 3, 1)
    assert claimed(database, worker) == 2
    assert do(limits.put(database, "few", 1)) == LimitUse("few", 1, 3)  # what runs goes on
    assert claimed(database, worker) == 0
    do(limits.lift(database, "few"))
    assert claimed(database, worker) == 2


def test_the_limit_of_every_task_holds_for_all_that_come_after_it(database: Database) -> None:
    worker = session(database)
    submit(database, 1)
    do(limits.put(database, EVERY_TASK, 3))
    submit(database, 4)
    submit(database, 4, Limit("few", 1))
    assert claimed(database, worker) == 1 + 3
    assert {use.key: use.running for use in do(limits.list_limits(database))}[EVERY_TASK] == 3
    do(limits.put(database, EVERY_TASK, 100))
    assert claimed(database, worker) <= 5  # those without another limit, and one of the others
    do(limits.lift(database, EVERY_TASK))
    submit(database, 2)
    assert claimed(database, worker) >= 2


def test_what_was_submitted_without_it_is_not_counted(database: Database) -> None:
    worker = session(database)
    submit(database, 2)
    do(limits.put(database, EVERY_TASK, 1))
    assert claimed(database, worker) == 2
    assert do(limits.list_limits(database)) == [LimitUse(EVERY_TASK, 1, 0)]


def test_tasks_cannot_name_it(database: Database) -> None:
    with pytest.raises(GraphError, match="operators set it"):
        submit(database, 1, Limit(EVERY_TASK, 1))


@pytest.mark.parametrize("at_most", [0, -1, 1_000_001])
def test_numbers_that_make_no_sense_are_refused(database: Database, at_most: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 1000000"):
        do(limits.put(database, "few", at_most))
    assert do(limits.list_limits(database)) == []


def test_a_limit_that_is_not_there_cannot_be_lifted(database: Database) -> None:
    with pytest.raises(NotFound, match="limit not found: none"):
        do(limits.lift(database, "none"))


def test_lists_have_pages(database: Database) -> None:
    for key in ("c", "a", "b"):
        do(limits.put(database, key, 2))
    assert [use.key for use in do(limits.list_limits(database, limit=2))] == ["a", "b"]
    assert [use.key for use in do(limits.list_limits(database, limit=2, offset=2))] == ["c"]


def test_tasks_do_not_change_what_an_operator_has_said(database: Database) -> None:
    worker = session(database)
    do(limits.put(database, "few", 2))
    submit(database, 5, Limit("few", 4))
    assert claimed(database, worker) == 2
    do(limits.lift(database, "few"))
    submit(database, 1, Limit("few", 3))  # now they may
    assert do(limits.list_limits(database)) == [LimitUse("few", 3, 2)]
    assert claimed(database, worker) == 1

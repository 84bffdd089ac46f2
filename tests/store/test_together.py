"""Calls that share a transaction: each with an answer of its own, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from engine.errors import IdempotencyMismatch, StoreUnavailable
from engine.operations import submits
from engine.store.database import Database, Transaction
from tests.factories import do, graph, rows, run_of


class Desk:
    """Work that waits, so that calls meet, and remembers who came together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def serve(self, tx: Transaction, names: Sequence[str]) -> list[str | BaseException]:
        self.batches.append(list(names))
        if len(self.batches) == 1:
            self.arrived.set()
            assert self.go_on.wait(30)
        for name in names:
            tx.execute(sa.text("INSERT INTO queue VALUES (:name)"), {"name": name})
        if "poison" in names:
            raise KeyError("poison")
        if "away" in names:
            raise StoreUnavailable("the database is away")
        return [ValueError(name) if name == "refused" else name.upper() for name in names]

    async def all(self, database: Database, first: str, *others: str) -> list[Any]:
        """Answers to `first`, and to the others, which come while it is served."""
        calls = [asyncio.ensure_future(database.together(self.serve, first))]
        await asyncio.to_thread(self.arrived.wait, 30)
        calls += [asyncio.ensure_future(database.together(self.serve, name)) for name in others]
        await asyncio.sleep(0)  # each has joined the queue
        self.go_on.set()
        return await asyncio.gather(*calls, return_exceptions=True)


def stored(database: Database) -> set[str]:
    return {row.name for row in rows(database, "SELECT name FROM queue")} - {"default"}


def test_who_waits_goes_together(database: Database) -> None:
    desk = Desk()
    assert do(desk.all(database, "a", "b", "c", "d")) == ["A", "B", "C", "D"]
    assert desk.batches == [["a"], ["b", "c", "d"]]
    assert stored(database) == {"a", "b", "c", "d"}


def test_an_exception_among_the_answers_is_for_one_call(database: Database) -> None:
    answers = do(Desk().all(database, "a", "b", "refused"))
    assert answers[:2] == ["A", "B"] and isinstance(answers[2], ValueError)
    assert stored(database) == {"a", "b", "refused"}


def test_who_cannot_be_served_fails_alone(database: Database) -> None:
    desk = Desk()
    answers = do(desk.all(database, "a", "b", "poison", "c"))
    assert [answers[0], answers[1], answers[3]] == ["A", "B", "C"] and isinstance(answers[2], KeyError)
    assert desk.batches == [["a"], ["b", "poison", "c"], ["b"], ["poison"], ["c"]]
    assert stored(database) == {"a", "b", "c"}


def test_nothing_is_tried_again_when_nobody_knows_what_happened(database: Database) -> None:
    desk = Desk()
    answers = do(desk.all(database, "a", "b", "away"))
    assert answers[0] == "A" and all(isinstance(answer, StoreUnavailable) for answer in answers[1:])
    assert desk.batches == [["a"], ["b", "away"]]
    assert stored(database) == {"a"}


def at_once(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    async def gathered() -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    return do(gathered())


def test_submits_that_meet_are_as_alone(database: Database) -> None:
    """One run each, with its own actor; of one key one run; a name means the last that took it."""
    key, other = submits.Key("scope", "key", "hash"), submits.Key("scope", "key", "another hash")

    def submit(
        name: str, actor: str, key: submits.Key | None = None
    ) -> Coroutine[Any, Any, submits.Accepted]:
        return submits.submit(database, graph(name), actor=actor, contract="execgo", key=key)

    answers = at_once(
        submit("a", "first"),  # served alone, the others meanwhile meet
        submit("a", "ann"),
        submit("b", "bob", key),
        submit("b", "bob", key),
        submit("c", "eve", other),
        submit("a -> d", "dan"),
    )
    mismatch = answers.pop(4)
    assert isinstance(mismatch, IdempotencyMismatch)
    first, ann, bob, again, dan = answers
    assert (again.run_id, again.task_ids, again.is_repeat) == (bob.run_id, bob.task_ids, True)
    assert len({first.run_id, ann.run_id, bob.run_id, dan.run_id}) == 4
    assert len(rows(database, "SELECT id FROM run")) == 4
    assert [run_of(database, one.run_id).total for one in (first, ann, bob, dan)] == [1, 1, 1, 2]
    actors = {row.run_id: row.actor for row in rows(database, "SELECT run_id, actor FROM event")}
    assert [actors[one.run_id] for one in (first, ann, bob, dan)] == ["first", "ann", "bob", "dan"]
    aliases = {row.name: row.task_id for row in rows(database, "SELECT name, task_id FROM alias")}
    assert aliases == {"a": dan.task_ids["a"], "b": bob.task_ids["b"], "d": dan.task_ids["d"]}


@pytest.mark.parametrize("count", [1000])
def test_many_small_submits_all_arrive(database: Database, count: int) -> None:
    answers = at_once(*(submits.submit(database, graph(f"t{number}")) for number in range(count)))
    assert len({answer.run_id for answer in answers}) == count
    [row] = rows(database, "SELECT count(*) AS tasks FROM task_state WHERE state = 'available'")
    assert row.tasks == count

"""The clock itself: who waits on it, and which databases can have one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from engine.errors import ConfigError, InvalidInput
from engine.store.clock import Clock
from engine.store.database import Database
from engine.store.schedules import now
from engine.testing import Harness, VirtualClock
from engine.testing.clock import START

pytestmark = pytest.mark.anyio


def test_only_a_database_in_memory_can_have_a_clock(database_url: str) -> None:
    with pytest.raises(ConfigError, match="in memory"):
        Database(database_url, clock=VirtualClock())


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        VirtualClock(datetime(2026, 1, 1))


def test_the_database_asks_the_clock_and_its_times_never_repeat() -> None:
    clock = VirtualClock()
    database = Database("sqlite://", clock=clock)
    try:
        seen = [database.read_sync(now) for _ in range(3)]
        assert seen[0] > START and seen == sorted(set(seen)) and seen[-1] < START + timedelta(seconds=1)
        clock.advance(days=1, hours=2)
        assert database.read_sync(now) - seen[-1] >= timedelta(days=1, hours=2)
        later = "SELECT engine_later(1000) > engine_now(), engine_later(1000) < engine_later(2000)"
        assert database.read_sync(lambda tx: tuple(tx.execute(sa.text(later)).one())) == (1, 1)
    finally:
        database.close()


def test_it_never_goes_back() -> None:
    clock = VirtualClock()
    before = clock.advance(timedelta(hours=1))
    assert clock.move_to(START) == before == START + timedelta(hours=1)


async def test_those_who_wait_are_asleep_until_their_time_has_come() -> None:
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    come = {number: asyncio.Event() for number in (1, 2, 3)}
    waiting = [
        asyncio.create_task(clock.wait(1, come[1], 60.0)),
        asyncio.create_task(clock.wait(2, come[2], 120.0)),
        asyncio.create_task(clock.wait(3, come[3], None, 1.0)),
    ]
    await asyncio.sleep(0)
    assert clock.asleep == {1, 2, 3}
    assert clock.next_due == clock.moment + timedelta(seconds=60)
    clock.advance(seconds=90)
    assert clock.asleep == {2, 3}  # before it has had its turn
    await waiting[0]
    assert clock.next_due == START + timedelta(seconds=120)
    assert [clock.waits_for_a_signal(number) for number in (2, 3)] == [False, True]
    come[3].set()
    await waiting[2]
    clock.advance(seconds=30)
    await waiting[1]
    assert (clock.asleep, clock.next_due) == (frozenset(), None)


async def test_a_task_of_which_a_part_is_awake_is_awake() -> None:
    clock, come = VirtualClock(), asyncio.Event()
    waiting = [asyncio.create_task(clock.wait(1, event, 60.0)) for event in (come, asyncio.Event())]
    await asyncio.sleep(0)
    come.set()
    assert clock.asleep == frozenset()
    clock.advance(seconds=60)
    await asyncio.gather(*waiting)


async def test_without_a_clock_of_its_own_a_wait_takes_real_time() -> None:
    clock, come = Clock(), asyncio.Event()
    await clock.wait(1, come, 0.01)
    await clock.wait(1, come, 60.0, 0.01)
    await clock.wait(1, come, None, 0.01)
    assert not come.is_set()
    come.set()
    await clock.wait(1, come, None)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("by", "parts", "message"),
    [
        (None, {"days": -1}, "the clock never goes back, got -1 day"),
        (timedelta(seconds=-1), {}, "the clock never goes back"),
        (5, {}, "time is a timedelta, or hours=3 and the like, got 5"),
        (None, {"day": 1}, "time is given in days, hours, minutes, seconds and the like"),
        (None, {"hours": "3"}, "time is given in days"),
        (None, {"days": 10**12}, "time is given in days"),
    ],
)
async def test_time_goes_forward_by_lengths_of_time(by: Any, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        VirtualClock().advance(by, **parts)
    async with Harness() as engine:
        with pytest.raises(InvalidInput, match=message):
            await engine.advance(by, **parts)
        assert engine.clock.moment < START + timedelta(seconds=1)

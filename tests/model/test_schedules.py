"""Which nominal times fire when a scheduler looks, early, late or after a long silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import InvalidInput
from engine.model.cron import Cron
from engine.model.schedules import MAX_FIRES, CatchUp, ScheduleSpec, due

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTELY = Cron.parse("* * * * *")


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def fires(now: datetime, catch_up: CatchUp, limit: int = 100, cron: Cron = MINUTELY) -> list[float]:
    """Minutes after the start that fire."""
    found = due(cron, START, now, catch_up, limit)
    return [(time - START).total_seconds() / 60 for time in found.fires]


@pytest.mark.parametrize("catch_up", list(CatchUp))
@pytest.mark.parametrize("seconds", [0, 1, 59.9])
def test_a_time_that_has_just_come_fires_whatever_the_policy(catch_up: CatchUp, seconds: float) -> None:
    found = due(MINUTELY, START, START + timedelta(seconds=seconds), catch_up, 5)
    assert (found.fires, found.missed, found.next) == ([START], None, at(1))


@pytest.mark.parametrize(
    ("catch_up", "limit", "expected", "missed"),
    [
        (CatchUp.SKIP, 9, [], 3),
        (CatchUp.LAST, 9, [3], 2),
        (CatchUp.ALL, 9, [0, 1, 2, 3], None),
        (CatchUp.ALL, 2, [2, 3], 1),
    ],
)
def test_after_a_silence_the_policy_decides(
    catch_up: CatchUp, limit: int, expected: list[float], missed: float | None
) -> None:
    hourly = Cron.parse("0 * * * *")
    now = START + timedelta(hours=3, minutes=30)
    found = due(hourly, START, now, catch_up, limit)
    assert found.fires == [START + timedelta(hours=hour) for hour in expected]
    assert found.missed == (None if missed is None else START + timedelta(hours=missed))
    assert found.next == START + timedelta(hours=4)


def test_times_that_have_just_come_fire_beside_those_caught_up() -> None:
    assert fires(at(5), CatchUp.SKIP) == [4, 5]
    assert fires(at(5), CatchUp.LAST) == [4, 5]
    assert fires(at(5), CatchUp.ALL, limit=2) == [2, 3, 4, 5]


def test_many_times_fire_in_portions_and_none_twice() -> None:
    now, first, seen = at(500), START, []
    while first <= now:
        found = due(MINUTELY, first, now, CatchUp.ALL, 1_000)
        assert 0 < len(found.fires) <= MAX_FIRES and found.missed is None
        seen += found.fires
        assert found.next is not None
        first = found.next
    assert seen == [at(minute) for minute in range(501)]


def test_a_schedule_that_was_forgotten_for_years_is_no_work() -> None:
    each_second = Cron.parse("* * * * * *")
    found = due(each_second, START, START + timedelta(days=3650), CatchUp.ALL, 3)
    late = START + timedelta(days=3650) - timedelta(seconds=63)
    assert found.fires[:3] == [late, late + timedelta(seconds=1), late + timedelta(seconds=2)]
    assert found.missed == late - timedelta(seconds=1)


def test_a_time_of_an_expression_that_was_changed_since_still_counts() -> None:
    found = due(Cron.parse("30 * * * *"), START, START + timedelta(seconds=5), CatchUp.SKIP, 1)
    assert (found.fires, found.next) == ([START], START + timedelta(minutes=30))


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_that_makes_no_sense_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"catch_up_limit {limit} is outside 1 to 1000"):
        ScheduleSpec("s", "* * * * *", catch_up_limit=limit)


def test_a_wrong_expression_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="61"):
        ScheduleSpec("s", "61 * * * *")


def test_params_of_a_schedule_can_be_stored() -> None:
    for wrong in ({"q": object()}, {1: "x"}, {"q": float("nan")}):
        with pytest.raises(InvalidInput, match="params of a schedule cannot be stored: "):
            ScheduleSpec("s", "@hourly", params=wrong)

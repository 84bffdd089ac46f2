"""Cron expressions: properties, and years of many zones against an oracle."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.cron import DESCRIPTORS, Cron
from tests.model.cron_firings import BERLIN, HOUR, LORD_HOWE, NEW_YORK, SECOND
from tests.model.cron_oracle import Oracle, Walk, utc

# --- properties

ZONES = {
    "UTC": (2025, []),
    "Asia/Kolkata": (2025, []),
    BERLIN: (2025, ["2026-03-29T01:00", "2026-10-25T01:00"]),
    NEW_YORK: (2025, ["2026-03-08T07:00", "2026-11-01T06:00"]),
    LORD_HOWE: (2025, ["2026-04-04T15:00", "2026-10-03T15:30"]),
    "Africa/Cairo": (2025, ["2026-04-23T22:00", "2026-10-29T21:00"]),
    "Africa/Casablanca": (2025, ["2026-02-15T02:00", "2026-03-22T02:00"]),
    "America/Havana": (2025, ["2026-03-08T05:00", "2026-11-01T05:00"]),
    "America/Santiago": (2025, ["2026-04-05T03:00", "2026-09-06T04:00"]),
    "America/St_Johns": (2010, ["2010-03-14T03:31", "2010-11-07T02:31"]),  # at one minute past midnight
    "America/Caracas": (2015, ["2016-05-01T07:00"]),  # half an hour, for good
    "Antarctica/Troll": (2025, ["2026-03-29T01:00", "2026-10-25T01:00"]),  # two hours
    "Asia/Hebron": (2010, ["2011-07-31T21:00", "2011-08-29T22:00"]),  # several changes a year
    "Asia/Pyongyang": (2017, ["2018-05-04T15:00"]),
    "Pacific/Apia": (2011, ["2011-09-24T14:00", "2011-12-30T10:00"]),  # a day that never was
}
CHANGES = [(zone, utc(change)) for zone, (_, changes) in ZONES.items() for change in changes]


@st.composite
def field(draw: st.DrawFn, low: int, high: int) -> str:
    value = st.integers(low, high)
    span = st.tuples(value, value).map(lambda ends: f"{min(ends)}-{max(ends)}")
    step = st.integers(1, high - low)
    stepped = st.builds(lambda head, step: f"{head}/{step}", st.one_of(st.just("*"), value, span), step)
    some = st.lists(st.one_of(value.map(str), span, stepped), min_size=1, max_size=3).map(",".join)
    return draw(st.one_of(st.just("*"), value.map(str), some))


expressions = st.builds(
    " ".join,
    st.tuples(
        st.integers(0, 59).map(str) | field(0, 59),
        field(0, 59),
        field(0, 23),
        st.sampled_from(["*", "?", "L"]) | field(1, 28),
        st.just("*") | field(1, 12),
        st.sampled_from(["*", "?", "FRIL", "6#3", "MON-FRI", "SUN"]) | field(0, 6),
    ),
)
zones = st.sampled_from(sorted(ZONES))
moments = st.datetimes(datetime(1970, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC)) | st.builds(
    lambda change, seconds: change[1] + seconds * SECOND,
    st.sampled_from(CHANGES),
    st.integers(-7_200, 7_200) | st.integers(-100_000, 100_000),
)


@settings(deadline=None)
@given(expressions, zones, moments)
def test_upcoming_is_next_repeated_and_increasing(expression: str, zone: str, moment: datetime) -> None:
    schedule = Cron.parse(expression, zone)
    found = schedule.upcoming(moment, 5)
    assert all(later > firing for firing, later in pairwise([moment, *found]))
    for firing in found:
        moment = schedule.next(moment)
        assert moment == firing
    assert schedule.between(found[0], found[-1], 10) == found[1:]


@settings(deadline=None)
@given(expressions, zones, moments)
def test_previous_undoes_next(expression: str, zone: str, moment: datetime) -> None:
    schedule = Cron.parse(expression, zone)
    first, second = schedule.upcoming(moment, 2)
    assert schedule.previous(second) == first
    earlier = schedule.previous(first)
    assert earlier is not None and earlier <= moment and schedule.next(earlier) == first


@settings(deadline=None)
@given(expressions, zones, moments, st.integers(0, 10**6))
def test_next_is_the_same_from_wherever_one_asks(
    expression: str, zone: str, moment: datetime, share: int
) -> None:
    """Between a moment and the firing after it, nothing else may fire: there is nothing to skip."""
    schedule = Cron.parse(expression, zone)
    firing = schedule.next(moment)
    assert schedule.next(moment + (firing - moment) * (share / 1_000_001)) == firing


@settings(max_examples=60, deadline=None)
@given(expressions, st.sampled_from(CHANGES))
def test_any_expression_around_a_change_of_the_clock(expression: str, change: tuple[str, datetime]) -> None:
    zone, moment = change
    at_second_0 = expression.split(" ", 1)[1]
    compare(at_second_0, Walk(zone, moment - 3 * HOUR, moment + 6 * HOUR))


@settings(max_examples=50, deadline=None)
@given(expressions, zones, moments)
def test_next_never_searches_for_long(expression: str, zone: str, moment: datetime) -> None:
    """It takes some 10 µs, for the rarest days half a millisecond; the rest is room for a busy machine."""
    schedule = Cron.parse(expression, zone)
    assert min(seconds_to_find(schedule, moment) for _ in range(3)) < 0.02


def seconds_to_find(schedule: Cron, moment: datetime) -> float:
    started = time.perf_counter()
    schedule.next(moment)
    return time.perf_counter() - started


# --- the years of many zones (F38)

EXPRESSIONS = [
    *("0 0 * * *", "30 0 * * *", "0 1 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "0 3 * * *"),
    *("59 23 * * *", "30 23 * * *", "15 1,2,3 * * *", "0 0,12 * * *", "45 0-3 * * *", "0 */2 * * *"),
    *("30 1-23/2 * * *", "0 */6 * * *", "20 4/7 * * *", "0 0-22 * * *", "0 1-23 * * *", "*/30 1-3 * * *"),
    *("0 0 1 * *", "30 2 1,15 * *", "0 0 L * *", "30 2 L * *", "0 0 31 * *", "0 12 29 2 *", "0 0 30 12 *"),
    *("30 0 */2 * *", "30 2 28-31 * *", "0 0 1 1 *", "0 0 1 */3 *", "30 1 * 3,4,9-11 *", "15 2 5-25/5 * ?"),
    *("0 2 * * SUN", "30 2 * * 7", "0 0 ? * FRI", "30 0 * * 5,6", "0 9 * * MON-FRI", "30 1 * * SAT-SUN"),
    *("30 2 * * SUNL", "0 0 * * FRI#4", "30 1 * * SUN#1,0#2,7#5", "0 0 13 * FRI", "30 2 L 3,10 SUN"),
    *("0 3 */10 * 1/2", "@daily", "@weekly", "@monthly", "@yearly", "30 30 2 * * *", "0,30 15 0 * * *"),
    *("0 * * * *", "30 * * * *", "15 * * * SUN", "45 * 28-31 * *", "0 0-23 30 12 *", "5 * 29 10 THU"),
    *("*/5 * * * *", "*/5 0-5 * * *", "* * * * *", "*/10 2 * * SUN", "7,37 * * 3-11 *", "* 0,23 * * *"),
    *("*/20 * * * * *", "10 */7 2 * * *", "* * * * * *", "* 30-40 0-2 * * *"),
]  # fmt: skip


def compare(expression: str, walk: Walk) -> None:
    expected = Oracle(DESCRIPTORS.get(expression, expression)).firings(walk)
    schedule = Cron.parse(expression, walk.zone)
    found = schedule.between(walk.start - SECOND, walk.end - SECOND, 10**7)
    if found != expected:
        wrong = sorted(set(found) ^ set(expected))[:3]
        names = [
            f"{firing.astimezone(schedule.zone)} {'too much' if firing in found else 'missing'}"
            for firing in wrong
        ]
        pytest.fail(f"{expression} {walk.zone}: {', '.join(names)}")


def per_day(expression: str) -> int:
    oracle = Oracle(DESCRIPTORS.get(expression, expression))
    return len(oracle.of_day) * len(oracle.seconds)


@pytest.mark.parametrize("zone", ZONES)
def test_days_around_changes_of_the_clock_against_the_oracle(zone: str) -> None:
    """Expressions that fire up to once an hour, in the three days around two changes."""
    for change in (utc(text) for text in ZONES[zone][1] or ["2026-03-29T01:00"]):
        walk = Walk(zone, change - 36 * HOUR, change + 36 * HOUR)
        assert walk.changes == ([change] if ZONES[zone][1] else [])
        for expression in EXPRESSIONS:
            if per_day(expression) <= 24:
                compare(expression, walk)


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_two_years_against_the_oracle(zone: str) -> None:
    """All firings where they are at most hourly, the days around each change where they are more."""
    assert len(EXPRESSIONS) >= 60 and len(ZONES) >= 12
    years = Walk(zone, utc(f"{ZONES[zone][0]}-01-01"), utc(f"{ZONES[zone][0] + 2}-01-01"))
    changes = years.changes or [utc("2026-03-01")]
    for expression in EXPRESSIONS:
        daily = per_day(expression)
        if daily <= 24:
            compare(expression, years)
            continue
        reach = 36 * HOUR if daily <= 1440 else 4 * HOUR
        for change in changes:
            compare(expression, Walk(zone, change - reach, change + reach))

"""Cron expressions in time zones and where clocks change: promise P16."""

from __future__ import annotations

from itertools import pairwise

import pytest

from engine.errors import InvalidZone
from engine.model.cron import Cron
from tests.model.cron_firings import BERLIN, HOUR, LORD_HOWE, NEW_YEAR, NEW_YORK, firings, on_day
from tests.model.cron_oracle import utc

# --- zones


@pytest.mark.parametrize(
    "name",
    [
        *("Mars/X", "utc+1", "UTC+1", "GMT+3", "+01:00", "europe/berlin", "", " UTC", "UTC\x00"),
        *("../../etc/passwd", "/etc/passwd", "/usr/share/zoneinfo/UTC", "posix/UTC", "localtime", "Factory"),
        "x" * 10_000,
    ],
)
def test_zones_outside_the_list_are_refused_and_never_opened(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.model.zones.ZoneInfo", lambda name: pytest.fail(f"{name} was opened"))
    with pytest.raises(InvalidZone) as caught:
        Cron.parse("0 0 * * *", name)
    assert caught.value.code == "invalid_zone" and len(str(caught.value)) < 200


def test_a_refused_zone_says_what_may_have_been_meant() -> None:
    with pytest.raises(InvalidZone, match=r"did you mean Europe/Berlin\?"):
        Cron.parse("@daily", "europe/berlin")
    with pytest.raises(InvalidZone, match=r"a fixed UTC\+1 is Etc/GMT-1, whose sign is reversed"):
        Cron.parse("@daily", "utc+1")


def test_a_zone_with_plus_3_in_its_name_is_behind_utc() -> None:
    schedule = Cron.parse("0 0 * * *", "Etc/GMT+3")
    assert schedule.next(NEW_YEAR) == utc("2026-01-01T03:00")
    assert schedule.explain().endswith("Etc/GMT+3 (UTC-03:00)")


# --- daylight saving


@pytest.mark.parametrize(
    ("zone", "day", "expression", "expected"),
    [
        (BERLIN, "2026-03-29", "30 2 * * *", ["03:00+0200"]),
        (BERLIN, "2026-03-29", "0,15,30,45 2 * * *", ["03:00+0200"]),
        (BERLIN, "2026-03-29", "*/15 2 * * *", ["03:00+0200"]),
        (BERLIN, "2026-03-29", "0 2,3 * * *", ["03:00+0200"]),
        (BERLIN, "2026-03-29", "30 1-3 * * *", ["01:30+0100", "03:00+0200", "03:30+0200"]),
        (BERLIN, "2026-03-29", "59 1 * * *", ["01:59+0100"]),
        (NEW_YORK, "2026-03-08", "30 2 * * *", ["03:00-0400"]),
        (LORD_HOWE, "2026-10-04", "0,15,30 2 * * *", ["02:30+1100"]),
        ("Africa/Cairo", "2026-04-24", "0 0 * * *", ["01:00+0300"]),
        ("Africa/Cairo", "2026-04-24", "30 0 * * FRI", ["01:00+0300"]),
        ("America/Santiago", "2026-09-06", "0 0 * * *", ["01:00-0300"]),
        ("Antarctica/Troll", "2026-03-29", "30 1,2 * * *", ["03:00+0200"]),
    ],
)
def test_a_local_time_that_does_not_exist_fires_once_at_the_end_of_the_gap(
    zone: str, day: str, expression: str, expected: list[str]
) -> None:
    assert on_day(expression, day, zone) == expected


def test_a_day_that_does_not_exist_fires_once_at_the_end_of_the_gap() -> None:
    """Samoa went from 29 December 2011, 23:59 to 31 December."""
    at_noon = firings("0 12 * * *", "2011-12-29T10:00", 4, "Pacific/Apia")
    assert [firing[5:] for firing in at_noon] == [
        *("12-29 12:00:00-1000", "12-31 00:00:00+1400", "12-31 12:00:00+1400", "01-01 12:00:00+1400")
    ]
    assert firings("0 12 30 12 *", "2011-12-01", 1, "Pacific/Apia") == ["2011-12-31 00:00:00+1400"]
    assert firings("0 * 30 12 *", "2011-12-01", 1, "Pacific/Apia") == ["2012-12-30 00:00:00+1400"]


@pytest.mark.parametrize(
    ("zone", "day", "expression", "expected"),
    [
        (BERLIN, "2026-10-25", "30 2 * * *", ["02:30+0200"]),
        (BERLIN, "2026-10-25", "0 2,3 * * *", ["02:00+0200", "03:00+0100"]),
        (BERLIN, "2026-10-25", "*/30 2 * * *", ["02:00+0200", "02:30+0200"]),
        (BERLIN, "2026-10-25", "0 1-3/1 * * *", ["01:00+0200", "02:00+0200", "03:00+0100"]),
        (NEW_YORK, "2026-11-01", "30 1 * * *", ["01:30-0400"]),
        (LORD_HOWE, "2026-04-05", "45 1 * * *", ["01:45+1100"]),
        (LORD_HOWE, "2026-04-05", "0 2 * * *", ["02:00+1030"]),
        ("Africa/Cairo", "2026-10-29", "30 23 * * *", ["23:30+0300"]),
        ("America/Havana", "2026-11-01", "30 0 * * *", ["00:30-0400"]),
        ("Antarctica/Troll", "2026-10-25", "30 1,2 * * *", ["01:30+0200", "02:30+0200"]),
    ],
)
def test_a_local_time_that_occurs_twice_fires_the_first_time(
    zone: str, day: str, expression: str, expected: list[str]
) -> None:
    assert on_day(expression, day, zone) == expected


def test_asking_in_the_second_pass_of_an_overlap_does_not_answer_with_the_first() -> None:
    """In Berlin, 01:15 by UTC is the second 02:15 of that day."""
    assert firings("30,45 2 * * *", "2026-10-25T01:15", 1, BERLIN) == ["2026-10-26 02:30:00+0100"]
    assert firings("*/5 2,3 * * *", "2026-10-25T01:15", 1, BERLIN) == ["2026-10-25 03:00:00+0100"]
    assert firings("30 * * * *", "2026-10-25T01:15", 1, BERLIN) == ["2026-10-25 02:30:00+0100"]


@pytest.mark.parametrize("expression", ["0 * * * *", "30 * * * *", "0 0-23 * * *", "7 */1 * * *", "@hourly"])
@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Africa/Cairo", "America/Havana", "Antarctica/Troll"])
def test_hourly_patterns_follow_elapsed_time(expression: str, zone: str) -> None:
    year = Cron.parse(expression, zone).upcoming(NEW_YEAR, 365 * 24)
    assert {later - firing for firing, later in pairwise(year)} == {HOUR}


def test_hours_of_a_clock_that_changes_by_half_an_hour_come_when_it_shows_them() -> None:
    assert firings("0 * * * *", "2026-10-03T14:00", 3, LORD_HOWE) == [
        "2026-10-04 01:00:00+1030",
        "2026-10-04 03:00:00+1100",
        "2026-10-04 04:00:00+1100",
    ]
    assert [firing[11:16] for firing in firings("0,30 * * * *", "2026-10-03T14:00", 4, LORD_HOWE)] == [
        *("01:00", "01:30", "02:30", "03:00")
    ]


def test_hours_count_as_named_unless_all_of_them_are() -> None:
    assert on_day("0 */2 * * *", "2026-10-25", BERLIN)[:3] == ["00:00+0200", "02:00+0200", "04:00+0100"]
    assert on_day("0 0-22 * * *", "2026-10-25", BERLIN)[2:4] == ["02:00+0200", "03:00+0100"]
    assert on_day("0 0-23 * * *", "2026-10-25", BERLIN)[2:4] == ["02:00+0200", "02:00+0100"]


def test_an_overlap_that_ends_a_day_belongs_to_an_hourly_pattern_of_that_day() -> None:
    """Cairo shows 29 October 2026, 23:00 to 24:00 twice, after which the pattern pauses for a year."""
    found = firings("30 * 29 10 *", "2026-10-29T20:00", 3, "Africa/Cairo")
    assert found == ["2026-10-29 23:30:00+0300", "2026-10-29 23:30:00+0200", "2027-10-29 00:30:00+0200"]


def test_leap_days_around_2100() -> None:
    assert [found[:10] for found in firings("0 0 29 2 *", "2092-03-01", 3)] == [
        *("2096-02-29", "2104-02-29", "2108-02-29")
    ]
    assert firings("0 0 ? 2 MON#5", "2072-03-01", 1) == ["2112-02-29 00:00:00+0000"]

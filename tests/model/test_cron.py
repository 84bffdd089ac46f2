"""Cron expressions: grammar, daylight saving by promise P16, and years of many zones against an oracle."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidCron, InvalidInput, InvalidZone, NeverFires
from engine.model.cron import DESCRIPTORS, Cron
from tests.model.cron_oracle import Oracle, Walk, utc

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NEW_YEAR = utc("2026-01-01")


def firings(expression: str, after: str, count: int = 3, zone: str = "UTC") -> list[str]:
    """The next firings as a wall clock in the zone shows them."""
    found = Cron.parse(expression, zone).upcoming(utc(after), count)
    return [f"{firing.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S%z}" for firing in found]


def on_day(expression: str, day: str, zone: str) -> list[str]:
    """All firings of a local day, as time and offset."""
    clock = ZoneInfo(zone)
    start = datetime.fromisoformat(day)
    # A second earlier by UTC, since what is later than midnight would leave out midnight itself.
    begin = start.replace(tzinfo=clock).astimezone(UTC) - SECOND
    end = (start + DAY).replace(tzinfo=clock).astimezone(UTC) - SECOND
    found = Cron.parse(expression, zone).between(begin, end, 100)
    return [f"{firing.astimezone(clock):%H:%M%z}" for firing in found]


# --- grammar


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 30 1 * * *", ["01-01 01:30:00", "01-02 01:30:00", "01-03 01:30:00"]),
        ("30 1 * * *", ["01-01 01:30:00", "01-02 01:30:00", "01-03 01:30:00"]),
        ("15 30 1 * * *", ["01-01 01:30:15", "01-02 01:30:15", "01-03 01:30:15"]),
        ("* * * * * *", ["01-01 00:00:01", "01-01 00:00:02", "01-01 00:00:03"]),
        ("*/20 * * * * *", ["01-01 00:00:20", "01-01 00:00:40", "01-01 00:01:00"]),
        ("*/25 * * * *", ["01-01 00:25:00", "01-01 00:50:00", "01-01 01:00:00"]),
        ("5/25 * * * *", ["01-01 00:05:00", "01-01 00:30:00", "01-01 00:55:00"]),
        ("10-30/10 2 * * *", ["01-01 02:10:00", "01-01 02:20:00", "01-01 02:30:00"]),
        ("0 2,1,2,05 * * *", ["01-01 01:00:00", "01-01 02:00:00", "01-01 05:00:00"]),
        ("0 0 1 jan,MAR *", ["03-01 00:00:00", "2027-01-01 00:00:00", "2027-03-01 00:00:00"]),
        ("0 0 ? * mon", ["01-05 00:00:00", "01-12 00:00:00", "01-19 00:00:00"]),
        ("0 0 * * MON-WED", ["01-05 00:00:00", "01-06 00:00:00", "01-07 00:00:00"]),
        ("0 0 * * 7", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 * * 0", ["01-04 00:00:00", "01-11 00:00:00", "01-18 00:00:00"]),
        ("0 0 * * 6-7", ["01-03 00:00:00", "01-04 00:00:00", "01-10 00:00:00"]),
        ("0 0 * * SAT-SUN", ["01-03 00:00:00", "01-04 00:00:00", "01-10 00:00:00"]),
        ("0 0 * * SUN-MON", ["01-04 00:00:00", "01-05 00:00:00", "01-11 00:00:00"]),
        ("0 0 * * 1/2", ["01-02 00:00:00", "01-05 00:00:00", "01-07 00:00:00"]),
        ("0 0 L * *", ["01-31 00:00:00", "02-28 00:00:00", "03-31 00:00:00"]),
        ("0 0 15,L * *", ["01-15 00:00:00", "01-31 00:00:00", "02-15 00:00:00"]),
        ("0 0 ? * FRI#2", ["01-09 00:00:00", "02-13 00:00:00", "03-13 00:00:00"]),
        ("0 0 * * 1#5", ["03-30 00:00:00", "06-29 00:00:00", "08-31 00:00:00"]),
        ("0 0 * * FRIL", ["01-30 00:00:00", "02-27 00:00:00", "03-27 00:00:00"]),
        ("0 0 * * 2L", ["01-27 00:00:00", "02-24 00:00:00", "03-31 00:00:00"]),
        ("0 0 * * 7L", ["01-25 00:00:00", "02-22 00:00:00", "03-29 00:00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
        ("\t0   0 29\n2 * ", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
    ],
)
def test_fields(expression: str, expected: list[str]) -> None:
    found = [found.removeprefix("2026-").removesuffix("+0000") for found in firings(expression, "2026-01-01")]
    assert found == expected


def test_days_of_month_and_of_week_are_alternatives_when_both_are_restricted() -> None:
    assert [day[5:10] for day in firings("0 0 13 * 5", "2026-01-01", 5)] == [
        *("01-02", "01-09", "01-13", "01-16", "01-23")
    ]
    assert [day[5:10] for day in firings("0 0 */10 * 5", "2026-01-01", 4)] == [
        *("01-02", "01-09", "01-11", "01-16")
    ]
    assert [day[5:10] for day in firings("0 0 1-31 * 5", "2026-01-01", 2)] == ["01-02", "01-03"]
    for open_day in ("*", "?", "*/1"):
        assert [day[5:10] for day in firings(f"0 0 {open_day} * 5", "2026-01-01", 2)] == ["01-02", "01-09"]
        assert [day[5:10] for day in firings(f"0 0 13 * {open_day}", "2026-01-01", 2)] == ["01-13", "02-13"]


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_are_six_fields(name: str) -> None:
    named, spelled = Cron.parse(name.upper()), Cron.parse(DESCRIPTORS[name])
    assert named.upcoming(NEW_YEAR, 5) == spelled.upcoming(NEW_YEAR, 5)


@pytest.mark.parametrize(
    ("expression", "field", "says"),
    [
        ("60 * * * *", "minute", "'60' is outside 0 to 59"),
        ("60 * * * * *", "second", "'60' is outside 0 to 59"),
        ("* 24 * * *", "hour", "0 to 23"),
        ("* * 0 * *", "day of month", "1 to 31"),
        ("* * 32 * *", "day of month", "1 to 31"),
        ("* * * 13 *", "month", "1 to 12"),
        ("* * * 0 *", "month", "JAN to DEC"),
        ("* * * * 8", "day of week", "0 to 7"),
        ("*/0 * * * *", "minute", "'*/0' has a step outside 1 to 59"),
        ("*/100 * * * *", "minute", "'*/100' has a step outside 1 to 59"),
        ("*/60 * * * *", "minute", "1 to 59"),
        ("0 */24 * * *", "hour", "1 to 23"),
        ("*/ * * * *", "minute", "step"),
        ("*/-1 * * * *", "minute", "step"),
        ("*/2/3 * * * *", "minute", "step"),
        ("5-1 * * * *", "minute", "'5-1' runs backwards"),
        ("0 0 * * FRI-MON", "day of week", "runs backwards"),
        ("1,,2 * * * *", "minute", "incomplete"),
        ("1- * * * *", "minute", "incomplete"),
        ("-1 * * * *", "minute", "incomplete"),
        ("1-2-3 * * * *", "minute", "'1-2-3'"),
        ("+1 * * * *", "minute", "'+1'"),
        ("1.5 * * * *", "minute", "'1.5'"),
        ("*,99 * * * *", "minute", "0 to 59"),
        ("0 0 *,99 * *", "day of month", "1 to 31"),
        ("? * * * *", "minute", "?"),
        ("0 0 ?/2 * *", "day of month", "? stands alone"),
        ("0 0 15W * *", "day of month", "W, the nearest working day"),
        ("0 0 LW * *", "day of month", "W, the nearest working day"),
        ("0 0 L-3 * *", "day of month", "L stands alone"),
        ("0 0 * * L", "day of week", "after a weekday"),
        ("L * * * *", "minute", "L"),
        ("0 0 * * 5#6", "day of week", "1 to 5"),
        ("0 0 * * 5#0", "day of week", "1 to 5"),
        ("0 0 * * 8#1", "day of week", "0 to 7"),
        ("0 0 * * MON-FRI#1", "day of week", "'MON-FRI#1'"),
        ("H * * * *", "minute", "write the number"),
        ("H/15 * * * *", "minute", "write the number"),
        ("H(0-7) * * * *", "minute", "write the number"),
        ("0 0 * * MONDAY", "day of week", "'MONDAY'"),
        ("0 0 * MON *", "month", "'MON'"),
        ("* * * *", "expression", "has 4 fields"),
        ("0 0 0 1 1 * 2026", "expression", "has 7 fields"),
        ("", "expression", "empty"),
        (" \n", "expression", "empty"),
        ("* " * 50_000, "expression", "limit is 1000"),
        ("٣ * * * *", "expression", "ASCII"),
        ("５ * * * *", "expression", "ASCII"),  # noqa: RUF001
        ("0\xa00 * * *", "expression", "ASCII"),
        ("0 0 * * *\x00", "expression", "ASCII"),
        ("TZ=UTC 0 0 * * *", "expression", "apart from the expression"),
        ("CRON_TZ=Mars/X 0 0 * * *", "expression", "apart from the expression"),
        ("@reboot", "expression", "@reboot is not supported"),
        ("@fortnightly", "expression", "@daily"),
        ("@daily 5", "expression", "'@daily 5' is unknown"),
        ("@every", "expression", "not a duration"),
        ("@every 5", "expression", "not a duration"),
        ("@every 1d", "expression", "not a duration"),
        ("@every -5m", "expression", "not a duration"),
        ("@every 1ns", "expression", "needs a duration"),
        ("@every 0s", "expression", "1s to"),
        ("@every 500ms", "expression", "whole seconds"),
        ("@every 1.5s", "expression", "whole seconds"),
        ("@every 99999999h", "expression", "1s to"),
    ],
)
def test_what_is_wrong_is_named(expression: str, field: str, says: str) -> None:
    with pytest.raises(InvalidCron) as caught:
        Cron.parse(expression)
    assert (caught.value.code, caught.value.field) == ("invalid_cron", field)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 2,4 *", "0 0 30,31 feb ?", "0 0 31 4,6,9,11 *"])
def test_what_has_no_day_never_fires(expression: str) -> None:
    with pytest.raises(NeverFires, match="never comes in month") as caught:
        Cron.parse(expression)
    assert caught.value.code == "never_fires"


def test_a_weekday_gives_an_impossible_date_its_days() -> None:
    assert firings("0 0 30 2 MON", "2026-01-01", 1) == ["2026-02-02 00:00:00+0000"]


@given(st.text(max_size=60) | st.text("0123456789*/-,?LW#H @everymon", max_size=60))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        schedule = Cron.parse(text)
    except InvalidCron:
        return
    assert schedule.next(NEW_YEAR) > NEW_YEAR
    assert schedule.explain()


def test_refusing_100_kilobytes_takes_no_time() -> None:
    started = time.perf_counter()
    for text in ("9" * 100_000, "*" * 100_000, "1," * 50_000 + " * * * *", "@every " + "1h" * 50_000):
        with pytest.raises(InvalidCron):
            Cron.parse(text)
    assert time.perf_counter() - started < 1


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

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


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


# --- @every


def test_every_counts_from_its_anchor_and_knows_no_daylight_saving() -> None:
    schedule = Cron.parse("@every 1h30m", BERLIN, anchor=utc("2026-03-28T23:10"))
    assert schedule.upcoming(utc("2026-03-29T00:00"), 3) == [
        *(utc("2026-03-29T00:40"), utc("2026-03-29T02:10"), utc("2026-03-29T03:40"))
    ]
    assert schedule.next(utc("2020-01-01")) == utc("2026-03-29T00:40")
    assert schedule.previous(utc("2026-03-29T00:40")) is None
    assert schedule.previous(utc("2026-03-29T00:40") + SECOND) == utc("2026-03-29T00:40")
    assert schedule.between(utc("2026-03-29T00:40"), utc("2026-03-29T03:40"), 9) == [
        *(utc("2026-03-29T02:10"), utc("2026-03-29T03:40"))
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("1m30s", 90), ("1.5h", 5400), (".5m", 30), ("1000ms", 1), ("1h0m0.000s", 3600)],
)
def test_every_reads_go_durations(text: str, seconds: int) -> None:
    first, second = Cron.parse(f"@every {text}").upcoming(NEW_YEAR, 2)
    assert second - first == seconds * SECOND


# --- asking


def test_times_come_in_any_offset_and_go_out_in_utc() -> None:
    after = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    found = Cron.parse("0 * * * *").next(after)
    assert found == utc("2026-01-01T07:00") and found.tzinfo is UTC


def test_next_and_previous_are_strict() -> None:
    schedule = Cron.parse("0 12 * * *")
    noon, moment = utc("2026-01-01T12:00"), timedelta(microseconds=1)
    assert (schedule.previous(noon), schedule.next(noon)) == (noon - DAY, noon + DAY)
    assert (schedule.previous(noon + moment), schedule.next(noon - moment)) == (noon, noon)


def test_between_leaves_out_the_start_takes_the_end_and_stops_at_the_limit() -> None:
    schedule = Cron.parse("0 12 * * *")
    noon = utc("2026-01-01T12:00")
    assert schedule.between(noon, noon + 2 * DAY, 10) == [noon + DAY, noon + 2 * DAY]
    assert schedule.between(noon, noon + 100 * DAY, 1) == [noon + DAY]
    assert schedule.between(noon, datetime.max.replace(tzinfo=UTC), 2) == [noon + DAY, noon + 2 * DAY]
    assert schedule.between(noon, noon, 10) == schedule.between(noon, noon - DAY, 10) == []
    assert schedule.between(noon, noon + DAY, 0) == schedule.upcoming(noon, 0) == []


@pytest.mark.parametrize(
    "moment", [datetime(2026, 1, 1), datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]
)
def test_moments_without_zone_or_far_away_are_refused(moment: datetime) -> None:
    schedule = Cron.parse("* * * * *", NEW_YORK)
    for ask in (schedule.next, schedule.previous):
        with pytest.raises(InvalidInput, match=r"accepted: "):
            ask(moment)


def test_nothing_is_previous_to_1900() -> None:
    assert Cron.parse("0 0 29 2 *").previous(utc("1904-02-29")) is None
    assert Cron.parse("0 0 29 2 *").previous(utc("1904-03-01")) == utc("1904-02-29")
    assert Cron.parse("0 0 29 2 *").next(utc("2999-12-31")) == utc("3004-02-29")


def test_the_text_is_the_expression_and_can_be_read_again() -> None:
    for text in ("0 30 1 * * *", "30 1 * * MON-fri", "@daily", "@every 1h30m"):
        schedule = Cron.parse(f" {text.replace(' ', '  ')}\n", BERLIN)
        assert str(schedule) == text
        assert Cron.parse(str(schedule), schedule.zone.key) == schedule


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 30 1 * * *", "At 01:30 every day, UTC"),
        ("15 0 9,17 * * *", "At 09:00:15 and 17:00:15 every day, UTC"),
        ("30 1 * * MON-FRI", "At 01:30 on Monday to Friday, UTC"),
        ("30 1 * * SAT,SUN", "At 01:30 on Saturday and Sunday, UTC"),
        ("* * * * * *", "Every second, UTC"),
        ("*/10 * * * * *", "Every 10 seconds, UTC"),
        ("30 * * * * *", "At second 30, every minute, UTC"),
        ("*/15 * * * *", "Every 15 minutes, UTC"),
        ("*/15 9-17 * * 1-5", "Every 15 minutes, in hours 9 to 17 on Monday to Friday, UTC"),
        ("5 * * * *", "At minute 5, every hour, UTC"),
        ("@hourly", "Every hour, UTC"),
        ("0 */2 * * *", "Every 2 hours, UTC"),
        ("5 */2 * * *", "At minute 5, every 2 hours, UTC"),
        ("0 0 1,15,L * *", "At 00:00 on days 1 and 15 and the last day of the month, UTC"),
        ("0 0 1 * MON", "At 00:00 on day 1 of the month or on Monday, UTC"),
        ("0 0 * * FRIL,MON#2", "At 00:00 on the second Monday and the last Friday of the month, UTC"),
        ("0 0 L 2,6-8 *", "At 00:00 on the last day of the month in February and June to August, UTC"),
        ("@every 90m", "Every 1h30m, counted from 1970-01-01 00:00:00 UTC"),
    ],
)  # fmt: skip
def test_explained_in_english(expression: str, words: str) -> None:
    assert Cron.parse(expression).explain() == words


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

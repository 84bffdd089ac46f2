"""Cron expressions: their grammar, and what can be asked of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidCron, InvalidInput, NeverFires
from engine.model.cron import DESCRIPTORS, Cron
from tests.model.cron_firings import BERLIN, DAY, NEW_YEAR, NEW_YORK, SECOND, firings
from tests.model.cron_oracle import utc

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
        ("@every", "expression", "whole seconds with a unit"),
        ("@every 5", "expression", "whole seconds with a unit"),
        ("@every 1d", "expression", "whole seconds with a unit"),
        ("@every -5m", "expression", "whole seconds with a unit"),
        ("@every 1ns", "expression", "whole seconds"),
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

"""When expressions fire, as people read clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from engine.model.cron import Cron
from tests.model.cron_oracle import utc

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NEW_YEAR = utc("2026-01-01")
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


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

"""Cursors: where in all runs of a workflow a reader is."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from engine.api.positions import Position
from engine.errors import InvalidInput


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.dictionaries(st.integers(1, 2**63 - 1), st.integers(0, 2**31 - 1), max_size=500),
)
def test_a_cursor_is_read_as_it_was_written(until: datetime, marks: dict[int, int]) -> None:
    position = Position.of_cursor(Position(until, marks).cursor())
    assert (position.until, position.marks) == (until, marks)


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    try:
        position = Position.of_cursor(text)
    except InvalidInput as error:
        assert "?after" in str(error)
    else:
        assert position.until.tzinfo is UTC


def test_a_cursor_fits_into_a_url_however_many_runs_are_alive() -> None:
    now = datetime.now(UTC)
    marks = {run_id * 1_000_003: 2**31 - run_id for run_id in range(1, 100_000)}
    cursor = Position(now, marks).cursor()
    assert len(cursor) < 7_800
    assert len(Position.of_cursor(cursor).marks) == 500

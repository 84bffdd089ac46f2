from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.durations import format_ms, parse_ms


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        *(("500ms", 500), ("45s", 45_000), ("2m30s", 150_000), ("1h", 3_600_000), ("1h5m", 3_900_000)),
        *(("1.5h", 5_400_000), (".5s", 500), ("1.s", 1_000), ("0.1s", 100), ("0s", 0), ("0", 0)),
        *(("1000us", 1), ("1000µs", 1), ("1000000ns", 1), ("1m1m", 120_000)),
    ],
)
def test_durations_as_go_writes_them(text: str, milliseconds: int) -> None:
    assert parse_ms(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "5d", "-5s", "+5s", "1e3s", "5S", "5s5", "1" * 50 + "s"]
)
def test_other_text_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write 500ms, 45s, 2m30s or 1h"):
        parse_ms(text)


def test_nothing_is_finer_than_a_millisecond() -> None:
    with pytest.raises(ValueError, match=r'"1\.5ms" is finer than a millisecond'):
        parse_ms("1.5ms")


@given(st.integers(0, 365 * 86_400_000))
def test_written_and_read_back(milliseconds: int) -> None:
    assert parse_ms(format_ms(milliseconds)) == milliseconds


def test_written_for_people() -> None:
    assert [format_ms(n) for n in (0, 1, 1_500, 45_000, 150_000, 3_600_000, 3_900_000)] == [
        *("0s", "1ms", "1500ms", "45s", "2m30s", "1h", "1h5m")
    ]

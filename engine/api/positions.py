"""Where a reader of a workflow is, and the cursor that says so: small, whatever runs there were before."""

from __future__ import annotations

import base64
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from engine.errors import InvalidInput
from engine.model.json import MAX_INT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR_RUNS = 500


@dataclass(slots=True)
class Position:
    """How far a reader of a workflow has come: `marks` are the numbers of the last events of runs.

    Of runs without a mark it has seen all up to their last end by `until`: everything if they ended by then
    and nobody retried them, nothing if they had not ended. So a position holds only runs that are alive or
    ended a moment ago, whatever there was before. The clock is the database's, and ends are compared with a
    time long enough ago that every transaction of then has been committed.
    """

    until: datetime
    marks: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of_cursor(cls, text: str) -> Position:
        """`0` is the beginning of everything. Raises `InvalidInput`."""
        if text == "0":
            return cls(EPOCH)
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            raw = base64.b64decode(padded, altchars=b"-_", validate=True)
            microseconds, *numbers = msgspec.msgpack.decode(raw, type=list[int])
            until = EPOCH + timedelta(microseconds=microseconds)
        except (ValueError, OverflowError, msgspec.MsgspecError):
            raise InvalidInput("?after: must be a cursor out of a message, or 0") from None
        marks, run_id = {}, 0
        for step, number in zip(numbers[::2], numbers[1::2], strict=False):
            run_id += step
            marks[run_id] = number
        if len(numbers) % 2 or any(not 0 < key <= MAX_INT for key in marks) or min([0, *marks.values()]) < 0:
            raise InvalidInput("?after: must be a cursor out of a message, or 0")
        return cls(until, marks)

    def cursor(self) -> str:
        """Text for URLs, some four characters for each run that is alive.

        Of very many the furthest are kept: what is left out comes again, and nothing is lost.
        """
        marks = self.marks
        if len(marks) > _CURSOR_RUNS:
            marks = dict(sorted(marks.items(), key=lambda mark: mark[1])[-_CURSOR_RUNS:])
        numbers = [(self.until - EPOCH) // timedelta(microseconds=1)]
        before = 0
        for run_id, number in sorted(marks.items()):
            numbers += (run_id - before, number)
            before = run_id
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(numbers)).decode("ascii").rstrip("=")

    def settle(self, horizon: datetime, runs: Container[int]) -> None:
        """All of `runs` has been seen, and all others ended by `horizon`: only these need marks."""
        self.until = max(self.until, horizon)
        self.marks = {run_id: number for run_id, number in self.marks.items() if run_id in runs}

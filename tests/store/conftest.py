from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.meeting import Meeting


@pytest.fixture
def meeting(row_locking_url: str) -> Iterator[Meeting]:
    """For tests whose transactions run side by side, on a database that can do that."""
    meeting = Meeting(row_locking_url)
    yield meeting
    meeting.close()

"""One of several writers to a SQLite file: `python -m tests.chaos.hammer URL SECONDS` prints its commits."""

from __future__ import annotations

import asyncio
import sys
import time

from engine.model.graph import Graph, TaskSpec
from engine.operations import submits
from engine.store.database import Database


async def hammer(url: str, seconds: float) -> int:
    database = Database(url, wake_others=False)
    commits, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await submits.submit(database, Graph((TaskSpec("a", "none"),)))
        commits += 1
    database.close()
    return commits


if __name__ == "__main__":
    print(asyncio.run(hammer(sys.argv[1], float(sys.argv[2]))))

"""A client that may be killed at any moment: submits keys one by one, writing down what was acknowledged.

`python -m tests.chaos.submitter URL FIRST LAST FILE`. Keys without an acknowledgement are sent again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from engine.errors import StoreUnavailable
from engine.model.graph import Dependency, Graph, TaskSpec
from engine.operations import submits
from engine.store.database import Database

TASKS = (TaskSpec("a", "none"), TaskSpec("b", "none", depends_on=(Dependency("a"),)), TaskSpec("c", "none"))


async def submit_all(url: str, keys: range, path: Path) -> None:
    database = Database(url, wake_others=False)
    acknowledged = {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in keys:
        if str(number) in acknowledged:
            continue
        key = submits.Key("chaos", str(number), "the same body")
        while True:
            try:
                accepted = await submits.submit(database, Graph(TASKS, name=f"run {number}"), key=key)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
        os.write(out, f"{number} {accepted.run_id}\n".encode())
    os.close(out)
    database.close()


if __name__ == "__main__":
    _, url, first, last, path = sys.argv
    asyncio.run(submit_all(url, range(int(first), int(last)), Path(path)))

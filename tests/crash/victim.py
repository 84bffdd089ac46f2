"""Plays the scenario and dies at its n-th step into or out of the database, as if the power went.

Run as a program: reads lines `<url> <n> <scenario>`, forks for each, and answers with the exit code and the
number of boundaries. A fork takes milliseconds where a fresh interpreter would take a second.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import sqlalchemy as sa

from engine.store.database import Database
from tests.crash.saga import SagaScenario
from tests.crash.scenario import Scenario

KILLED = 9


class Boundaries:
    """Counts statements before and after they were sent, and commits before and after."""

    def __init__(self, database: Database, die_at: int) -> None:
        self.count = 0
        self._die_at = die_at
        engine = database.engine
        sa.event.listen(engine, "before_cursor_execute", self._cross)
        sa.event.listen(engine, "after_cursor_execute", self._cross)
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            self._cross()
            commit(connection)
            self._cross()

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]

    def _cross(self, *_: Any) -> None:
        self.count += 1
        if self.count == self._die_at:
            os._exit(KILLED)


SCENARIOS = {"all": Scenario, "saga": SagaScenario}


def play(url: str, die_at: int, name: str) -> int:
    """Returns how many boundaries there were, if it came to its end."""
    database = Database(url, pool_size=1, wake_others=False)
    boundaries = Boundaries(database, die_at)
    SCENARIOS[name](database).play()
    database.close()
    return boundaries.count


def main() -> None:
    for line in sys.stdin:
        url, number, name = line.split()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                os.write(writing, str(play(url, int(number), name)).encode())
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as answer:
            count = answer.read() or "0"
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), count, flush=True)


if __name__ == "__main__":
    main()

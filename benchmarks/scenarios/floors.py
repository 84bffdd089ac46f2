"""Whether the floors deserve their name: reduced to the leanest rows, against forms written without them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.floors import postgres
from benchmarks.harness import MINIMAL, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.scenarios.drain import minimal
from benchmarks.servers import Place, connect

CASE = "postgres, batches of 500 on one connection"


@dataclass(frozen=True, slots=True)
class Reference:
    """A form that led the reference measurements, spelled out: no classes, no moving lower bound."""

    table: str
    claim: str
    complete: str


REFERENCES = {
    "state column, one partial index": Reference(
        """CREATE TABLE job (id bigint PRIMARY KEY, priority integer NOT NULL DEFAULT 0,
             status text NOT NULL DEFAULT 'ready', token integer, result json);
           CREATE INDEX ON job (priority, id) WHERE status = 'ready'""",
        """UPDATE job SET status = 'running', token = 1 WHERE id = ANY(ARRAY(
             SELECT id FROM job WHERE status = 'ready' ORDER BY priority, id LIMIT %s FOR UPDATE SKIP LOCKED))
           RETURNING id""",
        """UPDATE job SET status = 'done', result = ended.result
           FROM json_to_recordset(%s::json) AS ended(id bigint, result json)
           WHERE job.id = ended.id AND job.id = ANY(%s::bigint[])""",
    ),
    "lease column, fillfactor 50": Reference(
        """CREATE TABLE job (id bigint PRIMARY KEY, priority integer NOT NULL DEFAULT 0, lease integer,
             done boolean NOT NULL DEFAULT false, result json) WITH (fillfactor = 50);
           CREATE INDEX ON job (priority, id) WHERE lease IS NULL""",
        """UPDATE job SET lease = 1 WHERE id = ANY(ARRAY(
             SELECT id FROM job WHERE lease IS NULL ORDER BY priority, id LIMIT %s FOR UPDATE SKIP LOCKED))
           RETURNING id""",
        """UPDATE job SET done = true, result = ended.result
           FROM json_to_recordset(%s::json) AS ended(id bigint, result json)
           WHERE job.id = ended.id AND job.id = ANY(%s::bigint[])""",
    ),
}


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(50_000, 5_000)
    for place in bench.places:
        if place.name == "postgres":
            yield Case(
                CASE,
                [
                    Contestant(MINIMAL, partial(minimal, place, count, 1)),
                    *(
                        Contestant(name, partial(_drain, place, one, count))
                        for name, one in REFERENCES.items()
                    ),
                ],
            )


def _drain(place: Place, reference: Reference, count: int) -> Figures:
    with place.empty() as url, connect(url) as connection:
        connection.execute(reference.table)
        connection.execute("INSERT INTO job (id) SELECT generate_series(1, %s)", (count,))
        began = time.monotonic()
        moved, ids = 0, [0]
        while ids:
            with connection.pipeline():
                connection.execute("BEGIN")
                if ids[0]:
                    results = json.dumps([{"id": one, "result": {}} for one in ids])
                    connection.execute(reference.complete, (results, postgres.array(ids)), prepare=True)
                cursor = connection.execute(reference.claim, (postgres.BATCH,), prepare=True)
                connection.execute("COMMIT")
            ids = [int(row[0]) for row in cursor.fetchall()]
            moved += len(ids)
        seconds = time.monotonic() - began
    assert moved == count, f"{moved} of {count} jobs moved"
    return {"tasks/s": moved / seconds}


SCENARIO = Scenario("floors", "the floor reduced to the leanest rows, against independent forms of it", cases)

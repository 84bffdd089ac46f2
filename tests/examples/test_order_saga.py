"""The order example: each effect once, and those of an order that fails taken back in reverse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.testing import Ended, run_workflow
from tests.examples.loading import EXAMPLES, example, program

pytestmark = pytest.mark.anyio

GOOD = {"order_id": "a", "sku": "lamp", "quantity": 2, "cents": 7980, "card": "4111", "address": "Bremen"}
Carrier = Callable[[str, str], str]


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    shop = example("order_saga").Shop(tmp_path / "shop.db")
    shop.stock("lamp", 5)
    return shop


async def place(shop: Any, carrier: Carrier | None = None, **changed: Any) -> Ended:
    saga = example("order_saga")
    services = {"shop": shop, "carrier": carrier or saga.hand_over}
    return await run_workflow(saga.order, {**GOOD, **changed}, functions=saga.FUNCTIONS, services=services)


def lamps(shop: Any) -> int:
    [(available,)] = shop.ask("SELECT available FROM stock")
    return int(available)


async def test_a_good_order_is_done_once(shop: Any) -> None:
    ended = await place(shop)
    assert ended.check().result("ship") == "parcel-a"
    assert shop.effects("a") == ["reserved", "charged", "shipped"]
    assert (lamps(shop), ended.undo) == (3, None)


async def test_a_shipment_that_is_refused_undoes_the_rest_in_reverse(shop: Any) -> None:
    ended = await place(shop, address="Atlantis")
    assert ended.state == "failed"
    assert ended.undo is not None
    assert list(ended.undo.check().tasks) == ["charge_card", "reserve_goods"]
    assert shop.effects("a") == ["reserved", "charged", "refunded", "released"]
    assert lamps(shop) == 5
    assert shop.ask("SELECT state FROM payment") == [("refunded",)]
    assert shop.ask("SELECT * FROM shipment") == []
    assert len(ended.attempts("ship")) == 1  # trying again would not help


@pytest.mark.parametrize(
    ("changed", "effects"),
    [({"card": "5500"}, ["reserved", "released"]), ({"quantity": 6}, [])],
    ids=["declined", "sold-out"],
)
async def test_only_what_was_done_is_undone(shop: Any, changed: dict[str, Any], effects: list[str]) -> None:
    ended = await place(shop, **changed)
    assert ended.state == "failed"
    assert (shop.effects("a"), lamps(shop)) == (effects, 5)


async def test_a_carrier_that_does_not_answer_is_asked_again(shop: Any) -> None:
    asked: list[str] = []

    def carrier(order_id: str, address: str) -> str:
        asked.append(address)
        if len(asked) < 3:
            raise ConnectionError("no answer")
        return "parcel"

    ended = await place(shop, carrier)
    ended.check()
    assert asked == ["Bremen"] * 3
    assert shop.effects("a") == ["reserved", "charged", "shipped"]
    assert ended.run.finished_at is not None
    assert ended.run.finished_at - ended.run.created_at >= timedelta(minutes=20)


async def test_an_attempt_that_is_made_again_after_its_effect_changes_nothing(shop: Any) -> None:
    """The parcel is handed over and noted, and then the worker does not get to say so."""
    change, failures = shop.change, iter([True])

    def change_and_fail(key: str, what: str, *rest: Any) -> bool:
        is_done: bool = change(key, what, *rest)
        if what == "shipped" and next(failures, False):
            raise ConnectionError("cut off")
        return is_done

    shop.change = change_and_fail
    ended = await place(shop)
    assert [attempt.outcome for attempt in ended.check().attempts("ship")] == ["failed", "succeeded"]
    assert shop.effects("a") == ["reserved", "charged", "shipped"]


def test_the_program_prints_what_the_readme_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", program("order_saga")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = (EXAMPLES / "order_saga" / "README.md").read_text().split("```text\n")[1].split("```")[0]
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown.splitlines()

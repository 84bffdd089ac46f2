"""An order that is done as a whole or undone: reserve the goods, charge the card, ship.

Each step with an effect outside names what undoes it. If a later one fails for good, those before it are
undone, the last one first. Every effect has a key that is the same at each attempt: it happens once.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from engine import Engine, PermanentError, SyncContext, task, workflow

_TABLES = """
CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, available INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payment (order_id TEXT PRIMARY KEY, cents INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shipment (order_id TEXT PRIMARY KEY, tracking TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effect (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, what TEXT NOT NULL, order_id TEXT NOT NULL
);
"""


class Shop:
    """The world outside, in a SQLite file: goods, payments, shipments, and a list of all that happened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(_TABLES)

    def change(self, key: str, what: str, order_id: str, statement: str, *values: Any) -> bool:
        """Make one change in a transaction; whether it changed a row, now or when the key was used before.

        What changes no row is not noted, so it can be tried again.
        """
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            noted = "INSERT INTO effect (key, what, order_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            if not connection.execute(noted, (key, what, order_id)).rowcount:
                return True
            is_done = connection.execute(statement, values).rowcount > 0
            if not is_done:
                connection.rollback()
            return is_done

    def stock(self, sku: str, available: int) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO stock VALUES (?, ?)", (sku, available))

    def ask(self, query: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(query, values).fetchall()

    def effects(self, order_id: str) -> list[str]:
        """What happened to an order, first to last."""
        found = self.ask("SELECT what FROM effect WHERE order_id = ? ORDER BY number", order_id)
        return [what for (what,) in found]


def _shop(ctx: SyncContext) -> Shop:
    shop: Shop = ctx.get_dependency("shop")
    return shop


# --- what is done


@task
def reserve_goods(ctx: SyncContext, order_id: str, sku: str, quantity: int) -> None:
    take = "UPDATE stock SET available = available - ? WHERE sku = ? AND available >= ?"
    key = ctx.idempotency_key
    if not _shop(ctx).change(key, "reserved", order_id, take, quantity, sku, quantity):
        raise PermanentError(f"there are not {quantity} of {sku}")


@task
def charge_card(ctx: SyncContext, order_id: str, cents: int, card: str) -> None:
    if not card.startswith("4"):
        raise PermanentError("the card was declined")
    pay = "INSERT INTO payment VALUES (?, ?, 'charged')"
    _shop(ctx).change(ctx.idempotency_key, "charged", order_id, pay, order_id, cents)


@task(retries=3, retry_delay=600)
def ship(ctx: SyncContext, order_id: str, address: str) -> str:
    """A carrier that does not answer is asked again ten minutes later; one that refuses is not."""
    carrier: Callable[[str, str], str] = ctx.get_dependency("carrier")
    tracking = carrier(order_id, address)
    send = "INSERT INTO shipment VALUES (?, ?)"
    _shop(ctx).change(ctx.idempotency_key, "shipped", order_id, send, order_id, tracking)
    return tracking


# --- and undone: nothing happens if there is nothing to undo


@task(retries=5)
def release_goods(ctx: SyncContext, order_id: str, sku: str, quantity: int, **_: Any) -> None:
    give_back = """
    UPDATE stock SET available = available + ? WHERE sku = ?
    AND EXISTS (SELECT 1 FROM effect WHERE order_id = ? AND what = 'reserved')
    """
    _shop(ctx).change(ctx.idempotency_key, "released", order_id, give_back, quantity, sku, order_id)


@task(retries=5)
def refund_card(ctx: SyncContext, order_id: str, **_: Any) -> None:
    pay_back = "UPDATE payment SET state = 'refunded' WHERE order_id = ? AND state = 'charged'"
    _shop(ctx).change(ctx.idempotency_key, "refunded", order_id, pay_back, order_id)


FUNCTIONS = [reserve_goods, charge_card, ship, release_goods, refund_card]


@workflow
def order(order_id: str, sku: str, quantity: int, cents: int, card: str, address: str) -> None:
    """Goods, money, parcel: all of it or none."""
    goods = {"order_id": order_id, "sku": sku, "quantity": quantity}
    reserved = reserve_goods.options(compensate=(release_goods, goods))(order_id, sku, quantity)
    refund = (refund_card, {"order_id": order_id})
    charged = charge_card.options(after=[reserved], compensate=refund)(order_id, cents, card)
    ship.options(after=[charged])(order_id, address)


# --- as a program


def hand_over(order_id: str, address: str) -> str:
    """A carrier that goes everywhere but to Atlantis."""
    if "Atlantis" in address:
        raise PermanentError(f"nobody goes to {address}")
    return f"parcel-{order_id}"


ORDERS: list[dict[str, Any]] = [
    {"order_id": "1", "sku": "lamp", "quantity": 2, "cents": 7980, "card": "4111", "address": "Bremen"},
    {"order_id": "2", "sku": "lamp", "quantity": 1, "cents": 3990, "card": "5500", "address": "Bremen"},
    {"order_id": "3", "sku": "lamp", "quantity": 1, "cents": 3990, "card": "4111", "address": "Atlantis"},
    {"order_id": "4", "sku": "lamp", "quantity": 9, "cents": 35910, "card": "4111", "address": "Bremen"},
]


async def run(shop: Shop, engine_url: str) -> None:
    services = {"shop": shop, "carrier": hand_over}
    async with Engine(engine_url, functions=FUNCTIONS, services=services) as engine:
        for params in ORDERS:
            done = await engine.wait((await engine.execute(order, params)).run_id)
            if done.state == "failed":
                saga = await engine.saga(done.id)
                if saga.compensation_run_id is not None:
                    await engine.wait(saga.compensation_run_id)
            print(f"order {params['order_id']} {done.state}: {', '.join(shop.effects(params['order_id']))}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Four orders, of which one can be done.")
    parser.add_argument("--shop", type=Path, default=Path("shop.db"), help="goods, payments and shipments")
    parser.add_argument("--engine", default="sqlite:///task-engine.db", help="the engine's own database")
    given = parser.parse_args()
    shop = Shop(given.shop)
    shop.stock("lamp", 5)
    asyncio.run(run(shop, given.engine))
    [(left,)] = shop.ask("SELECT available FROM stock")
    print(f"{left} lamps are left")


if __name__ == "__main__":
    main()

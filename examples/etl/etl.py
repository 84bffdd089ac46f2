"""Orders from a CSV file into a table, and a report of them: extract, validate, transform, load, write.

Each step is a task: what it returned is in the database before the next one starts. A step may run more than
once if its worker dies, so loading and writing replace what an earlier try has left.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, Field, ValidationError

from engine import Engine, Run, SyncContext, task, workflow

# Euros for one unit, fixed at the end of last year.
RATES = {"EUR": Decimal("1"), "GBP": Decimal("1.17"), "CHF": Decimal("1.05"), "USD": Decimal("0.92")}


class Order(BaseModel):
    """A line of the file."""

    order_id: str = Field(pattern=r"^A\d{5}$")
    placed_at: datetime
    customer: str = Field(min_length=1)
    country: str = Field(pattern=r"^[A-Z]{2}$")
    product: str = Field(min_length=1)
    quantity: int = Field(ge=1, le=1000)
    unit_price: Decimal = Field(gt=0, decimal_places=2)
    currency: Literal["EUR", "GBP", "CHF", "USD"]


class Rejected(BaseModel):
    line: int  # of the file, from 1
    problem: str


class Booking(BaseModel):
    """A row of the table. Money is in cents of a euro."""

    order_id: str
    month: str  # 2026-01
    country: str
    product: str
    quantity: int
    cents: int


@task
def extract(ctx: SyncContext, path: str) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{"line": at, **row} for at, row in enumerate(csv.DictReader(file, restkey="rest"), 2)]
    ctx.log(f"{len(rows)} lines")
    return rows


@task
def validate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sort lines into orders and rejected ones, each of those with its first problem."""
    orders: dict[str, Order] = {}
    rejected: list[Rejected] = []
    for row in rows:
        try:
            if "rest" in row:
                raise ValueError("too many columns")
            order = Order.model_validate(row)
            if order.order_id in orders:
                raise ValueError(f"order_id: {order.order_id} was there before")
        except ValidationError as error:
            first = error.errors()[0]
            rejected.append(Rejected(line=row["line"], problem=f"{first['loc'][0]}: {first['msg']}"))
        except ValueError as error:
            rejected.append(Rejected(line=row["line"], problem=str(error)))
        else:
            orders[order.order_id] = order
    return {"orders": list(orders.values()), "rejected": rejected}


@task
def transform(orders: list[Order]) -> list[Booking]:
    return [
        Booking(
            order_id=order.order_id,
            month=f"{order.placed_at:%Y-%m}",
            country=order.country,
            product=order.product,
            quantity=order.quantity,
            cents=round(order.unit_price * order.quantity * RATES[order.currency] * 100),
        )
        for order in orders
    ]


_CREATE = """
CREATE TABLE IF NOT EXISTS booking (
    order_id TEXT PRIMARY KEY, month TEXT NOT NULL, country TEXT NOT NULL, product TEXT NOT NULL,
    quantity INTEGER NOT NULL, cents BIGINT NOT NULL
)
"""
_BOOK = """
INSERT INTO booking (order_id, month, country, product, quantity, cents)
VALUES (:order_id, :month, :country, :product, :quantity, :cents)
ON CONFLICT (order_id) DO UPDATE SET month = excluded.month, country = excluded.country,
    product = excluded.product, quantity = excluded.quantity, cents = excluded.cents
"""


@task(retries=3, retry_delay=5)
def load(ctx: SyncContext, bookings: list[Booking]) -> int:
    """All rows or none. A second try writes the same rows again."""
    target: sa.Engine = ctx.get_dependency("target")
    with target.begin() as connection:
        connection.execute(sa.text(_CREATE))
        if bookings:
            connection.execute(sa.text(_BOOK), [booking.model_dump() for booking in bookings])
    return len(bookings)


_MONTHS = "SELECT month, count(*) AS orders, sum(cents) AS cents FROM booking GROUP BY month ORDER BY month"
_PRODUCTS = """
SELECT product, sum(quantity) AS pieces, sum(cents) AS cents FROM booking
GROUP BY product ORDER BY sum(cents) DESC, product LIMIT 5
"""


@task(retries=3, retry_delay=5)
def write_report(ctx: SyncContext, loaded: int, rejected: list[Rejected], path: str) -> str:
    """From what is in the table. The file is there as a whole or not at all."""
    target: sa.Engine = ctx.get_dependency("target")
    with target.connect() as connection:
        months = connection.execute(sa.text(_MONTHS)).all()
        products = connection.execute(sa.text(_PRODUCTS)).all()
    lines = [
        "# Orders",
        "",
        f"{loaded} orders were loaded, {len(rejected)} lines were rejected.",
        "",
        "| month | orders | EUR |",
        "| --- | ---: | ---: |",
        *(f"| {row.month} | {row.orders} | {_euros(row.cents)} |" for row in months),
        "",
        "| product | pieces | EUR |",
        "| --- | ---: | ---: |",
        *(f"| {row.product} | {row.pieces} | {_euros(row.cents)} |" for row in products),
        "",
        "## Rejected",
        "",
        *(f"- line {item.line}: {item.problem}" for item in rejected),
    ]
    unfinished = Path(f"{path}.new")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _euros(cents: Any) -> str:
    return f"{int(cents) / 100:,.2f}"


FUNCTIONS = [extract, validate, transform, load, write_report]


@workflow
def etl(orders: str, report: str) -> None:
    """Orders of a CSV file into the table `booking`, and a report of that."""
    checked = validate(extract(orders))
    loaded = load(transform(checked["orders"]))
    write_report(loaded, checked["rejected"], report)


# --- as a program


def open_target(url: str) -> sa.Engine:
    """`sqlite:///file.db` or `postgresql://…`."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed)


async def run(orders: Path, target_url: str, report: Path, engine_url: str) -> Run:
    target = open_target(target_url)
    try:
        async with Engine(engine_url, functions=FUNCTIONS, services={"target": target}) as engine:
            params = {"orders": str(orders), "report": str(report)}
            started = await engine.execute(etl, params)
            return await engine.wait(started.run_id)
    finally:
        target.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description="Load orders from a CSV file, and write a report of them.")
    parser.add_argument("--orders", type=Path, default=Path(__file__).with_name("orders.csv"))
    parser.add_argument("--target", default="sqlite:///orders.db", help="the database with the table")
    parser.add_argument("--report", type=Path, default=Path("report.md"))
    parser.add_argument("--engine", default="sqlite:///task-engine.db", help="the engine's own database")
    given = parser.parse_args()
    done = asyncio.run(run(given.orders.resolve(), given.target, given.report.resolve(), given.engine))
    print(f"run {done.id} has {done.state}; see {given.report}")
    raise SystemExit(0 if done.state == "succeeded" else 1)


if __name__ == "__main__":
    main()

"""Clients that follow a run's events: `python -m benchmarks.followers ADDRESS RUN CLIENTS`.

Prints how many events reached them all together.
"""

from __future__ import annotations

import asyncio
import sys

import httpx


async def follow(client: httpx.AsyncClient, run: str) -> int:
    """Read the run's events from the first to the one that ends it; returns how many."""
    after = 0
    while True:
        query = {"after": after, "wait": 10, "limit": 1_000}
        answer = await client.get(f"/api/v1/runs/{run}/events", params=query)
        answer.raise_for_status()
        events = answer.json()["events"]
        if events:
            after = events[-1]["number"]
            if events[-1]["kind"] in ("run.succeeded", "run.failed", "run.cancelled"):
                return int(after)


async def main(address: str, run: str, clients: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        print(sum(await asyncio.gather(*(follow(client, run) for _ in range(int(clients))))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

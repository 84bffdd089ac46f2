"""What a scenario is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.harness import Case, Contestant, Figures
from benchmarks.servers import Place


@dataclass(slots=True)
class Bench:
    """Where and how large to measure. What is put on `stack` is closed after the scenario."""

    places: Sequence[Place]
    quick: bool = False
    peers: Sequence[Peer] = ()
    stack: ExitStack = field(default_factory=ExitStack)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def against(
        self, place: Place, verb: str, figures: Callable[[Any], Figures], **options: Any
    ) -> list[Contestant]:
        """The peers that are compared with the engine at `place`, measured by `verb` of their scripts.

        `figures` makes figures of what the script answers. A `count` among the options is lowered to what
        a slow peer can do in reasonable time.
        """
        return [
            Contestant(peer.name, partial(_measured, peer, place, verb, figures, options))
            for peer in self.peers
            if peer.place == place.name
        ]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine, in an environment of its own. `most` jobs are what it is given at a time."""

    name: str
    place: str  # the kind of database that it is compared on
    most: int
    run: Callable[..., dict[str, Any]]  # (verb, url=…, …) → what its script answers
    database: Callable[[Place], AbstractContextManager[str]]  # an empty one, and its URL as drivers read it


def _measured(
    peer: Peer, place: Place, verb: str, figures: Callable[[Any], Figures], options: dict[str, Any]
) -> Figures:
    if "count" in options:
        options = {**options, "count": min(options["count"], peer.most)}
    with peer.database(place) as url:
        peer.run("setup", url=url)
        return figures(peer.run(verb, url=url, **options))


@dataclass(frozen=True, slots=True)
class Scenario:
    """`cases` makes the contestants ready and returns them; `repeats` is for those that take very long."""

    name: str
    about: str
    cases: Callable[[Bench], Iterable[Case]]
    repeats: int | None = None


def rate(answer: Any) -> Figures:
    """Of a script that answers {"seconds", "count"}."""
    return {"tasks/s": answer["count"] / answer["seconds"]}

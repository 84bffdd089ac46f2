"""What an entry of the list of guards says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    keeps: str  # what would go wrong without it
    file: str
    old: str
    new: str
    test: str  # a pytest id, that has to fail

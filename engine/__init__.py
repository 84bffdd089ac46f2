"""Task Engine: a durable DAG job engine. Tasks and edges are rows in Postgres or SQLite.

Names are loaded when first used: a worker's guardian process imports this package too and must stay small.
"""

from __future__ import annotations

__version__ = "0.1.0"

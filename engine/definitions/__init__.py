"""Workflows as YAML: read with the place of all that is wrong, written so that reading gives them back.

Names are loaded when first used: the values of a YAML text (`source`) need none of the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import load_when_used

if TYPE_CHECKING:
    from engine.definitions.environment import named_in as named_in
    from engine.definitions.reading import from_yaml as from_yaml
    from engine.definitions.reading import read_files as read_files
    from engine.definitions.reading import read_workflows as read_workflows
    from engine.definitions.wire import json_schema as json_schema
    from engine.definitions.writing import to_yaml as to_yaml

_HOMES = {
    "engine.definitions.environment": ("named_in",),
    "engine.definitions.reading": ("from_yaml", "read_files", "read_workflows"),
    "engine.definitions.wire": ("json_schema",),
    "engine.definitions.writing": ("to_yaml",),
}

__getattr__, __dir__ = load_when_used(__name__, _HOMES)

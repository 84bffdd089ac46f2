"""Workflows as YAML: read with the place of all that is wrong, written so that reading gives them back."""

from engine.definitions.reading import from_yaml, read_files, read_workflows
from engine.definitions.wire import json_schema
from engine.definitions.writing import to_yaml

__all__ = ["from_yaml", "json_schema", "read_files", "read_workflows", "to_yaml"]

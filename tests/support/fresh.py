"""A fixture for those to whom it matters whether a database has served another test: `import` it.

Plans depend on statistics, which stay; counts of calls on the ids that this process has in stock.
"""

from __future__ import annotations

import pytest

from tests.support.template import Give, Template


@pytest.fixture
def give(template: Template) -> Give:
    """New Postgres databases."""
    return template.clone

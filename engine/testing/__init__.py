"""For the tests of programs that use the engine."""

from engine.testing.graphs import Ended as Ended
from engine.testing.graphs import run_graph as run_graph

"""The list of guards: code that a test must miss when it is deleted."""

from tests.guards import database, leases, runs, streams, workflows

GUARDS = [*leases.GUARDS, *runs.GUARDS, *database.GUARDS, *workflows.GUARDS, *streams.GUARDS]

"""A task whose sub-tasks have to end before it: what it returned is kept, and a later attempt sums up."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import getitem

from engine.errors import PermanentError, path_text
from engine.model.graph import TaskSpec
from engine.model.inputs import Inputs
from engine.model.json import MAX_DEPTH, Unstorable
from engine.model.outcomes import Awaiting, Outcome, Succeeded
from engine.model.placeholders import Reference, references
from engine.model.records import Lease
from engine.model.sub_tasks import Returned, summed_up
from engine.operations import steps, tasks
from engine.store.database import Database
from engine.worker.durable import Insist

_RETURNED = "returned"  # a name that no step of a function can have: theirs have a prefix


class SubTasks:
    """Of one attempt."""

    def __init__(self, database: Database, lease: Lease, insist: Insist) -> None:
        self._database = database
        self._lease = lease
        self._insist = insist
        self.are_awaited = False  # this attempt has added some

    async def end(self) -> Outcome | None:
        """How the task ends if an earlier attempt has done its part; None if that is still to be done."""
        lease = self._lease
        if lease.attempt - 1 <= lease.failures:  # all earlier attempts failed
            return None
        kept = await self._insist(lambda: steps.find(self._database, lease, _RETURNED))
        if kept is None:
            return None
        added = await self._insist(lambda: tasks.sub_tasks(self._database, lease))
        if not all(each.is_over for each in added):  # the attempt that kept it died before it could wait
            return Awaiting()
        return summed_up(Returned.from_json(kept.result), added, Inputs.from_json(lease.inputs).tolerance)

    async def wait(self, outcome: Outcome) -> Outcome:
        """What the attempt ends with: a success that has sub-tasks waits for them."""
        if not isinstance(outcome, Succeeded) or not await self._there_are():
            return outcome
        returned = Returned(outcome.result, outcome.branch).to_json()
        try:
            await self._insist(
                lambda: steps.save(self._database, self._lease, _RETURNED, returned, max_depth=MAX_DEPTH + 1)
            )
        except Unstorable:
            return outcome  # whoever records it says so
        return Awaiting()

    async def _there_are(self) -> bool:
        # An earlier attempt may have added some that this one, going another way, did not ask for.
        if self.are_awaited:
            return True
        return bool(await self._insist(lambda: tasks.sub_tasks(self._database, self._lease)))


def refuse_references(specs: Iterable[TaskSpec]) -> None:
    """Nothing would be put in for a reference, as is done for tasks of a workflow. Raises `PermanentError`.

    Only a text that is nothing else is one: longer texts may quote them, as messages of errors do.
    """
    for spec in specs:
        for path, found in references(spec.params):
            if not isinstance(found, Reference) or reduce(getitem, path, spec.params) != found.text:
                continue
            if found.task is not None or found.is_declared:
                raise PermanentError(
                    f'task "{spec.name}": {path_text(("params", *path))}: {found.text}: tasks that are added '
                    "while others run take values, not references"
                )

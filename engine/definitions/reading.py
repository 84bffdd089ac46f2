"""Workflows out of YAML. All that is wrong is told at once, with its path and place; then nothing is read.

Several documents and files are one: of jobs and of definitions with the same id the first wins. Within one
document an id that appears twice is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from engine.definitions import translation
from engine.definitions.environment import expand
from engine.definitions.shaping import shape
from engine.definitions.source import Document, Path, Place, parse
from engine.definitions.wire import DefinitionIn, JobIn, RealtimeTaskIn, TaskIn, WorkflowsIn
from engine.errors import MAX_FAULTS, Fault, WorkflowError
from engine.model.graph import MAX_TASKS
from engine.model.json import JSON
from engine.model.shapes import echo
from engine.model.similar import near
from engine.model.workflow_rules import NO_CHECKS, Checks, faults
from engine.model.workflows import FUNCTION, Workflow

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", TaskIn, RealtimeTaskIn)


def read_workflows(
    text: str, *, checks: Checks = NO_CHECKS, environment: Mapping[str, str] | None = None, source: str = ""
) -> list[Workflow]:
    """At least one, in the order of the text. Raises `WorkflowError`.

    `environment` is what `${NAME}` may be replaced by. Nothing, unless it is given: whoever may upload a
    workflow could read the server's secrets otherwise.
    """
    return read_files({source: text}, checks=checks, environment=environment)


def from_yaml(
    text: str, *, checks: Checks = NO_CHECKS, environment: Mapping[str, str] | None = None
) -> Workflow:
    """The one workflow of a text. Raises `WorkflowError`, for several of them too."""
    found = read_workflows(text, checks=checks, environment=environment)
    if len(found) > 1:
        raise WorkflowError([Fault(("definitions",), f"one is expected, got {len(found)}")])
    return found[0]


def read_files(
    texts: Mapping[str, str], *, checks: Checks = NO_CHECKS, environment: Mapping[str, str] | None = None
) -> list[Workflow]:
    """`read_workflows` of several files, by name: a job in one is known in all. Empty documents are none."""
    reading = _Reading(checks, list(texts))
    parts = [
        part
        for source, text in texts.items()
        for document in parse(text)
        if not document.is_empty
        and (part := reading.open(_Part(document, source), environment or {})) is not None
    ]
    jobs: dict[str, Job] = {}
    for part in parts:
        for job in reading.jobs(part):
            jobs.setdefault(job.model.job_id, job)
    found: dict[str, Workflow] = {}
    for part in parts:
        for workflow in reading.definitions(part, jobs):
            found.setdefault(workflow.name, workflow)
    if not found and not reading.faults:
        reading.faults.append(Fault(("definitions",), "at least one is required", next(iter(texts), "")))
    if reading.faults:
        raise WorkflowError(sorted(reading.faults, key=reading.order))
    return list(found.values())


@dataclass(slots=True)
class _Part:
    """One document of a file."""

    document: Document
    source: str
    noted: dict[Path, bool] = field(default_factory=dict)  # by path: whether all below is meant

    def items(self, name: str) -> list[JSON]:
        found = self.document.value["workflows"].get(name)
        return found if isinstance(found, list) else []


class Job(NamedTuple):
    model: JobIn
    part: _Part
    path: Path


class _Reading:
    """Gathers what is wrong. Of a part that is wrong as a whole, nothing more is told."""

    def __init__(self, checks: Checks, sources: list[str]) -> None:
        self.faults: list[Fault] = []
        self._checks = checks
        self._sources = sources

    def open(self, part: _Part, environment: Mapping[str, str]) -> _Part | None:
        """The part with its variables put in, if it has workflows."""
        document = part.document
        for fault in document.faults:
            self.note(part, fault.path, fault.message, fault.place, is_whole=False)
        root = document.value
        if document.is_broken:
            return None
        workflows = root.get("workflows") if isinstance(root, dict) else None
        if not isinstance(workflows, dict):
            got = echo(workflows if isinstance(root, dict) else root)
            self.note(part, ("workflows",), f"expected a mapping with jobs and definitions, got {got}")
            return None
        for key in root.keys() - {"workflows"}:
            self.note(part, (key,), "unknown key (known: workflows)")
        top = {key: value for key, value in workflows.items() if key not in ("jobs", "definitions")}
        if self._shape(WorkflowsIn, top, part, ("workflows",)).environment:
            known = len(document.faults)
            expand(document, environment)
            for fault in document.faults[known:]:
                self.note(part, fault.path, fault.message)
        for name in ("jobs", "definitions"):
            if not isinstance(workflows.get(name), list | None):
                self.note(part, ("workflows", name), f"expected a list, got {echo(workflows[name])}")
        return part

    def jobs(self, part: _Part) -> list[Job]:
        found: dict[str, Job] = {}
        for index, value in enumerate(part.items("jobs")):
            if self._is_enough():
                break
            path = "workflows", "jobs", index
            job = Job(self._shape(JobIn, value, part, path), part, path)
            self._check_job(job)
            if found.setdefault(job.model.job_id, job) is not job and job.model.job_id:
                self.note(part, (*path, "job_id"), f'duplicate job_id "{job.model.job_id[:80]}"')
        return list(found.values())

    def _check_job(self, job: Job) -> None:
        for key, value in (("job_id", job.model.job_id), ("func_key", job.model.func_key)):
            if not value.strip():
                self.note(job.part, (*job.path, key), "is required")
        known = self._checks.functions
        if known is not None and job.model.func_key not in known:
            words = f'unknown function "{job.model.func_key[:80]}"{near(job.model.func_key, known)}'
            self.note(job.part, (*job.path, "func_key"), words)

    def definitions(self, part: _Part, jobs: Mapping[str, Job]) -> list[Workflow]:
        found: dict[str, Workflow] = {}
        for index, value in enumerate(part.items("definitions")):
            if self._is_enough():
                break
            path = "workflows", "definitions", index
            workflow = self._definition(value, part, path, jobs)
            if found.setdefault(workflow.name, workflow) is not workflow and workflow.name:
                self.note(part, (*path, "workflow_id"), f'duplicate workflow_id "{workflow.name[:80]}"')
        return list(found.values())

    def _definition(self, value: JSON, part: _Part, path: Path, jobs: Mapping[str, Job]) -> Workflow:
        own = value
        if isinstance(value, dict):
            own = {key: item for key, item in value.items() if key not in ("tasks", "realtime_tasks")}
        model = self._shape(DefinitionIn, own, part, path)
        tasks = self._items(TaskIn, value, part, (*path, "tasks"))
        realtime = self._items(RealtimeTaskIn, value, part, (*path, "realtime_tasks"))
        if self._is_enough():
            return Workflow(model.workflow_id)
        for task, where in tasks:
            self._check_job_id(task, part, where, jobs)
        for realtime_task, where in realtime:
            self._check_job_id(realtime_task, part, where, jobs)
        models = {job_id: job.model for job_id, job in jobs.items()}
        workflow = translation.workflow_of(
            model,
            [translation.task_of(task, models) for task, _ in tasks],
            [translation.realtime_task_of(task, models) for task, _ in realtime],
        )
        for fault in faults(workflow, self._checks):
            self._note_rule(fault, part, path, jobs)
        return workflow

    def _items(self, model: type[T], value: JSON, part: _Part, path: Path) -> list[tuple[T, Path]]:
        items = value.get(path[-1]) if isinstance(value, dict) else None
        if items is None:
            return []
        if not isinstance(items, list):
            self.note(part, path, f"expected a list, got {echo(items)}")
            return []
        found: list[tuple[T, Path]] = []
        for index, item in enumerate(items[: MAX_TASKS + 1]):
            if self._is_enough():
                break
            found.append((self._shape(model, item, part, (*path, index)), (*path, index)))
        return found

    def _check_job_id(
        self, task: TaskIn | RealtimeTaskIn, part: _Part, path: Path, jobs: Mapping[str, Job]
    ) -> None:
        names = {"job_id": task.job_id, "func_key": task.func_key, "kind": getattr(task, "kind", None)}
        given = [key for key, name in names.items() if name is not None and (key, name) != ("kind", FUNCTION)]
        if self._is_enough():
            return
        if len(given) > 1:
            self.note(part, (*path, given[1]), f"one of {' and '.join(given)} is enough")
        elif task.job_id is not None and task.job_id not in jobs:
            self.note(part, (*path, "job_id"), f'unknown job "{task.job_id[:80]}"{near(task.job_id, jobs)}')

    def _note_rule(self, fault: Fault, part: _Part, path: Path, jobs: Mapping[str, Job]) -> None:
        """A rule that is broken, at the key of the YAML that it is about: it may be one of the task's job."""
        where = (*path, *translation.key_path(fault.path))
        match where:
            case (*above, ("func_key" | "timeout") as key) if len(where) == len(path) + 3:
                task = _get(part.document.value, above)
                job_id = task.get("job_id") if isinstance(task, dict) else None
                job = jobs.get(job_id) if isinstance(job_id, str) else None
                if job is not None and task.get(key) is None:
                    self.note(job.part, (*job.path, key), fault.message)
                    return
                if key == "func_key" and job_id is not None:
                    where = (*above, "job_id")
        self.note(part, where, fault.message)

    def note(
        self, part: _Part, path: Path, message: str, place: Place | None = None, *, is_whole: bool = True
    ) -> None:
        above = any(part.noted.get(path[:end]) for end in range(1, len(path)))
        if above or path in part.noted:
            return
        part.noted[path] = is_whole
        shown = path[1:] if path[:1] == ("workflows",) and len(path) > 1 else path
        self.faults.append(Fault(shown, message, part.source, place or part.document.place(path)))

    def order(self, fault: Fault) -> Any:
        """As they stand in the files."""
        return self._sources.index(fault.source), fault.place or (0, 0)

    def _shape(self, model: type[M], value: JSON, part: _Part, path: Path) -> M:
        return shape(model, value, path, lambda where, message: self.note(part, where, message))

    def _is_enough(self) -> bool:
        return len(self.faults) > MAX_FAULTS


def _get(value: JSON, path: Iterable[str | int]) -> JSON:
    for step in path:
        value = value[step]
    return value

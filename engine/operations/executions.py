"""Runs of workflows: started, now or in somebody's transaction, and started once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from engine.errors import Conflict, InvalidInput, NotFound, ParamsError, path_text
from engine.model import parameters
from engine.model.callbacks import Named, named
from engine.model.graph import Graph
from engine.model.json import JSON, MAX_DEPTH, Unstorable, check_storable
from engine.model.records import SavedWorkflow, WorkflowVersion
from engine.model.run_defaults import FunctionOptions, RunDefaults
from engine.model.workflow_graph import graph_of, workflow_key
from engine.model.workflow_references import param_names
from engine.model.workflows import Workflow, functions_named
from engine.operations import submits
from engine.operations.submits import Accepted, Key, Submission
from engine.store import functions, plugins, relays
from engine.store import workflows as store
from engine.store.database import Database, Transaction


async def execute(
    database: Database,
    key: str,
    params: Mapping[str, JSON] | None = None,
    *,
    version: int | None = None,
    stored: Mapping[str, JSON] | None = None,
    idempotency: Key | None = None,
    rerun_of: int | None = None,
    actor: str = "local",
) -> Accepted:
    """Start a run of a saved workflow. It keeps this version, whatever is saved later. See `bind`.

    Raises `NotFound`, `Conflict` if it is disabled, and `InvalidInput` for parameters that do not fit.
    """
    start = prepare(
        await database.read(to_start, key, version),
        params or {},
        stored=stored,
        actor=actor,
        defaults=database.run_defaults,
        idempotency=idempotency,
        rerun_of=rerun_of,
    )
    return await database.run(start_within, start, actor=actor)


@dataclass(frozen=True, slots=True)
class Startable:
    """A version, and what its functions say about tasks that call them now."""

    saved: WorkflowVersion
    options: Mapping[str, FunctionOptions]


@dataclass(frozen=True, slots=True)
class Start:
    """A checked run of a workflow on its way into the database."""

    saved: WorkflowVersion
    params: Mapping[str, JSON]
    submission: Submission
    callbacks: Named
    rerun_of: int | None = None


def prepare(
    found: Startable,
    params: Mapping[str, JSON],
    *,
    stored: Mapping[str, JSON] | None = None,
    actor: str,
    defaults: RunDefaults,
    idempotency: Key | None = None,
    rerun_of: int | None = None,
) -> Start:
    """Everything that can be refused before a transaction. Raises `Conflict`, `InvalidInput`.

    `defaults` hold for tasks that say nothing themselves: those of the database or of the transaction.
    """
    saved = found.saved
    if not saved.is_enabled:
        raise Conflict(f"workflow {saved.name!r} is disabled; enable it before executing it")
    _check_storable(params)
    workflow = Workflow.from_json(saved.definition)
    effective, graph = bind(workflow, params, workflow_key(saved.id), defaults, found.options, stored)
    told = {"workflow_id": saved.id}
    checked = submits.check(replace(graph, tasks=tuple(replace(task, client=told) for task in graph.tasks)))
    return Start(saved, effective, Submission(checked, actor, None, idempotency), named(workflow), rerun_of)


def bind(
    workflow: Workflow,
    params: Mapping[str, JSON],
    key: str,
    defaults: RunDefaults,
    options: Mapping[str, FunctionOptions] | None = None,
    stored: Mapping[str, JSON] | None = None,
) -> tuple[dict[str, JSON], Graph]:
    """The parameters of a run, and its graph with them put in. Raises `ParamsError`.

    Beside `params`, which somebody gives now, those `stored` count that the workflow still knows.
    """
    names = set(param_names(workflow))
    known = parameters.remembered(workflow.params, stored or {}, names)
    effective = parameters.effective(workflow.params, {**known, **params}, names)
    graph = graph_of(workflow, effective, defaults=defaults, options=options, concurrency_key=key)
    return effective, graph


def _check_storable(params: Mapping[str, JSON]) -> None:
    """Raises `ParamsError`."""
    path: tuple[str, ...] = ("params",)
    try:
        check_storable(list(params))
        for name, value in params.items():
            path = ("params", name)
            check_storable(value, max_depth=MAX_DEPTH - 1)
    except Unstorable as error:
        raise ParamsError(f"{path_text(path)}: {error}") from None


def start_within(tx: Transaction, start: Start) -> Accepted:
    """Start the run inside a transaction that somebody else commits."""
    if not store.lock(tx, start.saved.id, is_shared=True):
        raise NotFound(f"workflow not found: {start.saved.id}")
    accepted = submits.submit_within(tx, start.submission)
    if not accepted.is_repeat:
        store.bind(tx, accepted.run_id, start.saved, start.params, rerun_of=start.rerun_of)
        if start.callbacks or plugins.concern(tx, start.saved.id):
            relays.insert(tx, accepted.run_id, start.saved.id, start.callbacks)
    return accepted


async def rerun(
    database: Database,
    run_id: int,
    params: Mapping[str, JSON] | None = None,
    *,
    actor: str = "local",
) -> Accepted:
    """Start the same version once more, with some parameters changed; the new run knows the old one."""
    earlier = await database.read(store.get_run, run_id)
    if earlier is None:
        raise NotFound(f"instance not found: {run_id}")
    return await execute(
        database,
        earlier.workflow_id,
        params,
        version=earlier.version,
        stored=earlier.params,
        rerun_of=run_id,
        actor=actor,
    )


def find(tx: Transaction, key: str, version: int | None = None) -> SavedWorkflow:
    """A workflow by id or name; the newest version unless one is named. Raises `NotFound`."""
    return store.find(tx, _text(key), version) or _missing(key, version)


def to_start(tx: Transaction, key: str, version: int | None = None) -> Startable:
    """As `find`, also on a connection that is not ours."""
    saved = store.find_version(tx, _text(key), version) or _missing(key, version)
    names = functions_named(saved.definition)
    return Startable(saved, functions.options(tx, names) if names else {})


def _text(key: str) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"a saved workflow is meant by its id or name, got {type(key).__name__}")
    return key


def _missing(key: str, version: int | None) -> NoReturn:
    which = "" if version is None else f" version {version}"
    raise NotFound(f"workflow not found: {key}{which}")

"""The words of the task-engine contract for an engine inside a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from engine.errors import ConfigError
from engine.functions.builtin import BUILTIN
from engine.functions.decorator import TaskFunction
from engine.functions.handlers import HANDLERS
from engine.functions.loading import load_functions
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.outcomes import NO_REASON
from engine.model.plugins import Binding
from engine.model.records import WorkflowRun
from engine.model.similar import near
from engine.sdk.configured import executor_settings, worker_options
from engine.sdk.embedded import DEFAULT_URL, Engine
from engine.sdk.plugins import BindingLike, bindings_of, check_bindings, registry_of
from engine.sdk.workflows import Definition
from engine.settings import Settings, load
from engine.telemetry import emit


class WorkflowEngine(Engine):
    """`Engine` with the contract's verbs. An instance is a run of a workflow, and has its id."""

    async def start(self) -> Self:
        """Open the database and begin to work."""
        return await self.__aenter__()

    async def stop(self) -> None:
        """Let running tasks finish for a while, give the rest back, close the database."""
        await self.__aexit__(None, None, None)

    async def execute_workflow(
        self, workflow: Definition | str, params: Mapping[str, JSON] | None = None
    ) -> WorkflowRun:
        return await self.get_instance((await self.execute(workflow, params)).run_id)

    async def pause_instance(self, instance_id: int) -> None:
        """Running tasks go on to their end; no further one starts."""
        await self.pause(instance_id)

    async def resume_instance(self, instance_id: int) -> None:
        await self.resume(instance_id)

    async def cancel_instance(self, instance_id: int, reason: str = NO_REASON) -> None:
        await self.cancel(instance_id, reason=reason)

    async def get_instance(self, instance_id: int) -> WorkflowRun:
        return await self.instance(instance_id)

    async def get_workflow_history(
        self, workflow: str, limit: int = 20, offset: int = 0
    ) -> list[WorkflowRun]:
        """Newest first."""
        return await self.history(workflow, limit=limit, offset=offset)

    async def wait_for_instance(self, instance_id: int, timeout: float | None = None) -> WorkflowRun:
        """The instance once it has ended, whatever it came to. Raises `TimeoutError`."""
        await self.wait(instance_id, timeout)
        return await self.get_instance(instance_id)


class EngineBuilder:
    """`EngineBuilder("engine.yaml").with_job_func("load", load).build()`.

    The file has settings, under the engine's own names or those of the contract (docs/configuration.md), also
    functions that they name. Without one they come from `ENGINE_…` variables, and the database
    is `task-engine.db` in the working directory unless `url` or a setting names another. All settings of
    workers and of what tasks may do hold; those of a server and of logging have no effect in a program, where
    `workers` counts as 0 or 1.
    """

    def __init__(self, config: str | Path | None = None, *, url: str | None = None, **settings: Any) -> None:
        flags = {"config": None if config is None else str(config), "database_url": url, **settings}
        self._settings: Settings = load(flags)
        self._url = self._settings.database if self._settings.database_url is not None else DEFAULT_URL
        self._functions = FunctionRegistry()
        self._services: dict[str, Any] = {}
        self._plugins: list[Any] = []
        self._bindings: list[Binding] = []
        self._reports = False

    def with_job_func(self, name: str, function: Callable[..., Any] | TaskFunction[..., Any]) -> Self:
        """Raises `ConfigError` if the name is taken."""
        if isinstance(function, TaskFunction):
            self._functions.add(TaskFunction(replace(function.function, name=name)))
        else:
            self._functions.add(function, name=name)
        return self

    def with_callback_func(self, name: str, function: Callable[..., Any]) -> Self:
        """A function for callbacks: they are called like others."""
        return self.with_job_func(name, function)

    def with_function_map(self, functions: Mapping[str, Callable[..., Any]]) -> Self:
        for name, function in functions.items():
            self.with_job_func(name, function)
        return self

    def with_service(self, key: str, service: Any) -> Self:
        """What functions find with `ctx.get_dependency(key)`. Raises `ConfigError` if the key is taken."""
        if key in self._services:
            raise ConfigError(f"there is a service {key!r} already")
        self._services[key] = service
        return self

    def with_plugin(self, plugin: Any) -> Self:
        """An object or a class, see `engine.plugins.base.Plugin`. Called where a binding says so."""
        self._plugins.append(plugin)
        return self

    def with_plugin_binding(self, binding: BindingLike) -> Self:
        """`{"plugin", "event", "condition"?, "params"?, "workflow_id"?, "id"?}`; kept when the engine starts.

        Raises `InvalidInput` for what is none. Whether there is such a plug-in is looked at by `build`.
        """
        self._bindings += bindings_of([binding])
        return self

    def with_builtin_functions(self, *names: str) -> Self:
        """`http_request` and `shell_command`, or those that are named: the ready-made handlers
        (`task_engine.log_error` …) as well. Raises `ConfigError`."""
        known = {each.name: each for each in FunctionRegistry([*BUILTIN, HANDLERS])}
        for name in names or (function.name for function in BUILTIN):
            if name not in known:
                raise ConfigError(f"there is no built-in function {name!r}{near(name, known)}")
            self._functions.add(known[name])
        return self

    def restore_functions_on_start(self) -> Self:
        """At the start tell of functions that the database knows and this program has no code for."""
        self._reports = True
        return self

    def build(self) -> WorkflowEngine:
        """Raises `InvalidInput` for a binding to a plug-in that is not there, `ConfigError`."""
        settings = self._settings
        # The functions are given as objects, beside those of the program.
        executor = replace(executor_settings(settings, is_local=True), functions=())
        check_bindings(self._bindings, registry_of(self._plugins, executor))
        build = _Reporting if self._reports else WorkflowEngine
        return build(
            self._url,
            workers=min(settings.workers, 1),
            options=worker_options(settings),
            executor_settings=executor,
            shared=settings.shared,
            wakes_others=settings.wake,
            run_defaults=settings.run_defaults,
            functions=[self._functions, load_functions(settings.functions)],
            services=self._services,
            plugins=self._plugins,
            plugin_bindings=self._bindings,
        )


class _Reporting(WorkflowEngine):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if missing := await self.missing_functions():
            emit("engine.functions_missing", level="warning", names=missing)
        return self

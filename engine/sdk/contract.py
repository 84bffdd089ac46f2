"""The words of the task-engine contract for an engine inside a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from engine.errors import ConfigError
from engine.functions.decorator import TaskFunction
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.records import WorkflowRun
from engine.sdk.embedded import DEFAULT_URL, Engine
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

    async def cancel_instance(self, instance_id: int, reason: str = "context canceled") -> None:
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

    The file has the engine's own settings; without one they come from `ENGINE_…` variables, and the database
    is `task-engine.db` in the working directory unless `url` or a setting names another.
    """

    def __init__(self, config: str | Path | None = None, *, url: str | None = None, **settings: Any) -> None:
        flags = {"config": None if config is None else str(config), "database_url": url, **settings}
        self._settings: Settings = load(flags)
        self._url = self._settings.database if self._settings.database_url is not None else DEFAULT_URL
        self._functions = FunctionRegistry()
        self._services: dict[str, Any] = {}
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

    def restore_functions_on_start(self) -> Self:
        """At the start tell of functions that the database knows and this program has no code for."""
        self._reports = True
        return self

    def build(self) -> WorkflowEngine:
        build = _Reporting if self._reports else WorkflowEngine
        return build(
            self._url,
            concurrency=self._settings.max_concurrency,
            queues=self._settings.queues,
            shared=self._settings.shared,
            functions=[self._functions],
            services=self._services,
        )


class _Reporting(WorkflowEngine):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if missing := await self.missing_functions():
            emit("engine.functions_missing", level="warning", names=missing)
        return self

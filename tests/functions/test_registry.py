"""Registering functions, and finding them: in a program and in modules that settings name."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, GraphError, UnknownFunction
from engine.functions.decorator import task
from engine.functions.function import Function, How, Options
from engine.functions.loading import load_functions
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Dependency, Rule, TaskSpec
from engine.model.retry import Backoff, RetryPolicy


@task
def extract(day: str) -> str:
    """Fetch a day."""
    return day


@task(name="store", retries=2, retry_delay=5, timeout=1.5, queue="db", priority="high", run_in="process")
def load(rows: list[int]) -> int:
    return len(rows)


@task
async def notify() -> None: ...


def plain(x: int) -> int:
    return x


class Adder:
    def __call__(self, a: int) -> int:
        return a + 1

    def add(self, a: int) -> int:
        return a + 1

    @classmethod
    def of_text(cls, a: str) -> int:
        return cls()(int(a))


def test_the_decorator_keeps_the_function_callable_and_recognisable() -> None:
    assert extract("x") == "x" and extract.function.call("x") == "x"
    assert (extract.__name__, extract.__doc__, extract.name) == ("extract", "Fetch a day.", "extract")
    assert asyncio.run(notify()) is None  # type: ignore[func-returns-value]
    assert "test_registry.py" in repr(extract)


def test_a_spec_takes_the_forms_that_a_graph_takes() -> None:
    made = extract.spec({"day": "x"}, depends_on=["a", Dependency("b")], rule="all_done", priority="high")
    assert made.depends_on == (Dependency("a"), Dependency("b"))
    assert (made.rule, made.priority) == (Rule.ALL_DONE, 10)
    for wrong in ({"depends_on": "a"}, {"timeout": 5}):
        with pytest.raises(GraphError, match="task 'extract': "):
            extract.spec({"day": "x"}, **wrong)


def test_how_a_function_runs_follows_from_what_it_is() -> None:
    assert [each.function.how for each in (extract, load, notify)] == [How.THREAD, How.PROCESS, How.ASYNC]


def test_options_are_those_of_its_tasks() -> None:
    retry = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, initial_ms=5_000, jitter=0)
    assert load.function.options == Options(retry, 1_500, "db", 10)
    assert load.spec({"rows": []}, name="l") == TaskSpec(
        "l",
        "function",
        {"function": "store", "params": {"rows": []}},
        queue="db",
        priority=10,
        timeout_ms=1_500,
        retry=retry,
    )
    assert extract.spec().params == {"function": "extract", "params": {}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries is an integer from 0"),
        ({"retries": 1, "retry": RetryPolicy()}, "either retry, or retries"),
        ({"timeout": 0}, "timeout is a number of seconds"),
        ({"timeout": float("nan")}, "timeout is a number of seconds"),
        ({"queue": " "}, "queue is required"),
        ({"priority": "max"}, "unknown priority"),
        ({"name": "a\nb"}, "control character"),
        ({"run_in": "cloud"}, 'run_in is "thread" or "process"'),
        ({"required": "rows"}, "required is a list of names"),
    ],
)
def test_wrong_options_name_the_function(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)function .*plain.*{message}"):
        Function.of(plain, **options)


def test_functions_that_cannot_be_tasks_are_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def waits() -> None: ...

    with pytest.raises(ConfigError, match="cannot yield"):
        task(rows)
    with pytest.raises(ConfigError, match="runs on the event loop, not in a process"):
        Function.of(waits, run_in="process")
    with pytest.raises(ConfigError, match="at the top of a module"):
        Function.of(lambda: 1, run_in="process")
    with pytest.raises(ConfigError, match="made of a function, got int"):
        Function.of(3)  # type: ignore[arg-type]


def doubling(number: int) -> Callable[[int], int]:
    def double(x: int) -> int:
        return number * x

    double.__qualname__ = "double"
    return double


@pytest.mark.parametrize("call", [Adder().add, functools.partial(plain, x=1), doubling(2)])
def test_what_a_process_could_not_import_is_refused(call: Any) -> None:
    with pytest.raises(ConfigError, match="at the top of a module"):
        Function.of(call, name="it", run_in="process")


@functools.wraps(plain)
def decorated(*args: Any) -> int:
    return plain(*args)


def test_what_a_process_can_import_is_taken() -> None:
    for call in (plain, Adder.of_text, functools.cache(plain), decorated):
        assert Function.of(call, name="it", run_in="process").how is How.PROCESS


def test_a_function_of_a_program_that_is_no_file_cannot_run_in_a_process() -> None:
    text = """if True:
        from engine import ConfigError, task

        def f() -> None: ...

        try:
            task(run_in="process")(f)
        except ConfigError as error:
            print(error)
    """
    for arguments, given in (["-"], text), (["-c", text], ""):
        ended = subprocess.run(
            [sys.executable, *arguments], input=given, capture_output=True, text=True, check=False
        )
        assert "it must be in a file" in ended.stdout, ended


def test_objects_that_can_be_called_are_functions() -> None:
    function = Function.of(Adder())
    assert (function.name, function.how, function.signature.names) == ("Adder", How.THREAD, ("a",))


def test_registered_functions_are_found_by_name() -> None:
    registry = FunctionRegistry([extract, load])
    registry.add(plain, name="same", retries=1)
    assert registry.names() == ["extract", "same", "store"]
    assert registry.get("store") is load.function and "store" in registry and len(registry) == 3
    assert registry.missing(["store", "gone", "gone", "same"]) == ["gone"]


def test_registering_returns_the_function_so_it_decorates() -> None:
    registry = FunctionRegistry()

    @registry.add
    @task
    def inner() -> int:
        return 1

    assert inner() == 1 and registry.names() == ["inner"]


def test_the_same_function_may_be_registered_twice() -> None:
    registry = FunctionRegistry([extract, FunctionRegistry([extract, load])])
    assert registry.names() == ["extract", "store"]


def test_a_taken_name_names_both_places() -> None:
    registry = FunctionRegistry([extract])
    with pytest.raises(ConfigError) as raised:
        registry.add(plain, name="extract")
    assert "test_registry.extract, " in str(raised.value) and "test_registry.plain, " in str(raised.value)
    with pytest.raises(ConfigError, match="already has its options"):
        registry.add(extract, name="other")


def test_unknown_names_are_told_those_that_are_near() -> None:
    registry = FunctionRegistry([extract, load])
    with pytest.raises(UnknownFunction, match=r'unknown function "extrat"; did you mean extract\?'):
        registry.get("extrat")
    with pytest.raises(UnknownFunction, match=r"\(registered: extract, store\)"):
        registry.get("zzz")


def test_what_there_is_to_keep_of_functions_is_json() -> None:
    [described] = FunctionRegistry([extract]).describe()
    assert described["name"] == "extract" and described["run_in"] == "thread"
    assert described["params"]["required"] == ["day"]


# --- modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


TASKS = """
from engine.functions.decorator import task
from engine.functions.registry import FunctionRegistry

@task
def one(): ...

@task
def two(): ...

def three(): ...

registry = FunctionRegistry([two])
listed = [one, three]
number = 5
"""


def test_functions_are_loaded_from_modules(folder: Path) -> None:
    (folder / "loaded_tasks.py").write_text(TASKS)
    assert load_functions(["loaded_tasks"]).names() == ["one", "two"]
    assert load_functions(["loaded_tasks:registry"]).names() == ["two"]
    assert load_functions(["loaded_tasks:listed", "loaded_tasks:registry"]).names() == ["one", "three", "two"]
    assert load_functions(["loaded_tasks:three"]).names() == ["three"]


def test_places_that_are_wrong_say_why(folder: Path) -> None:
    (folder / "place_tasks.py").write_text(TASKS)
    (folder / "place_broken.py").write_text("1 / 0")
    (folder / "place_leaves.py").write_text("raise SystemExit(3)")
    (folder / "place_needs.py").write_text("import not_installed_anywhere")
    (folder / "place_empty.py").write_text("")
    for place, message in {
        "place_missing": "there is no module place_missing on the import path",
        "place_missing.inner": "there is no module place_missing on the import path",
        "place_broken": "importing it failed: ZeroDivisionError",
        "place_leaves": "importing it failed: SystemExit",
        "place_needs": "importing it failed: No module named 'not_installed_anywhere'",
        "place_empty": "no function in it is decorated with @task",
        "place_tasks:registri": "has no registri; did you mean registry?",
        "place_tasks:number": "expected a FunctionRegistry, a task or a list of tasks, got int",
        "tasks.py": "there is no module",
        "a b": 'expected "package.module"',
        "": 'expected "package.module"',
    }.items():
        with pytest.raises(ConfigError) as raised:
            load_functions([place])
        assert str(raised.value).startswith(f'functions "{place}": ') and message in str(raised.value), place


def test_places_are_a_list() -> None:
    with pytest.raises(ConfigError, match="list of places"):
        load_functions("place_tasks")

"""Workflows for property tests: all that a constructor can say, and valid."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from engine.model.graph import Rule
from engine.model.parameters import Param, ParamType
from engine.model.realtime import (
    Backpressure,
    CollectorMode,
    Endpoint,
    Pressure,
    Protocol,
    RealtimeMode,
    RealtimeTask,
    RealtimeType,
    Reconnect,
    Subscription,
)
from engine.model.workflows import Callback, CallbackState, Mode, UndoFunction, Workflow, WorkflowTask

# Text that a reader or writer of YAML could take for something else, and everything with a meaning of ours.
TRAPS = [
    *(
        "no",
        "Yes",
        "null",
        "~",
        "",
        "010",
        "1.",
        "0o17",
        "1.5e5",
        "1e5",
        ".5e5",
        "0x1F",
        ".inf",
        "2020-01-01",
        "12:30:45",
        "- a",
        "a: b",
    ),
    *(
        "<<",
        "&a",
        "*a",
        "!t",
        "a #b",
        " a",
        "a ",
        "a\n",
        "a\n b\n",
        "\na",
        "a\n\n",
        "\t",
        "\r\n",
        "'",
        '"',
        "\\",
    ),
    *("\x01", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "é 名 🙂", "x" * 300, "line one\nline two"),
    *(
        "${region}",
        "a ${region} b",
        "${HOME}",
        "${DAY:today}",
        "${ENV}",
        "$${ENV}",
        "$$${ENV}",
        "${",
        "$",
        "}}",
    ),
    *("${{ params.region }}", "x ${{params.region}}${region}"),
]
texts = st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00$"))
names = st.sampled_from(["load", "数据提取", "a b", "no", "${x}", "1", "x: y", "#", "-"]) | st.text(
    st.characters(categories=["L", "N", "P", "S"], include_characters=" "), min_size=1, max_size=12
).filter(lambda name: bool(name.strip()))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.none() | st.dictionaries(texts, json_values, max_size=3)
milliseconds = st.integers(1, 2**31 - 1)


@st.composite
def params(draw: st.DrawFn) -> Param:
    kind = draw(st.sampled_from(ParamType))
    of_kind: dict[ParamType, st.SearchStrategy[Any]] = {
        ParamType.ANY: json_values,
        ParamType.STRING: texts,
        ParamType.INTEGER: st.integers(-(2**63), 2**63 - 1),
        ParamType.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
        ParamType.BOOLEAN: st.booleans(),
        ParamType.ARRAY: st.lists(json_values, max_size=2),
        ParamType.OBJECT: st.dictionaries(texts, json_values, max_size=2),
    }
    required = draw(st.booleans())
    default = None if required else draw(st.none() | of_kind[kind])
    return Param(default, type=kind, required=required, description=draw(texts))


@st.composite
def ordinary_tasks(draw: st.DrawFn, name: str, before: list[str]) -> WorkflowTask:
    calls = draw(st.booleans())
    params = draw(objects if calls else json_values)
    takes = calls or params is None or isinstance(params, dict)
    compensations = st.none() | st.builds(UndoFunction, names, objects)
    return WorkflowTask(
        name,
        description=draw(texts),
        function=draw(names) if calls else None,
        kind="function" if calls else draw(st.sampled_from(["http", "shell"])),
        params=params,
        depends_on=draw(st.lists(st.sampled_from(before), max_size=3)) if before else (),
        rule=draw(st.sampled_from(Rule)),
        condition=draw(st.none() | st.sampled_from(["params.x > 1", 'tasks.a.result.b == "${c}"'])),
        timeout_ms=draw(st.none() | milliseconds),
        retry_count=draw(st.integers(0, 999)),
        retry_interval_ms=draw(st.none() | st.just(0) | milliseconds),
        queue=draw(names),
        priority=draw(st.integers(-1_000, 1_000)),
        limits=draw(st.dictionaries(names, st.integers(1, 1_000), max_size=3)),
        required_params=draw(st.lists(names, max_size=3)) if takes else (),
        result_mapping=draw(st.dictionaries(names, names, max_size=3)) if takes else {},
        compensation=draw(compensations),
        callbacks=draw(
            st.lists(st.builds(Callback, st.sampled_from(CallbackState), names, texts), max_size=3)
        ),
        is_template=draw(st.booleans()),
    )


@st.composite
def realtime_tasks(draw: st.DrawFn, name: str, before: list[str]) -> RealtimeTask:
    batch_size = draw(st.integers(1, 1_000))
    first_ms = draw(milliseconds)
    share = st.floats(0, 1)
    return RealtimeTask(
        name,
        description=draw(texts),
        function=draw(names),
        params=draw(objects),
        mode=draw(st.sampled_from(RealtimeMode)),
        type=draw(st.sampled_from(RealtimeType)),
        depends_on=draw(st.lists(st.sampled_from(before), max_size=2)) if before else (),
        timeout_ms=draw(st.none() | milliseconds),
        retry_count=draw(st.integers(0, 999)),
        buffer_size=draw(st.integers(batch_size, 10_000)),
        batch_size=batch_size,
        flush_interval_ms=draw(milliseconds),
        endpoint=draw(st.none() | st.builds(Endpoint, names, st.sampled_from(Protocol))),
        reconnect=Reconnect(
            enabled=draw(st.booleans()),
            max_attempts=draw(st.integers(0, 100)),
            first_ms=first_ms,
            max_ms=draw(st.integers(first_ms, 2**31 - 1)),
            factor=draw(st.floats(1, 10)),
        ),
        backpressure=Backpressure(draw(share), draw(st.sampled_from(Pressure))),
        data_handler=draw(st.none() | names),
        error_handler=draw(st.none() | names),
        subscriptions=draw(
            st.lists(st.builds(Subscription, names, names, st.integers(-9, 9), st.none() | texts), max_size=2)
        ),
        collector=draw(st.none() | names),
        collector_mode=draw(st.sampled_from(CollectorMode)),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    given = draw(st.lists(names, max_size=5, unique=True))
    cut = draw(st.integers(0, len(given)))
    tolerance = draw(st.just(0.0) | st.floats(0, 1))
    cron = draw(st.none() | st.sampled_from(["0 30 1 * * *", "@daily", "*/5 * * * *", "@every 10s"]))
    declared = draw(st.dictionaries(names, params() | scalars, max_size=3))
    return Workflow(
        draw(names),
        description=draw(texts),
        params={"region": "eu", **declared},
        tasks=[draw(ordinary_tasks(name, given[:i])) for i, name in enumerate(given[:cut])],
        realtime_tasks=[draw(realtime_tasks(name, given[: cut + i])) for i, name in enumerate(given[cut:])],
        mode=Mode.STREAMING if cut < len(given) else draw(st.sampled_from(Mode)),
        cron=cron,
        timezone=draw(st.none() | st.sampled_from(["UTC", "Europe/Berlin"])) if cron else None,
        max_concurrent_task=draw(st.none() | st.integers(1, 1_000)),
        sub_task_error_tolerance=tolerance,
        transactional=draw(st.booleans()) if not tolerance else False,
        labels=draw(st.dictionaries(names, texts, max_size=3)),
    )

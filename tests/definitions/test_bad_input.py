"""Whatever is wrong in a definition is told with its path and its place, and all of it at once."""

from __future__ import annotations

import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.definitions import read_files, read_workflows
from engine.errors import MAX_FAULTS, WorkflowError
from engine.model.workflow_references import Reads
from engine.model.workflow_rules import Checks
from tests.definitions.test_reading import SAMPLE

CHECKS = Checks(functions={"load_orders", "price_orders"}, kinds={"http", "shell"})


def refusal(text: str, checks: Checks = CHECKS) -> str:
    with pytest.raises(WorkflowError) as caught:
        read_workflows(textwrap.dedent(text), checks=checks)
    return str(caught.value)


def in_task(text: str) -> str:
    """A definition with one task of these keys, which stand from line 7 and column 7."""
    keys = text if text.startswith("task_id") else f"task_id: a\n{text}"
    lines = textwrap.indent(keys.strip(), "      ")
    head = "workflows:\n  definitions:\n  - workflow_id: w\n    params: {day: today}\n    tasks:\n    - "
    return head + lines.lstrip() + "\n"


def in_definition(text: str) -> str:
    """A definition with these keys, which stand in line 4, from column 5."""
    lines = textwrap.indent(textwrap.dedent(text).strip(), "    ")
    return f"workflows:\n  definitions:\n  - workflow_id: w\n{lines}\n"


# Each is a text, the path and place of what is wrong in it, and the words.
DOCUMENTS = [
    (
        "a: [",
        "a[0] (line 1, column 5)",
        "expected the node content, but found '<stream end>' while parsing a flow node",
    ),
    (
        "a:\n\t- b",
        "a (line 2, column 1)",
        "found character '\\t' that cannot start any token while scanning for the next token",
    ),
    ("a: \x01", "(line 1, column 4)", "special characters are not allowed"),
    (
        "%YAML 1.1\n---\nworkflows: {definitions: [{workflow_id: a}]}",
        "(line 2, column 1)",
        "directives other than %YAML 1.2 are not accepted",
    ),
    ("? [a]\n: b", "(line 1, column 3)", "a key must be text"),
    ("[" * 200, "[0]" * 66 + "[… (line 1, column 101)", "nesting is deeper than 100 levels"),
    ("x" * (4 * 2**20 + 1), "", "has 4194305 characters, the limit is 4194304"),
    ("", "", "definitions: at least one is required"),
    ("5", "workflows (line 1, column 1)", "expected a mapping with jobs and definitions, got an integer 5"),
    ("tasks: []", "workflows (line 1, column 1)", "expected a mapping with jobs and definitions, got null"),
    ("workflows: {}", "", "definitions: at least one is required"),
    ("---\n---\n", "", "definitions: at least one is required"),
    (
        "workflows: {jobs: [], definitions: {}}",
        "definitions (line 1, column 36)",
        "expected a list, got an object",
    ),
    (
        "workflows: {definitions: [5]}",
        "definitions[0] (line 1, column 27)",
        "expected a mapping, got an integer 5",
    ),
    (
        "workflows: {definitions: [{}]}",
        "definitions[0].workflow_id (line 1, column 27)",
        "workflow name is required",
    ),
    (
        "workflows: {definition: []}",
        "definition (line 1, column 25)",
        'unknown key; did you mean "definitions"?',
    ),
    (
        "workflows: {definitions: [{workflow_id: a}]}\nextra: 1",
        "extra (line 2, column 8)",
        "unknown key (known: workflows)",
    ),
    (
        "workflows: {definitions: [{workflow_id: a}, {workflow_id: a}]}",
        "definitions[1].workflow_id (line 1, column 59)",
        'duplicate workflow_id "a"',
    ),
    (
        "workflows:\n  jobs:\n  - {job_id: a, func_key: load_orders}\n"
        "  - {job_id: a, func_key: load_orders}\n  definitions: [{workflow_id: a}]",
        "jobs[1].job_id (line 4, column 14)",
        'duplicate job_id "a"',
    ),
]

# Keys of a definition; the path goes on after `definitions[0]`.
DEFINITIONS = [
    (
        "cron: !!python/x x",
        ".cron (line 4, column 11)",
        "tags are not accepted (found tag:yaml.org,2002:python/x)",
    ),
    ("task: []", ".task (line 4, column 11)", 'unknown key; did you mean "tasks"?'),
    (
        "cron: '@daily'\ncron: '@hourly'",
        ".cron (line 5, column 5)",
        "key 'cron' appears twice in one mapping",
    ),
    ("labels: {1: x}", '.labels["1"] (line 4, column 14)', "a key must be text; put '1' in quotes"),
    ("labels: &l {a: x}", ".labels (line 4, column 13)", "anchors are not accepted"),
    ("description: *l", ".description (line 4, column 18)", "aliases are not accepted; write the value out"),
    (
        "labels:\n  <<: {a: b}",
        '.labels["<<"] (line 5, column 7)',
        "merge keys are not accepted; write the values out",
    ),
    (
        (
            "tasks:\n"
            "- {task_id: a, kind: http, dependencies: [b]}\n"
            "- {task_id: b, kind: http, dependencies: [a]}"
        ),
        ".tasks[0].dependencies (line 5, column 46)",
        "cycle: a → b → a",
    ),
    (
        "tasks:\n- {task_id: a, kind: http}\n- {task_id: a, kind: http}",
        ".tasks[1].task_id (line 6, column 17)",
        'duplicate task name "a"',
    ),
    ("cron: 61 0 0 * * *", ".cron (line 4, column 11)", "'61 0 0 * * *': "),
    ("cron: '@daily'\ntimezone: Mars", ".timezone (line 5, column 15)", "unknown time zone 'Mars'"),
    (r'description: "\ude00\ud83d"', ".description (line 4, column 18)", "text contains a lone surrogate"),
    ("timezone: UTC", ".timezone (line 4, column 15)", "has no meaning without cron"),
    (
        "params: {n: {type: integer, default: x}}",
        ".params.n.default (line 4, column 42)",
        "expected integer, got text 'x'",
    ),
    ("params: {n: {typ: integer}}", ".params.n.typ (line 4, column 23)", 'unknown key; did you mean "type"?'),
    (
        "params: {n: {type: date}}",
        ".params.n.type (line 4, column 24)",
        "expected any, string, integer, number, boolean, array or object, got text 'date'",
    ),
    (
        "transactional: true\nsub_task_error_tolerance: 0.5",
        ".transactional (line 4, column 20)",
        "needs sub_task_error_tolerance 0",
    ),
    ("max_concurrent_task: 0", ".max_concurrent_task (line 4, column 26)", "0 is outside 1 to 100000"),
    (
        "sub_task_error_tolerance: 1.5",
        ".sub_task_error_tolerance (line 4, column 31)",
        "1.5 is outside 0 to 1",
    ),
    (
        "realtime_tasks: [{task_id: a, func_key: load_orders, mode: continuous}]",
        ".realtime_tasks[0].mode (line 4, column 64)",
        "continuous needs a workflow in streaming mode",
    ),
    (
        "description: 99999999999999999999",
        ".description (line 4, column 18)",
        "integer 99999999999999999999… is outside 64 bits",
    ),
]

# Keys of a task; the path goes on after `definitions[0].tasks[0]`.
TASKS = [
    ("kind: http\nparms: {}", ".parms (line 8, column 14)", 'unknown key; did you mean "params"?'),
    *(
        (
            f"func_key: load_orders\n{key}: x",
            f".{key} (line 8, column {len(key) + 9})",
            "unknown key (streaming tasks stand under realtime_tasks)",
        )
        for key in ("collector", "mode", "buffer_size", "type")
    ),
    (
        "func_key: load_order",
        ".func_key (line 7, column 17)",
        'unknown function "load_order"; did you mean "load_orders"?',
    ),
    ("job_id: j", ".job_id (line 7, column 15)", 'unknown job "j" (known: none)'),
    ("kind: htp", ".kind (line 7, column 13)", 'unknown kind "htp"; did you mean "http"?'),
    ("task_id: a", ".func_key (line 6, column 7)", "is required (or another kind)"),
    ("kind: http\nfunc_key: load_orders", ".kind (line 7, column 13)", "one of func_key and kind is enough"),
    (
        "kind: http\ncompensation: undo",
        ".compensation.func_key (line 8, column 21)",
        'unknown function "undo" (known: load_orders, price_orders)',
    ),
    ("kind: http\ndependencies: [b]", ".dependencies[0] (line 8, column 22)", 'unknown task "b" (known: a)'),
    (
        "kind: http\ndependencies: [a]",
        ".dependencies[0] (line 8, column 22)",
        'task "a" cannot depend on itself',
    ),
    (
        'kind: http\nparams: {u: "${{ tasks.b.result }}"}',
        ".params.u (line 8, column 19)",
        '${{ tasks.b.result }}: there is no task "b" (known: a)',
    ),
    (
        'kind: http\nparams: {u: "${{ tasks.a.result }}"}',
        ".params.u (line 8, column 19)",
        '${{ tasks.a.result }}: "a" is not upstream of "a"',
    ),
    (
        'kind: http\nparams: {u: "${{ params.days }}"}',
        ".params.u (line 8, column 19)",
        '${{ params.days }}: the workflow declares no such parameter; did you mean "day"?',
    ),
    (
        'kind: http\nparams: ["${{ 1 + 1 }}"]',
        ".params[0] (line 8, column 16)",
        "${{ 1 + 1 }}: expected tasks.… or params.…",
    ),
    ("task_id: 5\nkind: http", ".task_id (line 6, column 16)", "expected text, got an integer 5"),
    ("kind: http\nretry_count: '2'", ".retry_count (line 8, column 20)", "expected an integer, got text '2'"),
    (
        "kind: http\nretry_count: -1",
        ".retry_count (line 8, column 20)",
        "-1: input should be greater than or equal to 0",
    ),
    (
        "kind: http\nis_template: 1",
        ".is_template (line 8, column 20)",
        "expected true or false, got an integer 1",
    ),
    ("kind: http\ndependencies: b", ".dependencies (line 8, column 21)", "expected a list, got text 'b'"),
    (
        "kind: http\ntimeout: 5",
        ".timeout (line 8, column 16)",
        "5 has no unit; write 500ms, 45s, 2m30s or 1h",
    ),
    (
        "kind: http\ntimeout: soon",
        ".timeout (line 8, column 16)",
        '"soon" is not a duration; write 500ms, 45s, 2m30s or 1h',
    ),
    ("kind: http\ntimeout: 9000h", ".timeout (line 8, column 16)", "9000h is outside 1ms to 8760h"),
    (
        "kind: http\nrule: sometimes",
        ".rule (line 8, column 13)",
        ("expected all_success, all_done, one_failed, none_failed or always, got text 'sometimes'"),
    ),
    (
        "kind: http\npriority: huge",
        ".priority (line 8, column 17)",
        'unknown priority "huge" (accepted: low, medium, high, urgent or an integer)',
    ),
    (
        ("kind: http\ncallbacks:\n- {state: done, func_key: load_orders}\n- {func_key: load_orders}"),
        ".callbacks[0].state (line 9, column 17)",
        (
            "expected success, failed or timeout, got text "
            "'done'\ndefinitions[0].tasks[0].callbacks[1].state (line 10, column 9): is required"
        ),
    ),
    (
        "func_key: load_orders\nparams: [1]",
        ".params (line 8, column 15)",
        "parameters of a function are an object, got a list",
    ),
    ("kind: http\nparams: .inf", ".params (line 8, column 15)", ".inf is not a finite number"),
]


@pytest.mark.parametrize(("text", "place", "words"), DOCUMENTS)
def test_what_is_wrong_in_a_document(text: str, place: str, words: str) -> None:
    assert refusal(text) == f"{place}: {words}".removeprefix(": ")


@pytest.mark.parametrize(("text", "place", "words"), DEFINITIONS)
def test_what_is_wrong_in_a_definition(text: str, place: str, words: str) -> None:
    assert refusal(in_definition(text)).startswith(f"definitions[0]{place}: {words}")


@pytest.mark.parametrize(("text", "place", "words"), TASKS)
def test_what_is_wrong_in_a_task(text: str, place: str, words: str) -> None:
    assert refusal(in_task(text)) == f"definitions[0].tasks[0]{place}: {words}"


def test_all_faults_are_told_at_once_in_the_order_of_the_text() -> None:
    text = """\
    workflows:
      jobs:
        - {job_id: j, func_key: nobody, timeout: 3}
      definitions:
        - workflow_id: w
          cron: nope
          tasks:
            - {task_id: a, job_id: j, dependencies: [c], retry_count: many}
            - {task_id: a, func_key: load_orders, rule: maybe}
            - 5
        - workflow_id: w
    """
    assert [line.partition(" (")[0] for line in refusal(text).splitlines()] == [
        "jobs[0].func_key",
        "jobs[0].timeout",
        "definitions[0].cron",
        "definitions[0].tasks[0].dependencies[0]",
        "definitions[0].tasks[0].retry_count",
        "definitions[0].tasks[1].task_id",
        "definitions[0].tasks[1].rule",
        "definitions[0].tasks[2]",
        "definitions[1].workflow_id",
    ]


def test_a_fault_of_a_part_does_not_hide_others_inside() -> None:
    text = """\
    workflows:
      definitions: &all
        - workflow_id: w
          labels: {a: x, a: y}
          labels: {b: 1}
          tasks: &tasks
            - {task_id: a, kind: htp}
    """
    assert [line.partition(" (")[0] for line in refusal(text).splitlines()] == [
        "definitions",
        "definitions[0].labels.a",
        "definitions[0].labels",
        "definitions[0].labels.b",
        "definitions[0].tasks",
        "definitions[0].tasks[0].kind",
    ]


def test_faults_of_a_job_are_told_at_the_job_once() -> None:
    text = SAMPLE.replace("func_key: book_orders", "func_key: book_oders").replace("45s", "9000h")
    functions = {
        "load_orders",
        "price_orders",
        "book_orders",
        "note_success",
        "page_someone",
        "unbook_orders",
    }
    assert refusal(text, Checks(functions=functions)) == (
        "jobs[0].timeout (line 6, column 16): 9000h is outside 1ms to 8760h\n"
        'jobs[2].func_key (line 10, column 17): unknown function "book_oders"; did you mean "book_orders"?'
    )


def test_the_longest_timeout_can_be_set() -> None:
    assert refusal(SAMPLE, Checks(max_timeout_ms=30_000)) == (
        "jobs[0].timeout (line 6, column 16): 45s is outside 1ms to 30s"
    )


def test_faults_name_their_file() -> None:
    with pytest.raises(WorkflowError) as caught:
        read_files({"a.yaml": "workflows: {definitions: [{workflow_id: 1}]}", "b.yaml": "x: ["})
    assert str(caught.value).splitlines() == [
        "a.yaml: definitions[0].workflow_id (line 1, column 41): expected text, got an integer 1",
        "b.yaml: x[0] (line 1, column 5): expected the node content, but found '<stream end>' "
        "while parsing a flow node",
    ]
    assert [fault.source for fault in caught.value.faults] == ["a.yaml", "b.yaml"]


def test_two_mistakes_in_one_list_are_two_faults() -> None:
    callbacks = (
        "callbacks: [{state: sucess, func_key: price_orders}, {state: fialed, func_key: price_orders}]"
    )
    assert refusal(in_task(f"func_key: load_orders\n{callbacks}")).splitlines() == [
        "definitions[0].tasks[0].callbacks[0].state (line 8, column 27): "
        "expected success, failed or timeout, got text 'sucess'",
        "definitions[0].tasks[0].callbacks[1].state (line 8, column 68): "
        "expected success, failed or timeout, got text 'fialed'",
    ]


def test_every_file_that_is_wrong_is_named() -> None:
    names = [f"{number}.yaml" for number in range(100)]
    with pytest.raises(WorkflowError) as caught:
        read_files(dict.fromkeys(names, "5"))
    assert [fault.source for fault in caught.value.faults] == names[:MAX_FAULTS]


def test_a_condition_is_checked_and_may_read_what_is_upstream_only() -> None:
    text = in_definition("""
        tasks:
        - {task_id: a, kind: http}
        - {task_id: b, kind: http, dependencies: [a], condition: reads a}
        - {task_id: c, kind: http, dependencies: [b], condition: reads a}
        - {task_id: d, kind: http, condition: reads a}
        - {task_id: e, kind: http, condition: reads z}
        - {task_id: f, kind: http, condition: "1 +"}
    """)

    def condition(text: str) -> Reads:
        if not text.startswith("reads "):
            raise ValueError("syntax error at 1:4")
        return Reads([text.removeprefix("reads ")])

    assert refusal(text, Checks(condition=condition)) == (
        'definitions[0].tasks[3].condition (line 8, column 43): "a" is not upstream of "d"\n'
        'definitions[0].tasks[4].condition (line 9, column 43): there is no task "z" '
        "(known: a, b, c, d, e, f)\n"
        "definitions[0].tasks[5].condition (line 10, column 43): syntax error at 1:4"
    )


@pytest.mark.parametrize(
    "text",
    [
        in_task("kind: http\ndependencies: [" + ", ".join(f"load_orders_{i}" for i in range(20_000)) + "]"),
        in_definition("tasks: [" + ", ".join(f"{{task_id: t{i}, job_id: j{i}}}" for i in range(3_000)) + "]"),
        in_definition(f"tasks: [{'0, ' * 20_000}0]"),
        in_definition(f"tasks: [{'{}, ' * 10_000}]"),
        in_task(f"kind: http\ndependencies: [{'0, ' * 20_000}0]"),
        in_task(f"kind: http\ncallbacks: [{'0, ' * 20_000}0]"),
        in_task("kind: http\nlimits: {" + ", ".join(f"k{i}: x" for i in range(10_000)) + "}"),
        in_task("kind: http\n" + "\n".join(f"k{i}: x" for i in range(10_000))),
        in_definition(f"description: {'*a ' * 10}\nlabels: [{'*a, ' * 10_000}]"),
    ],
    ids=[
        "unknown names",
        "unknown jobs",
        "numbers",
        "empty",
        "dependencies",
        "callbacks",
        "limits",
        "keys",
        "aliases",
    ],
)
def test_many_faults_cost_little(text: str) -> None:
    began = time.process_time()
    with pytest.raises(WorkflowError) as caught:
        read_workflows(text)
    assert len(caught.value.faults) <= MAX_FAULTS
    assert len(str(caught.value)) < 100_000
    assert time.process_time() - began < 20  # almost all of it is the parser's


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_the_sample_is_more_than_a_refusal(data: st.DataObject) -> None:
    lines = SAMPLE.splitlines(keepends=True)
    start = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(start, min(start + 2, len(lines))))
    word = st.sampled_from(["null", "5", "[]", "{}", "- a", "x: y", '"', "&a b", "*a", "${X:}", "\t"])
    lines[start:end] = [" " * data.draw(st.integers(0, 12)) + data.draw(word | st.text(max_size=8)) + "\n"]
    try:
        read_workflows("".join(lines), checks=CHECKS)
    except WorkflowError as error:
        assert error.faults

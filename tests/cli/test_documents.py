"""Graph files: what is read, and what is refused, with its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from engine.client.documents import MAX_BYTES, parse, read
from engine.errors import InvalidInput

Call = Callable[..., Result]


def refusal(text: str, name: str = "graph.yaml") -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(text, name, only_json=name.endswith(".json"))
    return str(caught.value)


def test_yaml_is_read_by_the_core_schema_of_1_2() -> None:
    text = (
        "a: no\nb: on\nc: 010\nd: 12:30:45\ne: 1.10\nf: 1e3\ng: 2020-01-01\nh: ~\ni: 0x1F\nj: 0o17\nk: true\n"
    )
    assert parse(text, "x").value == {
        **{"a": "no", "b": "on", "c": 10, "d": "12:30:45", "e": 1.1, "f": 1000.0},
        **{"g": "2020-01-01", "h": None, "i": 31, "j": 15, "k": True},
    }


def test_quoted_and_block_text_stays_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  2\nd: >-\n  null\n", "x").value == {
        **{"a": "1", "b": "true", "c": "2\n", "d": "null"}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "graph.yaml:1:4: anchors are not accepted"),
        ("a: *x\n", "graph.yaml:1:4: aliases are not accepted"),
        ("a: !!python/object/apply:os.system [id]\n", "graph.yaml:1:4: tags are not accepted"),
        ("a: !include /etc/passwd\n", "graph.yaml:1:4: tags are not accepted"),
        ("a: !!binary aGk=\n", "graph.yaml:1:4: tags are not accepted"),
        ("a: 1\nb: 2\na: 3\n", "graph.yaml:3:1: key 'a' appears twice"),
        ("a: {<<: {b: 1}}\n", "graph.yaml:1:5: merge keys are not accepted"),
        ("a: 1\n---\nb: 2\n", "graph.yaml:3:1: one document is expected"),
        ("%YAML 1.1\n---\na: 1\n", "graph.yaml:2:1: directives"),
        ("~: 1\n", "graph.yaml:1:1: a key must be text"),
        ("? [a]\n: 1\n", "graph.yaml:1:3: a key must be text"),
        ("a:\n\t- b\n", "graph.yaml:2:1: found character"),
        ("a: .nan\n", "graph.yaml:1:4: .nan is not a finite number"),
        ("a: 1e999\n", "graph.yaml:1:4: 1e999 is not a finite number"),
        (f"a: {'9' * 5000}\n", "graph.yaml:1:4: integer 99999999999999999999… is outside 64 bits"),
        ("a: " + "[" * 2000, "graph.yaml:1:103: nesting is deeper than 100 levels"),
        ("a: 'x\n", "graph.yaml:2:1: found unexpected end of stream"),
        ("a: \x01\n", "graph.yaml:1:4: special characters are not allowed"),
        ("", "graph.yaml: the document is empty"),
        ("\n  \n", "graph.yaml: the document is empty"),
        ("# later\n", "graph.yaml: the document is empty"),
    ],
)
def test_yaml_that_is_refused_names_the_place(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "graph.json:1:"),
        ("{'a': 1}", "graph.json:1:2:"),
        ('{"a": 1,\n "a": 2}', "graph.json:2:7: key 'a' appears twice in one object"),
        ('[{"a": 1}, {"b":\n\n {"c": 1, "c": 1}}]', "graph.json:3:16: key 'c' appears twice"),
        ('{"a": [1,\n\tNaN]}', "graph.json:2:2: NaN is not a JSON number"),
        ('{"NaN": -Infinity}', "graph.json:1:9: -Infinity is not a JSON number"),
        ('{"a": 1e999}', "graph.json:1:7: number 1e999 is not finite"),
        (f'{{"a": "\\"{10**30}", "b": {10**30}}}', "graph.json:1:49: integer 10000000000000000000… is out"),
        ("[" * 200_000, "graph.json:1:101: nesting is deeper than 100 levels"),
        (
            '{"a": [],\n "b": ' * 2000 + "1" + "}" * 2000,
            "graph.json:100:13: nesting is deeper than 100 levels",
        ),
        ("[" * 101 + "]" * 101, "graph.json:1:101: nesting is deeper than 100 levels"),
        ("a: 1", "graph.json:1:1:"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    assert refusal(text, "graph.json").startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, {"b": [], "c\\"}": {}}, "x:,"],\n\n  "d" : {"e":\n null}, "f": [[], [true]]}',
        '[\n{"a": 1.5e3, "b": "[{"},\n2]',
        ' "text" ',
    ],
)
def test_values_of_json_have_the_places_that_they_have_as_yaml(text: str) -> None:
    as_json, as_yaml = parse(text, "x", only_json=True), parse(f"# YAML\n{text}", "x")
    places = {path: (line + 1, column) for path, (line, column) in as_json.find_places().items()}
    assert places == as_yaml.find_places()
    assert as_json.value == as_yaml.value


def test_a_yaml_flow_mapping_is_not_mistaken_for_broken_json() -> None:
    assert parse("{a: 1, b: [x]}  # comment\n", "graph.yaml").value == {"a": 1, "b": ["x"]}


def test_a_byte_order_mark_is_skipped_and_utf_16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(str(path)).value == {"a": 1}
    path.write_bytes("a: 1\n".encode("utf-16"))
    with pytest.raises(InvalidInput, match=r"graph\.yaml:1: the document is not UTF-8 text"):
        read(str(path))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (sparse, "is larger than 64 MiB"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_cannot_be_a_graph_file_ends_with_2(
    call: Call, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "graph")
    result = call("run", str(tmp_path / "graph"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_standard_input_is_read_for_a_dash(call: Call) -> None:
    graph = {"name": "piped", "tasks": [{"name": "a", "kind": "noop"}]}
    result = call("run", "-", "--json", text=json.dumps(graph))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["run"]["name"] == "piped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks:\n  - name: 1.10\n    kind: noop\n", "graph.yaml:2:11: name: input should be a valid string"),
        ("tasks:\n  - name: a\n    knd: noop\n", "unknown field 'knd'; did you mean 'kind'?"),
        ("tasks:\n  - {name: a, kind: noop, retry: {max_atempts: 2}}\n", "did you mean 'max_attempts'?"),
        ("tasks:\n  - name: a\n    kind: nope\n", "graph.yaml:3:11: task 'a': unknown kind"),
        (
            "tasks:\n  - {name: a, kind: noop, retry: {max_attempts: x}}\n",
            "graph.yaml:2:49: task 'a': retry.max_attempts: input should be a valid integer",
        ),
        (
            "tasks:\n  - {name: a, kind: noop, depends_on: [b]}\n",
            'graph.yaml:2:5: task "a" depends on unknown task "b"',
        ),
        (
            "tasks:\n  - {name: a, kind: noop, depends_on: [a]}\n",
            'graph.yaml:2:5: task "a" cannot depend on itself',
        ),
        (
            "tasks:\n  - {name: a, kind: noop, depends_on: [{name: b}]}\n"
            "  - {name: b, kind: noop, depends_on: [a]}\n",
            ":5: cycle detected in task graph: ",
        ),
        ("tasks: []\n", "graph.yaml:1:8"),
        ("tasks: {}\n", "graph.yaml:1:8: a graph needs `tasks`, a list"),
        ("---\n", "graph.yaml:2:1: a graph is an object"),
        ("[]\n", "graph.yaml:1:1: a graph is an object"),
        ("tasks:\n  - {id: a, type: nope}\n", "graph.yaml:2:5: unknown task type: nope"),
        ("tasks:\n  - {id: a}\n", 'graph.yaml:2:5: task "a": type is required'),
        ("tasks:\n  - {id: 5, type: noop}\n", "graph.yaml:2:10: id: expected `str | null`, got `int`"),
        (
            "tasks:\n  - {id: a, type: noop}\n  - {id: a, type: noop}\n",
            'graph.yaml:3:5: duplicate task id: "a"',
        ),
    ],
)
def test_a_bad_graph_ends_with_2_and_its_place(call: Call, text: str, message: str) -> None:
    Path("graph.yaml").write_text(text)
    result = call("run", "graph.yaml")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("data").exists()


def circle(*names: str) -> str:
    """A graph in which each task needs the one before it, and the first the last."""
    tasks = [
        {"name": name, "kind": "noop", "depends_on": [names[index - 1]]} for index, name in enumerate(names)
    ]
    return json.dumps({"tasks": [*tasks, {"name": "behind", "kind": "noop", "depends_on": [names[0]]}]})


def test_a_cycle_is_written_out_in_the_order_of_running(call: Call) -> None:
    [error] = call("run", "-", text=circle("a", "b", "c")).stderr.splitlines()
    place, _, chain = error.partition(": cycle detected in task graph: ")
    assert chain in ("a → b → c → a", "b → c → a → b", "c → a → b → c")
    task = f'{{"name": "{chain[0]}"'
    assert place == f"error: <stdin>:1:{circle('a', 'b', 'c').index(task) + 1}"


def test_a_long_cycle_is_cut(call: Call) -> None:
    error = call("run", "-", text=circle(*(f"t{number}" for number in range(1000)))).stderr
    assert "… 982 more …" in error
    assert error.count(" → ") == 19


def test_every_problem_of_a_graph_is_a_line_of_its_own(call: Call) -> None:
    Path("graph.yaml").write_text("tasks:\n  - {name: a, kind: 5}\n  - {name: b, kind: noop, delay_ms: x}\n")
    result = call("run", "graph.yaml")
    assert [line[:23] for line in result.stderr.splitlines()] == [
        "error: graph.yaml:2:21:",
        "error: graph.yaml:3:37:",
    ]

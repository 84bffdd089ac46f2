"""Arguments of functions, filled from JSON."""

from __future__ import annotations

import dataclasses
import enum
import functools
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    Strict,
    StringConstraints,
)

from engine.errors import ConfigError, InvalidArguments
from engine.functions.context import Context, SyncContext
from engine.functions.decorator import task
from engine.functions.function import Function, How
from tests.functions.bench import make_context


class Row(BaseModel):
    id: int
    price: Decimal = Decimal(0)


@dataclasses.dataclass
class Place:
    path: Path
    mode: Literal["r", "w"] = "r"


class Colour(enum.Enum):
    RED = "red"


class Connection:
    """JSON cannot give one."""


def called(call: Any, params: dict[str, Any], **options: Any) -> Any:
    """What the function returns when a task calls it with `params`."""
    function = Function.of(call, **options)
    return function.call(**function.arguments(make_context(params)))


def refusal(call: Any, params: Any) -> InvalidArguments:
    with pytest.raises(InvalidArguments) as raised:
        called(call, params)
    return raised.value


def test_json_becomes_the_annotated_types() -> None:
    def load(day: date, key: UUID, rows: list[Row], places: set[int], where: Place) -> Any:
        return day, key, rows, places, where

    key = UUID(int=7)
    got = called(
        load,
        {
            "day": "2026-03-01",
            "key": str(key),
            "rows": [{"id": 1}, {"id": "2", "price": "1.50"}],
            "places": [1, 1, 2],
            "where": {"path": "/tmp/x"},
        },
    )
    rows = [Row(id=1), Row(id=2, price=Decimal("1.50"))]
    assert got == (date(2026, 3, 1), key, rows, {1, 2}, Place(Path("/tmp/x")))


def test_what_is_not_given_has_its_default() -> None:
    def load(size: int = 3, *, name: str | None = None) -> Any:
        return size, name

    assert called(load, {}) == (3, None)
    assert called(load, {"name": "x"}) == (3, "x")


def test_further_names_go_to_a_double_star_argument() -> None:
    def load(table: str, **columns: int) -> Any:
        return table, columns

    assert called(load, {"table": "t", "a": "1", "b": 2}) == ("t", {"a": 1, "b": 2})
    assert refusal(load, {"table": "t", "a": "x"}).problems[0]["path"] == "a"


def test_arguments_without_annotations_take_any_json() -> None:
    def load(what, copy, _x=1):  # type: ignore[no-untyped-def]  # as people write it
        return what, copy, _x

    assert called(load, {"what": [1, {"a": None}], "copy": "c"}) == ([1, {"a": None}], "c", 1)


def test_what_is_wrong_is_told_with_its_path_and_what_was_expected() -> None:
    def load(day: date, rows: list[Row], limit: int = 1) -> None: ...

    error = refusal(load, {"rows": [{"id": 1}, {"id": "one"}], "limt": 3})
    assert str(error) == (
        'invalid params of function "load": day: missing, expected date; '
        "rows.1.id: Input should be a valid integer, unable to parse string as an integer; "
        'limt: unknown; did you mean "limit"?'
    )
    assert [problem["path"] for problem in error.problems] == ["day", "rows.1.id", "limt"]


def test_unknown_names_are_told_what_is_accepted() -> None:
    def load(rows: list[int]) -> None: ...

    assert "zzz: unknown (accepted: rows)" in str(refusal(load, {"rows": [], "zzz": 1}))


def test_many_problems_are_cut_short_in_the_message_and_kept_whole() -> None:
    def load(rows: list[int]) -> None: ...

    error = refusal(load, {"rows": ["x"] * 50})
    assert str(error).endswith("; and 40 more")
    assert len(error.problems) == 50


def test_the_context_is_given_by_annotation_under_any_name() -> None:
    def load(size: int, me: SyncContext) -> Any:
        return size, me.params

    assert called(load, {"size": 2}) == (2, {"size": 2})
    assert refusal(load, {"size": 2, "me": 1}).problems[0]["path"] == "me"


def test_the_context_may_be_optional() -> None:
    def load(size: int = 1, me: SyncContext | None = None) -> Any:
        return me is not None

    assert called(load, {}) is True


@pytest.mark.parametrize("name", ["ctx", "context"])
def test_the_older_form_takes_the_context_alone(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def load({name}): return {name}.get_param('any')", scope)
    assert called(scope["load"], {"any": 3}) == 3


def test_one_argument_of_another_name_is_a_parameter() -> None:
    def double(n):  # type: ignore[no-untyped-def]
        return 2 * n

    assert called(double, {"n": 4}) == 8


def test_required_parameters_may_come_from_the_first_dependency_that_has_them() -> None:
    def load(rows: list[int]) -> None: ...

    function = Function.of(load, required=["rows"])
    upstream = {"a": None, "b": {"rows": [1]}, "c": {"rows": [2]}}
    assert function.needs_upstream({}) and not function.needs_upstream({"rows": []})
    assert function.complete({}, upstream) == {"rows": [1]}
    assert function.complete({"rows": [9]}, upstream) == {"rows": [9]}
    with pytest.raises(InvalidArguments, match=r"^missing required params: \[rows\]$"):
        function.complete({}, {"a": {"other": 1}})


def test_required_names_that_are_no_arguments_are_for_the_context() -> None:
    def load(size: int, ctx: SyncContext) -> Any:
        return size, ctx.must_get_param("day")

    assert called(load, {"size": 1, "day": "x"}, required=["day"]) == (1, "x")


def test_checking_leaves_open_what_is_only_known_later() -> None:
    def load(rows: list[int], day: date, table: str) -> None: ...

    function = Function.of(load, required=["table"])

    def is_open(value: Any) -> bool:
        return "${" in str(value)

    function.check({"rows": ["${{ tasks.a.result }}"], "day": "${{ params.day }}"}, is_open)
    with pytest.raises(InvalidArguments, match="rows: missing"):
        function.check({"day": "${{ params.day }}"}, is_open)
    with pytest.raises(InvalidArguments, match=r"rows\.0"):
        function.check({"rows": ["x"], "day": "${{ params.day }}"}, is_open)


def test_the_schema_describes_the_arguments() -> None:
    def load(day: date, size: int = 3, ctx: SyncContext | None = None) -> None:
        """Load a day."""

    schema = Function.of(load, required=["table"]).schema()
    assert schema["description"] == "Load a day."
    assert schema["required"] == ["day", "table"]
    assert schema["properties"].keys() == {"day", "size"}
    assert schema["properties"]["day"]["format"] == "date"
    assert schema["properties"]["size"]["default"] == 3
    assert schema["additionalProperties"] is False


def test_a_function_of_the_context_alone_accepts_anything() -> None:
    async def load(ctx: Context) -> None: ...

    assert Function.of(load).schema()["additionalProperties"] is not False


def test_arguments_that_json_cannot_give_are_refused_when_defined() -> None:
    def load(db: Connection) -> None: ...

    with pytest.raises(ConfigError, match=r"argument db has a type that JSON cannot give: .*get_dependency"):
        task(load)


def test_arguments_without_a_name_are_refused() -> None:
    def first(a: int, /) -> None: ...
    def second(*rest: int) -> None: ...

    for call in (first, second):
        with pytest.raises(ConfigError, match="cannot be given by name"):
            task(call)


def test_two_contexts_are_refused() -> None:
    def load(a: SyncContext, b: SyncContext) -> None: ...

    with pytest.raises(ConfigError, match="several arguments take the context: a, b"):
        task(load)


def test_types_of_a_surrounding_function_are_refused_with_a_reason() -> None:
    class Inner(BaseModel):
        x: int

    def load(row: Inner) -> None: ...

    with pytest.raises(ConfigError, match="names that are known at the top of its module"):
        task(load)


def test_what_annotations_say_besides_the_type_holds() -> None:
    def pay(
        amount: PositiveInt,
        to: Annotated[str, StringConstraints(pattern="^[a-z]+$")],
        tags: list[Annotated[int, Field(le=5)]],
        exact: Annotated[int, Strict()] = 1,
        **more: NonNegativeInt,
    ) -> None: ...

    wrong = {"amount": -5, "to": "X1", "tags": [99], "exact": "1", "x": -1}
    paths = {problem["path"] for problem in refusal(pay, wrong).problems}
    assert paths == {"amount", "to", "tags.0", "exact", "x"}
    with pytest.raises(InvalidArguments, match="amount: missing, expected PositiveInt; tags: missing"):
        Function.of(pay).check({"to": "x"})
    schema = Function.of(pay).schema()
    assert schema["properties"]["amount"]["exclusiveMinimum"] == 0
    assert schema["properties"]["to"]["pattern"] == "^[a-z]+$"
    assert schema["properties"]["tags"]["items"]["maximum"] == 5
    assert schema["additionalProperties"]["minimum"] == 0


def test_a_type_is_told_without_what_is_annotated_to_it() -> None:
    def load(n):  # type: ignore[no-untyped-def]
        ...

    load.__annotations__["n"] = PositiveInt  # as without the import from __future__
    with pytest.raises(InvalidArguments, match=r"n: missing, expected int$"):
        Function.of(load).check({})


def test_fields_of_pydantic_stand_in_annotations_or_for_defaults() -> None:
    def load(
        n: int = Field(gt=0),
        rows: list[int] = Field(default_factory=list),  # noqa: B008 - pydantic's own way
        tags: Annotated[list[str], Field(default_factory=lambda: ["x"])] = Field(max_length=2),  # noqa: B008
        size: Annotated[int, Field(default=5, lt=9)] = 3,
    ) -> Any:
        return n, rows, tags, size

    assert called(load, {"n": "1"}) == (1, [], ["x"], 3)
    wrong = {"n": 0, "tags": ["a", "b", "c"], "size": 9}
    assert {each["path"] for each in refusal(load, wrong).problems} == {"n", "tags", "size"}
    assert refusal(load, {}).problems == ({"path": "n", "message": "missing, expected int"},)
    schema = Function.of(load).schema()
    assert schema["required"] == ["n"] and schema["properties"]["size"]["default"] == 3


def test_an_alias_is_refused_when_defined() -> None:
    def load(n: Annotated[int, Field(alias="N")]) -> None: ...

    with pytest.raises(ConfigError, match="argument n has an alias, 'N'"):
        task(load)


def test_the_context_may_be_annotated_further() -> None:
    def load(size: int, me: Annotated[SyncContext | None, "for the log"] = None) -> Any:
        return size, me is not None

    assert called(load, {"size": 2}) == (2, True)


class Exact(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    key: UUID
    mode: Colour
    pair: tuple[int, int]
    places: set[int]


def test_strict_types_are_filled_from_what_json_has_for_them() -> None:
    def load(row: Exact, n: int = 1) -> Any:
        return row

    row = {"day": "2026-03-01", "key": str(UUID(int=7)), "mode": "red", "pair": [1, 2], "places": [1]}
    expected = Exact(day=date(2026, 3, 1), key=UUID(int=7), mode=Colour.RED, pair=(1, 2), places={1})
    assert called(load, {"row": row}) == expected
    Function.of(load).check({"row": row})
    assert [each["path"] for each in refusal(load, {"row": {**row, "pair": ["1", 2]}}).problems] == [
        "row.pair.0"
    ]
    wrong = {"row": row, "n": object()}  # no JSON either
    assert "n" in [each["path"] for each in refusal(load, wrong).problems]


def test_what_a_function_returns_may_have_a_type_that_is_not_known_here() -> None:
    class Inner: ...

    def load(n: int) -> Inner:
        assert n == 1
        return Inner()

    assert isinstance(called(load, {"n": "1"}), Inner)


def test_a_partial_function_has_the_types_and_the_name_of_what_it_calls() -> None:
    def add(a: int, b: int, c: int = 3) -> int:
        """Add."""
        return a + b + c

    once = functools.partial(add, 1)
    function = Function.of(once)
    assert (function.name, function.description) == ("add", "Add.")
    assert called(once, {"b": "2"}) == 6
    assert called(functools.partial(once, c=4), {"b": "2"}) == 7
    assert refusal(once, {"a": 1, "b": 2}).problems[0]["path"] == "a"

    async def wait(a: int) -> None: ...

    assert Function.of(functools.partial(wait)).how is How.ASYNC

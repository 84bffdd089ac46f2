from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ParamsError
from engine.model.parameters import Param, ParamType, accepts, effective

VALUES: dict[ParamType, list[Any]] = {
    ParamType.STRING: ["", "x"],
    ParamType.INTEGER: [0, -1],
    ParamType.NUMBER: [1.5],
    ParamType.BOOLEAN: [True, False],
    ParamType.ARRAY: [[], (1,)],
    ParamType.OBJECT: [{}],
}


@pytest.mark.parametrize("kind", ParamType)
def test_each_type_accepts_its_values_and_no_others(kind: ParamType) -> None:
    param = Param(type=kind)
    for other, values in VALUES.items():
        is_fine = kind in (ParamType.ANY, other) or (kind, other) == (ParamType.NUMBER, ParamType.INTEGER)
        assert all(accepts(param, value) is is_fine for value in values), other


@pytest.mark.parametrize("kind", ParamType)
def test_null_is_of_no_type_but_what_there_is_without_a_default(kind: ParamType) -> None:
    default = VALUES.get(kind, [1])[0]
    assert accepts(Param(type=kind), None)
    assert accepts(Param(default, type=kind), None) is (kind is ParamType.ANY)
    assert accepts(Param(type=kind, required=True), None) is (kind is ParamType.ANY)


def test_what_a_run_has_can_be_given_to_another() -> None:
    declared = {"day": Param(type=ParamType.STRING), "n": Param(1, type=ParamType.INTEGER)}
    values = effective(declared, {})
    assert effective(declared, values) == values == {"day": None, "n": 1}


def test_what_is_given_goes_before_defaults_and_unknown_names_are_kept() -> None:
    declared = {"region": Param("eu"), "day": Param(required=True), "note": Param()}
    assert effective(declared, {"day": "monday", "other": 1}) == {
        **{"region": "eu", "day": "monday", "note": None, "other": 1}
    }
    assert effective(declared, {"day": None, "region": "us"})["region"] == "us"


def test_everything_that_is_missing_or_wrong_is_told() -> None:
    declared = {
        "day": Param(required=True),
        "n": Param(1, type=ParamType.INTEGER),
        "hour": Param(required=True),
        "a b": Param(type=ParamType.ARRAY),
    }
    with pytest.raises(ParamsError) as caught:
        effective(declared, {"n": "5", "a b": {}})
    assert str(caught.value) == (
        "missing parameters: day, hour\n"
        "params.n: expected integer, got text '5'\n"
        'params["a b"]: expected array, got an object'
    )


def test_a_name_that_nothing_takes_is_refused_where_names_are_declared() -> None:
    declared = {"region": Param("eu"), "day": Param(required=True)}
    given = {"Region": "us", "a b": 1, "hour": 5, "day": 1}
    with pytest.raises(ParamsError) as caught:
        effective(declared, given, referenced=iter(["hour"]))
    assert str(caught.value) == (
        'params.Region: the workflow has no such parameter; did you mean "region"?\n'
        'params["a b"]: the workflow has no such parameter (known: day, hour, region)'
    )
    assert effective(declared, {"hour": 5, "day": 1}, ["hour"])["hour"] == 5
    assert effective({}, given, ["hour"]) == given

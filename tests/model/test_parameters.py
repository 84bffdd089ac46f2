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
    assert accepts(param, None)
    assert accepts(Param(type=kind, required=True), None) is (kind is ParamType.ANY)


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

"""No expression and no value stops the caller: it gets an error in time, and the next evaluation works."""

from __future__ import annotations

import asyncio
import os
import sys

import psutil
import pytest

from engine.errors import ExpressionError
from engine.expressions.evaluator import Evaluator
from engine.model.json import JSON
from tests.expressions.conftest import processes

pytestmark = pytest.mark.anyio

MEMORY_MIB = 96
NUMBERS = list(range(9_000))

# An error that is told from inside, the end of the time, or the end of the process: which of them comes first
# depends on the machine.
FAIL = r"Iteration budget exceeded|not done after 1 s|needs more than 96 MiB|died twice|values$|budget|depth"

ENDLESS = "params.numbers.all(n, params.text.matches('(.*a){500}' + string(n)) || true)"
ENDLESS_PARAMS: JSON = {"numbers": NUMBERS, "text": "a" * 100_000}

HOSTILE: dict[str, tuple[str, JSON]] = {
    "nested loops": ("params.l.all(a, params.l.all(b, params.l.all(c, a + b + c >= 0)))", {"l": NUMBERS}),
    "nested maps": ("params.l.map(a, params.l.map(b, params.l.map(c, [a, b, c])))", {"l": NUMBERS}),
    "long map": ("params.l.map(a, a)", {"l": NUMBERS}),
    "lists that double": ("[1]" + ".map(a, [a, a])" * 25, {}),
    "objects that double": ("[1]" + ".map(a, {'x': a, 'y': a})" * 25, {}),
    "texts that double": ("['0123456789']" + ".map(a, a + a)" * 26 + ".map(a, a.size())", {}),
    "sums of texts": ("params.s" + " + params.s" * 30, {"s": "a" * 4_000_000}),
    "texts in a loop": ("params.l.map(a, params.s + string(a))", {"l": NUMBERS, "s": "a" * 1_000_000}),
    "sums of lists": ("params.l" + " + params.l" * 30, {"l": list(range(100_000))}),
    "comparisons": ("params.l.all(a, params.l == params.l)", {"l": NUMBERS}),
    "a loop of regular expressions": (ENDLESS, ENDLESS_PARAMS),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux only")
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_expression(name: str) -> None:
    text, params = HOSTILE[name]
    async with Evaluator(timeout_seconds=1, memory_mib=MEMORY_MIB) as evaluator:
        assert await evaluator.evaluate("1 + 1", {}) == 2
        async with asyncio.timeout(30):  # twice a second, twice a start, on a busy machine
            with pytest.raises(ExpressionError, match=FAIL):
                await evaluator.evaluate(text, {"params": params})
        assert await evaluator.evaluate("1 + 1", {}) == 2
        assert len(processes()) == 1
    assert processes() == []


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ("params.s.matches('(a+)+$')", {"s": "a" * 100_000 + "b"}, False),
        ("params.s.matches('^(a|aa)*(a|a)*x{0,900}$')", {"s": "a" * 100_000 + "b"}, False),
        ("params.s.contains('a' + params.s)", {"s": "a" * 1_000_000}, False),
        ("params.s.size()", {"s": "日" * 1_000_000}, 1_000_000),
        ("params.l.all(a, a >= 0)", {"l": NUMBERS}, True),
        ("params.l.exists(a, a == 8999)", {"l": NUMBERS}, True),
        ("int(params.s.size() == 1000 ? '1' : '2')", {"s": "9" * 1_000}, 1),
        ("-" * 3_000 + "1", {}, 1),
        (" && ".join(["true"] * 300), {}, True),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_harmless_though_it_looks_hostile(text: str, params: JSON, expected: JSON) -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        assert await evaluator.evaluate(text, {"params": params}) == expected


async def test_what_takes_too_long_is_killed_while_others_go_on() -> None:
    async with Evaluator(timeout_seconds=0.5) as evaluator:
        await evaluator.evaluate("1", {})
        (late,) = processes()
        turns = 0
        handle = asyncio.create_task(evaluator.evaluate(ENDLESS, {"params": ENDLESS_PARAMS}))
        while not handle.done():
            turns += 1
            await asyncio.sleep(0.01)
        with pytest.raises(ExpressionError) as raised:
            await handle
        assert str(raised.value) == "not done after 0.5 s"
        assert turns > 10  # the loop went on
        assert not late.is_running()
        assert processes() == []  # a new one starts when it is needed
        assert await evaluator.evaluate("2", {}) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux only")
async def test_memory_has_a_limit_and_an_error_says_so() -> None:
    async with Evaluator(timeout_seconds=10, memory_mib=MEMORY_MIB) as evaluator:
        with pytest.raises(ExpressionError) as raised:
            await evaluator.evaluate("params.l.map(a, a)", {"params": {"l": NUMBERS}})
        assert str(raised.value) == "needs more than 96 MiB of memory"


async def test_a_large_evaluation_leaves_a_small_process() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        await evaluator.evaluate("1", {})
        (process,) = processes()
        before = process.memory_info().rss
        for _ in range(5):  # 70 MiB each
            result = await evaluator.evaluate("params.l.map(a, a).size()", {"params": {"l": NUMBERS[:2_000]}})
            assert result == 2_000
        assert processes() == [process]
        assert process.memory_info().rss - before < 30 * 2**20


async def test_thousands_of_texts_and_errors_leave_a_small_process() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        await evaluator.evaluate("1", {})
        (process,) = processes()
        growth = []
        for part in range(3):
            before = process.memory_info().rss
            for number in range(500):
                await evaluator.evaluate(f"params.x == {part}{number}", {"params": {"x": 1}})
                with pytest.raises(ExpressionError):
                    await evaluator.evaluate(f"params.x{part}.y{number}", {"params": {"x": 1}})
            growth.append(process.memory_info().rss - before)
        assert min(growth) < 2**20  # once the caches are full


async def test_the_process_has_nothing_of_ours() -> None:
    async with Evaluator() as evaluator:
        await evaluator.evaluate("1", {})
        (process,) = processes()
        assert set(process.environ()) <= {"PYTHONPATH", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
        assert process.cwd() == "/"
        assert os.getsid(process.pid) == process.pid
        if sys.platform.startswith("linux"):
            assert process.rlimit(psutil.RLIMIT_AS) == (256 * 2**20, 256 * 2**20)
            assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
            assert {file.path for file in process.open_files()} == set()
            assert process.net_connections() == []

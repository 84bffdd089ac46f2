"""Functions that need no code of the user: what the kinds `http` and `shell` do (contract section 2).

Parameters, results and what the operator allows are those of the kinds: see docs/kinds.md.
"""

from __future__ import annotations

from typing import Any

from engine.functions.context import Context
from engine.functions.decorator import TaskFunction, task
from engine.model.json import JSON
from engine.model.outcomes import Outcome


@task
async def http_request(
    ctx: Context,
    url: str,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    body: JSON = None,
) -> Outcome:
    """Send one HTTP request. Any status is a success; the result has `status_code`, `headers` and `body`."""
    return await ctx.perform("http", {"url": url, "method": method, "headers": headers, "body": body})


@task
async def shell_command(
    ctx: Context,
    command: str | None = None,
    args: list[str] | None = None,
    script: str | None = None,
    runner: str | None = None,
    dir: str | None = None,
) -> Outcome:
    """Run a program of the whitelist, or a script. The result has `stdout`, `stderr` and `exit_code`."""
    given = {"command": command, "args": args, "script": script, "runner": runner, "dir": dir}
    return await ctx.perform("shell", given)


BUILTIN: tuple[TaskFunction[..., Any], ...] = (http_request, shell_command)

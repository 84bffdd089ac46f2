"""Reads, writes, appends, deletes and stats files below the file root (contract section 6).

Only regular files, never the engine's own database. A write replaces the whole file or nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.executors.root import FileRoot
from engine.executors.text import readable, reason, shorten
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded

MAX_READ_BYTES = 1024 * 1024
IO_THREADS = 4
PREFIXES = {
    "read": "read file",
    "write": "write file",
    "append": "open file",
    "delete": "delete file",
    "stat": "stat file",
}


class FileParams(Params):
    required = ("action", "path")

    action: str = Field("", description="what to do", json_schema_extra={"enum": [*PREFIXES]})
    path: str = Field("", description="seen from the file root, which it cannot leave")
    content: str = Field("", description="what `write` and `append` write")
    encoding: Literal["utf-8", "base64"] = Field(  # ours
        "utf-8", description="of `content`, sent or read; `base64` carries bytes that are no text"
    )

    def require(self) -> None:
        if not self.path.strip():
            raise ValueError("path is required")
        if self.action not in PREFIXES:
            action = shorten(self.action, 100)
            raise ValueError(f'unknown action "{action}" (supported: read, write, append, delete, stat)')
        if self.encoding == "base64":
            self.content_bytes()

    def content_bytes(self) -> bytes:
        if self.encoding == "utf-8":
            return self.content.encode("utf-8", errors="replace")
        try:
            return base64.b64decode(self.content, validate=True)
        except binascii.Error:
            raise ValueError("content is not valid base64") from None


class FileExecutor(ParamsExecutor[FileParams]):
    kind = "file"
    params_type = FileParams

    def __init__(self, settings: ExecutorSettings) -> None:
        super().__init__(settings)
        self._root = FileRoot(settings.file_root, settings.protected_files)
        # A pool of our own: what user code puts into the loop's pool cannot keep files waiting.
        self._threads = ThreadPoolExecutor(IO_THREADS, thread_name_prefix="executor-file")

    async def perform(self, context: TaskContext, params: FileParams) -> Outcome:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _perform, self._root, params)


def _perform(root: FileRoot, params: FileParams) -> Outcome:
    prefix = PREFIXES[params.action]
    try:
        path = root.relative(params.path)
        if params.action in ("write", "append"):
            prefix = "create directory"
            root.make_parent(path)
            prefix = PREFIXES[params.action]
        return Succeeded(ACTIONS[params.action](root, path, params))
    except (OSError, ValueError, OverflowError) as error:  # a time that no calendar has, for instance
        return Failed(f"{prefix}: {shorten(params.path, 200)}: {reason(error)}")


def _read(root: FileRoot, path: str, params: FileParams) -> JSON:
    with root.open(path) as descriptor:
        _require_regular(os.fstat(descriptor))
        content = _read_all(descriptor)
    if params.encoding == "base64":
        text = base64.b64encode(content).decode()
        return {"content": text, "size": len(content), "encoding": "base64"}
    return {"content": readable(content), "size": len(content)}


def _read_all(descriptor: int) -> bytes:
    content = bytearray()
    while chunk := os.read(descriptor, MAX_READ_BYTES + 1 - len(content)):
        content += chunk
        if len(content) > MAX_READ_BYTES:
            size = max(os.fstat(descriptor).st_size, len(content))
            raise OSError(f"file of {size} bytes exceeds the limit of {MAX_READ_BYTES} bytes")
    return bytes(content)


def _write(root: FileRoot, path: str, params: FileParams) -> JSON:
    content = params.content_bytes()
    with root.open_parent(path) as (parent, name):
        mode = _mode_to_keep(parent, name)
        temporary = f".task-engine-{secrets.token_hex(8)}.tmp"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            _fill(os.open(temporary, flags, 0o644, dir_fd=parent), content, mode)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise
        os.fsync(parent)
    return {"bytes_written": len(content)}


def _mode_to_keep(parent: int, name: str) -> int | None:
    """Permissions of the file that is about to be replaced, None if there is none."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _require_regular(found)
    return stat.S_IMODE(found.st_mode) & 0o777


def _append(root: FileRoot, path: str, params: FileParams) -> JSON:
    content = params.content_bytes()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with root.open_parent(path) as (parent, name):
        descriptor = os.open(name, flags, 0o644, dir_fd=parent)
        found = os.fstat(descriptor)
        try:
            _require_regular(found)
            root.refuse_protected(found)
            if found.st_nlink != 1:
                raise OSError("the file has other names (hard links), which may be outside the file root")
        except OSError:
            os.close(descriptor)
            raise
        _fill(descriptor, content, mode=None)
    return {"bytes_written": len(content)}


def _delete(root: FileRoot, path: str, params: FileParams) -> JSON:
    with root.open_parent(path) as (parent, name):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
    return {"deleted": True}


def _stat(root: FileRoot, path: str, params: FileParams) -> JSON:
    found = root.stat(path)
    changed = datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC)
    return {
        "name": os.path.basename(path),
        "size": found.st_size,
        "mode": stat.filemode(found.st_mode),
        "mod_time": changed.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "is_dir": stat.S_ISDIR(found.st_mode),
    }


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError("is a directory")
    if stat.S_ISLNK(found.st_mode):
        raise OSError("is a symbolic link")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("is not a regular file")


def _fill(descriptor: int, content: bytes, mode: int | None) -> None:
    """Write all of it down to the disk, and close."""
    with open(descriptor, "wb", buffering=0) as file:
        if mode is not None:
            os.fchmod(descriptor, mode)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(descriptor)


ACTIONS: dict[str, Callable[[FileRoot, str, FileParams], JSON]] = {
    "read": _read,
    "write": _write,
    "append": _append,
    "delete": _delete,
    "stat": _stat,
}

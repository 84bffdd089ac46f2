"""file: results, errors, and a root that nothing leaves."""

from __future__ import annotations

import base64
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.executors import root as root_module
from engine.executors.file import MAX_READ_BYTES, FileExecutor
from engine.executors.root import FileRoot, has_openat2
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors.factories import make_context, make_settings

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with the kernel's help and without it."""
    if request.param == "openat2" and not has_openat2():
        pytest.skip("this kernel has no openat2")
    if request.param == "walk":
        monkeypatch.setattr(root_module, "has_openat2", lambda: False)
    return str(request.param)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The file root; next to it stands what must not be reached."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root-evil").mkdir()
    (tmp_path / "root-evil" / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def executor(way: str, base: Path) -> FileExecutor:
    return FileExecutor(make_settings(base))


async def run(executor: FileExecutor, action: str, path: object, **params: Any) -> Outcome:
    return await executor.execute(make_context(), {"action": action, "path": str(path), **params})


async def fails(executor: FileExecutor, action: str, path: object, **params: Any) -> str:
    outcome = await run(executor, action, path, **params)
    assert isinstance(outcome, Failed), outcome
    assert (outcome.code, outcome.result) == ("external_failure", None)
    return outcome.message


# --- results


async def test_write_creates_parents_and_counts_bytes(executor: FileExecutor, base: Path) -> None:
    assert await run(executor, "write", "a/b/c.txt", content="grüße") == Succeeded({"bytes_written": 7})
    assert (base / "a/b/c.txt").read_text() == "grüße"
    assert os.listdir(base / "a/b") == ["c.txt"]


async def test_write_replaces_the_file_and_keeps_its_mode(executor: FileExecutor, base: Path) -> None:
    (base / "x").write_text("long content")
    (base / "x").chmod(0o640)
    assert await run(executor, "write", "x", content="new") == Succeeded({"bytes_written": 3})
    assert (base / "x").read_text() == "new"
    assert stat.S_IMODE((base / "x").stat().st_mode) == 0o640


async def test_a_failed_write_leaves_the_old_file(
    executor: FileExecutor, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "x").write_text("old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.executors.file.os.fsync", no_space)
    assert await fails(executor, "write", "x", content="new") == "write file: x: no space left on device"
    assert (base / "x").read_text() == "old"
    assert os.listdir(base) == ["x"]


async def test_append_counts_what_it_added(executor: FileExecutor, base: Path) -> None:
    assert await run(executor, "append", "d/log", content="a\n") == Succeeded({"bytes_written": 2})
    assert await run(executor, "append", "d/log", content="bc\n") == Succeeded({"bytes_written": 3})
    assert (base / "d/log").read_text() == "a\nbc\n"


async def test_read_gives_content_and_bytes(executor: FileExecutor, base: Path) -> None:
    (base / "x").write_text("grüße")
    for path in ("x", "./d/../x", base / "x"):
        assert await run(executor, "read", path) == Succeeded({"content": "grüße", "size": 7})


async def test_bytes_that_are_no_text_are_replaced_or_sent_as_base64(
    executor: FileExecutor, base: Path
) -> None:
    (base / "x").write_bytes(b"a\xff\0b")
    assert await run(executor, "read", "x") == Succeeded({"content": "a\ufffd\ufffdb", "size": 4})
    encoded = base64.b64encode(b"a\xff\0b").decode()
    expected = {"content": encoded, "size": 4, "encoding": "base64"}
    assert await run(executor, "read", "x", encoding="base64") == Succeeded(expected)
    await run(executor, "write", "y", content=encoded, encoding="base64")
    assert (base / "y").read_bytes() == b"a\xff\0b"


async def test_delete_removes_a_file_and_an_empty_directory(executor: FileExecutor, base: Path) -> None:
    (base / "d").mkdir()
    (base / "d/x").touch()
    assert await fails(executor, "delete", "d") == "delete file: d: directory not empty"
    assert await run(executor, "delete", "d/x") == Succeeded({"deleted": True})
    assert await run(executor, "delete", "d/") == Succeeded({"deleted": True})
    assert os.listdir(base) == []


async def test_stat_of_a_file_from_beyond_all_calendars_fails_clearly(
    executor: FileExecutor, base: Path
) -> None:
    (base / "x").touch()
    os.utime(base / "x", (0, 400_000_000_000))
    if (base / "x").stat().st_mtime < 400_000_000_000:
        pytest.skip("the file system keeps no such time")
    assert (await fails(executor, "stat", "x")).startswith("stat file: x: ")


async def test_stat_describes_a_file_and_a_directory(executor: FileExecutor, base: Path) -> None:
    (base / "d").mkdir(mode=0o755)
    (base / "d/x.txt").write_text("grüße")
    (base / "d/x.txt").chmod(0o644)
    outcome = await run(executor, "stat", "d/x.txt")
    assert isinstance(outcome, Succeeded)
    changed = datetime.fromisoformat(outcome.result.pop("mod_time"))
    assert changed.timestamp() == pytest.approx((base / "d/x.txt").stat().st_mtime, abs=0.001)
    assert outcome.result == {"name": "x.txt", "size": 7, "mode": "-rw-r--r--", "is_dir": False}
    outcome = await run(executor, "stat", "d")
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["mode"], outcome.result["is_dir"]) == ("drwxr-xr-x", True)
    assert isinstance(await run(executor, "stat", "."), Succeeded)


async def test_links_that_stay_inside_are_followed_where_the_kernel_guards(
    executor: FileExecutor, base: Path, way: str
) -> None:
    (base / "real").mkdir()
    (base / "real/x").write_text("inside")
    os.symlink("real", base / "link")
    outcome = await run(executor, "read", "link/x")
    if way == "openat2":
        assert outcome == Succeeded({"content": "inside", "size": 6})
        assert await run(executor, "write", "link/new/y", content="z") == Succeeded({"bytes_written": 1})
        assert (base / "real/new/y").read_text() == "z"
    else:
        assert isinstance(outcome, Failed)


# --- errors


async def test_action_and_path_are_required(executor: FileExecutor) -> None:
    assert await fails(executor, "read", " ") == "path is required"
    words = "(supported: read, write, append, delete, stat)"
    assert await fails(executor, "copy", "x") == f'unknown action "copy" {words}'
    assert await fails(executor, "", "x") == f'unknown action "" {words}'
    assert (
        await fails(executor, "write", "x", content="?", encoding="base64") == "content is not valid base64"
    )


@pytest.mark.parametrize(
    ("action", "prefix"), [("read", "read file"), ("delete", "delete file"), ("stat", "stat file")]
)
async def test_what_is_missing_is_named(executor: FileExecutor, action: str, prefix: str) -> None:
    assert await fails(executor, action, "no/x") == f"{prefix}: no/x: no such file or directory"
    assert await fails(executor, action, "x") == f"{prefix}: x: no such file or directory"


async def test_a_parent_that_is_a_file_cannot_be_created(executor: FileExecutor, base: Path) -> None:
    (base / "x").touch()
    for action in ("write", "append"):
        assert await fails(executor, action, "x/y", content="") == "create directory: x/y: not a directory"


async def test_a_directory_is_not_read_or_written(executor: FileExecutor, base: Path) -> None:
    (base / "d").mkdir()
    assert await fails(executor, "read", "d") == "read file: d: is a directory"
    assert await fails(executor, "write", "d", content="x") == "write file: d: is a directory"
    assert await fails(executor, "append", "d", content="x") == "open file: d: is a directory"
    assert os.listdir(base) == ["d"]


async def test_a_file_beyond_the_limit_is_not_read(executor: FileExecutor, base: Path) -> None:
    with open(base / "fits", "wb") as file:
        file.truncate(MAX_READ_BYTES)
    with open(base / "large", "wb") as file:
        file.truncate(10**10)
    assert isinstance(await run(executor, "read", "fits"), Succeeded)
    message = await fails(executor, "read", "large")
    assert message == "read file: large: file of 10000000000 bytes exceeds the limit of 1048576 bytes"


@pytest.mark.parametrize("path", ["", ".", "./", "a/..", "/", "ROOT"])
async def test_the_root_itself_is_not_deleted_or_replaced(
    executor: FileExecutor, base: Path, path: str
) -> None:
    for action in ("delete", "write", "append"):
        await fails(executor, action, base if path == "ROOT" else path)
    assert base.is_dir()


# --- a root that nothing leaves


@pytest.mark.parametrize("action", ["read", "write", "append", "delete", "stat"])
@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "{outside}/secret",
        "../root-evil/secret",
        "{outside}/root-evil/secret",
        "..",
    ],
)
async def test_paths_outside_are_refused(executor: FileExecutor, base: Path, action: str, path: str) -> None:
    message = await fails(executor, action, path.format(outside=base.parent), content="evil")
    assert "is outside the file root" in message
    assert untouched(base)


def untouched(base: Path) -> bool:
    secrets = [base.parent / "secret", base.parent / "root-evil" / "secret"]
    return all(secret.read_text() == "secret" for secret in secrets)


@pytest.mark.parametrize("path", ["~/x", "%2e%2e/secret", "$HOME/x"])
async def test_signs_that_mean_something_elsewhere_are_just_names(
    executor: FileExecutor, base: Path, path: str
) -> None:
    assert isinstance(await run(executor, "write", path, content="x"), Succeeded)
    assert (base / path).read_text() == "x"


@pytest.mark.parametrize("path", ["a\0b", "x" * 256, "x" * 10_000, "d/" * 3_000 + "x"])
async def test_impossible_paths_fail_clearly(executor: FileExecutor, path: str) -> None:
    for action in ("read", "write", "append", "delete", "stat"):
        message = await fails(executor, action, path, content="x")
        assert "NUL" in message or "too long" in message
        assert len(message) < 300


async def test_three_hundred_levels_are_fine(executor: FileExecutor) -> None:
    assert isinstance(await run(executor, "write", "d/" * 300 + "x", content="x"), Succeeded)
    assert isinstance(await run(executor, "read", "d/" * 300 + "x"), Succeeded)


@pytest.mark.parametrize(
    "target", ["../secret", "{outside}/secret", "/dev/zero", "/proc/self/environ", "nowhere"]
)
async def test_links_that_lead_outside_are_refused(executor: FileExecutor, base: Path, target: str) -> None:
    os.symlink(target.format(outside=base.parent), base / "link")
    for action in ("read", "write", "append", "stat"):
        await fails(executor, action, "link", content="evil")
    assert untouched(base)
    assert not (base / "nowhere").exists()
    assert await run(executor, "delete", "link") == Succeeded({"deleted": True})
    assert untouched(base)


@pytest.mark.parametrize("target", ["..", "{outside}", "/proc/self/root", "/"])
async def test_folders_that_lead_outside_are_refused(executor: FileExecutor, base: Path, target: str) -> None:
    os.symlink(target.format(outside=base.parent), base / "link")
    for action in ("read", "write", "append", "delete", "stat"):
        await fails(executor, action, "link/secret", content="evil")
        await fails(executor, action, "link/root-evil/secret", content="evil")
    await fails(executor, "write", "link/new/x", content="evil")
    assert untouched(base)
    assert not (base.parent / "new").exists()


@contextmanager
def flipping(path: Path, targets: list[str]) -> Iterator[None]:
    """Point the link at one target after the other, as fast as it goes."""
    over = threading.Event()
    spare = path.with_name("spare")

    def flip() -> None:
        while not over.is_set():
            for target in targets:
                os.symlink(target, spare)
                os.rename(spare, path)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def test_a_folder_swapped_during_use_leads_nowhere(executor: FileExecutor, base: Path) -> None:
    (base / "real").mkdir()
    (base / "real/secret").write_text("public")
    (base / "flip").symlink_to("real")
    with flipping(base / "flip", ["real", "..", str(base.parent), "../root-evil"]):
        for _ in range(200):
            outcome = await run(executor, "read", "flip/secret")
            assert isinstance(outcome, Failed) or outcome.result["content"] in ("public", "evil")
            await run(executor, "write", "flip/secret", content="evil")
            await run(executor, "append", "flip/secret", content="")
    assert untouched(base)


async def test_a_file_swapped_for_a_link_is_not_followed_outside(executor: FileExecutor, base: Path) -> None:
    (base / "real").write_text("public")
    (base / "flip").symlink_to("real")
    with flipping(base / "flip", ["real", "../secret"]):
        for _ in range(200):
            outcome = await run(executor, "read", "flip")
            assert isinstance(outcome, Failed) or outcome.result["content"] == "public"
            await run(executor, "append", "flip", content="evil")
    assert untouched(base)


# --- only regular files


@pytest.fixture
def odd_files(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.chdir(base)  # the name of a socket must be short
    os.mkfifo("fifo")
    names = ["fifo", "socket"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        if os.geteuid() == 0:
            os.mknod("zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            names.append("zero")
        yield names


async def test_pipes_sockets_and_devices_are_refused(executor: FileExecutor, odd_files: list[str]) -> None:
    for name in odd_files:
        for action in ("read", "write", "append"):
            await fails(executor, action, name, content="x")
        assert isinstance(await run(executor, "stat", name), Succeeded)


async def test_a_pipe_with_a_reader_is_not_written(executor: FileExecutor, base: Path) -> None:
    os.mkfifo(base / "fifo")
    reader = os.open(base / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        message = await fails(executor, "append", "fifo", content="x")
        assert message == "open file: fifo: is not a regular file"
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


async def test_a_file_with_a_second_name_is_not_appended_to(executor: FileExecutor, base: Path) -> None:
    os.link(base.parent / "secret", base / "hard")
    assert "hard links" in await fails(executor, "append", "hard", content="evil")
    assert isinstance(await run(executor, "write", "hard", content="mine"), Succeeded)
    assert untouched(base)


# --- the engine's own files


@pytest.fixture
def guarded(way: str, base: Path) -> FileExecutor:
    (base / "engine.db").write_text("database")
    files = tuple(base / f"engine.db{end}" for end in ("", "-wal", "-shm", "-journal", ".lock"))
    return FileExecutor(make_settings(base, protected_files=files))


@pytest.mark.parametrize("action", ["read", "write", "append", "delete", "stat"])
async def test_the_database_is_out_of_reach(guarded: FileExecutor, base: Path, action: str) -> None:
    os.link(base / "engine.db", base / "hard")
    os.symlink("engine.db", base / "soft")
    for path in ("engine.db", base / "engine.db", "./x/../engine.db", "hard"):
        assert "belongs to the engine" in await fails(guarded, action, path, content="evil")
    if action != "delete":
        await fails(guarded, action, "soft", content="evil")
    assert (base / "engine.db").read_text() == "database"


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".lock"])
async def test_side_files_cannot_be_forged(guarded: FileExecutor, base: Path, suffix: str) -> None:
    name = f"engine.db{suffix}"
    for action in ("write", "append"):
        assert "belongs to the engine" in await fails(guarded, action, name, content="evil")
    (base / name).write_text("real")
    for action in ("read", "delete", "write"):
        assert "belongs to the engine" in await fails(guarded, action, name, content="evil")
    assert (base / name).read_text() == "real"


async def test_the_same_name_elsewhere_is_free(guarded: FileExecutor) -> None:
    assert isinstance(await run(guarded, "write", "copy/engine.db-wal", content="x"), Succeeded)


def test_openat2_is_used_where_the_kernel_has_it(tmp_path: Path) -> None:
    assert FileRoot(tmp_path)._use_openat2 == has_openat2()


async def test_a_missing_root_is_a_failure(tmp_path: Path) -> None:
    executor = FileExecutor(make_settings(tmp_path / "none"))
    assert await fails(executor, "read", "x") == "read file: x: no such file or directory"

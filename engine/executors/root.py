"""A directory that no path given by a client can leave, whatever links it meets or others swap in meanwhile.

On Linux the kernel keeps that promise (openat2 with RESOLVE_BENEATH), and links that stay inside are
followed. Elsewhere each component is opened below the one before, and every link is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
MAX_PATH_BYTES = 4096

_SAFE = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # an open never waits, as it would on a FIFO
_O_PATH = getattr(os, "O_PATH", 0)  # Linux only, and used only with openat2
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_RACES = 64  # the kernel gives up with EAGAIN when something in the tree was renamed meanwhile


class FileRoot:
    """Opens files below one directory. All paths are relative to it, as `relative` returns them."""

    def __init__(
        self, path: Path, protected: tuple[Path, ...] = (), *, use_openat2: bool | None = None
    ) -> None:
        self.path = path.absolute()
        self._protected = [name.absolute() for name in protected]
        self._use_openat2 = has_openat2() if use_openat2 is None else use_openat2

    def relative(self, path: str) -> str:
        """Clean `path` lexically and return it relative to the root. Raises `PermissionError` outside.

        An absolute path is accepted if it names the root, as configured or with its links resolved.
        """
        if "\0" in path:
            raise OSError(errno.EINVAL, "path contains a NUL character")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        for root in (self.path, self.path.resolve()):
            cleaned = Path(os.path.normpath(root / path))
            if cleaned.is_relative_to(root):
                return str(cleaned.relative_to(root))
        raise PermissionError(errno.EACCES, f"path is outside the file root {self.path}")

    @contextmanager
    def open(self, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        """A descriptor of an existing file or directory. Refuses protected files."""
        # openat2 is strict: with O_PATH, which opens nothing that could block, it takes no other flags.
        flags |= os.O_CLOEXEC if flags & _O_PATH else _SAFE
        with self._open_root() as root:
            descriptor = self._beneath(root, path, flags)
        try:
            self.refuse_protected(os.fstat(descriptor))
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def open_parent(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds `path`, and the name in it. Refuses protected names."""
        parent, name = os.path.split(path)
        if name == ".":
            raise OSError(errno.EISDIR, "path is the file root itself")
        with self.open(parent or ".", DIRECTORY) as descriptor:
            self._refuse_protected_name(descriptor, name)
            yield descriptor, name

    def stat(self, path: str) -> os.stat_result:
        if self._use_openat2:
            with self.open(path, _O_PATH) as descriptor:
                return os.fstat(descriptor)
        if path == ".":
            return self.path.stat()
        with self.open_parent(path) as (parent, name):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return found

    def refuse_protected(self, found: os.stat_result) -> None:
        """By device and inode: a link or another spelling of the path changes nothing."""
        if any(_is_same(path, found) for path in self._protected):
            raise PermissionError(errno.EACCES, "the file belongs to the engine")

    def _refuse_protected_name(self, parent: int, name: str) -> None:
        """Also for side files that do not exist yet: a forged journal would be played into the database."""
        here = os.fstat(parent)
        for path in self._protected:
            if path.name.casefold() == name.casefold() and _is_same(path.parent, here):
                raise PermissionError(errno.EACCES, "the name belongs to the engine")
        with contextlib.suppress(FileNotFoundError):
            self.refuse_protected(os.stat(name, dir_fd=parent, follow_symlinks=False))

    def make_parent(self, path: str) -> None:
        """Create the directories above `path`, as far as they are missing."""
        parts = path.split("/")[:-1]
        for depth in range(len(parts)):
            above, here = "/".join(parts[:depth]) or ".", "/".join(parts[: depth + 1])
            try:
                with self.open(here, DIRECTORY):
                    continue
            except FileNotFoundError:
                with self.open(above, DIRECTORY) as parent, contextlib.suppress(FileExistsError):
                    os.mkdir(parts[depth], 0o755, dir_fd=parent)

    @contextmanager
    def _open_root(self) -> Iterator[int]:
        root = os.open(self.path, DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        finally:
            os.close(root)

    def _beneath(self, root: int, path: str, flags: int) -> int:
        if self._use_openat2:
            return _openat2(root, path, flags)
        return _walk(root, path, flags)


def _is_same(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except OSError:
        return False


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def has_openat2() -> bool:
    """Linux 5.6 and newer, where no sandbox forbids the call."""
    if not sys.platform.startswith("linux"):
        return False
    root = os.open("/", DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, ".", DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


def _openat2(root: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_RACES):
        found: int = libc.syscall(
            ctypes.c_long(_OPENAT2),
            root,
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number == errno.EXDEV:
            raise PermissionError(errno.EACCES, "path leaves the file root through a link")
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number))


def _walk(root: int, path: str, flags: int) -> int:
    """Open one component at a time, following no link. `path` is clean: no `..` in it."""
    *folders, name = path.split("/")
    here = os.dup(root)
    try:
        for folder in folders:
            above, here = here, os.open(folder, DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(above)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)

"""The settings file of the task-engine contract (section 6), as our own settings. Pure.

Such a file has sections: `server`, `task-engine`, `functions`. Settings that the contract does not know may
stand beside them, under our own names. docs/configuration.md says what becomes of each key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.model.durations import MAX_TIMEOUT_MS, format_ms, parse_ms
from engine.model.json import JSON
from engine.model.similar import near
from engine.settings_dsn import ACCEPTED, database_type, url_of

Path = tuple[str, ...]
Parse = Callable[[JSON], Any]  # raises `ValueError`
Place = Callable[[Path, str], Exception]  # a message with the place of what it is about

MAX_CONCURRENCY = 1_000
MAX_ATTEMPTS = 1_000
MAX_LABEL = 64
MAX_WAIT_MS = 24 * 86_400_000
MAX_SHOWN = 200  # characters of a key
BUILTIN = {name: f"engine.functions.builtin:{name}" for name in ("http_request", "shell_command")}
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}
_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", 8080
_DEFAULT_ATTEMPTS = 3
_DEFAULT_DELAY, _DEFAULT_MAX_DELAY = 1.0, 5.0
_HOST = re.compile(r"[A-Za-z0-9._:%-]*|\[[0-9A-Fa-f:.%]+\]")


# --- values


def _text(value: JSON) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


def _label(value: JSON) -> str:
    text = _text(value)
    if len(text) > MAX_LABEL or not text.isprintable():
        raise ValueError(f"expected a text of 1 to {MAX_LABEL} printable characters")
    return text


def _host(value: JSON) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value.strip()):
        raise ValueError('expected a host name or an address; "0.0.0.0" is every interface')
    return value.strip().removeprefix("[").removesuffix("]")


def _level(value: JSON) -> str:
    name = str(value).strip().lower()
    if name not in _LEVELS:
        raise ValueError("expected debug, info, warn or error")
    return _LEVELS[name]


def _boolean(value: JSON) -> bool:
    if str(value).lower() not in ("true", "false"):  # a variable brings text
        raise ValueError("expected true or false")
    return str(value).lower() == "true"


def _whole(low: int, high: int) -> Parse:
    def parse(value: JSON) -> int:
        is_number = not isinstance(value, bool) and re.fullmatch(r"[+-]?[0-9]{1,18}", str(value).strip())
        if not is_number or not low <= int(str(value)) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(str(value))

    return parse


def _duration(high_ms: int = MAX_TIMEOUT_MS, *, low_ms: int = 1) -> Parse:
    """In seconds."""

    def parse(value: JSON) -> float:
        text = "0" if value == 0 and not isinstance(value, bool) else value
        if not isinstance(text, str):
            raise ValueError("expected a duration with its unit: 500ms, 30s, 2h30m")
        milliseconds = parse_ms(text.strip())
        if not low_ms <= milliseconds <= high_ms:
            raise ValueError(f"expected a duration from {format_ms(low_ms)} to {format_ms(high_ms)}")
        return milliseconds / 1000

    return parse


def _names(value: JSON) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("expected a list of names")
    return tuple(name.strip() for name in listed if name.strip())


def _builtin(value: JSON) -> tuple[str, ...]:
    """Where the functions are."""
    names = _names(value)
    for name in names:
        if name not in BUILTIN:
            raise ValueError(f'"{name[:80]}" is not a built-in function{near(name, BUILTIN)}')
    return tuple(BUILTIN[name] for name in names)


# --- keys

_DATABASE = "task-engine.storage.database"
_CACHE = "task-engine.storage.cache"
_GENERAL = "task-engine.general"
_EXECUTION = "task-engine.execution"
_RETRY = f"{_EXECUTION}.retry"

KEYS: dict[str, Parse] = {
    "server.host": _host,
    "server.port": _whole(0, 65_535),
    "server.read_timeout": _duration(),
    "server.write_timeout": _duration(),
    f"{_GENERAL}.instance_name": _label,
    f"{_GENERAL}.log_level": _level,
    f"{_GENERAL}.env": _label,
    f"{_DATABASE}.type": lambda value: database_type(_text(value)),
    f"{_DATABASE}.dsn": _text,
    f"{_DATABASE}.max_open_conns": _whole(0, 1_000_000),
    f"{_DATABASE}.max_idle_conns": _whole(0, 1_000_000),
    f"{_DATABASE}.conn_max_lifetime": _duration(low_ms=0),
    f"{_DATABASE}.conn_max_idle_time": _duration(low_ms=0),
    f"{_CACHE}.enabled": _boolean,
    f"{_CACHE}.default_ttl": _duration(low_ms=0),
    f"{_CACHE}.clean_interval": _duration(low_ms=0),
    f"{_EXECUTION}.worker_concurrency": _whole(1, MAX_CONCURRENCY),
    f"{_EXECUTION}.default_task_timeout": _duration(),
    f"{_RETRY}.enabled": _boolean,
    f"{_RETRY}.max_attempts": _whole(1, MAX_ATTEMPTS),
    f"{_RETRY}.delay": _duration(MAX_WAIT_MS, low_ms=0),
    f"{_RETRY}.max_delay": _duration(MAX_WAIT_MS, low_ms=0),
    "functions.builtin": _builtin,
    "functions.modules": _names,
}

# Keys that are one of our settings by themselves. The other keys make one together, or have no effect.
_SETTINGS = {
    "server.read_timeout": "read_timeout",
    "server.write_timeout": "write_timeout",
    f"{_GENERAL}.instance_name": "instance_name",
    f"{_GENERAL}.log_level": "log_level",
    f"{_GENERAL}.env": "env",
    f"{_EXECUTION}.worker_concurrency": "max_concurrency",
    f"{_EXECUTION}.default_task_timeout": "default_task_timeout",
    f"{_RETRY}.delay": "retry_delay",
    f"{_RETRY}.max_delay": "retry_max_delay",
}
_REQUIRED = {
    f"{_DATABASE}.type": f"write {ACCEPTED}",
    f"{_DATABASE}.dsn": "write the path of a file, or how to reach a server",
}
_SAMPLE = {"max_concurrency": f"{_EXECUTION}.worker_concurrency"}  # of a layout that was never supported


def _sections() -> set[str]:
    parts = [name.split(".") for name in KEYS]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part))}


SECTIONS = _sections()


def is_contract(document: Mapping[str, JSON]) -> bool:
    """Whether a settings file is of this form: it has a section, and none of our settings is a mapping."""
    return "task-engine" in document or any(isinstance(value, dict) for value in document.values())


def translated(document: Mapping[str, JSON], own: Collection[str], place: Place) -> dict[str, Any]:
    """Our settings by name. `own` are the names that may stand beside the sections.

    Raises `ConfigError` that tells everything that is wrong, a line for each key, as it was written.
    """
    reading = _Reading(own)
    reading.take((), document)
    settings = reading.settings()
    if reading.faults:
        raise ConfigError("\n".join(str(place(path, message)) for path, message in reading.faults))
    return settings


@dataclass(slots=True)
class _Reading:
    """`found` has the values of keys that were given, `beside` settings under our own names."""

    own: Collection[str]
    found: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, JSON] = field(default_factory=dict)
    faults: list[tuple[Path, str]] = field(default_factory=list)

    # --- reading

    def take(self, above: Path, section: Mapping[str, JSON]) -> None:
        for key, value in section.items():
            path = (*above, key)
            name = _name(path)
            if value is None:
                self._require_known(path, name)
            elif name in KEYS:
                self._take_value(path, name, value)
            elif name in SECTIONS and isinstance(value, dict):
                self.take(path, value)
            elif name in SECTIONS:
                self._wrong(path, f"expected a section with {_listed(name)}")
            elif self._is_own(path, value):
                self.beside[key] = value
            else:
                self._unknown(path, value)

    def _require_known(self, path: Path, name: str) -> None:
        if name not in KEYS and name not in SECTIONS and not self._is_own(path, None):
            self._unknown(path, None)

    def _is_own(self, path: Path, value: JSON) -> bool:
        return len(path) == 1 and path[0] in self.own and not isinstance(value, dict)

    def _take_value(self, path: Path, name: str, value: JSON) -> None:
        try:
            self.found[name] = KEYS[name](value)
        except ValueError as error:
            self._wrong(path, str(error))

    def _unknown(self, path: Path, value: JSON) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                self._unknown((*path, key), inner)
            return
        last = path[-1]
        meant = _SAMPLE.get(last) or next((name for name in KEYS if name.endswith(f".{last}")), None)
        known = [*KEYS, *self.own] if len(path) == 1 else KEYS
        hint = near(_name(path), known) if meant is None else f'; did you mean "{meant}"?'
        self._wrong(path, f"is not a setting{hint}")

    def _wrong(self, path: Path, message: str) -> None:
        self.faults.append((path, f"{_name(path)[:MAX_SHOWN]}: {message}"))

    # --- translation

    def settings(self) -> dict[str, Any]:
        for name, advice in _REQUIRED.items():
            if name not in self.found and not self._is_told(name) and "database_url" not in self.beside:
                self._wrong(tuple(name.split(".")), f"is missing; {advice}")
        self._check_delays()
        made: dict[str, Any] = {}
        for setting, section, value in self._made():
            made[setting] = value
            if setting in self.beside:
                self._wrong((setting,), f"is said twice, here and by {section}")
        return {**self.beside, **made}

    def _is_told(self, name: str) -> bool:
        """Whether this key, or a section that it would be in, was found to be wrong."""
        return any(f"{name}.".startswith(f"{_name(path)}.") for path, _ in self.faults)

    def _made(self) -> Iterator[tuple[str, str, Any]]:
        """Our settings: name, what the contract calls it, value."""
        found = self.found
        for name, setting in _SETTINGS.items():
            if name in found:
                yield setting, name, found[name]
        if found.keys() & {"server.host", "server.port"}:
            yield "addr", "server", self._address()
        if {f"{_DATABASE}.type", f"{_DATABASE}.dsn"} <= found.keys():
            yield from self._database()
        if found.get(f"{_RETRY}.enabled"):
            yield "retry_attempts", _RETRY, found.get(f"{_RETRY}.max_attempts", _DEFAULT_ATTEMPTS)
        if functions := (*found.get("functions.builtin", ()), *found.get("functions.modules", ())):
            yield "functions", "functions", functions

    def _address(self) -> str:
        host = self.found.get("server.host", _DEFAULT_HOST)
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{self.found.get('server.port', _DEFAULT_PORT)}"

    def _database(self) -> Iterator[tuple[str, str, Any]]:
        name = f"{_DATABASE}.dsn"
        try:
            url = url_of(self.found[f"{_DATABASE}.type"], self.found[name])
        except ValueError as error:
            self._wrong(tuple(name.split(".")), str(error))
        else:
            yield "database_url", _DATABASE, url

    def _check_delays(self) -> None:
        delay = self.found.get(f"{_RETRY}.delay", _DEFAULT_DELAY)
        most = self.found.get(f"{_RETRY}.max_delay", _DEFAULT_MAX_DELAY)
        given = next((name for name in ("delay", "max_delay") if f"{_RETRY}.{name}" in self.found), None)
        if given is not None and delay > most:
            path = tuple(f"{_RETRY}.{given}".split("."))
            self._wrong(path, f"delay ({delay:g} s) must be at most max_delay ({most:g} s)")


def _name(path: Path) -> str:
    return ".".join(path)


def _listed(section: str) -> str:
    """The keys of a section, for a message."""
    below = (name.removeprefix(f"{section}.") for name in KEYS if name.startswith(f"{section}."))
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in below))

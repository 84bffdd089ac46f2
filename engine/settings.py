"""Every setting: name, unit, default, where it may come from. Nothing below this layer reads configuration.

A flag beats an `ENGINE_…` variable, which beats an `EXECGO_…` variable, which beats the file, which beats
the default. An empty environment variable counts as unset.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from engine import settings_contract
from engine.client.documents import Document, KeyPath, read
from engine.errors import ConfigError, EngineError
from engine.model.durations import MAX_TIMEOUT_MS
from engine.model.run_defaults import RunDefaults

PREFIX = "ENGINE_"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_UNIX = "unix:"
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d)")


def seconds(value: object) -> float:
    """A duration in seconds: a number, or text such as `500ms`, `1m30s`, `2h`, `30d`. Raises `ValueError`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    parts = _DURATION.findall(text)
    if parts and "".join(parts) == text:
        return sum(float(part.rstrip("mshd")) * _UNITS[part.lstrip("0123456789.")] for part in parts)
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            "a duration is a number of seconds or text such as 500ms, 30s, 1m30s, 2h, 30d"
        ) from None


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an empty host means every interface, as in Go; with a `path`, a Unix socket there."""

    host: str
    port: int
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        text = text.strip()
        if text.startswith(_UNIX) and text != _UNIX:
            return cls("localhost", 8080, Path(text.removeprefix(_UNIX)))  # only this machine reaches it
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError("an address is HOST:PORT, :PORT for every interface, or unix:PATH")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address needs brackets, as in [::1]:8080")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """How a program on this machine reaches the server; `unix:PATH` for a socket."""
        if self.path is not None:
            return str(self)
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{Address(host, self.port)}"


def _address(text: str) -> str:
    Address.parse(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            "not a time zone of this machine; accepted: names such as UTC or Europe/Berlin"
        ) from None
    return name


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _finite_positive(value: float) -> float:
    if not 0 < value < 10 * 365 * 86_400:
        raise ValueError("the duration must be above zero and below ten years")
    return value


def _within(low: float, high: float, shown: str) -> AfterValidator:
    """Seconds from `low` to `high`; `shown` says so to people."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"the duration must be {shown}")
        return value

    return AfterValidator(check)


def _label(text: str) -> str:
    if not 1 <= len(text) <= settings_contract.MAX_LABEL or not text.isprintable():
        raise ValueError(f"a text of 1 to {settings_contract.MAX_LABEL} printable characters")
    return text


Seconds = Annotated[float, BeforeValidator(seconds), AfterValidator(_finite_positive)]
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
TaskSeconds = Annotated[
    float, BeforeValidator(seconds), _within(0.001, MAX_TIMEOUT_MS / 1000, "from 1 ms to 365 days")
]
WaitSeconds = Annotated[
    float, BeforeValidator(seconds), _within(0, settings_contract.MAX_WAIT_MS / 1000, "at most 24 days")
]
Label = Annotated[str, AfterValidator(_label)]


def _setting(default: Any, description: str, *, unit: str = "", flag: str = "", **more: Any) -> Any:
    extra: dict[str, Any] = {"unit": unit, "flag": flag}
    return Field(default, description=description, json_schema_extra=extra, **more)


class Settings(BaseSettings):
    """All settings of one process, checked. Build with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    config: Path | None = _setting(
        None, "YAML file with settings, under the names of this table or the contract's", flag="--config"
    )
    database_url: SecretStr | None = _setting(
        None,
        "`postgresql://user@host/name` or `sqlite:///path`; without it, `task-engine.db` in the data folder",
        flag="--db",
    )
    data_dir: Path = _setting(Path("data"), "folder of the embedded database", flag="--data-dir")
    shared: bool = _setting(
        False,
        "let other processes use the same SQLite file; otherwise this process has it alone",
        flag="--shared",
    )

    addr: Annotated[str, AfterValidator(_address)] = _setting(
        "127.0.0.1:8080",
        "where the server listens; `:8080` is every interface, which needs a token; `unix:PATH` is a socket",
        flag="--addr",
    )
    grpc_addr: str = _setting(":50051", "accepted for ExecGo; gRPC is not in this build", flag="--grpc-addr")
    allowed_hosts: Listed = _setting(
        (), "host names, besides its own address, under which the server may be called"
    )
    cors_origins: Listed = _setting((), "web origins that may call the server from a browser")
    read_timeout: Seconds = _setting(15.0, "a request must arrive whole within this time", unit="s")
    write_timeout: Seconds = _setting(
        30.0, "an answer must begin within this time, and no client may stop reading for longer", unit="s"
    )
    insecure_no_auth: bool = _setting(
        False, "serve other machines without a token", flag="--insecure-no-auth"
    )
    bootstrap_token: SecretStr | None = _setting(
        None, "a token with every right, accepted beside those in the database; 32 characters or more"
    )
    max_open_tasks: Count = _setting(
        1_000_000, "submissions are refused (503) while more tasks than this are open; 0: never", unit="tasks"
    )

    max_concurrency: int = _setting(
        10, "tasks that one worker process runs at a time", unit="tasks", flag="--max-concurrency"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = _setting(
        1, "of a server: 1 works in its own process, more start processes, 0 only serves", flag="--workers"
    )
    functions: Listed = _setting(
        (),
        "Python functions that tasks may call: modules whose `@task`s are registered, or `module:name`",
        flag="--functions",
    )
    queues: Listed = _setting((), "queues that a worker takes from; none named: all", flag="--queues")
    worker_name: str | None = _setting(None, "name of this worker in lists; without it, host and process id")
    default_task_timeout: TaskSeconds = _setting(
        30.0, "time of an attempt of a workflow's task that has no timeout of its own", unit="s"
    )
    retry_attempts: Annotated[int, Field(ge=1, le=settings_contract.MAX_ATTEMPTS)] = _setting(
        1, "attempts of a workflow's task that asks for no retries, the first included", unit="attempts"
    )
    retry_delay: WaitSeconds = _setting(
        1.0, "first wait before a workflow's task is tried again, unless it says; then doubled", unit="s"
    )
    retry_max_delay: WaitSeconds = _setting(5.0, "longest of these waits", unit="s")
    shutdown_timeout: Seconds = _setting(
        15.0, "a stop waits this long for running tasks", unit="s", flag="--shutdown-timeout"
    )
    lease: Seconds = _setting(
        20.0, "a worker without a heartbeat for this long counts as dead; at least twice `beat`", unit="s"
    )
    beat: Seconds = _setting(5.0, "time between two heartbeats", unit="s")
    sweep: Seconds = _setting(2.0, "time between two looks for dead workers", unit="s")
    poll: Seconds = _setting(1.0, "longest time between two looks for work", unit="s")
    wake: bool = _setting(True, "tell other processes at once when work arrives; off: they only poll")
    retention: Seconds = _setting(30 * 86_400.0, "finished runs are removed after this time", unit="s")

    file_root: Path = _setting(Path(), "folder that tasks of kind `file` are confined to")
    shell_policy: Literal["", "whitelist", "open"] = _setting(
        "", "`open` lets tasks of kind `shell` run any program; otherwise a whitelist holds"
    )
    allow_scripts: bool | None = _setting(
        None, "scripts in tasks of kind `shell`; by default on for loopback, off when serving other machines"
    )
    allow_cli_skills: bool | None = _setting(None, "tasks of kind `cli-skills`; default as for scripts")
    allow_private_network: bool = _setting(
        True, "http and tcp tasks may reach loopback, private and link-local addresses"
    )
    process_memory_mib: Annotated[int, Field(ge=16)] | None = _setting(
        None, "memory of each process that a task starts", unit="MiB"
    )
    process_cpu_seconds: Annotated[int, Field(ge=1)] | None = _setting(
        None, "processor time of each process that a task starts", unit="s"
    )
    process_count: Annotated[int, Field(ge=1)] | None = _setting(None, "processes that the user may have")
    process_output_bytes: Annotated[int, Field(ge=1024, le=2 * 2**20)] = _setting(
        2**20, "output kept per stream of a process; more is cut", unit="bytes"
    )

    server: str | None = _setting(None, "server that the commands talk to", flag="--server")
    token: SecretStr | None = _setting(None, "token that the commands send to the server", flag="--token")

    instance_name: Label = _setting("task-engine", "name of this installation, told when a server starts")
    env: Label = _setting("dev", "what this installation is for, such as dev or prod; told with its name")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "least level that is logged", flag="--log-level"
    )
    access_log: Literal["errors", "all", "off"] = _setting(
        "errors", "requests that the server logs; `errors`: those answered with 400 or more"
    )
    timezone: Annotated[str, AfterValidator(_zone)] = _setting("UTC", "zone of schedules that name none")
    debug: bool = _setting(False, "show tracebacks", flag="--debug")

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.retry_delay > self.retry_max_delay:
            raise self._mismatch("retry_delay", "at most", "retry_max_delay")
        if self.beat * 2 > self.lease:
            raise self._mismatch("beat", "at most half of", "lease")
        return self

    def _mismatch(self, first: str, relation: str, second: str) -> ValueError:
        """Of two settings in seconds."""
        given = ", ".join(name for name in (first, second) if name in self.model_fields_set)
        values = [f"{name} ({getattr(self, name):g} s)" for name in (first, second)]
        return ValueError(f"{given}: {values[0]} must be {relation} {values[1]}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _ExecGo(settings_cls), _File(settings_cls)

    @property
    def address(self) -> Address:
        return Address.parse(self.addr)

    @property
    def database(self) -> str:
        """The database URL in force, password included: hand it on, never print it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'task-engine.db'}"

    @property
    def run_defaults(self) -> RunDefaults:
        return RunDefaults(
            timeout_ms=round(self.default_task_timeout * 1000),
            retry_count=self.retry_attempts - 1,
            retry_delay_ms=round(self.retry_delay * 1000),
            max_retry_delay_ms=round(self.retry_max_delay * 1000),
            timezone=self.timezone,
        )


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. `flags` that are None were not given. Raises `ConfigError`."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings(**_without_nonpositive(given))
    except ValidationError as error:
        raise ConfigError(_explain(error, given)) from None


# --- sources below the environment


class _ExecGo(PydanticBaseSettingsSource):
    """The variables of ExecGo. Its two integers fall back silently when they make no sense."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return os.environ.get(f"EXECGO_{field_name.upper()}") or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: os.environ.get(f"EXECGO_{name.upper()}") for name in _EXECGO}
        values: dict[str, Any] = {name: value for name, value in found.items() if value}
        for name in _POSITIVE & values.keys():
            digits = values.pop(name)
            if re.fullmatch(r"[+-]?[0-9]{1,9}", digits):
                values[name] = int(digits)
        return _without_nonpositive(values)


_EXECGO = ("addr", "grpc_addr", "data_dir", "max_concurrency", "shutdown_timeout", "shell_policy")
_POSITIVE = {"max_concurrency", "shutdown_timeout"}


def _without_nonpositive(values: Mapping[str, Any]) -> dict[str, Any]:
    """ExecGo: zero or less for one of its two numbers means the default."""
    kept = dict(values)
    for name in _POSITIVE & kept.keys():
        try:
            if seconds(kept[name]) <= 0:
                kept[name] = Settings.model_fields[name].default
        except ValueError:
            continue  # explained by the validation of the field
    return kept


class _File(PydanticBaseSettingsSource):
    """The YAML file that `--config` or ENGINE_CONFIG names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        return {} if path is None else _without_nonpositive(read_file(str(path)))


def read_file(path: str) -> dict[str, Any]:
    """The settings in a file, in our own form or the contract's. Raises `ConfigError`.

    `${VAR}` and `${VAR:default}` are replaced in values, so that no variable can bring YAML of its own.
    """
    try:
        document = read(path)
    except EngineError as error:
        raise ConfigError(f"settings file: {error}") from None
    if not isinstance(document.value, dict):
        raise ConfigError(str(document.error((), "a settings file is a mapping of names to values")))
    values: dict[str, Any] = _expanded(document, (), document.value)
    own = Settings.model_fields.keys() - {"config"}
    if settings_contract.is_contract(values):
        return settings_contract.translated(values, own, document.error)
    for name in values:
        if name not in own:
            raise ConfigError(str(document.error((name,), f"unknown setting {name!r}{_near(name)}")))
    return {name: value for name, value in values.items() if value is not None}


def _near(name: str) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(Settings.model_fields)}"


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_UNSET = {"ENV": "dev"}  # as in files of workflows


def _expanded(document: Document, path: KeyPath, value: Any) -> Any:
    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        text = os.environ.get(name) or (_UNSET.get(name) if default is None else default)
        if text is None:
            raise ConfigError(
                str(document.error(path, f"variable {name} is not set; write ${{{name}:default}}"))
            )
        return text

    match value:
        case str():
            return _VARIABLE.sub(replace, value)
        case list():
            return [_expanded(document, (*path, index), item) for index, item in enumerate(value)]
        case dict():
            return {key: _expanded(document, (*path, key), item) for key, item in value.items()}
        case _:
            return value


# --- messages


def _explain(error: ValidationError, flags: Mapping[str, Any]) -> str:
    """Which setting is wrong, where it came from, what would be accepted. Values may be secret: not shown."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        if problem["loc"]:
            names = str(problem["loc"][0])
        else:  # of several settings together
            names, _, message = message.partition(": ")
        told = ", ".join(f"{name} ({_origin(name, flags)})" for name in names.split(", "))
        lines.append(f"{told}: {message}")
    return "; ".join(dict.fromkeys(lines))


def _origin(name: str, flags: Mapping[str, Any]) -> str:
    field = Settings.model_fields.get(name)
    extra = field.json_schema_extra if field else None
    if name in flags:
        return str(extra["flag"]) if isinstance(extra, dict) and extra["flag"] else "flag"
    for variable in (f"{PREFIX}{name.upper()}", f"EXECGO_{name.upper()}"):
        if os.environ.get(variable):
            return variable
    return "settings file"


# --- documentation


def reference() -> str:
    """The table of `docs/settings.md`, made from the model."""
    lines = ["| setting | environment | flag | default | unit | meaning |", "|" + " --- |" * 6]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        variables = f"`{PREFIX}{name.upper()}`" + (f", `EXECGO_{name.upper()}`" if name in _EXECGO else "")
        flag = f"`{extra['flag']}`" if extra["flag"] else ""
        known = (f"`{name}`", variables, flag, _shown(field.default), extra["unit"], field.description)
        lines.append(f"| {' | '.join(map(str, known))} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    match default:
        case None | () | "":
            return ""
        case bool():
            return "on" if default else "off"
        case float():
            return f"{default:g}" if default < 1e6 else f"{default:.0f}"
        case _:
            return f"`{default}`"

"""The settings file of the task-engine contract, as our settings (contract section 6)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.errors import ConfigError
from engine.functions.builtin import BUILTIN
from engine.functions.loading import load_functions
from engine.model.run_defaults import RunDefaults
from engine.settings import Settings, load
from engine.settings_contract import BUILTIN as PLACES
from engine.settings_contract import KEYS
from engine.settings_dsn import database_type, url_of

SEED = """
server:
  host: "0.0.0.0"
  port: 8080
  read_timeout: 30s
  write_timeout: 30s

task-engine:
  storage:
    database:
      type: "sqlite"
      dsn: "./data/task-engine.db"
  execution:
    worker_concurrency: 20
    default_task_timeout: 60s

functions:
  builtin:
    - http_request
    - shell_command
"""
DATABASE = "storage: {database: {type: sqlite, dsn: x.db}}"
EVERYTHING = """
server: {host: "::1", port: 9090, read_timeout: 5s, write_timeout: 1m30s}
task-engine:
  general: {instance_name: orders, log_level: warn, env: prod}
  storage:
    database:
      type: postgres
      dsn: postgresql://engine@db/engine
      max_open_conns: 10
      max_idle_conns: 5
      conn_max_lifetime: 2h
      conn_max_idle_time: 1h
    cache: {enabled: true, default_ttl: 1h, clean_interval: 30m}
  execution:
    worker_concurrency: 7
    default_task_timeout: 2h30m
    retry: {enabled: true, max_attempts: 4, delay: 500ms, max_delay: 8s}
functions: {builtin: [shell_command], modules: [shop.tasks]}
retention: 7d
queues: [default, slow]
"""

Read = Callable[[str], Settings]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ENGINE_", "EXECGO_")) and not name.startswith("ENGINE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("ENV", raising=False)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The settings that a text gives as a file."""

    def read(text: str) -> Settings:
        path = tmp_path / "server.yaml"
        path.write_text(text)
        return load({"config": str(path)})

    return read


def refusal(read: Read, text: str) -> list[str]:
    """What is said of a file, line by line, without its name."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [line.partition("server.yaml:")[2] for line in str(caught.value).splitlines()]


def beside(text: str) -> str:
    """A file that is right except for `text`, lines at the level of `storage`."""
    return f"task-engine:\n  {DATABASE}\n  {text}\n"


# --- what it says


def test_the_file_of_the_seed_says_what_it_says(read: Read) -> None:
    settings = read(SEED)
    assert settings.addr == "0.0.0.0:8080"
    assert (settings.read_timeout, settings.write_timeout) == (30.0, 30.0)
    assert settings.database == "sqlite:///./data/task-engine.db"
    assert (settings.max_concurrency, settings.default_task_timeout) == (20, 60.0)
    assert settings.functions == tuple(f"engine.functions.builtin:{f.name}" for f in BUILTIN)
    assert settings.run_defaults == RunDefaults(timeout_ms=60_000)


def test_every_key_of_the_contract_is_known(read: Read) -> None:
    settings = read(EVERYTHING)
    assert settings.addr == "[::1]:9090"
    assert (settings.read_timeout, settings.write_timeout) == (5.0, 90.0)
    assert (settings.instance_name, settings.log_level, settings.env) == ("orders", "warning", "prod")
    assert settings.database == "postgresql://engine@db/engine"
    assert settings.max_concurrency == 7
    assert settings.run_defaults == RunDefaults(9_000_000, 3, 500, 8_000)
    assert settings.functions == ("engine.functions.builtin:shell_command", "shop.tasks")
    assert (settings.retention, settings.queues) == (7 * 86_400.0, ("default", "slow"))


def test_the_file_above_has_all_of_them() -> None:
    assert [key for key in KEYS if key.rpartition(".")[2] not in EVERYTHING] == []


def test_what_a_file_leaves_out_keeps_our_default(read: Read) -> None:
    settings, default = read(f"task-engine: {{{DATABASE}}}\n"), load()
    changed = settings.model_dump(exclude={"config", "database_url"})
    assert changed == default.model_dump(exclude={"config", "database_url"})


@pytest.mark.parametrize(
    ("section", "addr"),
    [
        ("{port: 9}", "127.0.0.1:9"),
        ('{host: ""}', ":8080"),
        ("{host: example.org}", "example.org:8080"),
        ('{host: "[::1]", port: "90"}', "[::1]:90"),
    ],
)
def test_half_an_address_keeps_the_other_half_of_the_default(read: Read, section: str, addr: str) -> None:
    assert read(f"server: {section}\ntask-engine: {{{DATABASE}}}\n").addr == addr


def test_retries_are_only_given_to_tasks_where_that_is_enabled(read: Read) -> None:
    assert read(beside("execution: {retry: {max_attempts: 9}}")).retry_attempts == 1
    assert read(beside("execution: {retry: {enabled: false, max_attempts: 9}}")).retry_attempts == 1
    assert read(beside("execution: {retry: {enabled: true}}")).retry_attempts == 3


def test_variables_are_replaced_before_values_are_looked_at(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_PORT", "9191")
    settings = read(
        "server:\n  port: ${OUR_PORT:1}\n"
        "task-engine:\n"
        "  general: {env: '${ENV}', instance_name: 'orders-${REGION:eu}'}\n"
        "  storage:\n    database:\n      type: ${DB_TYPE:sqlite}\n      dsn: ./${DB_NAME:x}.db\n"
        "  execution:\n    retry:\n      enabled: ${RETRY:true}\n"
        "functions:\n  builtin: ['${FUNCTION:http_request}']\n"
    )
    assert (settings.addr, settings.env, settings.instance_name) == ("127.0.0.1:9191", "dev", "orders-eu")
    assert (settings.database, settings.retry_attempts) == ("sqlite:///./x.db", 3)
    assert settings.functions == (PLACES["http_request"],)


def test_a_flag_beats_the_environment_beats_the_file(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_MAX_CONCURRENCY", "3")
    monkeypatch.setenv("ENGINE_DATABASE_URL", "sqlite:///other.db")
    settings = read(SEED)
    assert (settings.max_concurrency, settings.database) == (3, "sqlite:///other.db")
    monkeypatch.setenv("ENGINE_CONFIG", str(settings.config))
    assert load({"max_concurrency": 5}).max_concurrency == 5
    assert load({"addr": "127.0.0.1:1"}).addr == "127.0.0.1:1"


def test_our_own_form_is_read_as_before(read: Read) -> None:
    settings = read("server: http://other:8080\nfunctions: [shop.tasks]\nread_timeout: 5s\nenv: prod\n")
    assert (settings.server, settings.functions) == ("http://other:8080", ("shop.tasks",))
    assert (settings.read_timeout, settings.env) == (5.0, "prod")


def test_built_in_functions_are_where_they_are_looked_for() -> None:
    assert load_functions(PLACES.values()).names() == sorted(PLACES) == sorted(f.name for f in BUILTIN)


# --- what is wrong with it

_HOW = "write the path of a file, or how to reach a server"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (beside("execution: {worker_concurrency: 0}"), "3:35: task-engine.execution.worker_concurrency: "),
        (beside("execution: {worker_concurrency: many}"), "a whole number from 1 to 1000"),
        (beside("execution: {worker_concurrency: 1001}"), "a whole number from 1 to 1000"),
        (beside("execution: {worker_concurrency: true}"), "a whole number from 1 to 1000"),
        (beside("execution: {default_task_timeout: 30}"), "a duration with its unit"),
        (beside("execution: {default_task_timeout: 1x}"), '"1x" is not a duration'),
        (beside("execution: {default_task_timeout: 0s}"), "from 1ms to 8760h"),
        (beside("execution: {retry: {delay: 6s}}"), "retry.delay: delay (6 s) must be at most max_delay"),
        (beside("execution: {retry: {max_delay: 10ms}}"), "retry.max_delay: delay (1 s) must be at most"),
        (beside("execution: {retry: {enabled: maybe}}"), "retry.enabled: expected true or false"),
        (beside("execution: {retry: {max_attempts: 0}}"), "from 1 to 1000"),
        (beside("execution: [1]"), "task-engine.execution: expected a section with worker_concurrency"),
        (beside("general: {log_level: loud}"), "general.log_level: expected debug, info, warn or error"),
        (beside("general: {env: 3}"), "general.env: expected a text"),
        (beside(f"general: {{instance_name: {'x' * 65}}}"), "1 to 64 printable characters"),
        (f"server: {{port: 70000}}\n{beside('')}", "1:16: server.port: expected a whole number from 0 to"),
        (f"server: {{host: a b}}\n{beside('')}", "server.host: expected a host name"),
        (f"server: {{read_timeout: -1s}}\n{beside('')}", "server.read_timeout: "),
        (f"functions: {{builtin: [http_reqest]}}\n{beside('')}", 'did you mean "http_request"?'),
        (f"functions: {{builtin: 3}}\n{beside('')}", "functions.builtin: expected a list of names"),
        (f"functions: [a]\n{beside('')}", "functions: expected a section with builtin, modules"),
        ("task-engine: 3", "task-engine: expected a section with general, storage, execution"),
        ("server: {port: 1}\n", f"task-engine.storage.database.dsn: is missing; {_HOW}"),
        ("task-engine: {storage: {database: {type: sqlite}}}", f"database.dsn: is missing; {_HOW}"),
        ("task-engine: {storage: {database: {dsn: x}}}", "database.type: is missing; write sqlite or post"),
        ("task-engine: {storage: {database: {type: mysql, dsn: x}}}", "mysql is not supported; use postgres"),
        ("task-engine: {storage: {database: {type: oracle, dsn: x}}}", '"oracle" is not a database'),
        (f"addr: ':1'\nserver: {{port: 1}}\n{beside('')}", "addr: is said twice, here and by server"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_as_it_was_written(read: Read, text: str, said: str) -> None:
    assert any(said in line for line in refusal(read, text)), refusal(read, text)


def test_everything_that_is_wrong_is_told_at_once(read: Read) -> None:
    text = f"server: {{port: x, hots: a}}\n{beside('execution: {worker_concurrency: 0}')}"
    assert [line.split(": ")[1] for line in refusal(read, text)] == [
        "server.port",
        "server.hots",
        "task-engine.execution.worker_concurrency",
    ]


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        (f"server: {{prot: 1}}\n{beside('')}", "server.prot", "server.port"),
        (beside("worker_concurrency: 3"), "worker_concurrency", "execution.worker_concurrency"),
        (beside("executions: {worker_concurrency: 3}"), "executions.worker", "execution.worker_concurrency"),
        (f"task_engine: {{{DATABASE}}}\n", "task_engine.storage.database.dsn", "task-engine.storage"),
        (f"retenton: 7d\n{beside('')}", "retenton", "retention"),
        ("engine: {max_concurrency: 4}\n", "engine.max_concurrency", "execution.worker_concurrency"),
        ("storage: {type: sqlite, dsn: x.db}\n", "storage.type", "task-engine.storage.database.type"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_may_be_meant(
    read: Read, text: str, key: str, meant: str
) -> None:
    said = [line for line in refusal(read, text) if key in line and "is not a setting" in line]
    assert said and meant in said[0].partition("did you mean")[2], refusal(read, text)


def test_a_missing_variable_is_told_with_its_place(read: Read) -> None:
    with pytest.raises(ConfigError, match=r"server\.yaml:2:9: variable NOT_SET_HERE is not set"):
        read("server:\n  port: ${NOT_SET_HERE}\n")


def test_no_message_shows_a_dsn(read: Read) -> None:
    text = "task-engine: {storage: {database: {type: postgres, dsn: 'mysql://engine:hunter2@db/x'}}}"
    assert "hunter2" not in "".join(refusal(read, text))


# --- databases


@pytest.mark.parametrize(
    ("kind", "dsn", "url"),
    [
        ("sqlite", "./data/task-engine.db", "sqlite:///./data/task-engine.db"),
        ("sqlite", " /var/lib/x.db ", "sqlite:////var/lib/x.db"),
        ("sqlite", "file:x.db?cache=shared&_journal_mode=WAL", "sqlite:///x.db"),
        ("sqlite", "file:///var/x.db", "sqlite:////var/x.db"),
        ("sqlite", "x.db?_busy_timeout=5000", "sqlite:///x.db"),
        ("sqlite", ":memory:", "sqlite:///:memory:"),
        ("sqlite", "sqlite:///x.db", "sqlite:///x.db"),
        ("postgres", "postgres://a:b@db/x?sslmode=disable", "postgres://a:b@db/x?sslmode=disable"),
        ("postgres", "postgresql://db/x?TimeZone=UTC", "postgresql://db/x"),
        ("postgresql", "postgresql+psycopg://db/x", "postgresql+psycopg://db/x"),
        ("postgresql", "postgresql://db/x?host=a&host=b", "postgresql://db/x?host=a&host=b"),
        (
            "postgres",
            "host=db user=o'neil password='p @:/\\' q' dbname=orders port=5433 sslmode=disable "
            "TimeZone=Asia/Shanghai",
            None,
        ),
        ("postgres", "host=::1 dbname=x", "postgresql://[::1]/x"),
        ("postgres", "host=/run/postgresql dbname=x", "postgresql:///x?host=%2Frun%2Fpostgresql"),
        ("postgres", "host=a,b port=1,2 dbname=x", "postgresql:///x?host=a%2Cb&port=1%2C2"),
        ("postgres", "postgresql://u:p:/w@[::1]:5433/x", "postgresql://u:p:/w@[::1]:5433/x"),
        ("postgres", "dbname='my db'", "postgresql:///?dbname=my%20db"),
        ("postgres", "dbname=x search_path=shop", "postgresql:///x?options=-csearch_path%3Dshop"),
    ],
)
def test_a_database_as_a_url(kind: str, dsn: str, url: str | None) -> None:
    if url is None:  # an apostrophe outside of quotes ends what can be read
        with pytest.raises(ValueError, match="cannot be read"):
            url_of(database_type(kind), dsn)
    else:
        assert url_of(database_type(kind), dsn) == url


def test_what_is_quoted_in_a_dsn_comes_out_as_it_was_meant() -> None:
    dsn = r"host=db port=5433 user='a b' password='p @:/\' q\\' dbname=orders sslmode=require"
    url = sa.make_url(url_of("postgresql", dsn))
    assert (url.username, url.password, url.host, url.port) == ("a b", "p @:/' q\\", "db", 5433)
    assert (url.database, dict(url.query)) == ("orders", {"sslmode": "require"})


@pytest.mark.parametrize(
    ("kind", "dsn", "said"),
    [
        ("sqlite", "postgres://db/x", "for sqlite write the path of a file"),
        ("sqlite", "file:", "names no file"),
        ("sqlite", "?x=1", "names no file"),
        ("postgresql", "sqlite:///x.db", "for Postgres write a URL"),
        ("postgresql", "./x.db", "libpq's words"),
        ("postgresql", "host=db dbname", "cannot be read"),
        ("postgresql", " ", "is empty"),
        ("postgresql", "host=127.0.0.1 port=abc", "has a port that is no number"),
        ("postgresql", "host=a,b port=1,x", "has a port that is no number"),
        ("postgresql", "postgresql://u:secret@db:abc/x", "has a port that is no number$"),
        ("postgresql", "postgresql://[::1]:/x", "has a port that is no number"),
    ],
)
def test_what_is_no_dsn_is_refused(kind: Any, dsn: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        url_of(kind, dsn)


# --- documentation

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "configuration.md").read_text()


def test_every_key_is_documented() -> None:
    table = PAGE.partition("## Keys")[2].partition("\n## ")[0]
    told = set(re.findall("`(.*?)`", table))
    assert [key for key in KEYS if not told & {key, key.rpartition(".")[2]}] == []


def test_the_examples_can_be_read(read: Read) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    first, second = (read(text) for text in examples if "task-engine:" in text)
    assert first.run_defaults == RunDefaults(timeout_ms=60_000)
    assert (second.database, second.workers) == ("postgresql://engine@db/engine", 0)

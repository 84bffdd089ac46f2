"""Settings: which source wins, what is accepted, and that the documentation says the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.model.run_defaults import RunDefaults
from engine.settings import Address, Settings, load, reference, seconds

DOCS = Path(__file__).resolve().parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ENGINE_", "EXECGO_")) and not name.startswith("ENGINE_TEST_"):
            monkeypatch.delenv(name)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_defaults_are_the_documented_ones() -> None:
    settings = load()
    assert settings.addr == "127.0.0.1:8080"
    assert settings.database == "sqlite:///data/task-engine.db"
    assert (settings.max_concurrency, settings.shutdown_timeout) == (10, 15.0)
    assert settings.retention == 30 * 86_400


def test_flag_beats_environment_beats_execgo_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "settings.yaml", "max_concurrency: 2\n")
    flags: dict[str, Any] = {"config": config}
    assert load(flags).max_concurrency == 2
    monkeypatch.setenv("EXECGO_MAX_CONCURRENCY", "3")
    assert load(flags).max_concurrency == 3
    monkeypatch.setenv("ENGINE_MAX_CONCURRENCY", "4")
    assert load(flags).max_concurrency == 4
    assert load({**flags, "max_concurrency": 5}).max_concurrency == 5


def test_a_flag_that_was_not_given_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_ADDR", ":9090")
    assert load({"addr": None}).addr == ":9090"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_ADDR", "")
    monkeypatch.setenv("EXECGO_ADDR", "")
    assert load().addr == "127.0.0.1:8080"


def test_file_named_by_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_CONFIG", write(tmp_path / "settings.yaml", "queues: [a, b]\n"))
    assert load().queues == ("a", "b")


def test_all_six_variables_of_execgo_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ADDR": ":9090",
        "GRPC_ADDR": ":50052",
        "DATA_DIR": "elsewhere",
        "MAX_CONCURRENCY": "7",
        "SHUTDOWN_TIMEOUT": "20",
        "SHELL_POLICY": "open",
    }.items():
        monkeypatch.setenv(f"EXECGO_{name}", value)
    settings = load()
    assert (settings.addr, settings.grpc_addr, str(settings.data_dir)) == (":9090", ":50052", "elsewhere")
    assert (settings.max_concurrency, settings.shutdown_timeout) == (7, 20.0)
    assert settings.shell_policy == "open"


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", "15s", "1" * 30])
def test_execgo_integers_that_make_no_sense_fall_back_silently(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("EXECGO_MAX_CONCURRENCY", value)
    monkeypatch.setenv("EXECGO_SHUTDOWN_TIMEOUT", value)
    assert (load().max_concurrency, load().shutdown_timeout) == (10, 15.0)


@pytest.mark.parametrize("value", [0, -3])
def test_a_flag_of_zero_or_less_means_the_default(value: int) -> None:
    settings = load({"max_concurrency": value, "shutdown_timeout": value})
    assert (settings.max_concurrency, settings.shutdown_timeout) == (10, 15.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("30d", 2_592_000), ("1.5s", 1.5), ("7", 7)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "1x", "1m 30s", "m5", "1s2", "-", "true"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        seconds(text)


@pytest.mark.parametrize("value", ["nan", "inf", "-1s", "0", "99999d"])
def test_durations_outside_reason_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ENGINE_LEASE", value)
    with pytest.raises(ConfigError, match=r"lease \(ENGINE_LEASE\)"):
        load()


def test_variables_in_the_file_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT_OF_OURS", "9191")
    config = write(
        tmp_path / "settings.yaml",
        "addr: 127.0.0.1:${PORT_OF_OURS:1}\nmax_concurrency: ${NOT_SET:6}\ndata_dir: ${NOT_SET:}x\n",
    )
    settings = load({"config": config})
    assert (settings.addr, settings.max_concurrency, str(settings.data_dir)) == ("127.0.0.1:9191", 6, "x")


def test_a_missing_variable_without_a_default_is_named_with_its_place(tmp_path: Path) -> None:
    config = write(tmp_path / "settings.yaml", "poll: 1s\naddr: ${NOT_SET_HERE}\n")
    with pytest.raises(ConfigError, match=r"settings.yaml:2:7: variable NOT_SET_HERE is not set"):
        load({"config": config})


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    config = write(tmp_path / "settings.yaml", "max_concurency: 3\n")
    with pytest.raises(ConfigError, match=r"settings.yaml:1:17: .*did you mean 'max_concurrency'"):
        load({"config": config})


@pytest.mark.parametrize("text", ["[a]\n", "just text\n", "a: [\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load({"config": write(tmp_path / "settings.yaml", text)})


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load({"config": "/nowhere/settings.yaml"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("MAX_CONCURRENCY", "many"), ("DEBUG", "maybe"), ("LOG_LEVEL", "loud"), ("TIMEZONE", "Mars/Base")],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ENGINE_{name}", value)
    with pytest.raises(ConfigError, match=rf"{name.lower()} \(ENGINE_{name}\)"):
        load()


def test_secrets_are_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_DATABASE_URL", "postgresql://user:hunter2@db/name")
    monkeypatch.setenv("ENGINE_TOKEN", "hunter2")
    settings = load()
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.database.endswith("hunter2@db/name")


@pytest.mark.parametrize(
    ("text", "is_loopback", "url"),
    [
        ("127.0.0.1:8080", True, "http://127.0.0.1:8080"),
        ("localhost:80", True, "http://localhost:80"),
        ("[::1]:8080", True, "http://[::1]:8080"),
        (":9090", False, "http://127.0.0.1:9090"),
        ("0.0.0.0:9090", False, "http://127.0.0.1:9090"),
        ("10.1.2.3:1", False, "http://10.1.2.3:1"),
        ("example.org:1", False, "http://example.org:1"),
        ("unix:run/engine.sock", True, "unix:run/engine.sock"),
    ],
)
def test_addresses(text: str, is_loopback: bool, url: str) -> None:
    address = Address.parse(text)
    assert (address.is_loopback, address.url, str(address)) == (is_loopback, url, text)


@pytest.mark.parametrize("text", ["8080", "", "host:", "host:99999", "::1:80", "host:x", "host:-1", "unix:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="addr"):
        load({"addr": text})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().addr = ":1"  # type: ignore[misc]


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_documentation_shows_the_settings_as_they_are() -> None:
    """`ENGINE_TEST_WRITE_DOCS=1 pytest tests/test_settings.py` brings it up to date."""
    start, end = "<!-- table -->\n", "<!-- end -->"
    text = DOCS.read_text()
    before, _, rest = text.partition(start)
    current, _, after = rest.partition(end)
    if os.environ.get("ENGINE_TEST_WRITE_DOCS"):
        DOCS.write_text(f"{before}{start}{reference()}{end}{after}")
        return
    assert current == reference()


def test_the_first_wait_is_at_most_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_RETRY_DELAY", "10s")
    with pytest.raises(ConfigError) as caught:
        load()
    said = "retry_delay (ENGINE_RETRY_DELAY): retry_delay (10 s) must be at most retry_max_delay (5 s)"
    assert str(caught.value) == said
    monkeypatch.setenv("ENGINE_RETRY_MAX_DELAY", "1m")
    assert load().run_defaults == RunDefaults(30_000, 0, 10_000, 60_000)


def test_a_lease_has_room_for_two_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path / "settings.yaml", "lease: 1s\n")
    monkeypatch.setenv("ENGINE_BEAT", "3s")
    with pytest.raises(ConfigError) as caught:
        load({"config": config})
    told = "beat (ENGINE_BEAT), lease (settings file): beat (3 s) must be at most half of lease (1 s)"
    assert str(caught.value) == told
    monkeypatch.setenv("ENGINE_BEAT", "500ms")
    assert (load({"config": config}).beat, load({"config": config}).lease) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEFAULT_TASK_TIMEOUT", "0"),
        ("DEFAULT_TASK_TIMEOUT", "366d"),
        ("RETRY_ATTEMPTS", "0"),
        ("RETRY_MAX_DELAY", "25d"),
        ("READ_TIMEOUT", "0s"),
        ("WRITE_TIMEOUT", "-1"),
        ("INSTANCE_NAME", "x" * 65),
        ("ENV", "a\nb"),
    ],
)
def test_values_outside_their_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ENGINE_{name}", value)
    with pytest.raises(ConfigError, match=rf"{name.lower()} \(ENGINE_{name}\)"):
        load()

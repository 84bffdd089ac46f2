"""A database as the contract's settings name it, by `type` and `dsn` (section 6), as one of our URLs.

A DSN may hold a password: no message shows any of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlencode

from engine.model.similar import near

SQLITE, POSTGRES = "sqlite", "postgresql"
_TYPES = {"sqlite": SQLITE, "postgres": POSTGRES, "postgresql": POSTGRES}
ACCEPTED = "sqlite or postgres"
_REFUSED = ("mysql", "mariadb")
_PAIR = re.compile(r"\s*([A-Za-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)")
_OURS = "timezone"  # the engine says itself in which zone it reads and writes
_PATH = "search_path"  # other drivers take it among libpq's words, which have none for it
_POSTGRES_FORMS = (
    "for Postgres write a URL (postgresql://user@host/name) or libpq's words (host=… user=… dbname=…)"
)


def database_type(text: str) -> str:
    """`SQLITE` or `POSTGRES`. Raises `ValueError`."""
    name = text.strip().lower()
    if name in _REFUSED:
        raise ValueError(f"{name} is not supported; use postgres, or sqlite for a single machine")
    if name not in _TYPES:
        raise ValueError(f'"{text[:40]}" is not a database that is supported{near(name, _TYPES)}')
    return _TYPES[name]


def url_of(type_: str, dsn: str) -> str:
    """The URL of a database of `type_`, which is what `database_type` returns. Raises `ValueError`."""
    text = dsn.strip()
    if not text:
        raise ValueError("is empty")
    return _sqlite(text) if type_ == SQLITE else _postgres(text)


def _sqlite(dsn: str) -> str:
    """Of a path, with or without `file:`. What stands behind `?` tunes a driver that is not ours."""
    if dsn.startswith("sqlite:"):
        return dsn
    is_uri = dsn.startswith("file:")
    if "://" in dsn and not is_uri:
        raise ValueError("is the URL of another database than type says; for sqlite write the path of a file")
    path = dsn.removeprefix("file:").partition("?")[0]
    if is_uri and path.startswith("//"):
        path = "/" + path.lstrip("/")
    if not path:
        raise ValueError("names no file")
    return f"sqlite:///{path}"


def _postgres(dsn: str) -> str:
    scheme, mark, rest = dsn.partition("://")
    if not mark:
        return _url(_words(dsn))
    if scheme.partition("+")[0] not in ("postgres", POSTGRES):
        raise ValueError(f"is the URL of another database than type says; {_POSTGRES_FORMS}")
    place, _, query = rest.partition("?")
    address = place.rpartition("@")[2].partition("/")[0].rpartition("]")[2]  # without an IPv6 host
    _, colon, port = address.partition(":")
    if colon:
        _check_port(port)
    return f"{scheme}://{place}{_query(parse_qsl(query, keep_blank_values=True))}"


def _check_port(text: str) -> None:
    """One, or one for each of several hosts."""
    if not all(re.fullmatch("[0-9]{1,5}", part.strip()) for part in text.split(",")):
        raise ValueError("has a port that is no number")


def _words(dsn: str) -> dict[str, str]:
    """libpq's text of keywords and values, by keyword."""
    found: dict[str, str] = {}
    end = 0
    while end < len(dsn):
        pair = _PAIR.match(dsn, end)
        if pair is None:
            raise ValueError(f"cannot be read; {_POSTGRES_FORMS}")
        value = pair[2][1:-1] if pair[2].startswith("'") else pair[2]
        found[pair[1].lower()] = re.sub(r"\\(.)", r"\1", value)
        end = pair.end()
    if found.get("port"):
        _check_port(found["port"])
    return found


def _url(words: dict[str, str]) -> str:
    user, password = (quote(words.pop(name, ""), safe="") for name in ("user", "password"))
    who = f"{user}{f':{password}' if password else ''}@" if user or password else ""
    place = name = ""
    if words.get("host") and not re.search("[/,]", words["host"]):  # neither a socket nor several hosts
        host, port = words.pop("host"), words.pop("port", "")
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    if re.fullmatch(r"[\w.-]+", words.get("dbname", "")):
        name = words.pop("dbname")
    return f"{POSTGRES}://{who}{place}/{name}{_query(words.items())}"


def _query(words: Iterable[tuple[str, str]]) -> str:
    """What goes to libpq besides, as the end of a URL."""
    given = list(words)
    kept = [(name, value) for name, value in given if name.lower() not in (_OURS, _PATH, "options")]
    options = [value for name, value in given if name == "options"]
    options += ["-csearch_path=" + value.replace(" ", r"\ ") for name, value in given if name == _PATH]
    if options:
        kept.append(("options", " ".join(options)))
    return f"?{urlencode(kept, quote_via=quote)}" if kept else ""

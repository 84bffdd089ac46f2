"""Runs migrations, from `engine.store.migrate` (which hands over a connection) or from alembic's own command.

Migrations never import `engine`: types of ours are written out as the plain types below them, so that an
old migration means the same for ever.
"""

from __future__ import annotations

import os
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql, sqlite

from engine.store.stream_schema import metadata  # every table is in it

config = context.config

# `cmd_opts` exists only when alembic's command line runs us; a program keeps its own logging.
if config.config_file_name is not None and getattr(config, "cmd_opts", None) is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def render_item(kind: str, item: Any, autogen_context: AutogenContext) -> str | bool:
    """A type of ours as SQLAlchemy source text; False leaves everything else to alembic."""
    if kind != "type" or not isinstance(item, sa.types.TypeDecorator):
        return False
    assert autogen_context.imports is not None
    plain = item.impl_instance
    variants = plain._variant_mapping or {
        dialect.name: item.load_dialect_impl(dialect)
        for dialect in (postgresql.dialect(), sqlite.dialect())
        if repr(item.load_dialect_impl(dialect)) != repr(plain)
    }
    text = _render_plain(plain, autogen_context.imports)
    for name, variant in sorted(variants.items()):
        text += f".with_variant({_render_plain(variant, autogen_context.imports)}, {name!r})"
    return text


def _render_plain(plain: sa.types.TypeEngine[Any], imports: set[str]) -> str:
    match type(plain).__module__.split("."):
        case ["sqlalchemy", "dialects", name, *_]:
            imports.add(f"from sqlalchemy.dialects import {name}")
            return f"{name}.{plain!r}"
        case ["sqlalchemy", *_]:
            return f"sa.{plain!r}"
    raise TypeError(f"{plain!r} is built on a type that is not SQLAlchemy's own; migrations cannot name it")


def compare_type(
    migrations: MigrationContext,
    inspected: Any,
    column: sa.Column[Any],
    inspected_type: sa.types.TypeEngine[Any],
    column_type: sa.types.TypeEngine[Any],
) -> bool | None:
    """Differs if the database's DDL differs. None leaves the question to alembic.

    A TypeDecorator is compared as what it stores: alembic asks only for its first base class.
    """
    if not isinstance(column_type, sa.types.TypeDecorator):
        return None
    dialect = migrations.dialect
    stored = column_type.load_dialect_impl(dialect)
    return bool(stored.compile(dialect=dialect) != inspected_type.compile(dialect=dialect))


OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "render_as_batch": True,
    "render_item": render_item,
    "compare_type": compare_type,
    # Every database we support can roll back DDL; alembic believes that SQLite cannot. With one
    # transaction around everything, the revision is read under the same lock that the writing needs.
    "transactional_ddl": True,
}


def run_on(connection: sa.Connection) -> None:
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def database_url() -> str | sa.URL:
    url = (
        config.attributes.get("url")
        or config.get_main_option("sqlalchemy.url")
        or os.environ.get("ENGINE_DATABASE_URL")
    )
    if not url:
        raise SystemExit("which database? Set ENGINE_DATABASE_URL, or sqlalchemy.url in alembic.ini")
    return url


def run() -> None:
    if context.is_offline_mode():
        context.configure(
            url=database_url(), literal_binds=True, dialect_opts={"paramstyle": "named"}, **OPTIONS
        )
        with context.begin_transaction():
            context.run_migrations()
    elif (connection := config.attributes.get("connection")) is not None:
        run_on(connection)
    else:
        engine = sa.create_engine(database_url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            run_on(connection)


run()

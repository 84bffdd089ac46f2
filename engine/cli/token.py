"""`task-engine token`: tokens for servers that other machines can reach."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import rich_click as click

from engine.cli.options import NAME, Span
from engine.cli.output import moment, note, one_line, print_json, say, show_table
from engine.cli.target import Target, with_target
from engine.model.records import Token

_SCOPES = ("read", "submit", "control", "worker", "admin")


@click.group("token")
def token() -> None:
    """Make, list and revoke tokens for the server."""


@token.command("create")
@click.option("--name", type=NAME, required=True, metavar="NAME", help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    required=True,
    help="What it allows; repeat for more.",
)
@click.option("--expires", type=Span(least=1), metavar="TIME", help="Valid for this long, such as 90d.")
@with_target
def create(target: Target, name: str, scopes: tuple[str, ...], expires: float | None, as_json: bool) -> None:
    """Make a token. Its text is printed this once: only a hash is stored."""
    expires_at = None if expires is None else datetime.now(UTC) + timedelta(seconds=expires)
    secret = target.create_token(name, scopes, expires_at)
    if as_json:
        print_json({"id": secret.split("_")[1], "name": name, "scopes": sorted(scopes), "token": secret})
        return
    say(secret)
    note("Keep it, it is not shown again. Programs send it as `Authorization: Bearer …`.")


@token.command("list")
@with_target
def list_(target: Target, as_json: bool) -> None:
    """List tokens, without their secrets."""
    found = target.tokens()
    if as_json:
        print_json([msgspec.to_builtins(item) for item in found])
        return
    now = datetime.now(UTC)
    show_table(
        ("ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED"),
        (
            (
                item.id,
                one_line(item.name, 40),
                ",".join(item.scopes),
                _state(item, now),
                moment(item.created_at),
                moment(item.expires_at),
                moment(item.last_used_at),
            )
            for item in found
        ),
    )


def _state(item: Token, now: datetime) -> str:
    if item.revoked_at is not None:
        return "revoked"
    return "valid" if item.expires_at is None or item.expires_at > now else "expired"


@token.command("revoke")
@click.argument("token_ids", metavar="ID...", nargs=-1, required=True)
@with_target
def revoke(target: Target, token_ids: tuple[str, ...], as_json: bool) -> None:
    """Revoke tokens. Takes effect everywhere within seconds."""
    for token_id in token_ids:
        target.revoke_token(token_id)
    if as_json:
        print_json({"revoked": list(token_ids)})
    else:
        say(f"revoked {', '.join(token_ids)}")

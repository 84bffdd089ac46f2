"""API tokens: create, list, revoke, and recognise."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from engine.errors import InvalidInput, NotFound
from engine.model.records import Token
from engine.store import tokens as store
from engine.store.database import Database

SCOPES = ("read", "submit", "control", "worker", "admin")
PREFIX = "te"


async def create(
    database: Database, *, name: str, scopes: list[str], expires_at: datetime | None = None
) -> str:
    """Make a token and return its secret text, which is shown this once: `te_<id>_<43 characters>`."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidInput(f"unknown scope {', '.join(unknown) or '(none)'}; accepted: {', '.join(SCOPES)}")
    token_id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    await database.run(
        lambda tx: store.insert(
            tx,
            token_id=token_id,
            secret_sha256=_digest(secret),
            name=name,
            scopes=sorted(set(scopes)),
            expires_at=expires_at,
        )
    )
    return f"{PREFIX}_{token_id}_{secret}"


async def recognise(database: Database, text: str) -> Token | None:
    """The valid token behind `text`, or None. Takes the same path for an unknown id and a wrong secret."""
    prefix, _, rest = text.partition("_")
    token_id, _, secret = rest.partition("_")
    found = await database.read(store.find, token_id) if prefix == PREFIX else None
    expected = found[1] if found else _digest("")
    if hmac.compare_digest(_digest(secret), expected) and found is not None:
        return found[0]
    return None


async def touch(database: Database, token_id: str) -> None:
    await database.run(store.touch, token_id)


async def revoke(database: Database, token_id: str) -> None:
    if not await database.run(store.revoke, token_id):
        raise NotFound(f"token not found or already revoked: {token_id}")


async def list_tokens(database: Database, *, limit: int | None = None, offset: int = 0) -> list[Token]:
    """Oldest first."""
    return await database.read(lambda tx: store.list_tokens(tx, limit=limit, offset=offset))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

"""API tokens. Only the SHA-256 of a secret is stored: secrets are random, so a slow hash adds nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.records import Token
from engine.store.database import Transaction
from engine.store.schema import token
from engine.store.statement import moment_of


def insert(
    tx: Transaction,
    *,
    token_id: str,
    secret_sha256: str,
    name: str,
    scopes: list[str],
    expires_at: datetime | None,
) -> None:
    tx.execute(
        sa.insert(token).values(
            id=token_id,
            secret_sha256=secret_sha256,
            name=name,
            scopes=scopes,
            expires_at=expires_at,
            created_at=moment_of(tx.dialect, token.c.created_at),
        )
    )


def find(tx: Transaction, token_id: str) -> tuple[Token, str] | None:
    """A token that is neither revoked nor expired, and the hash of its secret."""
    now = moment_of(tx.dialect, token.c.expires_at)
    row = tx.execute(
        sa.select(token).where(
            token.c.id == token_id,
            token.c.revoked_at.is_(None),
            sa.or_(token.c.expires_at.is_(None), token.c.expires_at > now),
        )
    ).one_or_none()
    return None if row is None else (_token(row), row.secret_sha256)


def touch(tx: Transaction, token_id: str) -> None:
    tx.execute(
        sa.update(token)
        .values(last_used_at=moment_of(tx.dialect, token.c.last_used_at))
        .where(token.c.id == token_id)
    )


def revoke(tx: Transaction, token_id: str) -> bool:
    """Returns False if there is no such token or it was revoked before."""
    return (
        tx.execute(
            sa.update(token)
            .values(revoked_at=moment_of(tx.dialect, token.c.revoked_at))
            .where(token.c.id == token_id, token.c.revoked_at.is_(None))
        ).rowcount
        == 1
    )


def list_tokens(tx: Transaction, *, limit: int | None = None, offset: int = 0) -> list[Token]:
    query = sa.select(token).order_by(token.c.created_at, token.c.id).limit(limit).offset(offset)
    return [_token(row) for row in tx.execute(query)]


def _token(row: Any) -> Token:
    return Token(
        row.id, row.name, row.scopes, row.created_at, row.expires_at, row.revoked_at, row.last_used_at
    )

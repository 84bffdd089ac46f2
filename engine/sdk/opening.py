"""How a database is named to people, and errors of opening it as the engine's own."""

from __future__ import annotations

import sqlalchemy as sa

from engine.errors import StoreUnavailable


def shown(url: sa.URL) -> str:
    """A database URL for people: without passwords, and without the driver that nobody wrote."""
    secrets = [name for name in url.query if "password" in name]  # libpq takes them there, too
    plain = url.set(drivername=url.get_backend_name()).difference_update_query(secrets)
    return plain.render_as_string(hide_password=True)


class store_errors:
    """Driver errors of statements that do not run through `Database` become `StoreUnavailable`."""

    def __init__(self, url: sa.URL) -> None:
        self._name = shown(url)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.SQLAlchemyError | OSError):
            original = getattr(error, "orig", None) or error
            reason = str(original).strip().split("\n", 1)[0][:200]
            raise StoreUnavailable(f"the database {self._name} is not available: {reason}") from None

"""A server as a target: the client's own verbs."""

from __future__ import annotations

from engine.cli import places
from engine.client.documents import Document
from engine.client.rest import Client, Submitted
from engine.errors import InvalidInput, ServerUnavailable
from engine.settings import Settings


class RemoteTarget(Client):
    @property
    def where(self) -> str:
        return self.url

    def submit(self, document: Document, key: str) -> Submitted:
        try:
            return self.submit_graph(document.value, key=key)
        except InvalidInput as error:
            raise places.of_answer(document, str(error)) from None
        except ServerUnavailable as error:
            if not error.is_unknown:
                raise
            raise ServerUnavailable(
                f"{error}; whether the graph was accepted is not known: repeat with --idempotency-key {key}",
                is_unknown=True,
            ) from None


def open_target(settings: Settings, url: str) -> RemoteTarget:
    return RemoteTarget(url, settings.token.get_secret_value() if settings.token else None)

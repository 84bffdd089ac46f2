"""A server as a target: the client's own verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.cli import places
from engine.cli.definitions import environment_of, join, refused
from engine.client.documents import Document
from engine.client.rest import Client, Submitted
from engine.errors import InvalidInput, TooLarge
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

    def upload_workflows(self, texts: Mapping[str, str]) -> dict[str, Any]:
        joined = join(texts)
        try:
            return self.upload_workflow(joined.text, environment_of(texts))
        except TooLarge:
            raise
        except InvalidInput as error:
            raise refused(joined, texts, str(error)) from None


def open_target(settings: Settings, url: str) -> RemoteTarget:
    return RemoteTarget(url, settings.token.get_secret_value() if settings.token else None)

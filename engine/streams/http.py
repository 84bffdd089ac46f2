"""A URL that is asked again and again: each answer is an item, or a list of some."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
from pydantic import Field

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.ports import Network
from engine.streams.sources import Connected, Item, Options, Reads, from_message

TIMEOUT_SECONDS = 30.0  # of silence
ANSWER_SECONDS = 120.0  # for all of an answer
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "task-engine"}
_NOT_MODIFIED = 304


class HttpOptions(Options):
    """`items_field` is where an answer has its list, `offset_field` what each item says of its place.

    With `offset_param`, that of the last item goes along with the next request: the source can be replayed.
    """

    method: str = "GET"
    headers: dict[str, str] = Field({})
    body: Any = None
    items_field: str | None = None
    offset_field: str | None = None
    offset_param: str | None = None


class HttpSource:
    """Asks once, or `every` so many seconds."""

    protocol = "http"

    def __init__(self, url: str, options: HttpOptions, network: Network, *, every: float | None) -> None:
        """Raises `InvalidInput`."""
        self._url = _url(url)
        if (options.offset_param is None) != (options.offset_field is None):
            raise InvalidInput("params.source: offset_param and offset_field belong together")
        self._options = options
        self._network = network
        self._every = every
        self._tag: str | None = None  # of the answer that was seen last
        self.replayable = options.offset_param is not None
        self.name = self.endpoint = str(self._url.copy_with(userinfo=b"", query=None))

    async def items(self, offset: JSON, /) -> Reads:
        limits = httpx.Timeout(TIMEOUT_SECONDS)
        is_known = False
        async with httpx.AsyncClient(
            transport=self._network.transport(), trust_env=False, timeout=limits
        ) as client:
            while True:
                document = await self._ask(client, offset)
                if not is_known:
                    yield Connected()
                    is_known = True
                for item in self._items(document):
                    offset = item.offset
                    yield item
                if self._every is None:
                    return
                await asyncio.sleep(self._every)

    async def _ask(self, client: httpx.AsyncClient, offset: JSON) -> JSON:
        """The answer's document; an empty list if it is the one that was seen last."""
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            client.stream(
                self._options.method.upper(),
                self._asked(offset),
                headers=self._headers(),
                content=self._content(),
            ) as response,
        ):
            if response.status_code == _NOT_MODIFIED:
                return []
            if not response.is_success:
                raise ConnectionError(f"the server answers with HTTP status {response.status_code}")
            content = await self._body(response)
            if not self.replayable:
                self._tag = response.headers.get("etag")
        return from_message(content) if content.strip() else []

    def _asked(self, offset: JSON) -> httpx.URL:
        name = self._options.offset_param
        return self._url if name is None or offset is None else self._url.copy_set_param(name, str(offset))

    def _headers(self) -> dict[str, str]:
        known = {} if self._tag is None else {"If-None-Match": self._tag}
        typed = {"Content-Type": "application/json"} if isinstance(self._options.body, dict | list) else {}
        return {**_HEADERS, **typed, **known, **self._options.headers}

    def _content(self) -> bytes | None:
        body = self._options.body
        if body is None:
            return None
        return body.encode() if isinstance(body, str) else msgspec.json.encode(body)

    async def _body(self, response: httpx.Response) -> bytes:
        """As it was sent: we ask for nothing packed, since a small packet could unfold to fill the memory."""
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ConnectionError("the server packs its answer although it was asked not to")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._network.body_bytes:
                raise ConnectionError(f"the answer is larger than {self._network.body_bytes} bytes")
        return bytes(body)

    def _items(self, document: JSON) -> Iterator[Item]:
        field = self._options.items_field
        if field is not None and isinstance(document, dict):
            document = document.get(field)
        found = document if isinstance(document, list) else [] if document is None else [document]
        for payload in found:
            yield Item(payload, self._offset_of(payload))

    def _offset_of(self, payload: JSON) -> JSON:
        field = self._options.offset_field
        if field is None:
            return None
        if not isinstance(payload, dict) or payload.get(field) is None:
            raise ConnectionError(f"an item of the answer has no {field!r}, which is to be its offset")
        return payload[field]


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidInput(f"endpoint.url: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(f"endpoint.url: expected http://host… or https://host…, got {text!r:.200}")
    return url

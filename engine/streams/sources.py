"""Where items come from: what a source is, and how what it reads becomes an item."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from engine.errors import InvalidInput
from engine.model.json import JSON, check_storable, storable_text


@dataclass(frozen=True, slots=True)
class Item:
    """`offset` says where to go on after it, None if its source cannot be replayed. Both are JSON, or become
    it when the item is accepted.

    `number` is that of an item which is stored already.
    """

    payload: Any
    offset: Any = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """Yielded by a source, before items, when it has reached what it reads from; `is_assumed` if it cannot
    know."""

    is_assumed: bool = False


@dataclass(frozen=True, slots=True)
class Advanced:
    """Yielded by what a `Collector` asks: nothing came, and the next look begins at `offset`."""

    offset: JSON


Reads = AsyncGenerator[Item | Connected, None]


class Source(Protocol):
    """`items` reads until there is no more, and raises if the connection is lost: the caller asks again.

    A source is `replayable` if `items(offset)` goes on behind that offset; None is its beginning.
    """

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> str:
        """For people, without passwords; empty if it is not reached through a network."""
        ...

    @property
    def protocol(self) -> str: ...

    @property
    def replayable(self) -> bool: ...

    def items(self, offset: JSON, /) -> Reads: ...


@dataclass(frozen=True, slots=True)
class Collector:
    """A source made of somebody's own iterator: what it yields are items, or the payloads of some.

    Payloads of one that is `replayable` are counted, and their count is their offset. With `every`, it is
    asked again so many seconds after it has ended.
    """

    name: str
    opens: Callable[[JSON], AsyncIterator[Any]]
    replayable: bool
    every: float | None = None
    endpoint: str = ""
    protocol: str = "function"

    async def items(self, offset: JSON, /) -> Reads:
        yield Connected(is_assumed=True)
        while True:
            values = self.opens(offset)
            try:
                async for value in values:
                    if isinstance(value, Advanced):
                        offset = storable(self.name, value.offset)
                        continue
                    item = self._item(value, offset)
                    offset = item.offset
                    yield item
            finally:
                close = getattr(values, "aclose", None)
                if close is not None:
                    await close()
            if self.every is None:
                return
            await asyncio.sleep(self.every)

    def _item(self, value: Any, offset: JSON) -> Item:
        if isinstance(value, Item):
            return Item(value.payload, storable(self.name, value.offset) if self.replayable else None)
        count = offset if isinstance(offset, int) and not isinstance(offset, bool) else 0
        return Item(value, count + 1 if self.replayable else None)


def storable(source: str, value: Any) -> JSON:
    """`value` as JSON that every database stores. Raises `InvalidInput`: read again, it would be refused
    again."""
    try:
        document = to_jsonable_python(value, inf_nan_mode="constants")
        check_storable(document)
    except ValueError as error:
        raise InvalidInput(f"source {source}: an item cannot be stored: {error}") from None
    return document


def from_message(content: bytes | str) -> JSON:
    """What a message says: JSON if it is that, else text; bytes that are neither are `{"base64": …}`."""
    try:
        document = msgspec.json.decode(content)
        check_storable(document)
        return document
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    if isinstance(content, str):
        return storable_text(content)
    try:
        return storable_text(content.decode())
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


class Options(BaseModel):
    """Base of what bundled sources are told, at `params.source` of the task. An unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Chosen = TypeVar("Chosen", bound=Options)


def options_of(kind: type[Chosen], given: JSON) -> Chosen:
    """Raises `InvalidInput` that names the first option at fault, and what is accepted."""
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["params", "source", *map(str, first["loc"])])
        known = ", ".join(kind.model_fields)
        raise InvalidInput(f"{where}: {first['msg']} (options of this source: {known})") from None

"""One WebSocket: opened or refused, messages sent as fast as the client takes them, closed with a reason.

What clients send means nothing here (`engine.api.socket_connection` limits how much it may be).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple

from litestar.exceptions import WebSocketDisconnect
from litestar.types import Message, Receive, Send

from engine.api.access import BEARER, Denied
from engine.api.answers import Refusal, refusal_of
from engine.api.options import ApiSocket, services_of
from engine.errors import NotFound, StoreUnavailable

RECHECK_SECONDS = 20.0  # a token that is revoked or expires ends its sockets after that, and 10 s more
_MAX_REASON = 120  # bytes that fit into a close frame, and a few less
Recheck = Callable[[], Awaitable[object]]


class Ending(NamedTuple):
    code: int
    reason: str


DONE = Ending(1000, "the instance has ended")
FAILED = Ending(1011, "internal error; the log of the server has the details")
UNAVAILABLE = Ending(1013, "the database is not available; try again later")
TOO_SLOW = Ending(1013, "messages are not read; come back with ?after=")
UNAUTHENTICATED = Ending(4401, "the token is not valid any more")
GONE = Ending(4404, "")


async def serve(socket: ApiSocket, opening: Awaitable[AsyncGenerator[str, None]]) -> None:
    """Send what `opening` gives. Its errors are HTTP answers: nothing is upgraded then."""
    try:
        messages = await opening
    except Exception as error:
        refuse: Callable[[Refusal], Awaitable[None]] = socket.scope["engine_refuse"]  # type: ignore[typeddict-item]
        await refuse(refusal_of(error))
        return
    with suppress(OSError, WebSocketDisconnect):  # the client has gone, or the server stops
        await socket.accept(BEARER if BEARER in socket.scope["subprotocols"] else None)
        async with aclosing(messages):
            ending = await _converse(socket, messages)
        if ending is not None:
            await socket.close(ending.code, ending.reason)


async def _converse(socket: ApiSocket, messages: AsyncGenerator[str, None]) -> Ending | None:
    """Until there are no more messages, the client goes (None), or its token is not valid any more."""
    seconds = services_of(socket).options.write_timeout_seconds
    recheck: Recheck | None = socket.scope.get("engine_recheck")  # type: ignore[assignment]
    handles = {
        asyncio.create_task(_send(socket.send, messages, seconds)),
        asyncio.create_task(_wait_for_end(socket.receive)),
    }
    if recheck is not None:
        handles.add(asyncio.create_task(_watch(recheck)))
    try:
        done, _ = await asyncio.wait(handles, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for handle in handles:
            handle.cancel()
        endings = await asyncio.gather(*handles, return_exceptions=True)
    for ending in endings:
        if isinstance(ending, Exception):
            raise ending
    return next((handle.result() for handle in done), None)


async def _send(send: Send, messages: AsyncGenerator[str, None], seconds: float) -> Ending:
    try:
        async for text in messages:
            message: Message = {"type": "websocket.send", "bytes": None, "text": text}
            try:
                async with asyncio.timeout(seconds):
                    await send(message)
            except TimeoutError:
                return TOO_SLOW
    except NotFound as error:
        return Ending(GONE.code, str(error)[:_MAX_REASON])
    except StoreUnavailable:
        return UNAVAILABLE
    except (OSError, WebSocketDisconnect):
        raise  # the client has gone
    except Exception as error:
        refusal_of(error)  # which logs it
        return FAILED
    return DONE


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _watch(recheck: Recheck) -> Ending:
    while True:
        await asyncio.sleep(RECHECK_SECONDS)
        try:
            await recheck()
        except Denied:
            return UNAUTHENTICATED
        except StoreUnavailable:
            continue  # nobody can tell; the stream itself notices

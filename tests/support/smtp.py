"""A mail server on loopback that keeps what it is sent."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Self


@dataclass
class Mail:
    """One message as it was handed over: `content` as it came, without the dots that stuff lines."""

    sender: str
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


@dataclass
class SmtpServer:
    """Speaks as much SMTP as clients need. `answers` replaces an answer of it: `{"MAIL": "451 later"}`.

    At commands in `silent_at` it says nothing any more, at those in `endless_at` it finds no end.
    `features` are what it says it can do, besides STARTTLS if it has `tls`; any login is accepted, and kept.
    """

    features: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    answers: dict[str, str] = field(default_factory=dict)
    silent_at: set[str] = field(default_factory=set)
    endless_at: set[str] = field(default_factory=set)
    mails: list[Mail] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    accepted: int = 0
    secured: int = 0  # connections that went over to TLS

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(text: str) -> None:
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        await say("220 mail.test")
        sender, recipients = "", list[str]()
        while line := (await reader.readline()).decode().strip():
            word, _, rest = line.partition(" ")
            verb = word.upper()
            if verb in self.silent_at:
                await reader.read()
                return
            while verb in self.endless_at:
                await say("250-more")
                await asyncio.sleep(0.02)
            if verb in self.answers:
                await say(self.answers[verb])
                continue
            match verb:
                case "EHLO":
                    lines = ["mail.test", *self.features, *(["STARTTLS"] if self.tls else [])]
                    for number, feature in enumerate(lines, 1):
                        await say(f"250{' ' if number == len(lines) else '-'}{feature}")
                case "STARTTLS" if self.tls is not None:
                    await say("220 go on")
                    await writer.start_tls(self.tls)
                    self.secured += 1
                case "AUTH":
                    self.logins.append(rest)
                    await say("235 fine")
                case "MAIL":
                    sender, recipients = _within(rest), []
                    await say("250 fine")
                case "RCPT":
                    recipients.append(_within(rest))
                    await say("250 fine")
                case "DATA":
                    await say("354 go on")
                    content = await reader.readuntil(b"\r\n.\r\n")
                    unstuffed = content[:-3].replace(b"\r\n..", b"\r\n.")
                    self.mails.append(Mail(sender, recipients, unstuffed))
                    await say("250 kept")
                case "QUIT":
                    await say("221 bye")
                    return
                case _:
                    await say("250 fine")


def _within(text: str) -> str:
    """`FROM:<a@b> size=5` → `a@b`."""
    return text.partition("<")[2].partition(">")[0]

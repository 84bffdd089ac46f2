"""`email`: tells people of events, by SMTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import Annotated, Any, Literal

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)
from pydantic import AfterValidator, ConfigDict, Field

from engine.errors import PermanentError
from engine.model.json import JSON
from engine.plugins.base import PluginData
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.options import Options, Texts, filled, read, secret, template

_SSL_PORT = 465
_MAX_SUBJECT = 200  # characters
_MOST_SECONDS = 50.0  # for one message; an attempt has ten more
_BYE_SECONDS = 1.0
_SUBJECT = "${event}: ${workflow_name} ${task_name}"
_BODY = """\
${event} in workflow ${workflow_name}, instance ${instance_id}

task:      ${task_name}
attempt:   ${attempt}
status:    ${status}
error:     ${error}
completed: ${completed} of ${total_tasks} tasks
at:        ${at}
"""


def _address(text: str) -> str:
    """Raises `ValueError` for what is no address, or could add a header or a recipient."""
    _, address = parseaddr(text)
    local, _, domain = address.rpartition("@")
    if not text.isprintable() or "," in text or not local or not domain or " " in address:
        raise ValueError(f"{text[:80]!r} is no mail address")
    return text


def _addresses(texts: list[str]) -> list[str]:
    return [_address(text) for text in texts]


def _header(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a line break or another control character")
    return text


class EmailOptions(Options):
    """`tls`: `auto` is TLS from the start on port 465, elsewhere STARTTLS if the server has it."""

    model_config = ConfigDict(populate_by_name=True)

    smtp_host: str = Field(min_length=1)
    smtp_port: int = Field(25, ge=1, le=65_535)
    tls: Literal["auto", "starttls", "ssl", "none"] = "auto"
    username: str | None = None
    password: str | None = None
    password_env: str | None = None
    sender: Annotated[str, AfterValidator(_address)] = Field(alias="from")
    to: Annotated[Texts, Field(min_length=1, max_length=100), AfterValidator(_addresses)]
    subject: Annotated[str, AfterValidator(_header), AfterValidator(template)] = _SUBJECT
    body: Annotated[str, AfterValidator(template)] = _BODY
    timeout_seconds: float = Field(15.0, gt=0, le=50)


class EmailPlugin:
    """One message for each event, with the same `Message-ID` at each try. What the server refuses for good
    (5xx) is not tried again. Without TLS no password is sent, unless `tls` is `none`."""

    name = "email"

    def __init__(self, network: Network | None = None) -> None:
        self._network = network or OpenNetwork()
        self._options: EmailOptions | None = None
        self._password: str | None = None

    def check(self, params: Mapping[str, JSON]) -> None:
        read(EmailOptions, params)

    def init(self, params: Mapping[str, JSON]) -> None:
        self._options = read(EmailOptions, params)
        self._password = secret(self._options.password, self._options.password_env)

    async def execute(self, data: PluginData) -> dict[str, Any]:
        options = self._options
        if options is None:
            raise ValueError("smtp_host, from and to are required")
        [address, *_] = await self._network.addresses(options.smtp_host, options.smtp_port)
        message = written(options, data)
        try:
            async with _within(_MOST_SECONDS, "the message"):
                refused = await self._send(options, address, message)
        except SMTPRecipientsRefused as error:
            each = {one.recipient: (one.code, one.message) for one in error.recipients}
            codes = [code for code, _ in each.values()]
            _give_up_if(min(codes) >= 500, f"all recipients were refused: {_shown(each)}")
            raise
        except SMTPResponseException as error:
            _give_up_if(error.code >= 500, f"{options.smtp_host} answered {error.code} {error.message}")
            raise
        except (SMTPException, OSError) as error:
            wrong = _certificate_error(error)
            is_final = wrong is not None or not isinstance(error, OSError)  # also what it cannot do
            _give_up_if(is_final, f"{options.smtp_host}: {wrong or error}")
            raise
        return {"message_id": str(message["Message-ID"]), "refused": _shown(refused)}

    async def _send(self, options: EmailOptions, address: str, message: EmailMessage) -> _Refused:
        """Each answer of the server may take `timeout_seconds`. Raises what `aiosmtplib` raises."""
        server = await _connected(options, address)
        try:
            if options.tls in ("auto", "starttls") and not server.use_tls:
                try:
                    await server.ehlo()
                except SMTPHeloError:  # it may be older than that
                    await server.helo()
                if options.tls == "starttls" or server.supports_extension("starttls"):
                    await server.starttls()
            if options.username is not None:
                if options.tls != "none" and server.get_transport_info("sslcontext") is None:
                    raise SMTPNotSupported(
                        "it offers no STARTTLS, and the password is not sent without; tls: none would send it"
                    )
                await server.login(options.username, self._password or "")
            refused, _ = await server.send_message(message)
            with suppress(SMTPException):  # it has the message, whatever it says to this
                await server.quit(timeout=_BYE_SECONDS)
            return {who: (answer.code, answer.message) for who, answer in refused.items()}
        finally:
            server.close()


_Refused = dict[str, tuple[int, str]]  # recipient → code, words


def written(options: EmailOptions, data: PluginData) -> EmailMessage:
    """The message. What events put into its subject cannot become a header: it is one line."""
    message = EmailMessage()
    subject = " ".join(filled(options.subject, data).split())
    message["Subject"] = "".join(c if c.isprintable() else " " for c in subject)[:_MAX_SUBJECT]
    message["From"] = options.sender
    message["To"] = ", ".join(options.to)
    message["Date"] = formatdate()
    domain = parseaddr(options.sender)[1].rpartition("@")[2]
    message["Message-ID"] = f"<{_digest(data)}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice answers it
    message.set_content(filled(options.body, data))
    return message


# --- connections


async def _connected(options: EmailOptions, address: str) -> SMTP:
    """With an address that was looked up and checked, while certificates are for the host's name."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with _within(options.timeout_seconds, f"connecting to {options.smtp_host}"):
            await asyncio.get_running_loop().sock_connect(sock, (address, options.smtp_port))
        server = SMTP(
            hostname=options.smtp_host,
            timeout=options.timeout_seconds,
            use_tls=options.tls == "ssl" or (options.tls == "auto" and options.smtp_port == _SSL_PORT),
            start_tls=False,
            sock=sock,
        )
        await server.connect()
    except BaseException:
        sock.close()
        raise
    return server


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"{what} took more than {seconds:g} s") from None
        raise


def _certificate_error(error: BaseException) -> BaseException | None:
    """What is wrong with the server's certificate, if that is what failed."""
    causes = (error, error.__cause__)
    return next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)


def _give_up_if(is_final: bool, message: str) -> None:
    if is_final:
        raise PermanentError(message) from None


def _shown(refused: _Refused) -> dict[str, str]:
    return {who: f"{code} {words}" for who, (code, words) in refused.items()}


def _digest(data: PluginData) -> str:
    """The same for each try to tell of an event, and of no other event anywhere."""
    told = json.dumps(data.to_json(), sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]

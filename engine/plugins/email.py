"""`email`: tells people of events, by SMTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import smtplib
import socket
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from engine.errors import PermanentError
from engine.model.json import JSON
from engine.plugins.base import PluginData
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.options import Options, Texts, filled, read, secret, template

_SSL_PORT = 465
_MAX_SUBJECT = 200  # characters
_MOST_SECONDS = 50.0  # for one message; an attempt has ten more
_threads = ThreadPoolExecutor(16, "email")  # not the ones that everything else shares
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
            sending = partial(self._send, options, address, message)
            refused = await asyncio.get_running_loop().run_in_executor(_threads, sending)
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            _give_up_if(min(codes) >= 500, f"all recipients were refused: {_shown(error.recipients)}")
            raise
        except smtplib.SMTPResponseException as error:
            answer = _words(error.smtp_error)
            _give_up_if(error.smtp_code >= 500, f"{options.smtp_host} answered {error.smtp_code} {answer}")
            raise
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError) as error:
            raise PermanentError(f"{options.smtp_host}: {error}") from None
        return {"message_id": str(message["Message-ID"]), "refused": _shown(refused)}

    def _send(self, options: EmailOptions, address: str, message: EmailMessage) -> _Refused:
        """In a thread: each answer of the server may take `timeout_seconds`, all together `_MOST_SECONDS`."""
        with _connect(options, address) as server:
            if options.tls in ("auto", "starttls") and not isinstance(server, _SmtpOverTls):
                server.ehlo_or_helo_if_needed()
                if options.tls == "starttls" or server.has_extn("starttls"):
                    server.starttls(context=ssl.create_default_context())
            if options.username is not None:
                if options.tls != "none" and not isinstance(server.sock, ssl.SSLSocket):
                    raise smtplib.SMTPNotSupportedError(
                        "it offers no STARTTLS, and the password is not sent without; tls: none would send it"
                    )
                server.login(options.username, self._password or "")
            return server.send_message(message)


_Refused = dict[str, tuple[int, bytes]]


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


class _Hurried(smtplib.SMTP):
    """Raises `TimeoutError` when it takes too long in all: a server may answer slowly without end."""

    def __init__(self, options: EmailOptions) -> None:
        self._until = time.monotonic() + _MOST_SECONDS
        super().__init__(options.smtp_host, options.smtp_port, timeout=options.timeout_seconds)

    def send(self, s: Any) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            self.close()
            raise TimeoutError(f"the message was not taken within {_MOST_SECONDS:g} s")
        if self.sock is not None:
            with suppress(OSError):  # it is closed: what is sent below says so in smtplib's way
                self.sock.settimeout(min(left, self.timeout))
        super().send(s)


class _Smtp(_Hurried):
    """Connects to an address that was looked up and checked, while certificates are for the host's name."""

    def __init__(self, options: EmailOptions, address: str) -> None:
        self._address = address
        super().__init__(options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((self._address, port), timeout)


class _SmtpOverTls(_Hurried):
    """Likewise, with TLS from the start."""

    def __init__(self, options: EmailOptions, address: str) -> None:
        self._address = address
        self._tls = ssl.create_default_context()
        super().__init__(options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((self._address, port), timeout)
        return self._tls.wrap_socket(plain, server_hostname=host)


def _connect(options: EmailOptions, address: str) -> smtplib.SMTP:
    is_tls = options.tls == "ssl" or (options.tls == "auto" and options.smtp_port == _SSL_PORT)
    return _SmtpOverTls(options, address) if is_tls else _Smtp(options, address)


def _give_up_if(is_final: bool, message: str) -> None:
    if is_final:
        raise PermanentError(message) from None


def _shown(refused: _Refused) -> dict[str, str]:
    return {who: f"{code} {_words(text)}" for who, (code, text) in refused.items()}


def _words(answer: bytes | str) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def _digest(data: PluginData) -> str:
    """The same for each try to tell of an event, and of no other event anywhere."""
    told = json.dumps(data.to_json(), sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:32]

"""email: what it sends, what it does not, and when it gives up."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from engine.executors.base import ExecutorSettings
from engine.plugins import email
from engine.plugins.registry import PluginRegistry
from tests.executors.factories import make_settings
from tests.plugins.calls import EVENT, fails, told
from tests.support.smtp import SmtpServer

pytestmark = pytest.mark.anyio


def params(server: SmtpServer | None = None, **more: Any) -> dict[str, Any]:
    port = 25 if server is None else server.port
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "from": "Engine <engine@example.org>",
        "to": "ann@example.org, bob@example.org",
        **more,
    }


async def test_an_event_becomes_a_message(settings: ExecutorSettings, mail_server: SmtpServer) -> None:
    result = await told(settings, "email", params(mail_server))
    [mail] = mail_server.mails
    assert (mail.sender, mail.recipients) == ("engine@example.org", ["ann@example.org", "bob@example.org"])
    message = mail.message
    assert message["subject"] == "task.failed: nightly load"
    assert message["message-id"] == result["message_id"]
    assert message["auto-submitted"] == "auto-generated"
    assert "no route to host" in message.get_content()
    assert result["refused"] == {}


async def test_each_try_is_the_same_message(settings: ExecutorSettings, mail_server: SmtpServer) -> None:
    for _ in range(2):
        await told(settings, "email", params(mail_server))
    await told(settings, "email", params(mail_server), number=7)
    first, again, other = (mail.message["message-id"] for mail in mail_server.mails)
    assert first == again != other


async def test_texts_can_be_replaced(settings: ExecutorSettings, mail_server: SmtpServer) -> None:
    texts = {"subject": "$$ ${task_name} grüßt", "body": "${status} after ${attempt}"}
    await told(settings, "email", params(mail_server, **texts))
    message = mail_server.mails[0].message
    assert (message["subject"], message.get_content().strip()) == ("$ load grüßt", "Failed after 2")


@pytest.mark.parametrize("evil", ["x\r\nBcc: eve@example.org", "x\nSubject: y", "x\r\n\r\nbody", "\x00"])
async def test_what_an_event_says_adds_no_header(
    settings: ExecutorSettings, mail_server: SmtpServer, evil: str
) -> None:
    error = {"code": "", "message": evil}
    await told(settings, "email", params(mail_server, subject="${error}"), error=error)
    [mail] = mail_server.mails
    assert mail.recipients == ["ann@example.org", "bob@example.org"]
    assert mail.message["bcc"] is None
    assert len(mail.message.get_all("subject", [])) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"to": "ann@example.org\nBcc: eve@example.org"}, "to: "),
        ({"to": []}, "to: "),
        ({"to": ["ann@example.org,eve@example.org"]}, "is no mail address"),
        ({"from": "nobody"}, "from: "),
        ({"subject": "a\r\nBcc: eve@example.org"}, "holds a line break"),
        ({"subject": "${nmae}"}, "unknown name ${nmae}"),
        ({"subject": "5 $ more"}, "a dollar sign"),
        ({"smtp_port": 0}, "smtp_port: "),
        ({"smtp_host": None}, "smtp_host: "),
        ({"recipients": "x"}, "unknown parameter 'recipients'"),
    ],
)
def test_params_that_can_never_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    registry = PluginRegistry.installed()
    registry.check("email", params())
    with pytest.raises(InvalidInput) as refused:
        registry.check("email", params(**wrong))
    assert message in str(refused.value)


def test_what_the_contract_requires_is_required() -> None:
    with pytest.raises(InvalidInput, match="smtp_host is required; from is required; to is required"):
        PluginRegistry.installed().check("email", {})


@pytest.mark.parametrize(
    ("command", "answer", "is_permanent"),
    [
        ("MAIL", "451 later", False),
        ("MAIL", "550 never", True),
        ("RCPT", "450 later", False),
        ("RCPT", "550 who?", True),
        ("DATA", "554 no", True),
        ("DATA", "421 later", False),
    ],
)
async def test_what_the_server_refuses_for_good_is_not_tried_again(
    settings: ExecutorSettings, mail_server: SmtpServer, command: str, answer: str, is_permanent: bool
) -> None:
    mail_server.answers[command] = answer
    assert (await fails(settings, "email", params(mail_server))).is_permanent == is_permanent


async def test_a_server_that_is_not_there_is_tried_again(settings: ExecutorSettings) -> None:
    assert not (await fails(settings, "email", params(smtp_port=1))).is_permanent


@pytest.mark.parametrize("trouble", ["silent_at", "endless_at"])
async def test_all_that_a_server_says_has_an_end(
    settings: ExecutorSettings, mail_server: SmtpServer, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(email, "_MOST_SECONDS", 0.5)
    getattr(mail_server, trouble).add("EHLO")
    failure = await fails(settings, "email", params(mail_server))
    assert not failure.is_permanent
    assert "the message took more than 0.5 s" in failure.message


async def test_a_server_that_knows_no_ehlo_is_spoken_to_all_the_same(
    settings: ExecutorSettings, mail_server: SmtpServer
) -> None:
    mail_server.answers["EHLO"] = "502 what?"
    await told(settings, "email", params(mail_server))
    assert len(mail_server.mails) == 1
    failure = await fails(settings, "email", params(mail_server, tls="starttls"))
    assert failure.is_permanent


async def test_a_message_that_was_taken_is_not_sent_again(
    settings: ExecutorSettings, mail_server: SmtpServer
) -> None:
    mail_server.silent_at.add("QUIT")
    await told(settings, "email", params(mail_server))
    assert len(mail_server.mails) == 1


async def test_a_password_is_not_sent_without_tls(
    settings: ExecutorSettings, mail_server: SmtpServer
) -> None:
    mail_server.features = ("AUTH PLAIN",)
    secret = {"username": "me", "password": "geheim"}
    failure = await fails(settings, "email", params(mail_server, **secret))
    assert failure.is_permanent and "not sent without" in failure.message
    assert (mail_server.logins, mail_server.mails) == ([], [])
    await told(settings, "email", params(mail_server, **secret, tls="none"))
    [login] = mail_server.logins
    assert base64.b64decode(login.split()[1]) == b"\0me\0geheim"


async def test_tls_that_is_demanded_is_not_done_without(
    settings: ExecutorSettings, mail_server: SmtpServer
) -> None:
    failure = await fails(settings, "email", params(mail_server, tls="starttls"))
    assert failure.is_permanent and mail_server.mails == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1; the key stands beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    subprocess.run(
        [
            *(openssl, *request.split()),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path / "cert"


async def test_starttls_is_used_where_it_is_offered(
    settings: ExecutorSettings,
    mail_server: SmtpServer,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mail_server.tls.load_cert_chain(certificate, certificate.with_name("key"))
    mail_server.features = ("AUTH PLAIN",)
    secret = {"username": "me", "password": "geheim"}
    failure = await fails(settings, "email", params(mail_server, **secret))
    assert failure.is_permanent and "certificate verify failed" in failure.message
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    await told(settings, "email", params(mail_server, **secret))
    assert mail_server.secured == len(mail_server.logins) == len(mail_server.mails) == 1


async def test_private_addresses_can_be_closed_to_it(mail_server: SmtpServer, tmp_path: Path) -> None:
    closed = make_settings(tmp_path, allow_private_network=False)
    failure = await fails(closed, "email", params(mail_server))
    assert "is not a public address" in failure.message
    assert mail_server.accepted == 0


async def test_an_event_of_a_workflow_has_no_task(
    settings: ExecutorSettings, mail_server: SmtpServer
) -> None:
    workflow = {**EVENT["workflow"], "status": "Success"}
    event = {"event": "workflow.completed", "task": None, "error": {}, "workflow": workflow}
    await told(settings, "email", params(mail_server, body="${status}${task_name}"), **event)
    assert mail_server.mails[0].message.get_content().strip() == "Success"

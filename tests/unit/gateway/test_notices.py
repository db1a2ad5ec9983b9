"""Notices outside the desktop: which changes give one, the signed webhook, and e-mail to
subscribers.
"""

import asyncio
import hmac
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from email import message_from_string
from email.message import EmailMessage
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from support.waiting import eventually
from support.web_server import serve_app
from unit.gateway.gateway_stage import GatewayStage
from unit.gateway.login_stage import LoginStage
from vdi.api.session import VDISession
from vdi.gateway import mail, notices
from vdi.gateway.notices import KINDS, Notice, Notices, can_mail, find_notices
from vdi.gateway.settings import Settings
from vdi.gateway.store.notices import NoticeSubscriptions

KEY, TIME, LATER = b"k" * 32, "2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z"
QUEUED = {"position": 1, "reason": "GPUsBusy"}
ALICE = "alice@example.com"


def a_session(access: list[Any] | None = None, **status: Any) -> VDISession:
    metadata = {
        "name": "cad",
        "namespace": "vdi-sessions",
        "uid": "u1",
        "generation": 2,
        "creationTimestamp": TIME,
    }
    spec = {"user": "Alice@example.com", "template": "office", "access": access or []}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, VDISession)


def condition(kind: str, time: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True",
        "reason": "X",
        "message": f"{kind}.",
        "lastTransitionTime": time,
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"readyTime": TIME}, ["session.ready"]),
        ({"readyTime": TIME}, {"readyTime": TIME, "phase": "Running"}, []),
        ({"readyTime": TIME}, {"readyTime": LATER}, ["session.ready"]),
        ({"queue": {"position": 2}}, {"queue": QUEUED}, ["session.first_in_line"]),
        ({"queue": QUEUED}, {"queue": QUEUED}, []),
        ({}, {"conditions": [condition("Expiring", TIME)]}, ["session.ends_soon"]),
        ({"conditions": [condition("Idle", TIME)]}, {"conditions": [condition("Idle", TIME)]}, []),
        (
            {"conditions": [condition("Idle", TIME)]},
            {"conditions": [condition("Idle", LATER)]},
            ["session.ends_soon"],
        ),
        ({}, {"phase": "Failed", "message": "It crashes."}, ["session.failed"]),
        ({"phase": "Failed"}, {"phase": "Failed", "message": "It still crashes."}, []),
        ({"phase": "Running"}, {"phase": "Suspended"}, []),
    ],
)
def test_changes_that_give_a_notice(
    old: dict[str, Any], new: dict[str, Any], expected: list[str]
) -> None:
    found = list(find_notices(a_session(**old), a_session(**new)))
    assert [notice.kind for notice in found] == expected
    assert all(notice.user == ALICE and notice.message and notice.kind in KINDS for notice in found)


def test_new_guest_is_notified_once_and_unknown_role_never() -> None:
    bob = {"user": "bob@example.com", "role": "viewer"}
    eve = {"user": "eve@example.com", "role": "owner"}
    (found,) = find_notices(a_session(), a_session([bob, eve]))
    assert (found.kind, found.user) == ("session.shared", "bob@example.com")
    assert found.message == "alice@example.com shares the desktop cad with you (view only)."
    assert not list(find_notices(a_session([bob]), a_session([{**bob, "role": "collaborator"}])))
    assert {notice.id for notice in find_notices(None, a_session([bob]))} == {found.id}


@pytest.mark.parametrize(
    "user", ["a,b@example.com", "a@b@example.com", "a<b@example.com>", "a b@example.com", "a@é.de"]
)
def test_address_that_could_name_another_is_not_mailed(user: str) -> None:
    assert can_mail(ALICE) and not can_mail(user)


@dataclass
class Receiver:
    """A receiver of webhooks; it responds with `statuses`, one after the other, then with 204."""

    statuses: list[int] = field(default_factory=list)
    received: list[tuple[Any, bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.received.append((request.headers, await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(
            status=status, headers={"Location": "/elsewhere"} if status == 302 else {}
        )


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[tuple[Receiver, Settings]]:
    receiver, app = Receiver(list(statuses)), web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.answer)
    async with serve_app(app) as port:
        yield (
            receiver,
            Settings(
                webhook_url=f"http://127.0.0.1:{port}/hook",
                webhook_secret=KEY,
                webhook_allow_local=True,
            ),
        )


@asynccontextmanager
async def sending(*stages: GatewayStage) -> AsyncIterator[list[Notices]]:
    """Each stage is a replica that sends."""
    replicas = [Notices(stage.context) for stage in stages]
    tasks = [asyncio.create_task(replica.run()) for replica in replicas]
    await asyncio.sleep(0)
    try:
        yield replicas
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def count(stage: GatewayStage, sink: str, outcome: str) -> float:
    return float(stage.context.metrics.notices.labels(sink, outcome)._value.get())


async def test_webhook_is_signed_and_sent_by_one_replica() -> None:
    async with receiving() as (receiver, settings):
        stage = GatewayStage(settings=settings)
        other = GatewayStage(settings=settings, **stage.shares)
        async with sending(stage, other) as replicas:
            for replica in (stage, other):
                replica.put(a_session(readyTime=TIME, url="https://cad.vdi.localhost"))
            assert [len(replica._tasks) for replica in replicas] == [1, 1]
            await eventually(lambda: not any(replica._tasks for replica in replicas))
        assert count(stage, "webhook", "sent") + count(other, "webhook", "sent") == 1
        ((headers, body),) = receiver.received
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert (
        headers["webhook-signature"]
        == f"v1,{b64encode(hmac.digest(KEY, signed, 'sha256')).decode()}"
    )
    assert headers["webhook-timestamp"] == str(int(stage.clock.now().timestamp()))
    assert headers["User-Agent"].startswith("vdi-gateway/")
    data = {
        "user": ALICE,
        "session": "cad",
        "namespace": "vdi-sessions",
        "uid": "u1",
        "template": "office",
    }
    data |= {"message": "Your desktop cad is ready.", "url": "https://cad.vdi.localhost"}
    assert msgspec.json.decode(body) == {"type": "session.ready", "timestamp": TIME, "data": data}


async def test_refused_webhook_is_retried_then_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A redirect is a refusal: it is not followed."""
    monkeypatch.setattr(notices, "RETRY_SECONDS", (0.001, 0.001))
    async with receiving(500, 302, 204, 500, 500, 500) as (receiver, settings):
        stage = GatewayStage(settings=settings)
        async with sending(stage) as (replica,):
            stage.put(a_session(readyTime=TIME))
            await eventually(lambda: count(stage, "webhook", "sent") == 1)
            assert await replica.external_problems() == []
            assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
            stage.put(a_session(readyTime=LATER))
            await eventually(lambda: count(stage, "webhook", "dropped") == 1)
            assert await replica.external_problems() == ["webhook: status 500; allowed: 200 to 299"]
    assert (len(receiver.received), count(stage, "webhook", "failed")) == (6, 4)
    assert "status 302" in caplog.text and KEY.decode() not in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "hooks.localhost"])
async def test_webhook_to_the_gateways_own_machine_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    monkeypatch.setattr(notices, "RETRY_SECONDS", ())
    async with receiving() as (receiver, settings):
        url = settings.webhook_url.replace("127.0.0.1", host)
        stage = GatewayStage(settings=replace(settings, webhook_url=url, webhook_allow_local=False))
        async with sending(stage):
            stage.put(a_session(readyTime=TIME))
            await eventually(lambda: count(stage, "webhook", "dropped") == 1)
    assert not receiver.received
    assert "127.0.0.1 is a loopback, link-local or metadata address" in caplog.text


async def test_one_owner_cannot_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MAX_OPEN_OF_OWNER", 2)
    monkeypatch.setattr(notices, "RETRY_SECONDS", (0.001,))
    async with receiving(500, 500) as (_, settings):
        stage = GatewayStage(settings=settings)
        async with sending(stage) as (replica,):
            guests = [
                {"user": f"guest{number}@example.com", "role": "viewer"} for number in range(5)
            ]
            stage.put(a_session(guests))
            assert count(stage, "webhook", "dropped") == 3
            bobs = a_session(readyTime=TIME)
            bobs.metadata.name, bobs.metadata.uid, bobs.spec.user = "bobs", "u2", "bob@example.com"
            stage.put(bobs)
            assert count(stage, "webhook", "dropped") == 3
            await eventually(lambda: not replica._tasks)
            assert count(stage, "webhook", "sent") == 3
            stage.put(a_session(guests, readyTime=TIME))
            await eventually(lambda: count(stage, "webhook", "sent") == 4)


async def test_full_queue_drops_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "MAX_OPEN", 1)
    stage = GatewayStage(settings=Settings(webhook_url="http://127.0.0.1:9/", webhook_secret=KEY))
    with caplog.at_level(logging.ERROR):
        async with sending(stage):
            stage.put(a_session(readyTime=TIME))
            stage.put(a_session(readyTime=LATER))
            assert count(stage, "webhook", "dropped") == 1
    assert "is dropped: 1 notices are being sent" in caplog.text


@dataclass
class MailServer:
    """As much of an SMTP server as a client needs; it offers no TLS."""

    mails: list[tuple[list[str], str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        writer.write(b"220 mail.example.com\r\n")
        while line := (await reader.readline()).decode():
            answer = "250 ok"
            if line.upper().startswith("RCPT TO:"):
                recipients.append(line[len("RCPT TO:") :].strip())
            elif line.upper().startswith("DATA"):
                writer.write(b"354 go\r\n")
                text = (await reader.readuntil(b"\r\n.\r\n")).decode()
                self.mails.append((recipients, text))
            elif line.upper().startswith("QUIT"):
                answer = "221 bye"
            writer.write(f"{answer}\r\n".encode())
        writer.close()


@asynccontextmanager
async def mail_server(host: str = "127.0.0.1") -> AsyncIterator[tuple[MailServer, Settings]]:
    mails = MailServer()
    server = await asyncio.start_server(mails.serve, "127.0.0.1", 0)
    async with server:
        url = f"smtp://{host}:{server.sockets[0].getsockname()[1]}"
        yield mails, Settings(smtp_url=url, smtp_from="vdi@example.com")


async def test_mail_goes_to_the_subscriber_alone() -> None:
    async with mail_server() as (server, settings):
        stage = GatewayStage(settings=settings)
        await NoticeSubscriptions(stage.database).save(ALICE, frozenset({"session.ready"}))
        async with sending(stage):
            bob = {"user": "bob@example.com", "role": "viewer"}
            stage.put(a_session([bob], phase="Failed", message="It crashes.", readyTime=TIME))
            await eventually(lambda: count(stage, "email", "sent") == 1)
        ((recipients, text),) = server.mails
    mail = message_from_string(text)
    assert recipients == [f"<{ALICE}>"]
    assert (mail["From"], mail["To"], mail["Subject"]) == (
        "vdi@example.com",
        ALICE,
        "Desktop is ready: cad",
    )
    assert mail["Auto-Submitted"] == "auto-generated" and mail.get_content_type() == "text/plain"
    assert (
        "Your desktop cad is ready." in text
        and "https://portal.vdi.localhost/account#notices" in text
    )


@pytest.mark.parametrize(
    ("name", "is_local", "reason"),
    [
        ("cad", False, r"STARTTLS extension not supported"),
        ("cad\nBcc: eve@example.com", True, r"linefeed|newline"),
    ],
)
async def test_mail_needs_tls_and_a_safe_header(
    monkeypatch: pytest.MonkeyPatch, name: str, is_local: bool, reason: str
) -> None:
    monkeypatch.setattr(mail, "is_local", lambda _host: is_local)
    async with mail_server() as (server, settings):
        stage = GatewayStage(settings=settings)
        await NoticeSubscriptions(stage.database).save(ALICE, frozenset(KINDS))
        session = a_session()
        session.metadata.name = name
        notice = Notice("msg_1", "session.ready", ALICE, "Ready.", session)
        with pytest.raises((OSError, ValueError), match=reason):
            await Notices(stage.context)._mail(notice, stage.clock.now())
    assert not server.mails


@pytest.mark.parametrize(
    ("piece", "pause", "seconds"),
    [(b"220-more\r\n" * 1000, 0.0, 30.0), (b"2", 0.02, 0.3), (b"220-" * 5000, 0.0, 30.0)],
)
async def test_mail_server_that_never_ends_its_reply_is_given_up(
    monkeypatch: pytest.MonkeyPatch, piece: bytes, pause: float, seconds: float
) -> None:
    monkeypatch.setattr(mail, "_CONVERSATION_SECONDS", seconds)

    left = asyncio.Event()

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()
        left.set()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        settings = Settings(
            smtp_url=f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}", smtp_from=ALICE
        )
        with pytest.raises(OSError, match=r"replies exceed|Line too long|timed out"):
            async with asyncio.timeout(10):
                await asyncio.to_thread(mail.send_mail, settings, EmailMessage(), ALICE)
        async with asyncio.timeout(10):
            await left.wait()


async def test_user_chooses_notices_on_the_account_page() -> None:
    async with LoginStage(
        Settings(smtp_url="smtp://mail.example.com", smtp_from="vdi@example.com")
    ) as stage:
        alice, store = stage.browser(), NoticeSubscriptions(stage.database)
        await alice.log_in()
        page = (await alice.get("/account")).text
        assert page.count('name="notice"') == len(KINDS) and "checked" not in page
        for chosen in (["session.ready", "session.failed", "root"], ["session.shared"], []):
            answer = await alice.submit("/account/notices", page, notice=cast(str, chosen))
            assert answer.headers["location"] == "/account?done=notices"
            assert await store.of(ALICE) == set(chosen) & KINDS.keys()
        assert (
            await alice.post("/account/notices", data={"notice": "session.ready"})
        ).status_code == 403
        assert await store.of(ALICE) == frozenset()


async def test_account_page_without_a_mail_server_has_no_notices() -> None:
    async with LoginStage() as stage:
        alice = stage.browser()
        await alice.log_in()
        assert 'name="notice"' not in (await alice.get("/account")).text

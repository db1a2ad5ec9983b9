"""Notices outside the desktop: a signed JSON webhook for all of them, and e-mail to users who have
subscribed.

A component of the gateway. Notices follow from the changes of sessions that the cluster cache sees
while the gateway runs, and from agents that ask for a person. Every replica sees them; the shared
state gives each delivery to one. Webhooks are signed as https://www.standardwebhooks.com asks.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import ssl
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from typing import Any

import msgspec

from vdi.api.meta import find_condition
from vdi.api.session import Access, GuestRole, SessionStatus, VDISession, describe_role
from vdi.cluster.units import format_time
from vdi.gateway.cluster_cache import Kind
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.mail import send_mail
from vdi.gateway.queue_message import queue_message
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.notices import NoticeSubscriptions
from vdi.http_client import HTTP_ERRORS, open_client, reason_of
from vdi.session.conditions import ADMITTED, END_TYPES
from vdi.session.failures import find_failure
from vdi.session.users import normal_user
from vdi.version import user_agent

log = logging.getLogger(__name__)

# Deliveries that wait or are sent, of all sessions and of those of one owner; one more is dropped.
MAX_OPEN, MAX_OPEN_OF_OWNER = 1000, 100
# Pauses before the next tries; after the last one the delivery is dropped.
RETRY_SECONDS = (10.0, 60.0, 300.0, 1500.0)
_CLAIM_SECONDS = 86_400.0
_TIMEOUT_SECONDS = 10.0
_PARALLEL = 8
# Matches an address that e-mail is sent to, as HTML's <input type=email> has it: other text could
# name further people.
can_mail = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+").fullmatch

# Kinds of notices, with the labels of their checkboxes, which are the subjects of e-mails.
HUMAN_REQUESTED = "session.human_requested"
KINDS = {
    "session.ready": "Desktop is ready",
    "session.first_in_line": "Desktop is first in line",
    "session.ends_soon": "Desktop is about to stop",
    "session.failed": "Desktop has failed",
    "session.shared": "Desktop is shared with you",
    HUMAN_REQUESTED: "Agent asks for a person",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice for one user."""

    # The same in every replica.
    id: str
    kind: str
    user: str
    message: str
    session: VDISession


def find_notices(old: VDISession | None, new: VDISession) -> Iterator[Notice]:
    """Notices of a change. Pure. `old`: None for a session that was just created."""
    before = old.status if old else SessionStatus()
    yield from _starts(before, new)
    yield from _ends_soon(before, new)
    if (failure := find_failure(new)) and not (old and find_failure(old)):
        message = f"{failure.title}: {failure.what or queue_message(new)} {failure.advice}"
        yield _notice(new, "session.failed", message, f"{new.metadata.generation}/{failure.since}")
    yield from _shares(old.spec.access if old else (), new)


def _notice(session: VDISession, kind: str, message: str, once_per: str, user: str = "") -> Notice:
    """A notice that each replica makes with the same id. `user`: empty for the owner."""
    user = user or normal_user(session.spec.user)
    key = f"{session.metadata.uid}/{kind}/{once_per}/{user}"
    number = hashlib.sha256(key.encode()).hexdigest()[:32]
    return Notice(f"msg_{number}", kind, user, message, session)


def _starts(before: SessionStatus, new: VDISession) -> Iterator[Notice]:
    status, name = new.status, new.metadata.name
    if status.ready_time and status.ready_time != before.ready_time:
        message = f"Your desktop {name} is ready."
        yield _notice(new, "session.ready", message, status.ready_time)
    was_first = before.queue and before.queue.position == 1
    if status.queue and status.queue.position == 1 and not was_first:
        admitted = find_condition(status.conditions, ADMITTED)
        since = admitted.last_transition_time if admitted else ""
        yield _notice(new, "session.first_in_line", queue_message(new), since)


def _ends_soon(before: SessionStatus, new: VDISession) -> Iterator[Notice]:
    for kind in END_TYPES:
        alert = find_condition(new.status.conditions, kind)
        known = find_condition(before.conditions, kind)
        if alert is None or (known and known.last_transition_time == alert.last_transition_time):
            continue
        once_per = f"{kind}/{alert.last_transition_time}"
        yield _notice(new, "session.ends_soon", alert.message, once_per)


def _shares(before: Sequence[Access], new: VDISession) -> Iterator[Notice]:
    owner, meta = normal_user(new.spec.user), new.metadata
    known = {normal_user(access.user) for access in before}
    for access in new.spec.access:
        guest = normal_user(access.user)
        if guest in known or access.role not in set(GuestRole):
            continue
        until = f", until {access.expires}" if access.expires else ""
        role = describe_role(GuestRole(access.role))
        message = f"{owner} shares the desktop {meta.name} with you ({role}{until})."
        yield _notice(new, "session.shared", message, str(meta.generation), guest)


class Notices(Component):
    """Sends the notices of every change of a session. No caller waits for it."""

    def __init__(self, context: GatewayContext) -> None:
        self._context, self._settings = context, context.settings
        self._count = context.metrics.notices.labels
        self._subscriptions = NoticeSubscriptions(context.database)
        self._tls: ssl.SSLContext | None = None
        if self._settings.webhook_url:  # loading takes 45 ms
            self._tls = ssl.create_default_context()
        # By name; each returns whether it has sent the notice. Raises HTTP_ERRORS,
        # DatabaseUnavailableError.
        sinks = {
            "webhook": (self._settings.webhook_url, self._post),
            "email": (self._settings.smtp_url, self._mail),
        }
        self._sinks = {name: send for name, (url, send) in sinks.items() if url}
        # By sink, why the last notice was not sent.
        self._refusals: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: Counter[str] = Counter()
        self._parallel = asyncio.Semaphore(_PARALLEL)

    async def external_problems(self) -> Sequence[str]:
        """Servers that refused the last notice, for the log and the doctor."""
        return [f"{sink}: {why}" for sink, why in self._refusals.items()]

    async def run(self) -> None:
        if not self._sinks:
            return
        self._context.cluster.listen(self._changed)
        try:
            await asyncio.Event().wait()
        finally:
            self._sinks.clear()  # the watches end later
            for task in self._tasks:
                task.cancel()

    def _changed(self, kind: Kind, old: Any, new: Any) -> None:
        if kind != "session" or new is None:
            return
        for notice in find_notices(old, new):
            self.send(notice)

    def send(self, notice: Notice) -> None:
        owner = normal_user(notice.session.spec.user)
        for sink in self._sinks:
            if len(self._tasks) >= MAX_OPEN or self._open[owner] >= MAX_OPEN_OF_OWNER:
                self._count(sink, "dropped").inc()
                count = f"{len(self._tasks)} notices are being sent, {self._open[owner]} of {owner}"
                log.error("%s: %s is dropped: %s", sink, notice.id, count)
                continue
            task = asyncio.create_task(self._deliver(sink, notice))
            self._tasks.add(task)
            self._open[owner] += 1
            task.add_done_callback(partial(self._forget, owner))

    def _forget(self, owner: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]

    async def _deliver(self, sink: str, notice: Notice) -> None:
        is_ours, context, send = False, self._context, self._sinks[sink]
        for pause in (*RETRY_SECONDS, None):
            try:
                is_ours = is_ours or await context.shared.take_once(
                    f"notice/{sink}/{notice.id}", _CLAIM_SECONDS
                )
                async with self._parallel:
                    if is_ours and await send(notice, context.clock()):
                        self._count(sink, "sent").inc()
                        self._refusals.pop(sink, None)
                return
            except (*HTTP_ERRORS, DatabaseUnavailableError) as error:
                outcome = "failed" if pause else "dropped"
                self._count(sink, outcome).inc()
                self._refusals[sink] = reason_of(error)
                log.warning(
                    "%s: %s (%s): %s: %s", sink, notice.id, notice.kind, outcome, reason_of(error)
                )
            if pause:
                await asyncio.sleep(pause)

    async def _post(self, notice: Notice, now: datetime) -> bool:
        settings, session = self._settings, notice.session
        data = {
            "user": notice.user,
            "message": notice.message,
            "url": session.status.url,
            "session": session.metadata.name,
            "namespace": session.metadata.namespace,
            "uid": session.metadata.uid,
            "template": session.spec.template,
        }
        body = msgspec.json.encode(
            {"type": notice.kind, "timestamp": format_time(now), "data": data}
        )
        stamp = str(int(now.timestamp()))
        content = f"{notice.id}.{stamp}.".encode() + body
        signature = b64encode(hmac.digest(settings.webhook_secret, content, "sha256")).decode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": user_agent("vdi-gateway"),
            "webhook-id": notice.id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{signature}",
        }
        client = open_client(
            settings.webhook_url,
            seconds=_TIMEOUT_SECONDS,
            tls=self._tls,
            to_machine=settings.webhook_allow_local,
        )
        async with (
            asyncio.timeout(_TIMEOUT_SECONDS),
            client as http,
            http.stream("POST", settings.webhook_url, content=body, headers=headers) as response,
        ):
            if not 200 <= response.status < 300:
                raise OSError(f"status {response.status}; allowed: 200 to 299")
        return True

    async def _mail(self, notice: Notice, now: datetime) -> bool:
        if not can_mail(notice.user):
            return False
        if notice.kind not in await self._subscriptions.of(notice.user):
            return False
        portal = self._settings.portal_url
        message = EmailMessage()
        message["From"] = self._settings.smtp_from
        message["To"] = notice.user
        message["Date"] = format_datetime(now)
        message["Subject"] = f"{KINDS[notice.kind]}: {notice.session.metadata.name}"
        message["Message-ID"] = f"<{notice.id}@{self._settings.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(
            f"{notice.message}\n\n{portal}\n\nWhich notices you get: {portal}/account#notices\n"
        )
        await asyncio.to_thread(send_mail, self._settings, message, notice.user)
        return True

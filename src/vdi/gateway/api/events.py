"""`/events`: sessions as they change, as Server-Sent Events.

    event: session   data: {a Session}            one that is there, first all of them, then each that changes
    event: ready     data: {}                     the first list is complete
    event: gone      data: {name, uid}            ended, or not shared any more

A connection that is lost is opened again and begins with all that are there.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import msgspec
from starlette.responses import Response

from vdi.api.session import VDISession
from vdi.gateway.api.operation import Call, Operation
from vdi.gateway.api.serializers import session_of
from vdi.gateway.api.sessions import age, seen
from vdi.gateway.cluster_cache import Change
from vdi.gateway.rights import knows_of, role_in
from vdi.gateway.web.streams import sse_event

CHECK_SECONDS = 15.0
"""How often it is looked whether the login still holds for the same rights, and whether shares have expired."""


class EventsQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What to follow."""

    session: Annotated[
        Annotated[str, msgspec.Meta(max_length=253)] | None,
        msgspec.Meta(description="Only this session. Default: all of yours."),
    ] = None


class Gone(msgspec.Struct):
    """A session that has ended, or is no longer visible to this user."""

    name: str
    uid: str


async def follow(call: Call[EventsQuery, None]) -> Response:
    """The stream."""
    if call.query.session is not None:
        seen(call.api, call.user, call.query.session)
    return call.api.streams.response(call.api.context, call.user.email, _events(call))


async def _events(call: Call[EventsQuery, None]) -> AsyncIterator[bytes]:
    only = call.query.session
    sent: dict[str, VDISession] = {}
    loop = asyncio.get_running_loop()
    check_at = loop.time() + CHECK_SECONDS

    def wants(change: Change) -> bool:
        return change.kind == "session" and only in (None, change.name) and _concerns(call, change, sent)

    with call.cluster.changes(wants) as changes:
        for session in sorted(call.cluster.sessions.values(), key=age):
            if only in (None, session.metadata.name) and _shows(call, session):
                yield _tell(call, session, sent)
        yield sse_event("{}", event="ready")
        waiting: asyncio.Task[Change] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next(aiter(changes)))
                await asyncio.wait([waiting], timeout=max(0.0, check_at - loop.time()))
                if loop.time() >= check_at:
                    if not await _still_in(call):
                        return
                    for session in [shown for shown in sent.values() if not _shows(call, shown)]:
                        yield _forget(session, sent)
                    check_at = loop.time() + CHECK_SECONDS
                if not waiting.done():
                    continue
                done, waiting = waiting, None
                try:
                    change = done.result()
                except StopAsyncIteration:
                    return
                for event in _of(call, change, sent):
                    yield event
        finally:
            if waiting is not None:
                waiting.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await waiting


async def _next(changes: AsyncIterator[Change]) -> Change:
    return await anext(changes)


def _concerns(call: Call[EventsQuery, None], change: Change, sent: dict[str, VDISession]) -> bool:
    return change.name in sent or (change.new is not None and _shows(call, change.new))


def _shows(call: Call[EventsQuery, None], session: VDISession) -> bool:
    """Mine and shared with me; one that was asked for by name also as an administrator."""
    now = call.now()
    if call.query.session is not None:
        return knows_of(session, call.user, now)
    return role_in(session, call.user.email, now) is not None


def _of(call: Call[EventsQuery, None], change: Change, sent: dict[str, VDISession]) -> list[bytes]:
    """What a change means for this person."""
    events = []
    old: VDISession | None = sent.get(change.name)
    new: VDISession | None = change.new if change.new is not None and _shows(call, change.new) else None
    if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
        events.append(_forget(old, sent))
    if new is not None:
        events.append(_tell(call, new, sent))
    return events


def _tell(call: Call[EventsQuery, None], session: VDISession, sent: dict[str, VDISession]) -> bytes:
    sent[session.metadata.name] = session
    shown = session_of(session, call.user, call.now())
    return sse_event(msgspec.json.encode(shown).decode(), event="session")


def _forget(session: VDISession, sent: dict[str, VDISession]) -> bytes:
    meta = session.metadata
    del sent[meta.name]
    return sse_event(msgspec.json.encode(Gone(meta.name, meta.uid)).decode(), event="gone")


async def _still_in(call: Call[EventsQuery, None]) -> bool:
    """Whether the login that the stream was opened with still holds, for the same rights."""
    return await call.api.guard.authenticate(call.request) == call.user


OPERATIONS = (
    Operation(
        method="GET", path="/events", name="followSessions", tag="Desktops", handler=follow,
        summary="Changes of your desktops and of those shared with you, as Server-Sent Events",
        description=(
            "`event: session` has a session as data (first all current sessions, then each one that changes), "
            "`event: ready` ends the first list, `event: gone` has `name` and `uid` of a session that has ended or "
            "is no longer shared. A comment every 20 s keeps the connection open."
        ),
        query=EventsQuery, media="text/event-stream", problems=("not-found",),
    ),
)  # fmt: skip

"""Asks the agents in the desktops whether somebody is there and what draws, and has them show notices.

No API request per question.

Two queues of their own, beside the sessions': `poll` (key: session) and `deliver` (key: session and notice). A desktop
is asked only when its answer can change something (`session.lifetime.next_poll`); then the session is reconciled.

What an agent answers is a stranger's word: its user can put any program in its place. So answers are cut at
`ANSWER_BYTES`, redirects are not followed, and the worst that a lie does is to keep that user's own desktop running.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from vdi.api.meta import API_VERSION
from vdi.api.session import GraphicsStatus, Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Pod
from vdi.cluster.units import parse_time
from vdi.kube.clock import Clock
from vdi.kube.connections import ask_once
from vdi.kube.events import EventRecorder
from vdi.kube.http import HttpError, url_host
from vdi.kube.meta import ObjectReference
from vdi.kube.queue import Result
from vdi.operator.caches import BY_TEMPLATE, Caches
from vdi.printable import is_printable
from vdi.session.alerts import Notice, schedules_of
from vdi.session.conditions import CLOSING, IDLE
from vdi.session.lifetime import Activity, evaluate_idle, idle_timeout, next_poll, poll_interval, started_at
from vdi.session.naming import secret_name

log = logging.getLogger(__name__)

CONCURRENT_POLLS = 64
CONCURRENT_NOTICES = 16
ANSWER_SECONDS = 2.0
# A notice may have to wait until D-Bus has started the notification daemon.
NOTICE_SECONDS = 15.0

ANSWER_BYTES = 4096
# Between two questions to an agent that does not answer.
LONGEST_PAUSE = timedelta(minutes=5)
# Between two questions while the end of working hours is announced, which input cancels.
CLOSING_INTERVAL = timedelta(seconds=5)
# Seconds between two tries to show a notice.
NOTICE_PAUSE = 5.0
FAILURES_UNTIL_EVENT = 3
# How often a desktop without an idle timeout is asked what draws, while its agent does not answer.
GRAPHICS_POLLS = 3
# Seconds between two of them.
GRAPHICS_PAUSE = 5.0

SessionKey = tuple[str, str]
# (namespace, session, id of the notice).
NoticeKey = tuple[str, str, str]


_Text = Annotated[str, msgspec.Meta(max_length=256)]


class GraphicsReport(msgspec.Struct, rename="camel"):
    """What the image decided when it started; the limits are those of `status.graphics`."""

    renderer: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{1,32}$")]
    device: _Text = ""
    reason: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{0,32}$")] = ""
    message: _Text = ""
    encoder: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9 ._-]{0,32}$")] = ""
    hardware_encoder: bool = False
    encoder_message: _Text = ""
    display: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9]{0,32}$")] = ""

    def __post_init__(self) -> None:
        """Refuse what acts on the terminals and pages that show it: `pattern` allows a new line at the end, too."""
        for name in self.__struct_fields__:
            if not is_printable(str(getattr(self, name))):
                raise ValueError(f"{name} has characters that are not printable")

    def as_status(self) -> GraphicsStatus:
        """The same for the session's status."""
        return GraphicsStatus(**msgspec.structs.asdict(self))


class Report(msgspec.Struct, rename="camel"):
    """What `GET /activity` answers."""

    idle_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    viewers: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    connected_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    graphics: GraphicsReport | None = None

    def as_activity(self, seen: datetime, before: Activity | None) -> Activity:
        """In instants. They are the same as before unless something has happened: a delay on the way is no input."""
        last_input = seen - timedelta(seconds=self.idle_seconds)
        if before and abs(last_input - before.last_input) < timedelta(seconds=1):
            last_input = before.last_input
        connect = None
        if self.connected_seconds is not None:
            connect = seen - timedelta(seconds=self.connected_seconds)
        graphics = self.graphics.as_status() if self.graphics else before.graphics if before else None
        return Activity(last_input, seen, connect, graphics)


class AgentError(Exception):
    """Raised when an agent does not answer as it should; says what it did."""


@dataclass(slots=True)
class _AgentState:
    """What is remembered of the desktop of one session."""

    pod_uid: str
    activity: Activity | None = None
    failures: int = 0


@dataclass(slots=True)
class _SentNotice:
    """The last notice of one id for one session."""

    pod_uid: str
    notice: Notice
    delivered: bool = False
    failures: int = 0


class Agents:
    """`poll` and `deliver` are the reconcilers of two controllers.

    Its maps live as long as the process and the session's run. After a restart desktops are polled again, and a notice
    that is sent again is not shown twice: the agent knows it.
    """

    def __init__(
        self,
        caches: Caches,
        recorder: EventRecorder,
        clock: Clock,
        *,
        port: int,
        enqueue_poll: Callable[[SessionKey], None],
        enqueue_notice: Callable[[NoticeKey], None],
        enqueue_session: Callable[[SessionKey], None],
    ) -> None:
        """`enqueue_session` is called when a session may have become idle, or is no longer."""
        self._caches = caches
        self._recorder = recorder
        self._clock = clock
        self._port = port
        self._states: dict[str, _AgentState] = {}  # by the session's uid
        self._sent: dict[NoticeKey, _SentNotice] = {}
        self._enqueue_poll = enqueue_poll
        self._enqueue_notice = enqueue_notice
        self._enqueue_session = enqueue_session
        caches.sessions.listen(self._session_changed)
        caches.templates.listen(self._template_changed)

    def report(self, uid: str) -> Activity | None:
        """What the agent of this session's desktop said last; None when it could not be asked."""
        state = self._states.get(uid)
        return state.activity if state else None

    def notify(self, session: VDISession, pod: Pod, notice: Notice) -> None:
        """Show a notice in the desktop, once; one without text withdraws it. Returns at once."""
        key = (session.metadata.namespace, session.metadata.name, notice.id)
        sent = self._sent.get(key)
        if sent and (sent.pod_uid, sent.notice) == (pod.metadata.uid, notice):
            return
        self._sent[key] = _SentNotice(pod.metadata.uid, notice)
        self._enqueue_notice(key)

    # --- who is asked, and when

    def _session_changed(self, old: VDISession | None, new: VDISession | None) -> None:
        if new is None or new.status.phase != Phase.RUNNING:
            if old is not None:
                self._states.pop(old.metadata.uid, None)
                if new is None:
                    self._forget_notices(old)
            return
        if old is None or _is_other(old, new):
            self._enqueue_poll((new.metadata.namespace, new.metadata.name))

    def _forget_notices(self, session: VDISession) -> None:
        key = (session.metadata.namespace, session.metadata.name)
        for sent in [one for one in self._sent if one[:2] == key]:
            del self._sent[sent]

    def _template_changed(self, old: VDITemplate | None, new: VDITemplate | None) -> None:
        if old and new and (old.spec.lifecycle, old.spec.schedule) == (new.spec.lifecycle, new.spec.schedule):
            return
        if current := new or old:
            for session in self._caches.sessions.by_index(BY_TEMPLATE, current.metadata.name):
                self._enqueue_poll((session.metadata.namespace, session.metadata.name))

    async def poll(self, key: SessionKey) -> Result:
        """Ask one desktop, wake its session if that may matter, and say when to ask again."""
        session = self._caches.sessions.get(*key)
        if session is None or session.status.phase != Phase.RUNNING:
            return Result()
        template = self._caches.templates.get("", session.spec.template)
        timeout = idle_timeout(session, template)
        is_closing = _can_cancel_closing(session, template)
        if timeout is None and not is_closing and session.status.graphics is not None:
            self._states.pop(session.metadata.uid, None)
            return Result()
        interval = poll_interval(timeout) if timeout else timedelta(seconds=GRAPHICS_PAUSE)
        if is_closing:
            interval = min(interval, CLOSING_INTERVAL)
        pod = self._desktop_of(session)
        if pod is None:  # between two pods; Running again, or its end, will be heard of
            return Result(requeue_after=interval.total_seconds())
        state = self._states.get(session.metadata.uid)
        if state is None or state.pod_uid != pod.metadata.uid:
            state = self._states[session.metadata.uid] = _AgentState(pod.metadata.uid)
        try:
            report = await self._fetch(session, pod)
        except AgentError as error:
            if is_closing:  # input would cancel the end, which is minutes away
                return Result(requeue_after=interval.total_seconds())
            if timeout is None:
                state.failures += 1
                if state.failures < GRAPHICS_POLLS:
                    return Result(requeue_after=GRAPHICS_PAUSE)
                self._states.pop(session.metadata.uid, None)
                return Result()
            return self._not_answered(session, state, interval, error)
        now = self._clock.now()
        state.failures = 0
        state.activity = report.as_activity(now, state.activity)
        if is_closing or state.activity.graphics != session.status.graphics:
            self._enqueue_session(key)
        if is_closing and timeout is None:
            return Result(requeue_after=interval.total_seconds())
        if timeout is None:  # once more where it says what draws, to forget it when the status has it
            return Result(requeue_after=GRAPHICS_PAUSE if state.activity.graphics else None)
        idle = evaluate_idle(
            started=started_at(session, pod) or now,
            activity=state.activity,
            timeout=timeout,
            warned_at=_warned_at(session),
            now=now,
        )
        if idle is None:  # never for a report of this moment
            return Result(requeue_after=interval.total_seconds())
        if idle.warned(now) or _warned_at(session):
            self._enqueue_session(key)
        pause = next_poll(idle, timeout, now)
        return Result(requeue_after=min(pause, interval if is_closing else pause).total_seconds())

    def _not_answered(self, session: VDISession, state: _AgentState, interval: timedelta, error: AgentError) -> Result:
        """Not idle then; asked ever more seldom. Said once, since somebody counts on the timeout."""
        state.failures += 1
        log.debug("%s/%s: %s", session.metadata.namespace, session.metadata.name, error)
        if state.failures == FAILURES_UNTIL_EVENT:
            meta = session.metadata
            subject = ObjectReference(API_VERSION, "VDISession", meta.name, meta.uid, meta.namespace)
            note = f"The operator cannot check whether the desktop is in use, so it does not count as idle: {error}."
            self._recorder.emit(subject, "Warning", "ActivityUnknown", note, "Ask")
        if _warned_at(session):
            self._enqueue_session((session.metadata.namespace, session.metadata.name))
        pause = min(interval * 2 ** min(state.failures - 1, 16), LONGEST_PAUSE)
        return Result(requeue_after=pause.total_seconds())

    def _desktop_of(self, session: VDISession) -> Pod | None:
        pods = self._caches.pods.by_owner(session.metadata.uid)
        return next((pod for pod in pods if pod.ready and pod.status.pod_ip), None)

    # --- notices

    async def deliver(self, key: NoticeKey) -> Result:
        """Try to show the last notice of that id, until it is shown or has lost its meaning."""
        sent = self._sent.get(key)
        session = self._caches.sessions.get(*key[:2])
        if sent is None or sent.delivered or session is None:
            return Result()
        pods = self._caches.pods.by_owner(session.metadata.uid)
        pod = next((pod for pod in pods if pod.metadata.uid == sent.pod_uid), None)
        over = bool(sent.notice.until) and parse_time(sent.notice.until) <= self._clock.now()
        if pod is None or over or not pod.status.pod_ip or not self._token(session):
            return Result()
        try:
            await self._show(session, pod, sent.notice)
        except AgentError as error:
            sent.failures += 1
            if sent.failures == 1:
                log.warning("%s/%s: the notice %s is not shown yet, tried again: %s", *key, error)
            return Result(requeue_after=NOTICE_PAUSE)
        sent.delivered = True
        return Result()

    # --- the wire

    async def _fetch(self, session: VDISession, pod: Pod) -> Report:
        body = await self._request("GET", "/activity", session, pod, seconds=ANSWER_SECONDS)
        try:
            return msgspec.json.decode(body, type=Report)
        except (msgspec.DecodeError, RecursionError) as error:
            raise AgentError(f"its agent returned an invalid report: {error}") from error

    async def _show(self, session: VDISession, pod: Pod, notice: Notice) -> None:
        body = {"id": notice.id, "title": notice.title, "text": notice.text, "untilInput": notice.until_input}
        until = {"until": notice.until} if notice.until else {}
        text = msgspec.json.encode(body | until)
        await self._request("POST", "/notice", session, pod, seconds=NOTICE_SECONDS, body=text)

    async def _request(
        self, method: str, path: str, session: VDISession, pod: Pod, *, seconds: float, body: bytes | None = None
    ) -> bytes:
        """One question. Raises AgentError."""
        token = self._token(session)
        if not token:
            raise AgentError("its Secret has no agentToken")
        if not (token.isascii() and token.isprintable()):
            raise AgentError("its Secret's agentToken has characters that are not allowed in a request")
        address = f"{url_host(pod.status.pod_ip)}:{self._port}"
        head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        length = f"Content-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        request = (head + length).encode("latin-1") + (body or b"")
        try:
            async with asyncio.timeout(seconds):
                status, text = await ask_once(f"http://{address}", request, ANSWER_BYTES)
        except (HttpError, TimeoutError, OSError) as error:
            raise AgentError(f"its agent does not respond ({str(error) or type(error).__name__})") from error
        if status != 200:
            raise AgentError(f"its agent responds with {status} ({text[:200].decode(errors='replace').strip()})")
        return text

    def _token(self, session: VDISession) -> str:
        secret = self._caches.secrets.get(session.metadata.namespace, secret_name(session.metadata.name))
        return secret.agent_token if secret else ""


def _is_other(old: VDISession, new: VDISession) -> bool:
    """Whether the desktop, its timeout or its warning is another now."""
    return _polled_state(old) != _polled_state(new)


def _polled_state(session: VDISession) -> tuple[object, ...]:
    status = session.status
    return status.phase, status.pod_name, session.spec.idle_timeout, _warned_at(session), _warned_at(session, CLOSING)


def _can_cancel_closing(session: VDISession, template: VDITemplate | None) -> bool:
    """Whether the end of working hours is announced, and input cancels it."""
    if _warned_at(session, CLOSING) is None:
        return False
    return any(schedule.cancel_on_activity for schedule in schedules_of(session, template))


def _warned_at(session: VDISession, warning: str = IDLE) -> datetime | None:
    """Since when the warning has been shown; None: it is not."""
    for condition in session.status.conditions:
        if condition.type == warning and condition.status == "True":
            return parse_time(condition.last_transition_time)
    return None

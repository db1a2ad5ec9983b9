"""Polls of the agents in the desktops (activity, graphics, memory), and notices that the agents
show.

`poll` and `deliver` are reconcilers of queues of their own. A desktop is polled once a minute, and
when its answer can change something (`session.lifetime.next_poll`); then the session is reconciled.
No poll costs a request to the API server.

Reports are untrusted input: a user can put any program in the agent's place. So they are cut at
`ANSWER_BYTES`, redirects are not followed, and the worst effect of a lie is that the user's own
desktop keeps running.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from vdi.api.meta import find_condition
from vdi.api.session import GraphicsStatus, Phase, RecordingStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Pod
from vdi.cluster.units import parse_time
from vdi.kinds import reference_to
from vdi.kube.connections import AnswerError, ask_once
from vdi.kube.events import EventRecorder
from vdi.kube.http import url_host
from vdi.kube.queue import Controller, Result
from vdi.operator.caches import BY_TEMPLATE, ClusterContext, SessionKey
from vdi.printable import escape, is_printable
from vdi.session.alerts import MEMORY_KILL_SHOWN, Notice, schedules_of
from vdi.session.conditions import CLOSING, IDLE, OUT_OF_MEMORY
from vdi.session.lifetime import (
    Activity,
    evaluate_idle,
    idle_timeout,
    next_poll,
    poll_interval,
    started_at,
)
from vdi.session.naming import secret_name
from vdi.session.recording import FAILED, ON

log = logging.getLogger(__name__)

CONCURRENT_POLLS = 64
CONCURRENT_NOTICES = 16
ANSWER_SECONDS = 2.0
# A notice may have to wait until D-Bus has started the notification daemon.
NOTICE_SECONDS = 15.0

ANSWER_BYTES = 4096
# Longest pause between two polls of an agent that does not answer.
LONGEST_PAUSE = timedelta(minutes=5)
# Between two polls while the end of working hours is announced and input would cancel it.
CLOSING_INTERVAL = timedelta(seconds=5)
# Between two polls of a desktop that is recorded, and of one whose recording does not run.
RECORDED_INTERVAL, UNRECORDED_INTERVAL = timedelta(seconds=5), timedelta(seconds=1)
# Activity that is later than the published one by so much is published: administrators look for
# idle desktops.
PUBLISHED_WITHIN = timedelta(minutes=10)
# Seconds between two tries to show a notice.
NOTICE_PAUSE = 5.0
FAILURES_UNTIL_EVENT = 3
# From the start of a desktop that is not recorded until its first poll: in a burst, other starts go
# first.
FIRST_POLL_SECONDS = 5.0
# An agent that has not answered this long after its desktop was ready is taken for an image without
# one, unless the desktop has an idle timeout.
AGENT_STARTS_WITHIN = timedelta(seconds=15)
# A desktop that was ready this long before a new process saw it has been polled by the last one,
# which may have ended before its first poll; the next one waits for the Lease.
POLLED_WITHIN = timedelta(minutes=2)
# Seconds between the first two polls in that time; then twice as long each.
GRAPHICS_PAUSE = 5.0
# Seconds within which a new process polls the desktops that are taken to have no agent, each once.
# With thousands of them, each poll waits for its whole timeout.
AGENTLESS_SPREAD = 24 * 3600.0
# The longest time between two polls of an agent that answers: it says when the kernel has killed a
# program.
MEMORY_INTERVAL = timedelta(minutes=1)

NoticeKey = tuple[str, str, str]  # (namespace, session, id of the notice)

_Text = Annotated[str, msgspec.Meta(max_length=256)]


class _Printable(msgspec.Struct, rename="camel"):
    def __post_init__(self) -> None:
        # Escape sequences and the like would act on terminals and pages. A `pattern` allows a
        # newline at the end, too.
        for name in self.__struct_fields__:
            if not is_printable(str(getattr(self, name))):
                raise ValueError(f"{name} has characters that are not printable")


class GraphicsReport(_Printable, rename="camel"):
    """The renderer and encoder that the image chose when it started; limits as in
    `status.graphics`.
    """

    renderer: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{1,32}$")]
    device: _Text = ""
    reason: Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{0,32}$")] = ""
    message: _Text = ""
    encoder: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9 ._-]{0,32}$")] = ""
    hardware_encoder: bool = False
    encoder_message: _Text = ""
    display: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9]{0,32}$")] = ""


class RecordingReport(_Printable):
    """The recording that the agent has Selkies make; limits as in `status.recording`."""

    state: Annotated[str, msgspec.Meta(pattern="^(On|Off|Failed)$")]
    message: _Text = ""


class Report(msgspec.Struct, rename="camel"):
    """Response of the agent to `GET /activity`."""

    idle_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    viewers: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    connected_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    graphics: GraphicsReport | None = None
    recording: RecordingReport | None = None
    # Since the kernel last killed a program for want of memory; None: it has not.
    memory_kill_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    # Since the last action or command of a software agent; None: there has been none.
    work_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None

    def as_activity(self, seen: datetime, before: Activity | None) -> Activity:
        """The report as points in time. Unchanged ones are those of `before`, so that a delay is no
        input.
        """
        last_input = seen - timedelta(seconds=self.idle_seconds)
        if before and abs(last_input - before.last_input) < timedelta(seconds=1):
            last_input = before.last_input
        if self.connected_seconds is None:
            connect = None
        else:
            connect = seen - timedelta(seconds=self.connected_seconds)
        graphics = before.graphics if before else None
        if self.graphics:
            graphics = GraphicsStatus(**msgspec.structs.asdict(self.graphics))
        report = self.recording
        recording = None
        if report:
            recording = RecordingStatus("", report.state, report.message)
        if self.memory_kill_seconds is None:
            kill = None
        else:
            kill = seen - timedelta(seconds=self.memory_kill_seconds)
        work = None
        if self.work_seconds is not None:
            work = seen - timedelta(seconds=self.work_seconds)
            if before and before.last_work and abs(work - before.last_work) < timedelta(seconds=1):
                work = before.last_work
        return Activity(last_input, seen, connect, graphics, recording, kill, work)


@dataclass(slots=True)
class _AgentState:
    """Last report of one session's desktop."""

    pod_uid: str
    activity: Activity | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _PollPlan:
    """Intervals and reasons of the polls of one desktop, by its session and template."""

    session: VDISession
    timeout: timedelta | None
    # The end of working hours is announced, and input would cancel it.
    is_closing: bool
    # Until the next poll, unless an idle timeout allows a longer pause.
    interval: timedelta


@dataclass(slots=True)
class _SentNotice:
    """The last notice with one id for one session."""

    pod_uid: str
    notice: Notice
    delivered: bool = False
    failures: int = 0


class Agents:
    """Client of all agents. Its maps live as long as the process: then desktops are polled and
    notices sent again.

    An agent shows a notice that it already knows only once.
    """

    def __init__(
        self,
        cluster: ClusterContext,
        recorder: EventRecorder,
        *,
        polls: Controller[SessionKey],
        enqueue_notice: Callable[[NoticeKey], None],
        enqueue_session: Callable[[SessionKey], None],
    ) -> None:
        """`enqueue_session` gets a session that may have become idle, or is no longer."""
        self._caches = caches = cluster.caches
        self._recorder = recorder
        self._clock = cluster.clock
        self._port = cluster.settings.agent_port
        self._states: dict[str, _AgentState] = {}  # by the session's uid
        self._sent: dict[NoticeKey, _SentNotice] = {}
        self._polls = polls
        self._enqueue_notice = enqueue_notice
        self._enqueue_session = enqueue_session
        caches.sessions.listen(self._session_changed)
        caches.templates.listen(self._template_changed)

    def report(self, uid: str) -> Activity | None:
        """The last report of this session's desktop; None without one."""
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

    def _session_changed(self, old: VDISession | None, new: VDISession | None) -> None:
        if new is None or new.status.phase != Phase.RUNNING:
            if old is not None:
                self._states.pop(old.metadata.uid, None)
                if new is None:
                    gone = [
                        key
                        for key in self._sent
                        if key[:2] == (old.metadata.namespace, old.metadata.name)
                    ]
                    for notice_key in gone:
                        del self._sent[notice_key]
            return
        key = (new.metadata.namespace, new.metadata.name)
        if old is None and self._has_no_agent(new):
            self._polls.enqueue_after(key, random.uniform(0.0, AGENTLESS_SPREAD))  # noqa: S311 - spreads load
        elif old is not None and old.status.phase != Phase.RUNNING and not new.status.recording:
            self._polls.enqueue_after(key, FIRST_POLL_SECONDS)
        elif old is None or _polled_state(old) != _polled_state(new):
            self._polls.enqueue(key)

    def _has_no_agent(self, session: VDISession) -> bool:
        """Whether the last process has polled this desktop in vain, and gave up."""
        template = self._caches.templates.get("", session.spec.template)
        status = session.status
        if (
            status.recording
            or _has_answered(session)
            or idle_timeout(session, template)
            or _warned_at(session, CLOSING)
        ):
            return False
        return not self._is_new(session, POLLED_WITHIN)

    def _template_changed(self, old: VDITemplate | None, new: VDITemplate | None) -> None:
        if (
            old
            and new
            and (old.spec.lifecycle, old.spec.schedule) == (new.spec.lifecycle, new.spec.schedule)
        ):
            return
        if current := new or old:
            for session in self._caches.sessions.by_index(BY_TEMPLATE, current.metadata.name):
                if old is None and self._has_no_agent(session):
                    continue  # the first list of templates may come after that of sessions
                self._polls.enqueue((session.metadata.namespace, session.metadata.name))

    async def poll(self, key: SessionKey) -> Result:
        """Poll one desktop, and enqueue its session if that may change something."""
        session = self._caches.sessions.get(*key)
        if session is None or session.status.phase != Phase.RUNNING:
            return Result()
        plan = _plan_poll(session, self._caches.templates.get("", session.spec.template))
        pods = self._caches.pods.by_owner(session.metadata.uid)
        pod = next((pod for pod in pods if pod.ready and pod.status.pod_ip), None)
        if pod is None:  # between two pods
            return Result(requeue_after=plan.interval.total_seconds())
        state = self._states.get(session.metadata.uid)
        if state is None or state.pod_uid != pod.metadata.uid:
            state = self._states[session.metadata.uid] = _AgentState(pod.metadata.uid)
        try:
            report = await self._fetch(session, pod)
        except AnswerError as error:
            return self._not_answered(plan, state, error)
        return self._answered(plan, state, report, pod)

    def _answered(self, plan: _PollPlan, state: _AgentState, report: Report, pod: Pod) -> Result:
        session, now = plan.session, self._clock.now()
        key = (session.metadata.namespace, session.metadata.name)
        state.failures = 0
        activity = state.activity = report.as_activity(now, state.activity)
        is_news = activity.graphics != session.status.graphics or _is_news(
            activity, session.status.recording
        )
        is_first = plan.timeout is None and not _has_answered(session)
        if plan.is_closing or is_news or is_first or _is_memory_news(activity, session, now):
            self._enqueue_session(key)
        if plan.timeout is None:
            return Result(requeue_after=plan.interval.total_seconds())
        warned_at = _warned_at(session)
        idle = evaluate_idle(
            started=started_at(session, pod) or now,
            activity=activity,
            timeout=plan.timeout,
            warned_at=warned_at,
            now=now,
        )
        assert idle is not None  # noqa: S101 - the report is of this moment
        known = session.status.last_activity_time
        is_outdated = bool(known) and idle.since - parse_time(known) >= PUBLISHED_WITHIN
        if idle.warned(now) or warned_at or is_outdated:
            self._enqueue_session(key)
        pause = min(next_poll(idle, plan.timeout, now), MEMORY_INTERVAL)
        if plan.is_closing or session.status.recording:
            pause = min(pause, plan.interval)
        return Result(requeue_after=pause.total_seconds())

    def _not_answered(self, plan: _PollPlan, state: _AgentState, error: AnswerError) -> Result:
        """Poll an agent that does not answer ever more rarely; one Event warns the user who counts
        on the timeout.

        Without a timeout, one that has never answered is polled in its desktop's first seconds
        only: the image has none.
        """
        session = plan.session
        if session.status.recording:
            return self._without_recording(session, state, error)
        if plan.is_closing:  # input would cancel the end, which is only minutes away
            return Result(requeue_after=plan.interval.total_seconds())
        state.failures += 1
        if plan.timeout is None and not _has_answered(session):
            if self._is_new(session, AGENT_STARTS_WITHIN):
                return Result(requeue_after=GRAPHICS_PAUSE * 2 ** min(state.failures - 1, 16))
            self._states.pop(session.metadata.uid, None)
            return Result()
        log.debug("%s/%s: %s", session.metadata.namespace, session.metadata.name, error)
        if plan.timeout is not None and state.failures == FAILURES_UNTIL_EVENT:
            note = (
                "The operator cannot check whether the desktop is in use, so it does not count as"
                f" idle: {error}."
            )
            self._recorder.emit(reference_to(session), "Warning", "ActivityUnknown", note, "Ask")
        if _warned_at(session):
            self._enqueue_session((session.metadata.namespace, session.metadata.name))
        pause = min(plan.interval * 2 ** min(state.failures - 1, 16), LONGEST_PAUSE)
        return Result(requeue_after=pause.total_seconds())

    def _is_new(self, session: VDISession, age: timedelta) -> bool:
        """Whether the desktop became ready less than `age` ago."""
        ready_time = session.status.ready_time
        return bool(ready_time) and self._clock.now() < parse_time(ready_time) + age

    def _without_recording(
        self, session: VDISession, state: _AgentState, error: AnswerError
    ) -> Result:
        """After some polls without an answer the recording has failed: no one knows whether it is
        made.
        """
        state.failures += 1
        if state.failures >= FAILURES_UNTIL_EVENT:
            now = self._clock.now()
            failed = RecordingStatus("", FAILED, escape(str(error))[:256])
            state.activity = replace(state.activity or Activity(now, now), recording=failed)
            if _is_news(state.activity, session.status.recording):
                self._enqueue_session((session.metadata.namespace, session.metadata.name))
        return Result(requeue_after=UNRECORDED_INTERVAL.total_seconds())

    async def deliver(self, key: NoticeKey) -> Result:
        """Send the last notice of that id, again and again until it is shown or out of date."""
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
        except AnswerError as error:
            sent.failures += 1
            if sent.failures == 1:
                log.warning("%s/%s: the notice %s is not shown yet, tried again: %s", *key, error)
            return Result(requeue_after=NOTICE_PAUSE)
        sent.delivered = True
        return Result()

    async def _fetch(self, session: VDISession, pod: Pod) -> Report:
        body = await self._request("GET", "/activity", session, pod, seconds=ANSWER_SECONDS)
        try:
            return msgspec.json.decode(body, type=Report)
        except (msgspec.DecodeError, RecursionError) as error:
            raise AnswerError(f"its agent returned an invalid report: {error}") from error

    async def _show(self, session: VDISession, pod: Pod, notice: Notice) -> None:
        body = {
            "id": notice.id,
            "title": notice.title,
            "text": notice.text,
            "untilInput": notice.until_input,
        }
        text = msgspec.json.encode(body | ({"until": notice.until} if notice.until else {}))
        await self._request("POST", "/notice", session, pod, seconds=NOTICE_SECONDS, body=text)

    async def _request(
        self,
        method: str,
        path: str,
        session: VDISession,
        pod: Pod,
        *,
        seconds: float,
        body: bytes = b"",
    ) -> bytes:
        """The body of the agent's response. Raises AnswerError."""
        token = self._token(session)
        if not token:
            raise AnswerError("its Secret has no agentToken")
        url = f"http://{url_host(pod.status.pod_ip)}:{self._port}{path}"
        return await ask_once(
            "its agent", method, url, bearer=token, body=body, most=ANSWER_BYTES, seconds=seconds
        )

    def _token(self, session: VDISession) -> str:
        secret = self._caches.secrets.get(
            session.metadata.namespace, secret_name(session.metadata.name)
        )
        return secret.agent_token if secret else ""


def _plan_poll(session: VDISession, template: VDITemplate | None) -> _PollPlan:
    timeout = idle_timeout(session, template)
    is_closing = _can_cancel_closing(session, template)
    interval = poll_interval(timeout) if timeout else MEMORY_INTERVAL
    if is_closing:
        interval = min(interval, CLOSING_INTERVAL)
    if recording := session.status.recording:
        interval = min(
            interval, RECORDED_INTERVAL if recording.state == ON else UNRECORDED_INTERVAL
        )
    return _PollPlan(session, timeout, is_closing, interval)


def _has_answered(session: VDISession) -> bool:
    """Whether the status has a report of this run's agent."""
    return bool(session.status.graphics or session.status.last_activity_time)


def _is_news(activity: Activity, known: RecordingStatus | None) -> bool:
    """Whether the agent says something else of the recording than the status. One that says nothing
    makes none.
    """
    recording = activity.recording or RecordingStatus("")
    return known is not None and (recording.state, recording.message) != (
        known.state,
        known.message,
    )


def _is_memory_news(activity: Activity, session: VDISession, now: datetime) -> bool:
    """Whether a program was killed for want of memory, and the status does not say so."""
    kill = activity.memory_kill
    is_recent = kill is not None and now < kill + MEMORY_KILL_SHOWN
    return is_recent and find_condition(session.status.conditions, OUT_OF_MEMORY) is None


def _polled_state(session: VDISession) -> tuple[object, ...]:
    """The fields of a session that decide whether and when its desktop is polled."""
    status = session.status
    warnings = _warned_at(session), _warned_at(session, CLOSING)
    return (
        status.phase,
        status.pod_name,
        session.spec.idle_timeout,
        bool(status.recording),
        *warnings,
    )


def _can_cancel_closing(session: VDISession, template: VDITemplate | None) -> bool:
    """Whether the end of working hours is announced and input would cancel it."""
    if _warned_at(session, CLOSING) is None:
        return False
    return any(schedule.cancel_on_activity for schedule in schedules_of(session, template))


def _warned_at(session: VDISession, warning: str = IDLE) -> datetime | None:
    """Since when the warning has been shown; None if it is not shown."""
    shown = find_condition(session.status.conditions, warning)
    if shown and shown.status == "True":
        return parse_time(shown.last_transition_time)
    return None

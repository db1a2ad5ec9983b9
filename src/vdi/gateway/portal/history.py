"""Pages below `/history`: past sessions, recordings and usage by month; the timeline of a desktop's
page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.api.session import VDISession
from vdi.gateway import queries
from vdi.gateway.desktop.recordings import ENDED_AFTER
from vdi.gateway.desktop.view import Choice
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.usage import By, Month
from vdi.gateway.portal.pages import PortalPages
from vdi.gateway.rights import User
from vdi.gateway.services import Services
from vdi.gateway.store.audit import DONE, OUT_OF_MEMORY_ACT, Entry
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.history import EndReason, RunRow
from vdi.gateway.web.template_filters import access, count, end_reason, hours, seconds
from vdi.session.users import normal_user, same_user

PAGE_SIZE = 50
# Months that the usage page offers.
MONTHS = 12
_TIMELINE_SIZE = 30
# Acts in a desktop's timeline, and those that only its owner and administrators see.
_TIMELINE_ACTS = {
    "session.restart": "Restarted",
    "session.resize": "Resized",
    "session.extend": "Time limit changed",
    "session.share": "Shared",
    "session.unshare": "Access ended",
    "session.answer-access": "Request for access answered",
    "computer.request_human": "An agent asked for a person",
    "computer.take_over": "Taken over from agents",
    "computer.give_back": "Given back to agents",
    OUT_OF_MEMORY_ACT: "Out of memory",
}
_OF_GUESTS = {"session.share", "session.unshare", "session.answer-access"}
_TIMELINE_DETAILS = ("answer", "user", "role", "memory", "cpu", "timeout", "reason")


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One event in the life of a session."""

    at: datetime
    what: str
    more: str = ""


async def read_timeline(
    services: Services, session: VDISession, user: User
) -> list[TimelineEntry] | None:
    """Events of a session, newest first; None: the database does not respond."""
    uid, actions = session.metadata.uid, set(_TIMELINE_ACTS)
    if not (user.admin or same_user(session.spec.user, user.email)):
        actions -= _OF_GUESTS
    try:
        past = await services.history.session(uid)
        acts = await services.audit.entries(limit=_TIMELINE_SIZE, uid=uid, actions=actions)
    except DatabaseUnavailableError:
        return None
    if past:
        acts = [act for act in acts if act.outcome == DONE]
        return timeline_of(past, acts)[:_TIMELINE_SIZE]
    return []


def timeline_of(past: SessionHistory, acts: Sequence[Entry] = ()) -> list[TimelineEntry]:
    """All events that are stored of a session, newest first; of the same second, the later step
    first.
    """
    session = past.session
    entries = [
        TimelineEntry(session.created, "Requested"),
        *(entry for run in past.runs for entry in _of_run(run)),
    ]
    if session.ended and session.end_reason:
        by = f"by {session.ended_by}" if session.ended_by else ""
        entries.append(TimelineEntry(session.ended, end_reason(session.end_reason), by))
    for act in acts:
        more = [access(act.detail[name]) for name in _TIMELINE_DETAILS if act.detail.get(name)]
        if act.action == OUT_OF_MEMORY_ACT:
            more = [act.detail.get("message", "")]
        else:
            more.append(f"by {act.actor}")
        entries.append(TimelineEntry(act.at, _TIMELINE_ACTS[act.action], ", ".join(more)))
    return sorted(entries, key=lambda entry: entry.at)[::-1]


def _of_run(run: RunRow) -> list[TimelineEntry]:
    waited = ""
    if run.queue_seconds:
        waited = f"after {seconds(run.queue_seconds)} in line"
    entries = [TimelineEntry(run.start, "Started", waited)]
    if run.ready:
        entries.append(TimelineEntry(run.ready, "Ready", f"after {seconds(run.startup_seconds)}"))
    # A run that somebody ended, or that went with its session, is told by the entry of the session.
    if (
        run.ended
        and run.end_reason
        and run.end_reason not in (EndReason.USER, EndReason.ADMIN, EndReason.DELETED)
    ):
        entries.append(TimelineEntry(run.ended, end_reason(run.end_reason), run.end_detail))
    return entries


@dataclass(frozen=True, slots=True)
class Share:
    """One bar of a list that compares hours."""

    name: str
    label: str
    # Of the largest; 0: no bar.
    percent: float


def shares(used: Sequence[tuple[str, float]], most: int = 10) -> list[Share]:
    """The largest, and the others in one line: their sum is not to be compared with single ones,
    and has no bar.
    """
    ordered = sorted(
        ((name, value) for name, value in used if value > 0), key=lambda pair: (-pair[1], pair[0])
    )
    all_shares = [
        Share(name, hours(value), round(100 * value / ordered[0][1], 1))
        for name, value in ordered[:most]
    ]
    if others := ordered[most:]:
        all_shares.append(
            Share(count(len(others), "other"), hours(sum(value for _, value in others)), 0.0)
        )
    return all_shares


def run_time(past: SessionHistory, now: datetime) -> timedelta:
    """Duration of all runs of a session together."""
    return sum((max(timedelta(), (run.ended or now) - run.start) for run in past.runs), timedelta())


def _whose(request: Request, user: User) -> tuple[str | None, bool]:
    """Whose history is requested (None: everybody's), and whether the page is the administrators'
    one.
    """
    if request.query_params.get("of") == "everyone" and user.may_audit:
        return normal_user(request.query_params.get("user", "").strip()[:254]) or None, True
    return user.email, False


class HistoryPages(PortalPages):
    """Past sessions, usage by month, and recordings; administrators see all users."""

    def routes(self) -> list[Route]:
        return [
            self._get("/history", self.history),
            self._get("/history/usage", self.usage),
            self._get("/recordings", self.recordings),
            self._get("/recordings/{id}", self.player),
        ]

    async def history(self, request: Request, user: User) -> Response:
        """GET /history: past and present desktops, newest first."""
        email, everyone = _whose(request, user)
        cursor = request.query_params.get("cursor")
        older = ""
        try:
            past = await queries.read_past_sessions(
                self._services, user=email, limit=PAGE_SIZE, cursor=cursor
            )
        except DatabaseUnavailableError:
            past = None
        if past and past.next:
            filters = {"of": "everyone", "user": email} if everyone else {}
            given = {name: value for name, value in filters.items() if value} | {
                "cursor": past.next
            }
            older = f"/history?{urlencode(given)}"
        return self._page(
            request,
            user,
            "history.html",
            here="history",
            rows=None if past is None else past.items,
            run_time=run_time,
            now=self._clock(),
            older=older,
            everyone=everyone,
            email=(email or "") if everyone else "",
            retention=self._settings.retention_days,
        )

    async def usage(self, request: Request, user: User) -> Response:
        """GET /history/usage: hours in a month, and the user's own limits."""
        email, everyone = _whose(request, user)
        query, now = request.query_params, self._clock()
        month, by = queries.read_month(query.get("month"), now), queries.read_by(query.get("by"))
        try:
            if everyone:
                use = None
            else:
                use = await queries.read_use(self._services, user)
            report = await self._services.history.usage(month, now, email)
        except DatabaseUnavailableError:
            use = report = None
        # Hours of users and of templates side by side; a user's own report has only one user.
        charted = []
        for kind in By:
            if (everyone or kind is By.TEMPLATE) and by in (By.USER, kind):
                charted.append(kind)
        return self._page(
            request,
            user,
            "usage.html",
            here="history",
            month=str(month),
            months=_months(now, month),
            report=report,
            by=by,
            choices=[Choice(kind, kind) for kind in By],
            rows=report.rows(by) if report else (),
            charts=(
                [
                    (kind, shares([(usage.name, usage.hours) for usage in report.rows(kind)]))
                    for kind in charted
                ]
                if report
                else []
            ),
            everyone=everyone,
            use=use,
        )

    async def recordings(self, request: Request, user: User) -> Response:
        """GET /recordings: recordings, newest first, each with how much of its run was recorded."""
        cursor = request.query_params.get("cursor")
        try:
            recordings = await queries.read_recordings(
                self._services, user, limit=PAGE_SIZE, cursor=cursor
            )
        except DatabaseUnavailableError:
            recordings = None
        everyone = user.may_audit
        return self._page(
            request,
            user,
            "recordings.html",
            here="history",
            recordings=recordings,
            # One that ended later is still being made, and its page would be a refusal.
            made_before=self._clock() - ENDED_AFTER,
            everyone=everyone,
        )

    async def player(self, request: Request, user: User) -> Response:
        """GET /recordings/ID: the recording with its controls."""
        recording = await self._services.recordings.find(user, request.path_params["id"])
        return self._page(request, user, "recording.html", here="history", recording=recording)


def _months(now: datetime, shown: Month) -> list[Choice]:
    """The last months, and the shown one if it is older."""
    choices, month = [], Month.of(now)
    for _ in range(MONTHS):
        choices.append(month)
        month = Month.of(month.begin - timedelta(days=1))
    return [
        Choice(str(month), f"{month.begin:%B %Y}") for month in dict.fromkeys([*choices, shown])
    ]

"""Pages below `/history`: past sessions, usage by month and exports; the timeline and the charts of other pages.

A chart is numbers that a template draws as inline SVG. Each has a sentence that says the same, and its page a table
with every value, so no information is in a picture alone.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vdi.api.session import VDISession
from vdi.cluster.units import format_time, parse_time
from vdi.gateway.current_use import Amount, Use, use_of
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.export import Dataset, ExportFormat, export_usage
from vdi.gateway.history.usage import By, Interval, Month, UsageReport
from vdi.gateway.portal.pages import Choice, PortalPages
from vdi.gateway.rights import User
from vdi.gateway.services import PortalServices
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.history import EndReason, RunRow
from vdi.gateway.web.template_filters import count
from vdi.session.users import normal_user

_TIMELINE_SIZE = 30
_ENDED = {
    EndReason.USER: "Ended by its owner",
    EndReason.ADMIN: "Ended by an administrator",
    EndReason.TIMEOUT: "Time limit reached",
    EndReason.IDLE: "Idle timeout",
    EndReason.SUSPENDED: "Suspended",
    EndReason.FAILED: "Failed",
    EndReason.DELETED: "Deleted in the cluster",
    EndReason.UNKNOWN: "Ended for an unknown reason",
}


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened."""

    at: datetime
    what: str
    more: str = ""


async def read_timeline(portal: PortalServices, session: VDISession) -> list[TimelineEntry] | None:
    """The newest first; None: the database does not answer."""

    try:
        past = await portal.history.session(session.metadata.uid)
    except DatabaseUnavailableError:
        return None
    return timeline_of(past)[:_TIMELINE_SIZE] if past else []


def timeline_of(past: SessionHistory) -> list[TimelineEntry]:
    """All that is written down of a session, the newest first."""
    found = [TimelineEntry(past.session.created, "Requested")]
    for run in past.runs:
        found += _of_run(run)
    if past.session.ended and past.session.end_reason:
        found.append(
            TimelineEntry(past.session.ended, end_words(past.session.end_reason), _by_user(past.session.ended_by))
        )
    return sorted(found, key=lambda entry: entry.at, reverse=True)


def end_words(reason: EndReason | None) -> str:
    """Why something ended, in words; empty while it has not."""
    return _ENDED[reason] if reason else ""


def seconds(length: float | None) -> str:
    """`2.3 s`, `5 min`; empty where it is not known."""
    if length is None:
        return ""
    if length < 60:
        return f"{length:.1f} s" if length < 10 else f"{length:.0f} s"
    return hours(timedelta(seconds=length))


def hours(span: timedelta) -> str:
    """`5 min`, `3 h 12 min`."""
    minutes = int(span.total_seconds()) // 60
    parts = ((minutes // 60, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "less than a minute"


def _of_run(run: RunRow) -> list[TimelineEntry]:
    waited = f"after {seconds(run.queue_seconds)} in line" if run.queue_seconds else ""
    found = [TimelineEntry(run.start, "Started", waited)]
    if run.ready:
        found.append(TimelineEntry(run.ready, "Ready", f"after {seconds(run.startup_seconds)}"))
    if run.ended and run.end_reason and run.end_reason not in (EndReason.USER, EndReason.ADMIN, EndReason.DELETED):
        found.append(TimelineEntry(run.ended, end_words(run.end_reason), run.end_detail))
    return found


def _by_user(user: str) -> str:
    return f"by {user}" if user else ""


# Of a chart, in its own units; its width is the number of its bars.
HEIGHT = 100.0
# Between two bars, as a share of one.
_GAP = 0.2
# Height of the smallest bar that is not zero.
_VISIBLE = 1.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    x: float
    y: float
    height: float
    begin: datetime
    # The value in words.
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of a trend."""

    name: str
    title: str
    # Without those of intervals that have no value.
    bars: tuple[Bar, ...]
    # Intervals.
    count: int
    # What the height of the chart stands for.
    top: str
    # Where the line of the limit is, from above; None: no limit is known.
    limit: float | None
    summary: str

    @property
    def bar_width(self) -> float:
        """In the units of `x`."""
        return 1 - _GAP


def trend_charts(intervals: Sequence[Interval], gpu_total: int | None) -> list[Chart]:
    """The charts of an overview: desktops, GPU slots, queue wait, start-up time."""
    return [
        _chart("desktops", "Running desktops", intervals, lambda interval: interval.desktops, _number),
        _chart("gpus", "GPU slots in use", intervals, lambda interval: interval.gpus, _number, limit=gpu_total),
        _chart("queue", "Queue wait (median)", intervals, lambda interval: interval.queue_seconds, seconds),
        _chart("startup", "Time to start (median)", intervals, lambda interval: interval.startup_seconds, seconds),
    ]


def _chart(
    name: str,
    title: str,
    intervals: Sequence[Interval],
    value_of: Callable[[Interval], float | None],
    words: Callable[[float], str],
    *,
    limit: int | None = None,
) -> Chart:
    known = [
        (number, interval, value)
        for number, interval in enumerate(intervals)
        if (value := value_of(interval)) is not None
    ]
    highest = max((value for _, _, value in known), default=0.0)
    top = max(highest, limit or 0)
    bars = []
    for number, interval, value in known:
        height = max(value / top * HEIGHT, _VISIBLE) if value else 0.0
        bars.append(Bar(number + _GAP / 2, round(HEIGHT - height, 2), round(height, 2), interval.begin, words(value)))
    summary = f"at most {words(highest)}, last {words(known[-1][2])}" if known else "no desktop started"
    if limit:
        summary += f", of {limit}"
    return Chart(
        name=name,
        title=title,
        bars=tuple(bars),
        count=len(intervals),
        top=words(top) if top else "",
        limit=round(HEIGHT - limit / top * HEIGHT, 2) if limit else None,
        summary=summary,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _decimal_hours(value: float) -> str:
    return f"{value:,.1f} h"


@dataclass(frozen=True, slots=True)
class Share:
    """One bar of a list that compares."""

    name: str
    label: str
    # Of the largest; 0: no bar.
    percent: float


def shares(amounts: Sequence[tuple[str, float]], most: int = 10) -> list[Share]:
    """The largest, and the others in one line: their sum is not to be compared with single ones, and has no bar."""
    ordered = sorted(((name, value) for name, value in amounts if value > 0), key=lambda pair: (-pair[1], pair[0]))
    found = [
        Share(name, _decimal_hours(value), round(100 * value / ordered[0][1], 1)) for name, value in ordered[:most]
    ]
    if others := ordered[most:]:
        found.append(Share(count(len(others), "other"), _decimal_hours(sum(value for _, value in others)), 0.0))
    return found


PAGE_SIZE = 50
# How many months back the report offers.
MONTHS = 12
_HEADINGS = {By.USER: "User", By.TEMPLATE: "Template"}
_FILES = "Available: sessions, runs and usage, each as .csv and .jsonl."
_DOWN = "The history cannot be read right now. Try again in a minute."


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRow:
    """One desktop of the past, or of now."""

    name: str
    user: str
    template: str
    created: datetime
    there: bool
    runs: int
    ran: str
    waited: str
    startup: str
    ended: datetime | None
    why: str


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def past_row(past: SessionHistory, now: datetime) -> PastRow:
    """One line of the table."""
    ran = sum((max(timedelta(), (run.ended or now) - run.start) for run in past.runs), timedelta())
    queue = [run.queue_seconds for run in past.runs if run.queue_seconds]
    startup = [run.startup_seconds for run in past.runs if run.startup_seconds is not None]
    session = past.session
    return PastRow(
        name=session.name,
        user=session.owner,
        template=session.template,
        created=session.created,
        there=session.ended is None,
        runs=len(past.runs),
        ran=hours(ran) if past.runs else "",
        waited=seconds(max(queue)) if queue else "",
        startup=seconds(startup[-1]) if startup else "",
        ended=session.ended,
        why=end_words(session.end_reason),
    )


def format_time_exactly(moment: datetime) -> str:
    """With fractions of a second, which may be what tells two rows apart."""
    return moment.isoformat() if moment.microsecond else format_time(moment)


def _form(request: Request) -> ExportFormat:
    try:
        return ExportFormat(request.path_params["form"])
    except ValueError:
        raise HTTPException(404, _FILES) from None


def _month(request: Request, now: datetime) -> Month:
    text = request.query_params.get("month", "")
    try:
        return Month.parse(text) if text else Month.of(now)
    except ValueError as why:
        raise HTTPException(400, f"month: {why}.") from why


def _as_file(name: str, form: ExportFormat) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="vdi-{name}.{form}"'}


def _whose(request: Request, user: User) -> tuple[str | None, bool]:
    """Whose history is asked for (None: everybody's), and whether more than one's own."""
    if request.query_params.get("of") == "everyone" and user.admin:
        asked = request.query_params.get("user", "").strip()[:254]
        return (normal_user(asked) if asked else None), True
    return user.email, False


def _address(everyone: bool, user: str, before: str) -> str:
    given = {"of": "everyone" if everyone else "", "user": user if everyone else "", "before": before}
    return "/history?" + urlencode({name: value for name, value in given.items() if value})


def _read_mark(text: str) -> tuple[datetime, str] | None:
    """The place in the list where a page ended."""
    if not text:
        return None
    when, _, uid = text.partition("~")
    try:
        return parse_time(when), uid
    except ValueError:
        raise HTTPException(400, f"before: {text[:60]!r} is not a position in the list.") from None


def _amounts(use: Use | None) -> list[tuple[str, Amount]]:
    """What can be limited, as people call it."""
    if use is None:
        return []
    return [
        ("Running desktops", use.sessions),
        ("GPUs in use", use.gpus),
        ("Hours this month", use.hours_per_month),
        ("GPU hours this month", use.gpu_hours_per_month),
        ("All homes, in GiB", use.home_storage),
    ]


def _by(request: Request) -> By:
    """By what the rows are; without a word by user, which of one's own is one row."""
    text = request.query_params.get("by", "")
    try:
        return By(text or By.USER)
    except ValueError:
        raise HTTPException(400, f"by: {text[:60]!r} is not a choice; allowed: {', '.join(By)}.") from None


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    id: str
    shares: Sequence[Share]


def _charts(report: UsageReport | None, by: By, *, everyone: bool) -> list[_Chart]:
    """Hours. By user two stand side by side: of what users there are, and of what templates."""
    if report is None:
        return []
    shown = ([By.USER] if everyone else []) + [By.TEMPLATE] if by is By.USER else [by]
    return [
        _Chart(
            f"Hours by {_HEADINGS[kind].lower()}",
            f"by-{kind}",
            shares([(usage.name, usage.hours) for usage in report.rows(kind)]),
        )
        for kind in shown
    ]


def _months(now: datetime) -> list[Choice]:
    found, month = [], Month.of(now)
    for _ in range(MONTHS):
        found.append(Choice(str(month), month.begin.strftime("%B %Y")))
        month = Month.of(month.begin - timedelta(days=1))
    return found


class HistoryPages(PortalPages):
    """Pages under `/history`."""

    def routes(self) -> list[Route]:
        return [
            Route("/history", self.history, methods=["GET"]),
            Route("/history/usage", self.usage, methods=["GET"]),
            Route("/history/usage.{form}", self.export_month, methods=["GET"]),
            Route("/history/{what}.{form}", self.export, methods=["GET"]),
        ]

    async def history(self, request: Request) -> Response:
        """A page of it, the youngest first."""
        user = await self._portal.guard.require(request)
        email, everyone = _whose(request, user)
        before = _read_mark(request.query_params.get("before", ""))
        try:
            found = await self._portal.history.past(limit=PAGE_SIZE + 1, user=email, before=before)
        except DatabaseUnavailableError:
            found = None
        older = ""
        if found is not None and len(found) > PAGE_SIZE:
            found = found[:PAGE_SIZE]
            last = found[-1].session
            older = _address(everyone, email or "", f"{format_time_exactly(last.created)}~{last.uid}")
        return await self._page(
            request,
            user,
            "history.html",
            here="history",
            rows=None if found is None else [past_row(past, self._portal.context.clock()) for past in found],
            older=older,
            everyone=everyone,
            email=(email or "") if everyone else "",
            retention=self._portal.context.settings.retention_days,
        )

    async def usage(self, request: Request) -> Response:
        """What was used in a month."""
        user = await self._portal.guard.require(request)
        email, everyone = _whose(request, user)
        months = _months(self._portal.context.clock())
        month = _month(request, self._portal.context.clock())
        text = str(month)
        use = None
        try:
            if not everyone:
                used = await self._portal.history.use_this_month(user.email, self._portal.context.clock())
                limit = self._portal.limits.of(user)
                use = use_of(self._portal.context.cluster, limit, user.email, used.hours, used.gpu_hours)
            report = await self._portal.history.usage(month, self._portal.context.clock(), email)
        except DatabaseUnavailableError:
            report = None
        by = _by(request)
        if text not in {choice.value for choice in months}:
            months.append(Choice(text, text))
        return await self._page(
            request,
            user,
            "usage.html",
            here="history",
            month=text,
            months=months,
            report=report,
            by=by,
            choices=[Choice(name, heading.lower()) for name, heading in _HEADINGS.items()],
            heading=_HEADINGS[by],
            rows=report.rows(by) if report else (),
            charts=_charts(report, by, everyone=everyone),
            everyone=everyone,
            limited=[(label, amount) for label, amount in _amounts(use) if amount.limit is not None],
            seconds=seconds,
        )

    async def export_month(self, request: Request) -> Response:
        """A month's usage as a file: `/history/usage.csv`, `/history/usage.jsonl`."""
        user = await self._portal.guard.require(request)
        email, _ = _whose(request, user)
        form, month = _form(request), _month(request, self._portal.context.clock())
        by = _by(request)
        try:
            report = await self._portal.history.usage(month, self._portal.context.clock(), email)
        except DatabaseUnavailableError as error:
            raise HTTPException(503, _DOWN) from error
        return Response(
            export_usage(report, form, by), media_type=form.media_type, headers=_as_file(f"usage-{month}", form)
        )

    async def export(self, request: Request) -> Response:
        """All of it as a file: `/history/sessions.csv`, `/history/runs.jsonl`; for administrators `audit.csv` too."""
        user = await self._portal.guard.require(request)
        email, everyone = _whose(request, user)
        form = _form(request)
        try:
            what = Dataset(request.path_params["what"])
        except ValueError:
            raise HTTPException(404, _FILES) from None
        if what is Dataset.AUDIT and not everyone:
            raise HTTPException(403, "The audit is for administrators.")
        rows = self._portal.history.export(what, form, user=None if everyone else email)
        try:
            first = await anext(rows, b"")  # a database that is down answers with a page, not with half a file
        except DatabaseUnavailableError as error:
            raise HTTPException(503, _DOWN) from error
        return StreamingResponse(_all(first, rows), media_type=form.media_type, headers=_as_file(what, form))

"""History: my desktops that were and are, what they used by month, all of it as a file; administrators see everyone."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vdi.gateway.current_use import Amount, Use, use_of
from vdi.gateway.history.component import Past
from vdi.gateway.history.export import Form, What, export_usage
from vdi.gateway.history.usage import By, Month, UsageReport
from vdi.gateway.portal.charts import Share, shares
from vdi.gateway.portal.pages import Choice, PortalPages
from vdi.gateway.portal.timeline import end_words, hours, seconds
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.store.history import SessionRow
from vdi.gateway.users import User, normal_user
from vdi.session.times import format_time, parse_time

SIZE = 50
MONTHS = 12
"""How many months back the report offers."""
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


def past_row(past: Past, now: datetime) -> PastRow:
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


def _form(request: Request) -> Form:
    try:
        return Form(request.path_params["form"])
    except ValueError:
        raise HTTPException(404, _FILES) from None


def _month(request: Request, now: datetime) -> Month:
    text = request.query_params.get("month", "")
    try:
        return Month.parse(text) if text else Month.of(now)
    except ValueError as why:
        raise HTTPException(400, f"month: {why}.") from why


def _as_file(name: str, form: Form) -> dict[str, str]:
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


def _read_mark(text: str) -> SessionRow | None:
    """The place in the list where a page ended."""
    if not text:
        return None
    when, _, uid = text.partition("~")
    try:
        return SessionRow(uid=uid, name="", namespace="", owner="", template="", created=parse_time(when))
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
        """All of them."""
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
            found = await self._portal.history.past(limit=SIZE + 1, user=email, before=before)
        except DatabaseUnavailableError:
            found = None
        older = ""
        if found is not None and len(found) > SIZE:
            found = found[:SIZE]
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
            what = What(request.path_params["what"])
        except ValueError:
            raise HTTPException(404, _FILES) from None
        if what is What.AUDIT and not everyone:
            raise HTTPException(403, "The audit is for administrators.")
        rows = self._portal.history.export(what, form, user=None if everyone else email)
        try:
            first = await anext(rows, b"")  # a database that is down answers with a page, not with half a file
        except DatabaseUnavailableError as error:
            raise HTTPException(503, _DOWN) from error
        return StreamingResponse(_all(first, rows), media_type=form.media_type, headers=_as_file(what, form))

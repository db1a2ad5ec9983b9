"""History: my desktops that were and are, what they used by month, all of it as a file; administrators see everyone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vdi.gateway.history.component import Past
from vdi.gateway.history.export import Form, What, export_usage
from vdi.gateway.history.usage import Month
from vdi.gateway.portal.pages import Choice, PortalPages
from vdi.gateway.portal.timeline import end_words, hours, seconds
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.store.history import SessionRow
from vdi.gateway.users import User, normal_user
from vdi.session.times import format_time, parse_time

SIZE = 50
MONTHS = 12
"""How many months back the report offers."""
_FILES = "There are sessions, runs and usage, each as .csv and .jsonl."
_DOWN = "The history cannot be read just now; try again in a minute."


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
        raise HTTPException(400, f"before: {text[:60]!r} is no place in the list.") from None


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
        try:
            report = await self._portal.history.usage(month, self._portal.context.clock(), email)
        except DatabaseUnavailableError:
            report = None
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
            everyone=everyone,
            seconds=seconds,
        )

    async def export_month(self, request: Request) -> Response:
        """A month's usage as a file: `/history/usage.csv`, `/history/usage.jsonl`."""
        user = await self._portal.guard.require(request)
        email, _ = _whose(request, user)
        form, month = _form(request), _month(request, self._portal.context.clock())
        try:
            report = await self._portal.history.usage(month, self._portal.context.clock(), email)
        except DatabaseUnavailableError as error:
            raise HTTPException(503, _DOWN) from error
        return Response(
            export_usage(report, form), media_type=form.media_type, headers=_as_file(f"usage-{month}", form)
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

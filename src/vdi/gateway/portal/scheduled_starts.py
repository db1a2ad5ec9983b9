"""A person's own scheduled starts: the list, the form for a new one, and the question before one is deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.gateway.denied import ActionDenied
from vdi.gateway.portal.catalogue import templates_for
from vdi.gateway.portal.desktop_view import template_title
from vdi.gateway.portal.pages import Choice, PortalPages, done, said
from vdi.gateway.scheduled_starts import DAYS, Result
from vdi.gateway.store.scheduled_starts import ScheduledStart
from vdi.gateway.users import User, same_user

_DAY_NAMES = dict(
    zip(DAYS, ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"), strict=True)
)
_SETS_OF_DAYS = {DAYS: "every day", DAYS[:5]: "Monday to Friday", DAYS[5:]: "weekends"}
_FIELDS = {"template": "template", "time": "time", "days": "days", "timeZone": "time_zone"}
"""Fields of this form by their names in the REST API."""
_RESULTS: Mapping[str, str] = {
    Result.STARTED: "Started",
    Result.RESUMED: "Resumed",
    Result.RUNNING: "Already running",
    Result.ENDED: "Ended",
    Result.MISSED: "Missed",
    Result.LOGIN_NEEDED: "Login needed",
}
"""Every other one is the code of a refusal."""
_FIRST_TIME = "08:30"
_NO_ZONE = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """One scheduled start, ready to be shown."""

    id: str
    session: str
    has_session: bool
    template: str
    when: str
    time_zone: str
    next_time: datetime
    last_time: datetime | None
    last_result: str
    last_message: str


class ScheduledStartPages(PortalPages):
    """Pages under `/scheduled-starts`."""

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/scheduled-starts", self.my_starts, methods=["GET"]),
            Route("/scheduled-starts", self.add, methods=["POST"]),
            Route("/scheduled-starts/{id}/delete", self.ask, methods=["GET"]),
            Route("/scheduled-starts/{id}/delete", self.delete, methods=["POST"]),
        ]

    async def my_starts(self, request: Request) -> Response:
        """The list and the form."""
        user = await self._portal.guard.require(request)
        return await self._list(request, user)

    async def add(self, request: Request) -> Response:
        """Schedule what the form says."""
        user, form = await self._posted(request)
        typed: dict[str, Any] = {
            "template": form.get("template", ""),
            "time": form.get("time", ""),
            "days": tuple(day for day in DAYS if form.get(day) == "yes"),
            "time_zone": form.get("time_zone", ""),
        }
        try:
            start = await self._portal.scheduled.add(user, **typed)
        except ActionDenied as why:
            return await self._list(request, user, typed=typed, why=why)
        return done("/scheduled-starts", "schedule", start.session)

    async def ask(self, request: Request) -> Response:
        """The page that asks before one is deleted."""
        user = await self._portal.guard.require(request)
        try:
            start = await self._find(request, user)
        except ActionDenied as why:
            return await self._list(request, user, why=why)
        return await self._page(
            request, user, "scheduled_start_delete.html", here="scheduled-starts", start=self._row(start, user)
        )

    async def delete(self, request: Request) -> Response:
        """Delete it, as the page before has asked."""
        user, _ = await self._posted(request)
        try:
            start = await self._find(request, user)
            await self._portal.scheduled.delete(user, start.id)
        except ActionDenied as why:
            return await self._list(request, user, why=why)
        return done("/scheduled-starts", "unschedule", start.session)

    async def _find(self, request: Request, user: User) -> ScheduledStart:
        """The one in the address. Raises ActionDenied."""
        for start in await self._portal.scheduled.of(user):
            if start.id == request.path_params["id"]:
                return start
        raise ActionDenied("NotFound", "You have no such scheduled start. It may have been deleted.")

    async def _list(
        self,
        request: Request,
        user: User,
        *,
        typed: Mapping[str, Any] | None = None,
        why: ActionDenied | None = None,
    ) -> Response:
        """The page; `typed` comes back in the form, with `why` at its fields or above the page."""
        starts = await self._portal.scheduled.of(user)
        errors = dict.fromkeys(_FIELDS.values(), "")
        if why is not None:
            errors |= {_FIELDS[problem.field]: _sentence(why, problem.field) for problem in why.fields}
        zone = starts[-1].time_zone if starts else _NO_ZONE
        first = {"template": "", "time": _FIRST_TIME, "days": DAYS[:5], "time_zone": zone}
        templates = templates_for(self._portal, user)
        return await self._page(
            request,
            user,
            "scheduled_starts.html",
            status=why.status if why else 200,
            here="scheduled-starts",
            starts=[self._row(start, user) for start in starts],
            templates=[Choice(each.metadata.name, template_title(each, each.metadata.name)) for each in templates],
            days=[Choice(day, name) for day, name in _DAY_NAMES.items()],
            typed=first if typed is None else typed,
            guesses_zone=typed is None,
            errors=errors,
            error=why.sentence if why and not why.fields else "",
            done=said(request),
        )

    def _row(self, start: ScheduledStart, user: User) -> StartRow:
        cluster = self._portal.context.cluster
        session = cluster.session(start.session)
        return StartRow(
            id=start.id,
            session=start.session,
            has_session=session is not None and same_user(session.spec.user, user.email),
            template=template_title(cluster.template(start.template), start.template),
            when=f"{start.time}, {_days(start.days)}",
            time_zone=start.time_zone,
            next_time=start.next_time,
            last_time=start.last_time,
            last_result=_RESULTS.get(start.last_result, "Not started"),
            last_message=start.last_message,
        )


def _days(days: tuple[str, ...]) -> str:
    return _SETS_OF_DAYS.get(days) or ", ".join(_DAY_NAMES.get(day, day) for day in days)


def _sentence(why: ActionDenied, field: str) -> str:
    """The refusal beside its field, which it need not name again."""
    sentence = why.sentence.removeprefix(f"{field}: ")
    return sentence[:1].upper() + sentence[1:]

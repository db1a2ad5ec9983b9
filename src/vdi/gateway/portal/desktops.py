"""My desktops, shared with me, one desktop's page, and what can be done there."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.schedule import SessionSchedule
from vdi.api.session import FULL_CONTROL, GuestRole, Phase, VDISession, describe_role
from vdi.api.template import VDITemplate
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import StartupScript, is_readable
from vdi.gateway.login.pages import safe_next
from vdi.gateway.portal import pages
from vdi.gateway.portal.desktop_view import DesktopView, extensions
from vdi.gateway.portal.history import read_timeline
from vdi.gateway.portal.pages import Choice, PortalPages, done, said
from vdi.gateway.rights import Action, User, role_in
from vdi.gateway.thumbnails import MOST, WINDOW, TooManyThumbnailsError
from vdi.session.lifetime import max_timeout
from vdi.session.schedule import day_names
from vdi.session.streaming import refuse_view_only

ROLES = tuple(Choice(role, describe_role(role)) for role in GuestRole)
SHARE_TIMES: Mapping[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "8h": timedelta(hours=8),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "open": None,
}
_SHARE_WORDS = {
    "1h": "1 hour",
    "8h": "8 hours",
    "1d": "1 day",
    "7d": "1 week",
    "open": "as long as the desktop exists",
}
# How long a browser waits for the address of a session that was just made.
_ADDRESS_SECONDS = 5.0

_FIRST_SCHEDULE = SessionSchedule(start="08:30")
_NOTHING_TYPED = {"length": "", "user": "", "role": GuestRole.VIEWER, "for": "8h"}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What is asked before something is done that cannot simply be taken back."""

    question: str
    consequence: str
    label: str
    dangerous: bool = False


CONFIRMATIONS = {
    Action.SUSPEND: Confirmation(
        "Suspend {name}?",
        "Open programs are closed, so save your work first. Its address is kept, and you can resume it later.",
        "Suspend",
    ),
    Action.RESTART: Confirmation(
        "Restart {name}?",
        "Open programs are closed, so save your work first. Its address is kept.",
        "Restart",
    ),
    Action.END: Confirmation(
        "End {name}?",
        "The desktop is stopped and its address is released. Open programs are closed, so save your work first.",
        "End the desktop",
        dangerous=True,
    ),
}


# Where a desktop is listed, by what `_place` says.
_LISTS = {"desktops": "/", "shared": "/shared", "admin": "/admin/sessions"}


def _place(found: DesktopView) -> str:
    if found.mine:
        return "desktops"
    return "admin" if found.role == "administrator" else "shared"


def _consequence(found: DesktopView, action: Action) -> str:
    words = CONFIRMATIONS[action].consequence
    if action is not Action.END:
        return f"{words} {'The files in its home folder are kept.' if found.has_home else 'Its files are deleted.'}"
    if found.phase == Phase.SUSPENDED:
        words = "Its address is released."
    if found.mine and found.keeps_files:  # the question below says what becomes of them
        return words
    return f"{words} Its files are {'kept' if found.keeps_files else 'deleted'}."


class DesktopPages(PortalPages):
    """The list of desktops, and pages under `/desktops`."""

    def routes(self) -> list[Route]:
        return [
            Route("/", self.my_desktops, methods=["GET"]),
            Route("/shared", self.shared, methods=["GET"]),
            Route("/desktops/{name}", self.desktop, methods=["GET"]),
            Route("/desktops/{name}/resume", self.resume, methods=["POST"]),
            Route("/desktops/{name}/extend", self.extend, methods=["POST"]),
            Route("/desktops/{name}/schedule", self.schedule, methods=["POST"]),
            Route("/desktops/{name}/share", self.share, methods=["POST"]),
            Route("/desktops/{name}/unshare", self.unshare, methods=["POST"]),
            Route("/desktops/{name}/open", self.open_desktop, methods=["GET"]),
            Route("/desktops/{name}/thumbnail", self.thumbnail, methods=["GET"]),
            # After the seven above, since these take any word: for an unknown one, the desktop's page is shown.
            Route("/desktops/{name}/{action}", self.ask, methods=["GET"]),
            Route("/desktops/{name}/{action}", self.asked, methods=["POST"]),
        ]

    async def my_desktops(self, request: Request) -> Response:
        return await self._list(request, "desktops", "My desktops", "Your desktops. This page updates automatically.")

    async def shared(self, request: Request) -> Response:
        """Desktops that others share with this person."""
        return await self._list(request, "shared", "Shared with me", "Desktops that others let you watch or use.")

    async def desktop(self, request: Request) -> Response:
        user = await self._portal.guard.require(request)
        return await self._show(request, user, request.path_params["name"])

    async def open_desktop(self, request: Request) -> Response:
        """Redirect to the desktop, whose host answers with the waiting page; to its page here without an address."""
        user, name = await self._portal.guard.require(request), request.path_params["name"]
        with self._portal.context.cluster.changes(
            lambda change: change.kind == "session" and change.name == name
        ) as changes:
            found = pages.desktop_of(self._portal, user, name)
            with suppress(TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(_ADDRESS_SECONDS):
                    while found and not found.url:
                        await anext(changes)
                        found = pages.desktop_of(self._portal, user, name)
        if found is None:
            return self._not_found(request, user, name)
        address = safe_next(found.url, self._portal.context.settings)
        return RedirectResponse(f"/desktops/{name}" if address == "/" else f"{address}/", 303)

    async def thumbnail(self, request: Request) -> Response:
        """A small picture of the screen, for the owner alone; the page's script asks for it.

        204 while there is no picture: a page may ask before it has heard that its desktop stopped.
        """
        user, name = await self._portal.guard.require_unattended(request), request.path_params["name"]
        try:
            picture = await self._portal.thumbnails.take(user, name)
        except TooManyThumbnailsError as error:
            words = f"Pictures of this desktop are limited to {MOST} within {WINDOW} s."
            raise HTTPException(429, words, {"Retry-After": str(WINDOW)}) from error
        if picture is None:
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def resume(self, request: Request) -> Response:
        """A new run of a suspended desktop."""
        user, _ = await self._posted(request)
        name = request.path_params["name"]
        return await self._do(request, user, name, "resume", self._portal.actions.resume(user, name))

    async def extend(self, request: Request) -> Response:
        """A longer run. `from` is the time limit that the page showed: if it was raised since, `length` may be less."""
        user, form = await self._posted(request)
        name, length = request.path_params["name"], form.get("length", "")
        found = pages.desktop_of(self._portal, user, name)
        if found and form.get("from", found.timeout) != found.timeout:
            why = f"The time limit is {found.timeout} now. Choose again."
            return await self._show(request, user, name, status=409, typed=form, extend_error=why)
        action = self._portal.actions.extend(user, name, length)
        return await self._do(request, user, name, "extend", action, place="extend_error", typed=form)

    async def schedule(self, request: Request) -> Response:
        """Set or remove the desktop's schedule."""
        user, form = await self._posted(request)
        name = request.path_params["name"]
        if form.get("remove") == "yes":
            return await self._do(request, user, name, "unschedule", self._portal.actions.schedule(user, name, None))
        wanted = SessionSchedule(
            start=form.get("start", ""),
            end=form.get("until") or None,
            days=tuple(day for day in day_names() if form.get(day) == "yes"),
            time_zone=form.get("time_zone", ""),
        )
        action = self._portal.actions.schedule(user, name, wanted)
        return await self._do(request, user, name, "schedule", action, place="schedule_error", schedule=wanted)

    async def share(self, request: Request) -> Response:
        user, form = await self._posted(request)
        name = request.path_params["name"]
        if form.get("role") not in [*GuestRole]:
            why = f"role: {form.get('role')!r} is not a role; allowed: {', '.join(GuestRole)}."
            return await self._refuse_field(request, user, name, form, why)
        if form.get("for") not in SHARE_TIMES:
            return await self._refuse_field(request, user, name, form, f"for: {form.get('for')!r} is not in the list.")
        span = SHARE_TIMES[form["for"]]
        expires = self._portal.context.clock() + span if span else None
        action = self._portal.actions.share(user, name, form.get("user", ""), GuestRole(form["role"]), expires)
        return await self._do(request, user, name, "share", action, place="share_error", typed=form)

    async def unshare(self, request: Request) -> Response:
        user, form = await self._posted(request)
        name, email = request.path_params["name"], form.get("user", "")
        found = pages.desktop_of(self._portal, user, name)
        has_controlled = found and any(guest.user == email and guest.role in FULL_CONTROL for guest in found.guests)
        action = self._portal.actions.unshare(user, name, email)
        return await self._do(request, user, name, "unshare-collaborator" if has_controlled else "unshare", action)

    async def ask(self, request: Request) -> Response:
        """The page that asks before an action; shown in place where scripts run."""
        user, name = await self._portal.guard.require(request), request.path_params["name"]
        action = request.path_params["action"]
        found = pages.desktop_of(self._portal, user, name)
        if found is None or action not in CONFIRMATIONS or action not in found.actions:
            return await self._show(request, user, name)
        return await self._ask(request, user, found, Action(action))

    async def asked(self, request: Request) -> Response:
        """Suspend, restart or end, as the page before has asked."""
        user, form = await self._posted(request)
        name, action = request.path_params["name"], request.path_params["action"]
        before, delete_home = pages.desktop_of(self._portal, user, name), form.get("delete_home") == "yes"
        do: dict[str, Callable[[], Awaitable[object]]] = {
            Action.SUSPEND: lambda: self._portal.actions.suspend(user, name),
            Action.RESTART: lambda: self._portal.actions.restart(user, name),
            Action.END: lambda: self._portal.actions.end(user, name, delete_home=delete_home),
        }
        if action not in do:
            return await self._show(request, user, name, status=404, error=f"{action!r} is not a possible action.")
        try:
            await do[action]()
        except ActionDenied as why:
            found = pages.desktop_of(self._portal, user, name)
            if found is None:
                return self._not_found(request, user, name)
            more = {"error": why.sentence, "delete_home": delete_home}
            return await self._ask(request, user, found, Action(action), status=why.status, **more)
        if action != Action.END or before is None:
            return done(f"/desktops/{name}", action, name)
        ended = "end" if before.keeps_files and not delete_home else "end-with-files"
        return done(_LISTS[_place(before)], ended, name)

    async def _list(self, request: Request, here: str, heading: str, subtitle: str) -> Response:
        user = await self._portal.guard.require(request)
        find = pages.my_desktops if here == "desktops" else pages.shared_desktops
        desktops = find(self._portal, user)
        pieces = pages.list_pieces(desktops, here)
        return await self._page(
            request,
            user,
            "desktops.html",
            here=here,
            heading=heading,
            subtitle=subtitle,
            pieces=pieces,
            moving=any(desktop.moving for desktop in desktops),
            seen=pages.digest(pieces),
            done=said(request),
        )

    async def _show(
        self,
        request: Request,
        user: User,
        name: str,
        *,
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        schedule: SessionSchedule | None = None,
        **errors: str,
    ) -> Response:
        """The page; after a refusal with what was typed, and why beside it as `error` or `*_error`."""
        found = pages.desktop_of(self._portal, user, name)
        session = self._portal.context.cluster.session(name)
        if found is None or session is None:
            return self._not_found(request, user, name)
        template = self._portal.context.cluster.template(session.spec.template)
        pieces = pages.desktop_pieces(found)
        without_viewers = refuse_view_only(template)
        scripts, scripts_problem = await self._read_scripts(user, session, template)
        return await self._page(
            request,
            user,
            "desktop.html",
            status=status,
            here=_place(found),
            desktop=found,
            pieces=pieces,
            seen=pages.digest(pieces),
            extensions=extensions(
                session, template, self._portal.context.settings.cluster, self._portal.context.clock()
            ),
            longest=max_timeout(template, self._portal.context.settings.cluster),
            roles=[role for role in ROLES if role.value in FULL_CONTROL or not without_viewers],
            without_viewers=without_viewers,
            share_times=[Choice(value, _SHARE_WORDS[value]) for value in SHARE_TIMES],
            happened=await read_timeline(self._portal, session),
            scripts=scripts,
            scripts_problem=scripts_problem,
            typed=_NOTHING_TYPED | dict(typed or {}),
            times=schedule or session.spec.schedule or _FIRST_SCHEDULE,
            guesses_zone=not (schedule or session.spec.schedule),
            day_names=day_names(),
            done=said(request),
            **({"error": "", "share_error": "", "extend_error": "", "schedule_error": ""} | errors),
        )

    async def _read_scripts(
        self, user: User, session: VDISession, template: VDITemplate | None
    ) -> tuple[tuple[StartupScript, ...], str]:
        """Those of the person's running desktop; where they cannot be read, and the template has one, why."""
        if not is_readable(session, role_in(session, user.email, self._portal.context.clock())):
            return (), ""
        try:
            return await self._portal.startup_scripts.read(user, session.metadata.name), ""
        except ActionDenied as denied:
            return (), denied.sentence if template and template.spec.startup_script else ""

    async def _ask(
        self, request: Request, user: User, found: DesktopView, action: Action, *, status: int = 200, **more: Any
    ) -> Response:
        question = CONFIRMATIONS[action]
        return await self._page(
            request,
            user,
            "confirm.html",
            status=status,
            here=_place(found),
            name=found.name,
            action=action.value,
            question=question.question.format(name=found.name),
            consequence=_consequence(found, action),
            label=question.label,
            dangerous=question.dangerous,
            asks_for_home=action is Action.END and found.mine and found.keeps_files,
            **({"error": "", "delete_home": False} | more),
        )

    async def _refuse_field(
        self, request: Request, user: User, name: str, form: Mapping[str, str], why: str
    ) -> Response:
        return await self._show(request, user, name, status=422, typed=form, share_error=why)

    async def _do(
        self,
        request: Request,
        user: User,
        name: str,
        what: str,
        action: Awaitable[object],
        *,
        place: str = "error",
        typed: Mapping[str, str] | None = None,
        schedule: SessionSchedule | None = None,
    ) -> Response:
        try:
            await action
        except ActionDenied as why:
            errors = {place: why.sentence}
            return await self._show(request, user, name, status=why.status, typed=typed, schedule=schedule, **errors)
        return done(f"/desktops/{name}", what, name)

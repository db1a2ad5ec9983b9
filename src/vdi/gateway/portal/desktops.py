"""Pages `/`, `/shared`, `/desktops/...` and `/homes`: lists of desktops, one desktop's page with its actions, homes."""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.schedule import SessionSchedule
from vdi.api.session import FULL_CONTROL, GuestRole, Phase, Role, VDISession, describe_role
from vdi.api.template import HomeScope, VDITemplate
from vdi.gateway.cluster_cache import session_topic
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.desktop_agent import StartupScriptResult, is_running
from vdi.gateway.login.pages import safe_next
from vdi.gateway.portal import pages
from vdi.gateway.portal.catalogue import size_choices
from vdi.gateway.portal.desktop_view import Choice, DesktopView, extensions, template_title
from vdi.gateway.portal.history import read_timeline
from vdi.gateway.portal.pages import Form, PortalPages, done, done_message
from vdi.gateway.rights import Action, User, role_in
from vdi.gateway.web.template_filters import duration
from vdi.session.homes import HomeSummary
from vdi.session.lifetime import max_timeout
from vdi.session.schedule import day_names
from vdi.session.streaming import refuse_view_only

ROLES = tuple(Choice(role, describe_role(role)) for role in GuestRole)
_SHARE_TIMES: Mapping[str, tuple[str, timedelta | None]] = {
    "1h": ("1 hour", timedelta(hours=1)),
    "8h": ("8 hours", timedelta(hours=8)),
    "1d": ("1 day", timedelta(days=1)),
    "7d": ("1 week", timedelta(days=7)),
    "open": ("as long as the desktop exists", None),
}
# How long a browser waits for the address of a session that was just created.
_ADDRESS_SECONDS = 5.0
_FIRST_SCHEDULE = SessionSchedule(start="08:30")
_NOTHING_TYPED = {"length": "", "user": "", "role": GuestRole.VIEWER, "for": "8h"}
# The page of the list that a desktop is in, by `_place`.
_LISTS = {"desktops": "/", "shared": "/shared", "admin": "/admin/sessions"}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The question before an action that cannot simply be undone."""

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
    if found.mine and found.keeps_files:  # the page asks below whether to delete them
        return words
    return f"{words} Its files are {'kept' if found.keeps_files else 'deleted'}."


class DesktopPages(PortalPages):
    """The lists of desktops, and pages under `/desktops`."""

    def routes(self) -> list[Route]:
        return [
            self._get("/", self.my_desktops),
            self._get("/shared", self.shared),
            self._get("/desktops/{name}", self.desktop),
            self._post("/desktops/{name}/resume", self.resume),
            self._post("/desktops/{name}/extend", self.extend),
            self._post("/desktops/{name}/resize", self.resize),
            self._post("/desktops/{name}/schedule", self.schedule),
            self._post("/desktops/{name}/share", self.share),
            self._post("/desktops/{name}/unshare", self.unshare),
            self._post("/desktops/{name}/request-access", self.request_access),
            self._post("/desktops/{name}/answer-access", self.answer_access),
            self._post("/desktops/{name}/drive", self.drive),
            self._get("/desktops/{name}/open", self.open_desktop),
            Route("/desktops/{name}/thumbnail", self.thumbnail, methods=["GET"]),
            # After the others, since these take any word: for an unknown one, the desktop's page is shown.
            self._get("/desktops/{name}/{action}", self.ask),
            self._post("/desktops/{name}/{action}", self.confirmed),
        ]

    async def my_desktops(self, request: Request, user: User) -> Response:
        return self._list(request, user, "desktops", "My desktops", "Your desktops. This page updates automatically.")

    async def shared(self, request: Request, user: User) -> Response:
        return self._list(request, user, "shared", "Shared with me", "Desktops that others let you watch or use.")

    def _list(self, request: Request, user: User, here: str, heading: str, subtitle: str) -> Response:
        desktops = pages.desktops_of(self._services, user, here)
        pieces = pages.list_pieces(self._services, user, here, desktops)
        return self._page(
            request,
            user,
            "desktops.html",
            here=here,
            heading=heading,
            subtitle=subtitle,
            pieces=pieces,
            moving=any(desktop.moving for desktop in desktops),
            seen=pages.digest(pieces),
            done=done_message(request),
        )

    async def desktop(self, request: Request, user: User) -> Response:
        return await self._show(request, user)

    async def open_desktop(self, request: Request, user: User) -> Response:
        """Redirect to the desktop, whose host answers with the waiting page; to its page here without an address."""
        name = request.path_params["name"]
        # Listen before looking: an address that the operator sets in between would be missed, and waited for in vain.
        with self._services.subscriptions.subscribe(None, {session_topic(name)}) as subscription:
            found = pages.desktop_of(self._services, user, name)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ADDRESS_SECONDS):
                    while found and not found.url:
                        await subscription.wait(None)
                        found = pages.desktop_of(self._services, user, name)
        if found is None:
            return self._not_found(request, user, name)
        address = safe_next(found.url, self._settings)
        return RedirectResponse(f"/desktops/{name}" if address == "/" else f"{address}/", 303)

    async def thumbnail(self, request: Request) -> Response:
        """A small picture of the screen, for the owner alone; the page's script requests it again and again.

        204 while there is no picture: a page may ask before it has heard that its desktop stopped.
        """
        user, name = await self._services.guard.require_unattended(request), request.path_params["name"]
        picture = await self._services.agents.take_thumbnail(user, name)
        if picture is None:
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def resume(self, request: Request, user: User, _form: Form) -> Response:
        """A new run of a suspended desktop."""
        return await self._do(request, user, "resume", self._services.actions.resume(user, _name(request)))

    async def extend(self, request: Request, user: User, form: Form) -> Response:
        """A longer run. `from` is the time limit that the page showed: if it was raised since, `length` may be less."""
        name, length = _name(request), form.get("length", "")
        found = pages.desktop_of(self._services, user, name)
        if found and form.get("from", found.spec.timeout) != found.spec.timeout:
            why = f"The time limit is {found.spec.timeout} now. Choose again."
            return await self._show(request, user, status=409, typed=form, extend_error=why)
        action = self._services.actions.extend(user, name, length)
        return await self._do(request, user, "extend", action, place="extend_error", typed=form)

    async def resize(self, request: Request, user: User, form: Form) -> Response:
        """More or less memory and CPU, or fewer GPUs for a desktop that waits; what the form leaves out stays."""
        memory, cpu, gpu = form.get("memory", "")[:32], form.get("cpu", "")[:32], form.get("gpu", "")
        action = self._services.actions.resize(user, _name(request), memory or None, cpu or None, gpu)
        what, place = ("start", "error") if gpu else ("resize", "resize_error")
        return await self._do(request, user, what, action, place)

    async def schedule(self, request: Request, user: User, form: Form) -> Response:
        """Set or remove the desktop's schedule."""
        set_schedule = self._services.actions.schedule
        if form.get("remove") == "yes":
            return await self._do(request, user, "unschedule", set_schedule(user, _name(request), None))
        chosen = SessionSchedule(
            start=form.get("start", ""),
            end=form.get("until") or None,
            days=tuple(day for day in day_names() if form.get(day) == "yes"),
            time_zone=form.get("time_zone", ""),
        )
        action = set_schedule(user, _name(request), chosen)
        return await self._do(request, user, "schedule", action, place="schedule_error", schedule=chosen)

    async def share(self, request: Request, user: User, form: Form) -> Response:
        return await self._do(
            request, user, "share", self._share(user, _name(request), form), "share_error", typed=form
        )

    async def _share(self, user: User, name: str, form: Form) -> None:
        role, duration = form.get("role", ""), form.get("for", "")
        if role not in [*GuestRole]:
            raise invalid("role", role, f"one of {', '.join(GuestRole)}")
        if duration not in _SHARE_TIMES:
            raise invalid("for", duration, f"one of {', '.join(_SHARE_TIMES)}")
        _, span = _SHARE_TIMES[duration]
        expires = self._clock() + span if span else None
        await self._services.actions.share(user, name, form.get("user", ""), GuestRole(role), expires)

    async def request_access(self, request: Request, user: User, form: Form) -> Response:
        role, length = form.get("role", ""), form.get("for", "")
        if role not in [*GuestRole]:
            raise invalid("role", role, f"one of {', '.join(GuestRole)}")
        action = self._services.actions.request_access(user, _name(request), GuestRole(role), length)
        return await self._do(request, user, "request-access", action)

    async def answer_access(self, request: Request, user: User, form: Form) -> Response:
        """The owner's answer: `allow` or `refuse` has `expires` of the request."""
        allow, asked = "allow" in form, form.get("allow") or form.get("refuse", "")
        action = self._services.actions.answer_access(user, _name(request), asked, allow=allow)
        return await self._do(request, user, "allow-access" if allow else "refuse-access", action)

    async def drive(self, request: Request, user: User, form: Form) -> Response:
        """Take over from agents, or give back."""
        human = form.get("human") == "yes"
        action = self._services.computer.switch(user.actor, _name(request), human=human)
        return await self._do(request, user, "take-over" if human else "give-back", action)

    async def unshare(self, request: Request, user: User, form: Form) -> Response:
        """End the access of a guest."""
        name, email = _name(request), form.get("user", "")
        found = pages.desktop_of(self._services, user, name)
        has_controlled = found and any(
            guest.user == email and guest.role in FULL_CONTROL for guest in found.spec.access
        )
        action = self._services.actions.unshare(user, name, email)
        return await self._do(request, user, "unshare-collaborator" if has_controlled else "unshare", action)

    async def ask(self, request: Request, user: User) -> Response:
        """The question before an action; shown in place where scripts run."""
        action = request.path_params["action"]
        found = pages.desktop_of(self._services, user, _name(request))
        if found is None or action not in CONFIRMATIONS or action not in found.actions:
            return await self._show(request, user)
        return self._ask(request, user, found, Action(action))

    async def confirmed(self, request: Request, user: User, form: Form) -> Response:
        """Suspend, restart or end, as the page before has asked."""
        name, action = _name(request), request.path_params["action"]
        actions, delete_home = self._services.actions, form.get("delete_home") == "yes"
        before = pages.desktop_of(self._services, user, name)
        try:
            match action:
                case Action.SUSPEND:
                    await actions.suspend(user, name)
                case Action.RESTART:
                    await actions.restart(user, name)
                case Action.END:
                    await actions.end(user, name, delete_home=delete_home)
                case _:
                    return await self._show(request, user, status=404, error=f"{action!r} is not a possible action.")
        except ActionDenied as why:
            found = pages.desktop_of(self._services, user, name)
            if found is None:
                return self._not_found(request, user, name)
            more = {"error": why.sentence, "delete_home": delete_home}
            return self._ask(request, user, found, Action(action), status=why.status, **more)
        if action != Action.END or before is None:
            return done(f"/desktops/{name}", action, name)
        ended = "end" if before.keeps_files and not delete_home else "end-with-files"
        return done(_LISTS[_place(before)], ended, name)

    async def _show(
        self,
        request: Request,
        user: User,
        *,
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        schedule: SessionSchedule | None = None,
        **errors: str,
    ) -> Response:
        """The desktop's page; after a refusal with what was typed, and the reason beside it as `error` or `*_error`."""
        name = _name(request)
        found, session = pages.desktop_of(self._services, user, name), self._cluster.session(name)
        if found is None or session is None:
            return self._not_found(request, user, name)
        template = self._cluster.template(session.spec.template)
        pieces = pages.desktop_pieces(found)
        without_viewers = refuse_view_only(template)
        scripts, scripts_problem = await self._read_scripts(user, session, template)
        return self._page(
            request,
            user,
            "desktop.html",
            status=status,
            here=_place(found),
            desktop=found,
            pieces=pieces,
            seen=pages.digest(pieces),
            extensions=extensions(session, template, self._settings.cluster, self._clock()),
            sizes=size_choices(template.spec.resources, found.memory, found.cpu) if template else ((), ()),
            driver=await self._services.computer.driver(session),
            longest=max_timeout(template, self._settings.cluster),
            roles=[role for role in ROLES if role.value in FULL_CONTROL or not without_viewers],
            without_viewers=without_viewers,
            share_times=[Choice(value, words) for value, (words, _) in _SHARE_TIMES.items()],
            happened=await read_timeline(self._services, session),
            scripts=scripts,
            scripts_problem=scripts_problem,
            typed=_NOTHING_TYPED | dict(typed or {}),
            times=schedule or session.spec.schedule or _FIRST_SCHEDULE,
            guesses_zone=not (schedule or session.spec.schedule),
            day_names=day_names(),
            done=done_message(request, duration(session.spec.timeout)),
            **({"error": "", "share_error": "", "extend_error": "", "resize_error": "", "schedule_error": ""} | errors),
        )

    async def _read_scripts(
        self, user: User, session: VDISession, template: VDITemplate | None
    ) -> tuple[tuple[StartupScriptResult, ...], str]:
        """Results of the start-up scripts of a running desktop; or why not, where the template has such a script."""
        if role_in(session, user.email, self._clock()) is not Role.OWNER or not is_running(session):
            return (), ""
        try:
            return await self._services.agents.read_startup_scripts(user, session.metadata.name), ""
        except ActionDenied as denied:
            return (), denied.sentence if template and template.spec.startup_script else ""

    def _ask(
        self, request: Request, user: User, found: DesktopView, action: Action, *, status: int = 200, **more: Any
    ) -> Response:
        question = CONFIRMATIONS[action]
        return self._page(
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

    async def _do(
        self,
        request: Request,
        user: User,
        what: str,
        action: Awaitable[object],
        place: str = "error",
        *,
        typed: Mapping[str, str] | None = None,
        schedule: SessionSchedule | None = None,
    ) -> Response:
        """Await the action; a refusal is shown on the desktop's page, at `place`."""
        try:
            await action
        except ActionDenied as why:
            errors = {place: why.sentence}
            return await self._show(request, user, status=why.status, typed=typed, schedule=schedule, **errors)
        return done(f"/desktops/{_name(request)}", what, _name(request))


def _name(request: Request) -> str:
    return str(request.path_params["name"])


class HomePages(PortalPages):
    """The list of homes, and their deletion."""

    def routes(self) -> list[Route]:
        return [
            self._get("/homes", self.my_homes),
            self._get("/homes/{name}/delete", self.ask),
            self._post("/homes/{name}/delete", self.delete),
        ]

    async def my_homes(self, request: Request, user: User) -> Response:
        return self._list(request, user)

    async def ask(self, request: Request, user: User) -> Response:
        """GET /homes/{name}/delete: the question before a home is deleted."""
        try:
            home = self._services.actions.own_home(user, request.path_params["name"])
        except ActionDenied as why:
            return self._list(request, user, status=why.status, error=why.sentence)
        return self._page(request, user, "home_delete.html", here="homes", home=home, title=self._title(home))

    async def delete(self, request: Request, user: User, _form: Form) -> Response:
        name = request.path_params["name"]
        try:
            title = self._title(self._services.actions.own_home(user, name))
            await self._services.actions.delete_home(user, name)
        except ActionDenied as why:
            return self._list(request, user, status=why.status, error=why.sentence)
        return done("/homes", "delete-home", quote(title))

    def _title(self, home: HomeSummary) -> str:
        """`Files of Small desktop`: the claim's name says nothing to its user."""
        if home.template:
            return f"Files of {template_title(self._cluster.template(home.template), home.template)}"
        is_own = home.scope == HomeScope.SESSION.value
        return f"Files of {', '.join(home.sessions) or 'one desktop'}" if is_own else "Files of all your desktops"

    def _list(self, request: Request, user: User, *, status: int = 200, error: str = "") -> Response:
        homes = [(home, self._title(home)) for home in self._cluster.homes_of(user.email)]
        shown = {"homes": homes, "error": error, "done": done_message(request)}
        return self._page(request, user, "homes.html", status=status, here="homes", **shown)

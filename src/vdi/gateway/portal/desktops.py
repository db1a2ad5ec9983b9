"""Pages `/`, `/shared`, `/desktops/...` and `/homes`: lists of desktops, one desktop's page with
its actions, homes.
"""

import asyncio
from contextlib import suppress
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from vdi.api.schedule import SessionSchedule
from vdi.api.session import FULL_CONTROL, GuestRole, Phase, Role, VDISession, describe_role
from vdi.api.template import HomeScope, VDITemplate
from vdi.gateway.cluster_cache import session_topic
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.desktop.access import find_session
from vdi.gateway.desktop.agent_requests import StartupScriptResult, ask_memory
from vdi.gateway.desktop.view import Choice, DesktopView, template_title
from vdi.gateway.login.pages import safe_next
from vdi.gateway.portal import pages
from vdi.gateway.portal.catalogue import size_choices
from vdi.gateway.portal.history import read_timeline
from vdi.gateway.portal.pages import Form, PortalPages, done, done_message
from vdi.gateway.rights import Action, User, role_in
from vdi.gateway.session_actions import SHARE_LENGTHS, read_schedule
from vdi.gateway.web.render import macro
from vdi.gateway.web.template_filters import byte_size, count, duration
from vdi.session.homes import HomeSummary
from vdi.session.schedule import day_names
from vdi.session.status import is_running
from vdi.session.template_image import refuse_view_only

ROLES = tuple(Choice(role, describe_role(role)) for role in GuestRole)
# How long a browser waits for the address of a session that was just created.
_ADDRESS_SECONDS = 5.0
_FIRST_SCHEDULE = SessionSchedule(start="08:30")
# Actions whose refusal is shown beside their form.
_FORMS = (Action.SHARE, Action.EXTEND, Action.RESIZE, Action.SCHEDULE)
_NOTHING_TYPED = {"user": "", "role": GuestRole.VIEWER, "length": "8h"}
# The page of the list that a desktop is in, by `_place`.
_LISTS = {"desktops": "/", "shared": "/shared", "admin": "/admin/sessions"}


# What each action that asks first does.
CONSEQUENCES = {
    Action.SUSPEND: (
        "Open programs are closed, so save your work first. Its address is kept, and you can resume"
        " it later."
    ),
    Action.RESTART: "Open programs are closed, so save your work first. Its address is kept.",
    Action.END: (
        "The desktop is stopped and its address is released. Open programs are closed, so save your"
        " work first."
    ),
}


def _place(desktop: DesktopView) -> str:
    if desktop.mine:
        return "desktops"
    if desktop.role == "administrator":
        return "admin"
    return "shared"


def _consequence(desktop: DesktopView, action: Action) -> str:
    sentence = CONSEQUENCES[action]
    if action is not Action.END:
        return (
            f"{sentence}"
            f" {'The files in its home folder are kept.' if desktop.has_home else 'Its files are deleted.'}"
        )
    if desktop.phase == Phase.SUSPENDED:
        sentence = "Its address is released."
    if desktop.mine and desktop.keeps_files:  # the page asks below whether to delete them
        return sentence
    return f"{sentence} Its files are {'kept' if desktop.keeps_files else 'deleted'}."


class DesktopPages(PortalPages):
    """The lists of desktops, and pages under `/desktops`."""

    def routes(self) -> list[Route]:
        return [
            self._get("/", self.my_desktops),
            self._get("/shared", self.shared),
            self._post("/desktops", self.act_on_chosen),
            self._get("/desktops/{name}", self.desktop),
            self._get("/desktops/{name}/open", self.open_desktop),
            Route("/desktops/{name}/happened", self.happened, methods=["GET"]),
            Route("/desktops/{name}/thumbnail", self.thumbnail, methods=["GET"]),
            # After the others, since these take any word: for an unknown one, the desktop's page is
            # shown.
            self._get("/desktops/{name}/{action}", self.ask),
            self._post("/desktops/{name}/{action}", self.act),
        ]

    async def my_desktops(self, request: Request, user: User) -> Response:
        return self._list(
            request,
            user,
            "desktops",
            "My desktops",
            "This page updates automatically.",
        )

    async def shared(self, request: Request, user: User) -> Response:
        return self._list(
            request, user, "shared", "Shared with me", "Desktops that others let you watch or use."
        )

    async def act_on_chosen(self, request: Request, user: User, form: Form) -> Response:
        """POST /desktops: suspend or end the chosen desktops, after a question that names them."""
        action = form.get("action", "")
        if action not in (Action.SUSPEND, Action.END):
            raise invalid("action", action, "suspend or end")
        chosen = {}
        for desktop in pages.desktops_of(self._services, user, "desktops"):
            if f"pick-{desktop.uid}" in form:
                kept = desktop.keeps_files if action == Action.END else desktop.has_home
                chosen[desktop.name] = "" if kept else ": its files are deleted"
        number = count(len(chosen), "desktop")
        if chosen and form.get("confirmed") != "yes":
            return self._confirm(
                request,
                user,
                here="desktops",
                path="/desktops",
                back="/",
                question=f"{action.capitalize()} {number}?",
                consequence="Open programs are closed, so save your work first.",
                label=f"{action.capitalize()} {number}",
                dangerous=action == Action.END,
                names=[f"{name}{files}" for name, files in sorted(chosen.items())],
                fields={name: form[name] for name in form if name != "csrf"} | {"confirmed": "yes"},
            )
        session_actions = self._services.session_actions
        refused = await pages.try_each(
            chosen, lambda name: session_actions.carry_out_form(user, name, action, {})
        )
        if refused or not chosen:
            raise ActionDenied("Conflict", " ".join(refused) or "No desktop is chosen.")
        return done("/", f"{action}-chosen", number)

    def _list(
        self, request: Request, user: User, here: str, heading: str, subtitle: str
    ) -> Response:
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
        """Redirect to the desktop, whose host answers with the waiting page; to its page here
        without an address.
        """
        name = request.path_params["name"]
        # Listen before looking: an address that the operator sets in between would be missed, and
        # waited for in vain.
        with self._services.subscriptions.subscribe(None, {session_topic(name)}) as subscription:
            view = pages.find_desktop(self._services, user, name)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ADDRESS_SECONDS):
                    while not view.url:
                        await subscription.wait(None)
                        view = pages.find_desktop(self._services, user, name)
        address = safe_next(view.url, self._settings)
        return RedirectResponse(f"/desktops/{name}" if address == "/" else f"{address}/", 303)

    async def happened(self, request: Request) -> Response:
        """The timeline of a desktop, which its page reads again when the desktop changes."""
        user = await self._services.guard.require_unattended(request)
        session, _ = find_session(self._services.context, user, _name(request))
        events = await read_timeline(self._services, session, user)
        text = macro("parts.html", "timeline")(events)
        return HTMLResponse(text, headers={"Cache-Control": "no-store"})

    async def thumbnail(self, request: Request) -> Response:
        """A small picture of the screen, for the owner alone; the page's script requests it again
        and again.

        204 while there is no picture: a page may ask before it has heard that its desktop stopped.
        """
        user = await self._services.guard.require_unattended(request)
        name = request.path_params["name"]
        picture = await self._services.agents.take_thumbnail(user, name)
        if picture is None:
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def ask(self, request: Request, user: User) -> Response:
        """The question before an action; shown in place where scripts run."""
        action = request.path_params["action"]
        view = pages.find_desktop(self._services, user, _name(request))
        if action not in CONSEQUENCES or action not in view.actions:
            return await self._show(request, user)
        return self._ask(request, user, view, Action(action))

    async def act(self, request: Request, user: User, form: Form) -> Response:
        """An action of one of the forms. A refusal is shown where it was asked for, with what was
        typed.
        """
        name, action = _name(request), request.path_params["action"]
        form = {**request.query_params, **form}
        before = pages.desktop_of(self._services, user, name)
        try:
            # If the time limit was raised since the page was made, the length that was chosen there
            # may be less.
            if (
                before
                and action == Action.EXTEND
                and form.get("from", before.spec.timeout) != before.spec.timeout
            ):
                raise ActionDenied(
                    "Conflict", f"The time limit is {before.spec.timeout} now. Choose again."
                )
            await self._services.session_actions.carry_out_form(user, name, action, form)
        except ActionDenied as why:
            view = pages.desktop_of(self._services, user, name)
            if view and action in CONSEQUENCES:
                return self._ask(
                    request,
                    user,
                    view,
                    Action(action),
                    form=form,
                    error=why.sentence,
                    status=why.status,
                )
            return await self._show(request, user, form, why.sentence, why.status)
        if before and action == Action.END:
            where = _LISTS[_place(before)]
        elif before and before.mine and action == Action.RESUME:
            # The waiting page, which opens the desktop.
            return RedirectResponse(f"/desktops/{name}/open", 303)
        elif action == Action.SHARE:
            query = {"done": action, "name": name, "user": form["user"], "role": form["role"]}
            return RedirectResponse(f"/desktops/{name}?{urlencode(query)}", 303)
        else:
            where = f"/desktops/{name}"
        return done(where, _done_code(action, form, before), name)

    async def _show(
        self,
        request: Request,
        user: User,
        form: Form | None = None,
        refusal: str = "",
        status: int = 200,
    ) -> Response:
        """The desktop's page; after a refusal with what was typed, and the reason beside it."""
        name, action = _name(request), request.path_params.get("action", "") if refusal else ""
        schedule = None
        if form and action == Action.SCHEDULE:
            schedule = read_schedule(form)
        beside = "page"
        if action in _FORMS and not (form and form.get("gpu")):
            beside = action
        session, _ = find_session(self._services.context, user, name)
        view = pages.view_of(self._services, session, user)
        template = self._cluster.template(session.spec.template)
        pieces = pages.desktop_pieces(self._services, session, user)
        without_viewers = refuse_view_only(template)
        scripts, scripts_problem = await self._read_scripts(user, session, template)
        return self._page(
            request,
            user,
            "desktop.html",
            status=status,
            here=_place(view),
            desktop=view,
            pieces=pieces,
            seen=pages.digest(pieces),
            more_time=pages.more_time(
                self._services,
                session,
                view,
                form.get("timeout", "") if form else "",
                refusal if beside == Action.EXTEND else "",
            ),
            sizes=size_choices(template, view.memory, view.cpu) if template else ((), ()),
            memory=(
                await ask_memory(self._services.agents.agent, session, template)
                if view.mine
                else None
            ),
            driver=await self._services.computer.driver(session),
            roles=[role for role in ROLES if role.value in FULL_CONTROL or not without_viewers],
            without_viewers=without_viewers,
            share_lengths=[Choice(length, label) for length, label in SHARE_LENGTHS.items()],
            happened=await read_timeline(self._services, session, user),
            scripts=scripts,
            scripts_problem=scripts_problem,
            typed=_NOTHING_TYPED | (form if form and action == Action.SHARE else {}),
            times=schedule or session.spec.schedule or _FIRST_SCHEDULE,
            guesses_zone=not (schedule or session.spec.schedule),
            day_names=day_names(),
            done=done_message(request, duration(session.spec.timeout)),
            errors=dict.fromkeys(("page", *_FORMS), "") | {beside: refusal},
        )

    async def _read_scripts(
        self, user: User, session: VDISession, template: VDITemplate | None
    ) -> tuple[tuple[StartupScriptResult, ...], str]:
        """Results of the start-up scripts of a running desktop; or why not, where the template has
        such a script.
        """
        if role_in(session, user.email, self._clock()) is not Role.OWNER or not is_running(session):
            return (), ""
        try:
            return await self._services.agents.read_startup_scripts(user, session.metadata.name), ""
        except ActionDenied as denied:
            return (), denied.sentence if template and template.spec.startup_script else ""

    def _ask(
        self,
        request: Request,
        user: User,
        view: DesktopView,
        action: Action,
        *,
        form: Form | None = None,
        error: str = "",
        status: int = 200,
    ) -> Response:
        """The question before the action; after a refusal with the reason, and what was chosen."""
        ends = action is Action.END
        return self._confirm(
            request,
            user,
            status=status,
            here=_place(view),
            path=f"/desktops/{view.name}/{action}",
            back=f"/desktops/{view.name}",
            question=f"{action.capitalize()} {view.name}?",
            consequence=_consequence(view, action),
            label="End the desktop" if ends else action.capitalize(),
            dangerous=ends,
            error=error,
            asks_for_home=ends and view.mine and view.keeps_files,
            delete_home=form is not None and form.get("deleteHome") == "true",
        )


def _done_code(action: str, form: Form, before: DesktopView | None) -> str:
    """The code of the message after an action, in `pages.DONE`."""
    match action:
        case Action.RESIZE if form.get("gpu"):
            return "start"
        case Action.SCHEDULE if form.get("remove") == "yes":
            return "unschedule"
        case Action.ANSWER_ACCESS:
            if form.get("allow") == "true":
                return "allow-access"
            return "refuse-access"
        case Action.DRIVE:
            if form.get("human") == "true":
                return "take-over"
            return "give-back"
        case Action.END if before and (not before.keeps_files or form.get("deleteHome") == "true"):
            return "end-with-files"
        case Action.UNSHARE if before and any(
            guest.user == form.get("user") and guest.role in FULL_CONTROL
            for guest in before.spec.access
        ):
            return "unshare-collaborator"
    return action


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
        return self._confirm(
            request,
            user,
            here="homes",
            path=f"/homes/{home.name}/delete",
            back="/homes",
            question=f"{self._title(home)}: delete?",
            consequence=(
                "All of them are deleted permanently, with their volume of "
                f"{byte_size(home.size)}. The next desktop that uses them starts empty."
            ),
            label="Delete the files",
            dangerous=True,
        )

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
            return (
                f"Files of {template_title(self._cluster.template(home.template), home.template)}"
            )
        is_own = home.scope == HomeScope.SESSION.value
        if is_own:
            return f"Files of {', '.join(home.sessions) or 'one desktop'}"
        return "Files of all your desktops"

    def _list(
        self, request: Request, user: User, *, status: int = 200, error: str = ""
    ) -> Response:
        homes = [(home, self._title(home)) for home in self._cluster.homes_of(user.email)]
        shown = {"homes": homes, "error": error, "done": done_message(request)}
        return self._page(request, user, "homes.html", status=status, here="homes", **shown)

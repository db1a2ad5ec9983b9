"""My desktops, shared with me, one desktop's page, and what can be done there."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.guard import require
from vdi.gateway.login.next_url import safe_next
from vdi.gateway.people import Person, Role
from vdi.gateway.portal import fragments
from vdi.gateway.portal.desktop_view import DesktopView, extensions
from vdi.gateway.portal.happened import happened_to
from vdi.gateway.portal.pages import Choice, done, gateway_of, not_found, page, posted, said
from vdi.gateway.rights import Action
from vdi.session.lifetime import max_timeout

ROLES = (
    Choice("viewer", "watch only"),
    Choice("collaborator", "use mouse and keyboard"),
)
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
    "open": "as long as the desktop is there",
}
_ADDRESS_SECONDS = 5.0
"""How long a browser waits for the address of a session that was just made."""
_NOTHING_TYPED = {"length": "", "user": "", "role": "viewer", "for": "8h"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before something is done that cannot simply be taken back."""

    question: str
    consequence: str
    label: str
    dangerous: bool = False


QUESTIONS = {
    Action.SUSPEND: Question(
        "Suspend {name}?",
        "Open programs are closed; save your work first. Files and address are kept, and resuming starts it again.",
        "Suspend",
    ),
    Action.RESTART: Question(
        "Restart {name}?",
        "Open programs are closed; save your work first. Files and address are kept.",
        "Restart",
    ),
    Action.END: Question(
        "End {name}?",
        "The desktop is stopped and its address goes. Open programs are closed; save your work first.",
        "End the desktop",
        dangerous=True,
    ),
}


async def my_desktops(request: Request) -> Response:
    """The person's own desktops."""
    return await _list(request, "desktops", "My desktops", "What you have started. This page keeps itself up to date.")


async def shared(request: Request) -> Response:
    """Desktops that others share with this person."""
    return await _list(request, "shared", "Shared with me", "Desktops that others let you watch or use.")


async def _list(request: Request, here: str, heading: str, subtitle: str) -> Response:
    person, gateway = await require(request), gateway_of(request)
    find = fragments.my_desktops if here == "desktops" else fragments.shared_desktops
    desktops = find(gateway, gateway.portal.live, person)
    pieces = fragments.list_pieces(desktops, here)
    return await page(
        request,
        person,
        "desktops.html",
        here=here,
        heading=heading,
        subtitle=subtitle,
        pieces=pieces,
        moving=any(each.moving for each in desktops),
        seen=fragments.digest(pieces),
        done=said(request),
    )


async def desktop(request: Request) -> Response:
    """One desktop's own page."""
    person = await require(request)
    return await _show(request, person, request.path_params["name"])


async def open_desktop(request: Request) -> Response:
    """On to the desktop, whose host answers at once with the waiting page; to its page here while it has no address."""
    person, name, gateway = await require(request), request.path_params["name"], gateway_of(request)
    with gateway.world.changes(lambda change: change.kind == "session" and change.name == name) as changes:
        found = fragments.desktop_of(gateway, person, name)
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_ADDRESS_SECONDS):
                while found and not found.url:
                    await anext(changes)
                    found = fragments.desktop_of(gateway, person, name)
    if found is None:
        return not_found(request, person, name)
    address = safe_next(found.url, gateway.settings)
    return RedirectResponse(f"/desktops/{name}" if address == "/" else f"{address}/", 303)


async def _show(
    request: Request,
    person: Person,
    name: str,
    *,
    status: int = 200,
    typed: Mapping[str, str] | None = None,
    **errors: str,
) -> Response:
    """The page; after a refusal with what was typed and why beside it: `error`, `share_error`, `extend_error`."""
    gateway = gateway_of(request)
    found = fragments.desktop_of(gateway, person, name)
    session = gateway.world.session(name)
    if found is None or session is None:
        return not_found(request, person, name)
    template = gateway.world.template(session.spec.template)
    pieces = fragments.desktop_pieces(found)
    return await page(
        request,
        person,
        "desktop.html",
        status=status,
        here=_place(found),
        desktop=found,
        pieces=pieces,
        seen=fragments.digest(pieces),
        extensions=extensions(session, template, gateway.settings.policy, gateway.clock()),
        longest=max_timeout(template, gateway.settings.policy),
        roles=ROLES,
        share_times=[Choice(value, _SHARE_WORDS[value]) for value in SHARE_TIMES],
        happened=await happened_to(gateway, session),
        typed=_NOTHING_TYPED | dict(typed or {}),
        done=said(request),
        **({"error": "", "share_error": "", "extend_error": ""} | errors),
    )


def _place(found: DesktopView) -> str:
    if found.mine:
        return "desktops"
    return "admin" if found.role == "administrator" else "shared"


async def ask(request: Request) -> Response:
    """The page that asks before a deed; shown in place where scripts run."""
    person, name = await require(request), request.path_params["name"]
    deed = request.path_params["deed"]
    found = fragments.desktop_of(gateway_of(request), person, name)
    if found is None or deed not in QUESTIONS or deed not in found.deeds:
        return await _show(request, person, name)
    return await _ask(request, person, found, Action(deed))


async def _ask(
    request: Request, person: Person, found: DesktopView, deed: Action, *, status: int = 200, **more: Any
) -> Response:
    question = QUESTIONS[deed]
    return await page(
        request,
        person,
        "confirm.html",
        status=status,
        here=_place(found),
        name=found.name,
        deed=deed.value,
        question=question.question.format(name=found.name),
        consequence=question.consequence,
        label=question.label,
        dangerous=question.dangerous,
        asks_for_home=deed is Action.END and found.mine,
        **({"error": "", "delete_home": False} | more),
    )


async def asked(request: Request) -> Response:
    """Suspend, restart or end, as the page before has asked."""
    person, form = await posted(request)
    name, deed, gateway = request.path_params["name"], request.path_params["deed"], gateway_of(request)
    delete_home = form.get("delete_home") == "yes"
    do: dict[str, Callable[[], Awaitable[object]]] = {
        Action.SUSPEND: lambda: gateway.actions.suspend(person, name),
        Action.RESTART: lambda: gateway.actions.restart(person, name),
        Action.END: lambda: gateway.actions.end(person, name, delete_home=delete_home),
    }
    if deed not in do:
        return await _show(request, person, name, status=404, error=f"{deed!r} is nothing that can be done here.")
    try:
        await do[deed]()
    except ActionDenied as why:
        found = fragments.desktop_of(gateway, person, name)
        if found is None:
            return not_found(request, person, name)
        more = {"error": why.sentence, "delete_home": delete_home}
        return await _ask(request, person, found, Action(deed), status=why.status, **more)
    return done("/" if deed == Action.END else f"/desktops/{name}", deed, name)


async def resume(request: Request) -> Response:
    """A new run of a suspended desktop."""
    person, _ = await posted(request)
    name = request.path_params["name"]
    return await _do(request, person, name, "resume", gateway_of(request).actions.resume(person, name))


async def extend(request: Request) -> Response:
    """A longer run."""
    person, form = await posted(request)
    name, length = request.path_params["name"], form.get("length", "")
    deed = gateway_of(request).actions.extend(person, name, length)
    return await _do(request, person, name, "extend", deed, place="extend_error", typed=form)


async def share(request: Request) -> Response:
    """Let somebody in."""
    person, form = await posted(request)
    name, gateway = request.path_params["name"], gateway_of(request)
    if form.get("role") not in (Role.COLLABORATOR, Role.VIEWER):
        return await _refuse_field(request, person, name, form, f"role: {form.get('role')!r} is not one of the two.")
    if form.get("for") not in SHARE_TIMES:
        return await _refuse_field(request, person, name, form, f"for: {form.get('for')!r} is not in the list.")
    span = SHARE_TIMES[form["for"]]
    expires = gateway.clock() + span if span else None
    deed = gateway.actions.share(person, name, form.get("user", ""), Role(form["role"]), expires)
    return await _do(request, person, name, "share", deed, place="share_error", typed=form)


async def unshare(request: Request) -> Response:
    """Take access back."""
    person, form = await posted(request)
    name, user, gateway = request.path_params["name"], form.get("user", ""), gateway_of(request)
    found = fragments.desktop_of(gateway, person, name)
    has_controlled = found and any(one.user == user and one.role == Role.COLLABORATOR for one in found.guests)
    deed = gateway.actions.unshare(person, name, user)
    return await _do(request, person, name, "unshare-collaborator" if has_controlled else "unshare", deed)


async def _refuse_field(request: Request, person: Person, name: str, form: Mapping[str, str], why: str) -> Response:
    return await _show(request, person, name, status=422, typed=form, share_error=why)


async def _do(
    request: Request,
    person: Person,
    name: str,
    what: str,
    deed: Awaitable[object],
    *,
    place: str = "error",
    typed: Mapping[str, str] | None = None,
) -> Response:
    try:
        await deed
    except ActionDenied as why:
        return await _show(request, person, name, status=why.status, typed=typed, **{place: why.sentence})
    return done(f"/desktops/{name}", what, name)


ROUTES = [
    Route("/", my_desktops, methods=["GET"]),
    Route("/shared", shared, methods=["GET"]),
    Route("/desktops/{name}", desktop, methods=["GET"]),
    Route("/desktops/{name}/resume", resume, methods=["POST"]),
    Route("/desktops/{name}/extend", extend, methods=["POST"]),
    Route("/desktops/{name}/share", share, methods=["POST"]),
    Route("/desktops/{name}/unshare", unshare, methods=["POST"]),
    Route("/desktops/{name}/open", open_desktop, methods=["GET"]),
    # After the five above, since these take any word: who asks for one that is no deed gets the desktop's page.
    Route("/desktops/{name}/{deed}", ask, methods=["GET"]),
    Route("/desktops/{name}/{deed}", asked, methods=["POST"]),
]

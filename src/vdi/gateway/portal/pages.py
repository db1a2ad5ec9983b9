"""Common base of the portal's pages: routes that require a login, rendering, messages after an
action, live fragments.

A fragment is a piece of a page that an event stream replaces, by the name of its event. The page
and its stream call the same functions, so both show the same, and only what this user may see.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.access import find_session
from vdi.gateway.desktop.view import DesktopView, desktop_view, extensions, template_title
from vdi.gateway.rights import User, role_in
from vdi.gateway.services import Services
from vdi.gateway.store.banner import read_banner
from vdi.gateway.web.render import Renderer, macro
from vdi.gateway.web.template_filters import access
from vdi.session.lifetime import max_timeout
from vdi.session.naming import DRIVER, RESTARTED_AT
from vdi.session.users import same_user

T = TypeVar("T")
Form = dict[str, str]

# Messages after an action, by the code in the address of the next page. The name in it is escaped
# like all else.
DONE = {
    # In the past, so that they stay true while the page below them changes.
    "start": "You started {name}.",
    "plan-end": "The end is announced in {name}.",
    "message": "The message is shown in {name}.",
    "cancel-end": "The end is no longer announced in {name}.",
    "extend": "The time limit of {name} is now {limit}.",
    "resize": "{name} has a new size. While it runs, it gets that without a restart.",
    "suspend": "You suspended {name}. Its address is kept.",
    "suspend-chosen": "You suspended {name}. Their addresses are kept.",
    "end-chosen": "You ended {name}.",
    "resume": "You resumed {name}.",
    "restart": "You restarted {name}.",
    "end": "You ended {name}. Its files are kept.",
    "end-with-files": "You ended {name}. Its files are deleted.",
    "delete-home": "{name} are being deleted.",
    "sign-out": "{name} is signed out everywhere: browsers, API tokens and open desktops.",
    "end-access": "{name} has no desktops and no access any longer. Files are kept.",
    "delete-files": "The files of {name} are being deleted.",
    "upload": "{name} uploaded.",
    "file-mkdir": "The folder {name} is created.",
    "file-move": "{name} is moved.",
    "file-delete": "{name} is deleted.",
    "schedule": "The schedule of {name} is set.",
    "unschedule": "The schedule of {name} was removed.",
    "share": (
        "You shared {name} with {guest}. To open it, your guest needs a login here. Send them the"
        " invitation."
    ),
    "request-access": (
        "The owner of {name} is asked. Without an answer, the request lapses after a minute."
    ),
    "allow-access": "{name} is shared. End it under Sharing at any time.",
    "refuse-access": "The request for access to {name} is refused.",
    "take-over": "You have taken over {name}. Agents wait until you give back.",
    "give-back": "Agents may drive {name} again.",
    "unshare": "Access to {name} was revoked.",
    "unshare-collaborator": (
        "Access to {name} was revoked. Programs that your guest started in it are still running."
        " Restart the desktop to end them."
    ),
}
# Prefix of the names of a list's members.
ITEM = "item-"
# The event that replaces a whole list with all of its members.
LIST = "list"
_EMPTY_LISTS = {
    "desktops": ("No desktop yet", "Start one. It opens in this browser when it is ready."),
    "shared": (
        "Nothing is shared with you",
        "Desktops that others share with you appear here automatically.",
    ),
}


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """One page of a long list, by its number."""

    items: Sequence[T]
    number: int
    last: int
    total: int
    size: int

    @property
    def first_shown(self) -> int:
        """Number of the first item on this page, from 1."""
        if self.total:
            return (self.number - 1) * self.size + 1
        return 0

    @property
    def last_shown(self) -> int:
        """Number of the last item on this page."""
        return min(self.number * self.size, self.total)


def paged(items: Sequence[T], number: int, size: int) -> Pages[T]:
    """The page of this number, or the nearest there is."""
    last = max(1, -(-len(items) // size))
    number = min(max(number, 1), last)
    return Pages(items[(number - 1) * size : number * size], number, last, len(items), size)


def page_number(text: str) -> int:
    """`page` of an address; 1 where it is not a number."""
    if text.isdecimal() and len(text) < 9:
        return int(text)
    return 1


def done_message(request: Request, limit: str = "") -> str:
    """The message about the action that led here; empty for none, and for an unknown code. `limit`:
    the time limit.
    """
    sentence = DONE.get(request.query_params.get("done", ""))
    name = request.query_params.get("name", "")
    if sentence and 0 < len(name) <= 253:
        query = request.query_params
        guest = f"{query.get('user', '')[:254]}, {access(query.get('role', '')[:20])}"
        return sentence.format(name=name, limit=limit, guest=guest)
    return ""


def done(where: str, action: str, name: str) -> Response:
    """Redirect to a page with a message about the action (303: a reload sends nothing again)."""
    return RedirectResponse(f"{where}?done={action}&name={name}", 303)


async def try_each(names: Iterable[str], act: Callable[[str], Awaitable[object]]) -> list[str]:
    """Act on each desktop of these names; the refusals, each with its name."""
    refused = []
    for name in names:
        try:
            await act(name)
        except ActionDenied as why:
            refused.append(f"{name}: {why.sentence}")
    return refused


class PortalPages:
    """A group of pages. Its routes are made with `_get` and `_post`, so that none is reached
    without a login.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cluster = services.context.cluster
        self._clock = services.context.clock
        self._settings = services.context.settings
        self._renderer = Renderer(services.context.settings)

    def _get(
        self,
        path: str,
        page: Callable[[Request, User], Awaitable[Response]],
        *,
        admin: bool = False,
    ) -> Route:
        """A page for users who are logged in; anyone else is sent to the login and back."""

        async def answer(request: Request) -> Response:
            return await page(request, await self._user(request, admin))

        return Route(path, answer, methods=["GET"])

    def _post(
        self,
        path: str,
        action: Callable[[Request, User, Form], Awaitable[Response]],
        *,
        admin: bool = False,
    ) -> Route:
        """A form of one of our pages; 403 for one that another page has sent."""

        async def answer(request: Request) -> Response:
            user = await self._user(request, admin)
            await self._services.guard.check_csrf(request)
            form = await request.form(max_files=0, max_fields=100)
            fields = {name: value.strip() for name, value in form.items() if isinstance(value, str)}
            return await action(request, user, fields)

        return Route(path, answer, methods=["POST"])

    async def _user(self, request: Request, admin: bool) -> User:
        guard = self._services.guard
        user = await (guard.require_admin(request) if admin else guard.require(request))
        request.state.banner = await read_banner(self._services.context.database)
        return user

    def _page(
        self, request: Request, user: User, template: str, *, status: int = 200, **context: Any
    ) -> Response:
        return self._renderer.render(request, template, status=status, user=user, **context)

    def _confirm(
        self,
        request: Request,
        user: User,
        *,
        here: str,
        path: str,
        back: str,
        question: str,
        consequence: str,
        label: str,
        dangerous: bool,
        status: int = 200,
        error: str = "",
        **more: Any,
    ) -> Response:
        """The question before `path` gets a POST. `more`: what only some questions have.

        `at`: when it happens. `names`: of what. `fields`: sent again. `asks_for_home` and
        `delete_home`: the tick for the files, and whether it is set. `text_field`: label of a text
        named `to`, and what it begins with.
        """
        rest = {"at": "", "names": (), "fields": {}, "asks_for_home": False, "delete_home": False}
        rest["text_field"] = ""
        return self._page(
            request,
            user,
            "confirm.html",
            status=status,
            here=here,
            path=path,
            back=back,
            question=question,
            consequence=consequence,
            label=label,
            dangerous=dangerous,
            error=error,
            **(rest | more),
        )


# Pieces of a page by the names of their events. Each is Markup, made by a macro: everything in it
# is escaped already.
Pieces = dict[str, str]
# Makes the pieces that a user may see now; None: nothing, or nothing any longer.
View = Callable[[], Pieces | None]


def view_of(services: Services, session: VDISession, user: User) -> DesktopView:
    """One desktop as this user may see it."""
    context = services.context
    template = context.cluster.template(session.spec.template)
    origins = context.settings.icon_origins
    return desktop_view(
        session, template, user, context.clock(), context.settings.cluster, icon_origins=origins
    )


def desktops_of(services: Services, user: User, here: str) -> list[DesktopView]:
    """The user's own desktops (`here` is `desktops`), or those that others share with them now
    (`shared`).

    Those that need attention come first, then the others, each newest first.
    """
    now = services.context.clock()
    views = []
    for session in services.subscriptions.sessions_with(user):
        if (
            same_user(session.spec.user, user.email) == (here == "desktops")
            and role_in(session, user.email, now) is not None
        ):
            views.append(view_of(services, session, user))
    return sorted(views, key=lambda desktop: not desktop.needs_attention)


def find_desktop(services: Services, user: User, name: str) -> DesktopView:
    """The desktop of this name. Raises ActionDenied where there is none that the user may know
    of.
    """
    return view_of(services, find_session(services.context, user, name)[0], user)


def desktop_of(services: Services, user: User, name: str) -> DesktopView | None:
    """The same, or None."""
    with suppress(ActionDenied):
        return find_desktop(services, user, name)
    return None


def templates_for(services: Services, user: User) -> list[VDITemplate]:
    """The templates that this user may start, by title."""
    mine = services.context.cluster.templates_for(user)
    return sorted(
        mine.values(),
        key=lambda template: template_title(template, template.metadata.name).casefold(),
    )


def list_pieces(
    services: Services, user: User, here: str, desktops: Sequence[DesktopView]
) -> Pieces:
    """A list of desktops: each card, and the whole for when members come or go."""
    templates = templates_for(services, user) if here == "desktops" and not desktops else ()
    card, card_list = macro("parts.html", "card"), macro("parts.html", "card_list")
    title, text = _EMPTY_LISTS[here]
    cards = {f"{ITEM}{desktop.uid}": card(desktop) for desktop in desktops}
    pieces = cards | {LIST: card_list(cards, title, text, templates)}
    if here == "desktops":
        # Else guests would learn of a share only when they look for it.
        shared = desktops_of(services, user, "shared")
        return {"guest-of": macro("parts.html", "guest_of")(shared)} | pieces
    return pieces


def list_of(here: str, services: Services, user: User) -> Pieces:
    """The pieces of `My desktops` or `Shared with me`."""
    return list_pieces(services, user, here, desktops_of(services, user, here))


def page_of(services: Services, user: User, name: str) -> Pieces | None:
    """The live pieces of the page of this desktop, if the user may know of it."""
    with suppress(ActionDenied):
        return desktop_pieces(services, find_session(services.context, user, name)[0], user)
    return None


def desktop_pieces(services: Services, session: VDISession, user: User) -> Pieces:
    """The live pieces of one desktop's own page."""
    desktop, meta = view_of(services, session, user), session.metadata
    macros = {
        "head": "desktop_head",
        "facts": "desktop_facts",
        "guests": "guest_list",
        "end": "desktop_end",
    }
    pieces = {name: macro("parts.html", made_by)(desktop) for name, made_by in macros.items()}
    driver, restarted = (meta.annotations.get(name, "") for name in (DRIVER, RESTARTED_AT))
    return pieces | {
        "time": more_time(services, session, desktop),
        # Not shown: at this event the page reads again what happened.
        "changed": digest({"": f"{meta.generation} {desktop.phase} {restarted} {driver}"}),
    }


def more_time(
    services: Services, session: VDISession, desktop: DesktopView, chosen: str = "", error: str = ""
) -> str:
    """The card with the longer runs that can be chosen; after a refusal with the reason."""
    context = services.context
    template, cluster = context.cluster.template(session.spec.template), context.settings.cluster
    offered = extensions(session, template, cluster, context.clock())
    longest = max_timeout(template, cluster)
    return macro("parts.html", "more_time")(desktop, offered, longest, chosen, error)


def ended_pieces(name: str) -> Pieces:
    """The pieces of the page of a desktop that no longer exists."""
    head = macro("parts.html", "desktop_gone")(name)
    return {"head": head, "facts": "", "guests": "", "time": "", "end": ""}


def digest(pieces: Pieces) -> str:
    """A mark of what a page shows: a stream sends nothing at first where its page has this mark
    already.
    """
    return sha256(
        "\0".join(f"{name}\0{pieces[name]}" for name in sorted(pieces)).encode()
    ).hexdigest()[:16]


def news(before: Pieces, now: Pieces) -> Pieces:
    """The pieces that bring a page from one state to the other.

    While a list has the same members in the same order, only those that differ are sent: replacing
    the whole list would take the focus, and the place in the text, from whoever is in another
    member.
    """
    same_members = _members(before) == _members(now) and LIST in before
    left_out = LIST if same_members else ITEM
    return {
        name: text
        for name, text in now.items()
        if not name.startswith(left_out) and (name not in before or before[name] != text)
    }


def _members(pieces: Pieces) -> list[str]:
    return [name for name in pieces if name.startswith(ITEM)]

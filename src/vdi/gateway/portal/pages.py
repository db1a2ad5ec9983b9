"""What all pages of the portal share: the frame around a page, what is said after an action, pages of lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.portal.desktop_view import DesktopView, desktop_view
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.users import User
from vdi.gateway.web.render import Renderer

T = TypeVar("T")

DONE = {
    "start": "{name} is being started.",
    "extend": "The time limit of {name} was changed.",
    "suspend": "{name} is being suspended. Its address is kept.",
    "resume": "{name} is being resumed.",
    "restart": "{name} is being restarted.",
    "end": "{name} is being ended. Its files are kept.",
    "end-with-files": "{name} is being ended. Its files are deleted.",
    "delete-home": "The home {name} is being deleted.",
    "schedule": "The schedule of {name} is set.",
    "unschedule": "The schedule of {name} was removed.",
    "share": "{name} is shared. Send your guest its address.",
    "unshare": "Access to {name} was revoked.",
    "unshare-collaborator": (
        "Access to {name} was revoked. Programs that your guest started in it are still running. Restart the "
        "desktop to end them."
    ),
}
"""What is said on the page after an action; the name in it is escaped like all else."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of a list to choose from."""

    value: str
    words: str


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """One page of a long list."""

    items: Sequence[T]
    number: int
    last: int
    total: int
    size: int

    @property
    def first_shown(self) -> int:
        """Number of the first item that is shown, from 1."""
        return (self.number - 1) * self.size + 1 if self.total else 0

    @property
    def last_shown(self) -> int:
        """Number of the last item that is shown."""
        return min(self.number * self.size, self.total)


def paged(items: Sequence[T], number: int, size: int) -> Pages[T]:
    """The page of this number, or the nearest there is."""
    last = max(1, -(-len(items) // size))
    number = min(max(number, 1), last)
    return Pages(items[(number - 1) * size : number * size], number, last, len(items), size)


def page_number(request: Request) -> int:
    """`?page=` of the address; 1 where it is no number."""
    text = request.query_params.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 9 else 1


def said(request: Request) -> str:
    """What the address says has just been done; empty for nothing, and for a code that we do not know."""
    sentence = DONE.get(request.query_params.get("done", ""))
    name = request.query_params.get("name", "")
    return sentence.format(name=name) if sentence and 0 < len(name) <= 253 else ""


def done(where: str, action: str, name: str) -> Response:
    """On to a page that says what has been done (303: a reload sends nothing again)."""
    return RedirectResponse(f"{where}?done={action}&name={name}", 303)


def view_of(portal: PortalServices, session: VDISession, user: User) -> DesktopView:
    """One desktop as this person may see it."""
    template: VDITemplate | None = portal.context.cluster.template(session.spec.template)
    origins = portal.context.settings.icon_origins
    cluster = portal.context.settings.cluster
    return desktop_view(session, template, user, portal.context.clock(), cluster, icon_origins=origins)


class PortalPages:
    """What the groups of pages have in common."""

    def __init__(self, portal: PortalServices) -> None:
        self._portal = portal
        self._renderer = Renderer(portal.context.settings)

    async def _page(
        self, request: Request, user: User, template: str, *, status: int = 200, **context: Any
    ) -> Response:
        """A page of the portal for somebody who is logged in."""
        return self._renderer.render(request, template, status=status, user=user, **context)

    async def _posted(self, request: Request) -> tuple[User, dict[str, str]]:
        """Who has sent this form, and its fields; raises HTTPException for one that no page of ours has sent."""
        user = await self._portal.guard.require(request)
        await self._portal.guard.check_csrf(request)
        form = await request.form(max_files=0, max_fields=100)
        return user, {name: value.strip() for name, value in form.items() if isinstance(value, str)}

    def _not_found(self, request: Request, user: User, name: str) -> Response:
        """The answer to a name that no desktop has, or one that this user may not know of: both look the same."""
        return self._renderer.render(
            request,
            "error.html",
            status=404,
            user=user,
            title="Desktop not found",
            sentence=f"You have no desktop {name!r}, and no desktop with this name is shared with you.",
            back="/",
            back_label="My desktops",
        )

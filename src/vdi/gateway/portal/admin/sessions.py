"""Everyone's sessions for administrators: narrowed down, in order, a page at a time; and the figures about them all."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from vdi.api.session import Phase, VDISession
from vdi.gateway.limits import gpus_of
from vdi.gateway.portal.desktop_view import DesktopView
from vdi.gateway.portal.fragments import ITEM, LIST, Pieces
from vdi.gateway.portal.pages import Choice, Pages, paged, view_of
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.users import User
from vdi.gateway.web.render import macro

PAGE_SIZE = 50
QUEUE_SHOWN = 20
PHASES = ("Pending", "Creating", "Running", "Suspended", "Failed", "Terminating")


def _phase(session: VDISession) -> str:
    return Phase.TERMINATING if session.metadata.deletion_timestamp else session.status.phase or Phase.PENDING


def _place(session: VDISession) -> tuple[int, int, str]:
    queue = session.status.queue
    place = queue.position if queue else 0
    return (0 if queue else 1, place or 10**9, session.metadata.creation_timestamp)


ORDERS: Mapping[str, tuple[str, Callable[[VDISession], Any], bool]] = {
    "newest": ("newest first", lambda session: (session.metadata.creation_timestamp, session.metadata.name), True),
    "name": ("by name", lambda session: session.metadata.name, False),
    "user": ("by user", lambda session: (session.spec.user, session.metadata.name), False),
    "ends": ("ends soonest", lambda session: (session.status.expires_at or "9", session.metadata.name), False),
    "queue": ("place in line", _place, False),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What an administrator looks for."""

    words: str = ""
    phase: str = ""
    template: str = ""
    order: str = "newest"

    def address(self, page: int) -> str:
        """The address of a page of this list."""
        given = {"q": self.words, "phase": self.phase, "template": self.template, "order": self.order, "page": page}
        return "/admin/sessions?" + urlencode({name: value for name, value in given.items() if value})

    def stream(self, page: int) -> str:
        """The query of the stream that keeps this page live."""
        return self.address(page).partition("?")[2]

    def fits(self, session: VDISession) -> bool:
        """Whether the session is looked for."""
        if self.phase and _phase(session) != self.phase:
            return False
        if self.template and session.spec.template != self.template:
            return False
        text = f"{session.metadata.name} {session.spec.user} {session.status.node_name}".casefold()
        return all(word in text for word in self.words.casefold().split())


def read_filter(query: Mapping[str, str]) -> Filter:
    """From an address; what is not one of the choices is left out."""
    phase, order = query.get("phase", ""), query.get("order", "")
    return Filter(
        words=query.get("q", "").strip()[:100],
        phase=phase if phase in PHASES else "",
        template=query.get("template", "")[:253],
        order=order if order in ORDERS else "newest",
    )


def order_choices() -> list[Choice]:
    """The orders a list can have."""
    return [Choice(name, words) for name, (words, _, _) in ORDERS.items()]


def sessions_page(portal: PortalServices, user: User, filters: Filter, number: int) -> Pages[DesktopView]:
    """One page of the sessions that are looked for."""
    found = [session for session in portal.context.cluster.sessions.values() if filters.fits(session)]
    _, key, backwards = ORDERS[filters.order]
    found.sort(key=key, reverse=backwards)
    part = paged(found, number, PAGE_SIZE)
    views = [view_of(portal, session, user) for session in part.items]
    return Pages(views, part.number, part.last, part.total, part.size)


@dataclass(frozen=True, slots=True)
class Counts:
    """Sessions by state, and the GPUs that are taken by those that run."""

    running: int
    starting: int
    waiting: int
    suspended: int
    failed: int
    gpus: int
    gpu_total: int | None


def counts_of(portal: PortalServices, gpu_total: int | None) -> Counts:
    """The figures of now; `gpu_total` None: not known."""
    phases: Counter[str] = Counter()
    gpus = 0
    for session in portal.context.cluster.sessions.values():
        phases[_phase(session)] += 1
        if session.status.pod_name and _phase(session) in (Phase.RUNNING, Phase.CREATING):
            gpus += gpus_of(session, portal.context.cluster.template(session.spec.template))
    return Counts(
        running=phases[Phase.RUNNING],
        starting=phases[Phase.CREATING],
        waiting=phases[Phase.PENDING],
        suspended=phases[Phase.SUSPENDED],
        failed=phases[Phase.FAILED],
        gpus=gpus,
        gpu_total=gpu_total,
    )


def waiting_of(portal: PortalServices, user: User) -> tuple[list[DesktopView], int]:
    """Those in the queue, the next one first, and how many more there are than are shown."""
    queue = [
        session
        for session in portal.context.cluster.sessions.values()
        if session.status.queue and _phase(session) == Phase.PENDING
    ]
    queue.sort(key=_place)
    return [view_of(portal, session, user) for session in queue[:QUEUE_SHOWN]], max(0, len(queue) - QUEUE_SHOWN)


def list_pieces(rows: Pages[DesktopView]) -> Pieces:
    """The rows of a page, one by one and all together."""
    row, all_rows = macro("parts.html", "session_row"), macro("parts.html", "session_rows")
    pieces = {f"{ITEM}{view.uid}": row(view) for view in rows.items}
    return pieces | {LIST: all_rows(pieces)}


def overview_pieces(portal: PortalServices, user: User) -> Pieces:
    """Figures and queue."""
    counts = counts_of(portal, portal.gpu_slots.total)
    queue, more = waiting_of(portal, user)
    return {
        "figures": macro("parts.html", "figures")(counts),
        "queue": macro("parts.html", "waiting")(queue, more),
    }


def admin_pieces(portal: PortalServices, user: User, query: Mapping[str, str]) -> Pieces:
    """What is live on a page of the sessions' list."""
    number = query.get("page", "")
    page = int(number) if number.isdecimal() and len(number) < 9 else 1
    return list_pieces(sessions_page(portal, user, read_filter(query), page))

"""Pages below `/admin`: overview, all sessions, templates, pools, limits, the doctor, the audit log."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.doctor import CHECK_COUNT
from vdi.gateway.history.usage import Month, Period, Usage
from vdi.gateway.limits import Limit, gpus_of, home_bytes
from vdi.gateway.portal.desktop_view import DesktopView, template_title
from vdi.gateway.portal.history import seconds, trend_charts
from vdi.gateway.portal.pages import (
    ITEM,
    LIST,
    Choice,
    Pages,
    Pieces,
    PortalPages,
    digest,
    page_number,
    paged,
    said,
    view_of,
)
from vdi.gateway.rights import User
from vdi.gateway.services import PortalServices
from vdi.gateway.settings import Settings
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.assets import icon_problem, shown_icon
from vdi.gateway.web.render import macro
from vdi.session.lifetime import max_timeout
from vdi.session.users import normal_user

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


def session_list_pieces(rows: Pages[DesktopView]) -> Pieces:
    """The rows of a page, one by one and all together."""
    row, all_rows = macro("parts.html", "session_row"), macro("parts.html", "session_rows")
    pieces = {f"{ITEM}{view.uid}": row(view) for view in rows.items}
    return pieces | {LIST: all_rows(pieces)}


def overview_pieces(portal: PortalServices, user: User) -> Pieces:
    counts = counts_of(portal, portal.gpu_slots.total)
    queue, more = waiting_of(portal, user)
    return {
        "figures": macro("parts.html", "figures")(counts),
        "queue": macro("parts.html", "waiting")(queue, more),
    }


def sessions_page_pieces(portal: PortalServices, user: User, query: Mapping[str, str]) -> Pieces:
    """What is live on a page of the sessions' list."""
    number = query.get("page", "")
    page = int(number) if number.isdecimal() and len(number) < 9 else 1
    return session_list_pieces(sessions_page(portal, user, read_filter(query), page))


_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRow:
    """One template."""

    name: str
    title: str
    icon: str
    # Why the icon that it names is not shown; empty: it is, or it names none.
    icon_problem: str
    image: str
    gpu: str
    cpu: str
    memory: str
    # Empty: no limit.
    ephemeral_storage: str
    home: str
    longest: str
    who: str
    sessions: int
    pre_pull: str
    pre_pull_failed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One pool."""

    name: str
    template: str
    desired: int
    ready: int
    starting: int
    claimed: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """What one person has, and may have."""

    user: str
    sessions: int
    gpus: int
    hours: float
    gpu_hours: float
    home_gib: float
    limit: Limit


def template_rows(portal: PortalServices) -> list[TemplateRow]:
    used = Counter(session.spec.template for session in portal.context.cluster.sessions.values())
    found = sorted(portal.context.cluster.templates.values(), key=lambda template: template.metadata.name)
    return [_template_row(template, portal.context.settings, used[template.metadata.name]) for template in found]


def _template_row(template: VDITemplate, settings: Settings, sessions: int) -> TemplateRow:
    spec, pull = template.spec, template.status.pre_pull
    offer, home = spec.resources, spec.persistence
    who = [*spec.access.users, *(f"group {group}" for group in spec.access.groups)]
    return TemplateRow(
        name=template.metadata.name,
        title=template_title(template, template.metadata.name),
        icon=shown_icon(spec.icon, settings.icon_origins),
        icon_problem=icon_problem(spec.icon, settings.icon_origins),
        image=spec.image,
        gpu=_range(str(offer.default_gpu), str(offer.max_gpu) if offer.max_gpu is not None else None),
        cpu=_range(offer.default_cpu, offer.max_cpu),
        memory=_range(offer.default_memory, offer.max_memory),
        ephemeral_storage=_range(offer.default_ephemeral_storage, offer.max_ephemeral_storage)
        if offer.default_ephemeral_storage
        else "",
        home=_range(home.size, home.max_size) if home.enabled else "none",
        longest=max_timeout(template, settings.cluster) or "any",
        who=", ".join(who) or "everybody",
        sessions=sessions,
        pre_pull=f"on {pull.ready} of {pull.desired} nodes" if pull else "",
        pre_pull_failed=tuple(f"{failure.node}: {failure.message or failure.reason}" for failure in pull.failed)
        if pull
        else (),
    )


def _range(default: str, most: str | None) -> str:
    return f"{default}, at most {most}" if most is not None and most != default else default


def pool_rows(portal: PortalServices) -> list[PoolRow]:
    found = sorted(portal.context.cluster.pools.values(), key=lambda pool: pool.metadata.name)
    return [
        PoolRow(
            name=pool.metadata.name,
            template=pool.spec.template,
            desired=pool.spec.replicas,
            ready=pool.status.ready,
            starting=pool.status.starting,
            claimed=pool.status.claimed,
            message=pool.status.message,
        )
        for pool in found
    ]


def limit_rows(portal: PortalServices, used: Mapping[str, Usage]) -> list[LimitRow]:
    """Everybody who has sessions or homes, has used hours this month, or has limits of their own; most GPUs first.

    Which groups somebody is in is known only while they are logged in: limits of groups are not in these numbers.
    """
    sessions: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for session in portal.context.cluster.sessions.values():
        if not session.spec.suspended:
            user = normal_user(session.spec.user)
            sessions[user] += 1
            gpus[user] += gpus_of(session, portal.context.cluster.template(session.spec.template))
    homes: Counter[str] = Counter()
    for home in portal.context.cluster.all_homes():
        if home.user and not home.deleted:
            homes[normal_user(home.user)] += int(home_bytes(home))
    users: Iterable[str] = {*sessions, *homes, *used, *portal.limits.users}
    rows = [
        LimitRow(
            user=user,
            sessions=sessions[user],
            gpus=gpus[user],
            hours=used[user].hours if user in used else 0.0,
            gpu_hours=used[user].gpu_hours if user in used else 0.0,
            home_gib=homes[user] / _GIB,
            limit=portal.limits.of(User(user)),
        )
        for user in users
    ]
    return sorted(rows, key=lambda row: (-row.gpus, -row.sessions, row.user))


AUDIT_SIZE = 100
LIMITS_SIZE = 100
_STATES = {"Pending": "waiting", "Creating": "starting", "Terminating": "ending"}


class AdminPages(PortalPages):
    """Pages under `/admin`."""

    def routes(self) -> list[Route]:
        return [
            Route("/admin", self.overview, methods=["GET"]),
            Route("/admin/sessions", self.sessions, methods=["GET"]),
            Route("/admin/templates", self.templates, methods=["GET"]),
            Route("/admin/pools", self.pools, methods=["GET"]),
            Route("/admin/limits", self.limits, methods=["GET"]),
            Route("/admin/doctor", self.doctor, methods=["GET"]),
            Route("/admin/doctor", self.run_doctor, methods=["POST"]),
            Route("/admin/audit", self.audit, methods=["GET"]),
        ]

    async def overview(self, request: Request) -> Response:
        """Figures, queue, trends of the last day or week, GPU slots."""
        user = await self._portal.guard.require_admin(request)
        slots = await self._portal.gpu_slots.read()
        pieces = overview_pieces(self._portal, user)
        text, now = request.query_params.get("period", ""), self._portal.context.clock()
        period = Period(text) if text in [*Period] else Period.DAY
        try:
            intervals = await self._portal.history.trend(period, now)
        except DatabaseUnavailableError:
            intervals = None
        return await self._admin_page(
            request,
            user,
            "overview",
            slots=slots,
            pieces=pieces,
            seen=digest(pieces),
            doctor=self._portal.doctor.last,
            troubles=[*self._portal.problems()],
            now=now,
            period=period,
            intervals=intervals,
            charts=trend_charts(intervals or [], slots.total),
            seconds=seconds,
        )

    async def sessions(self, request: Request) -> Response:
        user = await self._portal.guard.require_admin(request)
        filters = read_filter(request.query_params)
        rows = sessions_page(self._portal, user, filters, page_number(request))
        pieces = session_list_pieces(rows)
        templates = sorted({session.spec.template for session in self._portal.context.cluster.sessions.values()})
        return await self._admin_page(
            request,
            user,
            "sessions",
            rows=rows,
            filters=filters,
            phases=[Choice("", "any"), *(Choice(phase, _STATES.get(phase, phase.lower())) for phase in PHASES)],
            templates=[Choice("", "any"), *(Choice(template, template) for template in templates)],
            orders=order_choices(),
            pieces=pieces,
            seen=digest(pieces),
            done=said(request),
        )

    async def templates(self, request: Request) -> Response:
        """All templates, and who may use them."""
        user = await self._portal.guard.require_admin(request)
        return await self._admin_page(request, user, "templates", rows=template_rows(self._portal))

    async def pools(self, request: Request) -> Response:
        """Desktops that are kept ready."""
        user = await self._portal.guard.require_admin(request)
        return await self._admin_page(request, user, "pools", rows=pool_rows(self._portal))

    async def limits(self, request: Request) -> Response:
        """How much each person may have, and has."""
        user = await self._portal.guard.require_admin(request)
        month = Month.of(self._portal.context.clock())
        try:
            report = await self._portal.history.usage(month, self._portal.context.clock())
            used: dict[str, Usage] | None = {usage.name: usage for usage in report.users}
        except DatabaseUnavailableError:
            used = None
        return await self._admin_page(
            request,
            user,
            "limits",
            rows=paged(limit_rows(self._portal, used or {}), page_number(request), LIMITS_SIZE),
            month=str(month),
            hours_known=used is not None,
            default=self._portal.limits.default,
            groups=sorted(self._portal.limits.groups.items()),
            limits_address=lambda number: f"/admin/limits?page={number}",
        )

    async def doctor(self, request: Request) -> Response:
        """The last report, and a button for a new one."""
        user = await self._portal.guard.require_admin(request)
        report = self._portal.doctor.last
        return await self._admin_page(
            request, user, "doctor", report=report, checks=CHECK_COUNT, now=self._portal.context.clock()
        )

    async def run_doctor(self, request: Request) -> Response:
        await self._portal.guard.require_admin(request)
        await self._portal.guard.check_csrf(request)
        await self._portal.doctor.run()
        return RedirectResponse("/admin/doctor", 303)

    async def audit(self, request: Request) -> Response:
        """Who did what, newest first."""
        user = await self._portal.guard.require_admin(request)
        query = request.query_params
        filters = {name: query.get(name, "").strip()[:254] for name in ("actor", "action", "target")}
        before = query.get("before", "")
        if before and not (before.isdecimal() and len(before) < 19):
            raise HTTPException(400, f"before: {before[:30]!r} is not the number of an entry.")
        given = {name: value for name, value in filters.items() if value}
        if "actor" in given:
            given["actor"] = normal_user(given["actor"])
        try:
            entries = await self._portal.audit.entries(
                limit=AUDIT_SIZE + 1, before=int(before) if before else None, **given
            )
        except DatabaseUnavailableError:
            entries = None
        return await self._admin_page(
            request,
            user,
            "audit",
            entries=entries[:AUDIT_SIZE] if entries is not None else None,
            older=entries[AUDIT_SIZE - 1].number if entries and len(entries) > AUDIT_SIZE else None,
            filters=filters,
        )

    async def _admin_page(self, request: Request, user: User, tab: str, **context: Any) -> Response:
        return await self._page(request, user, f"admin_{tab}.html", here="admin", tab=tab, **context)

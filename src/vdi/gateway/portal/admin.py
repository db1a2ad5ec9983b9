"""Pages below `/admin`: overview, all sessions, people, templates, pools, the doctor, the audit
log, transfers.
"""

import shlex
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.meta import find_condition
from vdi.api.session import Phase, VDISession
from vdi.api.template import TimeoutAction, VDITemplate
from vdi.cluster.units import format_time, parse_duration
from vdi.gateway import queries
from vdi.gateway.current_use import uses
from vdi.gateway.denied import ActionDenied, invalid, refused_address
from vdi.gateway.desktop.view import Choice, DesktopView
from vdi.gateway.doctor import CHECK_COUNT
from vdi.gateway.history.usage import Month, Usage
from vdi.gateway.login.local_users import UsersUnavailableError
from vdi.gateway.portal.pages import (
    ITEM,
    LIST,
    Form,
    Pages,
    Pieces,
    PortalPages,
    digest,
    done_message,
    page_number,
    paged,
    try_each,
    view_of,
)
from vdi.gateway.rights import User
from vdi.gateway.services import Services
from vdi.gateway.store.audit import TRANSFERS, Act, NotAuditedError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import count_credentials
from vdi.gateway.web.render import macro
from vdi.gateway.web.template_filters import count, in_words
from vdi.session.actions import AnnouncedEnd, PlanEnd, Restart, Unshare
from vdi.session.conditions import TEMPLATE_FOUND, Reason
from vdi.session.effective import gpus_of
from vdi.session.failures import find_failure
from vdi.session.homes import HomeSummary
from vdi.session.lifetime import idle_since, max_timeout
from vdi.session.users import AddressError, check_address, normal_user, same_user

PAGE_SIZE = 50
PEOPLE_SIZE = 100
QUEUE_SHOWN = 20
AUDIT_SIZE = 100
# Another revision of the template is there: no phase, but a state to look for.
_OUTDATED = "Outdated"
PHASES = ("Pending", "Creating", "Running", "Suspended", "Failed", "Terminating", _OUTDATED)
_STATES = {"Pending": "waiting", "Creating": "starting", "Terminating": "ending"}
# Period of the sums by person where none is chosen.
_SUM_DAYS = 7
# Durations that the list and the form below it offer.
IDLE_TIMES = ("30m", "1h", "4h", "24h")
NOTICE_TIMES = ("5m", "15m", "30m", "1h", "4h")
END_ACTIONS = {
    TimeoutAction.SUSPEND: "Suspend",
    TimeoutAction.TERMINATE: "End",
    "message": "Show the message",
    "cancel": "Take the announcement back",
}
# Steps when a person leaves: the button, and what it does.
_STEPS = {
    "sign-out": ("Sign out", "Ends logins, API tokens and open pictures. Desktops keep running."),
    "end-access": (
        "Take everything away",
        "Signs out, ends the desktops and the access to those of others. Files are kept.",
    ),
    "delete-files": ("Delete the files", "All files in the homes are deleted permanently."),
}


def _phase(session: VDISession) -> str:
    if find_failure(session):  # also one that hangs, or whose start is tried again
        return Phase.FAILED
    if session.metadata.deletion_timestamp:
        return Phase.TERMINATING
    return session.status.phase or Phase.PENDING


def _ticks(form: Form) -> dict[str, str]:
    """The ticks of the list, to be sent again."""
    return {name: "on" for name in form if name.startswith("pick-")}


def _is_outdated(session: VDISession) -> bool:
    condition = find_condition(session.status.conditions, TEMPLATE_FOUND)
    return bool(condition and condition.reason == Reason.NEWER_REVISION)


def _place(session: VDISession) -> tuple[int, int, str]:
    queue = session.status.queue
    place = queue.position if queue else 0
    return (0 if queue else 1, place or 10**9, session.metadata.creation_timestamp)


@dataclass(frozen=True, slots=True)
class Filter:
    """Filters of the list of sessions, as they stand in its address."""

    q: str = ""
    phase: str = ""
    template: str = ""
    gpu: str = ""
    idle: str = ""

    def address(self, page: int) -> str:
        """The address of a page of this list."""
        given = {**asdict(self), "page": page}
        return "/admin/sessions?" + urlencode(
            {name: value for name, value in given.items() if value}
        )

    def fits(self, session: VDISession, template: VDITemplate | None, now: datetime) -> bool:
        """Whether the session is in the list."""
        if self.phase not in ("", _OUTDATED, _phase(session)):
            return False
        if self.phase == _OUTDATED and not _is_outdated(session):
            return False
        if self.template and session.spec.template != self.template:
            return False
        if self.gpu and not (session.status.pod_name and gpus_of(session, template)):
            return False
        if self.idle and now - (idle_since(session, template) or now) < parse_duration(self.idle):
            return False
        text = f"{session.metadata.name} {session.spec.user} {session.status.node_name}".casefold()
        return all(word in text for word in self.q.casefold().split())


def read_filter(query: Mapping[str, str]) -> Filter:
    """The filters of an address; a value that is not one of the choices is ignored."""
    return Filter(
        q=query.get("q", "").strip()[:100],
        phase=query["phase"] if query.get("phase") in PHASES else "",
        template=query.get("template", "")[:253],
        gpu="yes" if query.get("gpu") == "yes" else "",
        idle=query["idle"] if query.get("idle") in IDLE_TIMES else "",
    )


def sessions_page(
    services: Services, user: User, filters: Filter, number: int
) -> Pages[DesktopView]:
    """One page of the sessions that fit the filters: newest first, and those that wait by their
    place in line.
    """
    cluster, now = services.context.cluster, services.context.clock()
    selected = []
    for s in cluster.sessions.values():
        if filters.fits(s, cluster.template(s.spec.template), now):
            selected.append(s)
    selected.sort(
        key=lambda session: (session.metadata.creation_timestamp, session.metadata.name),
        reverse=True,
    )
    if filters.phase == Phase.PENDING:
        selected.sort(key=_place)
    part = paged(selected, number, PAGE_SIZE)
    # Views are made of this page only: with thousands of sessions, all of them would take seconds.
    views = [view_of(services, session, user) for session in part.items]
    return Pages(views, part.number, part.last, part.total, part.size)


def session_list_pieces(rows: Pages[DesktopView]) -> Pieces:
    """The rows of a page, one by one and all together."""
    row, all_rows = macro("parts.html", "session_row"), macro("parts.html", "session_rows")
    pieces = {f"{ITEM}{view.uid}": row(view) for view in rows.items}
    return pieces | {LIST: all_rows(pieces)}


def sessions_page_pieces(services: Services, user: User, query: Mapping[str, str]) -> Pieces:
    """Live pieces of a page of the list of sessions."""
    page = page_number(query.get("page", ""))
    return session_list_pieces(sessions_page(services, user, read_filter(query), page))


def overview_pieces(services: Services, user: User) -> Pieces:
    """Live pieces of the overview: sessions by phase, GPUs of those that run, and the queue, next
    session first.
    """
    cluster = services.context.cluster
    phases, gpus, queue = Counter[str](), 0, []
    for session in cluster.sessions.values():
        phase = _phase(session)
        phases[phase] += 1
        if session.status.pod_name and phase in (Phase.RUNNING, Phase.CREATING, Phase.FAILED):
            gpus += gpus_of(session, cluster.template(session.spec.template))
        if session.status.queue and phase in (Phase.PENDING, Phase.FAILED):
            queue.append(session)
    queue.sort(key=_place)
    waiting = [view_of(services, session, user) for session in queue[:QUEUE_SHOWN]]
    return {
        "figures": macro("parts.html", "figures")(phases, gpus, services.gpu_slots.total),
        "queue": macro("parts.html", "waiting")(waiting, max(0, len(queue) - QUEUE_SHOWN)),
    }


def _choices(*values: str) -> list[Choice]:
    return [Choice("", "any"), *(Choice(value, value) for value in values)]


def _times(*values: str) -> list[Choice]:
    return [
        Choice("", "any"),
        *(Choice(value, in_words(parse_duration(value))) for value in values),
    ]


@dataclass(frozen=True, slots=True)
class _Person:
    email: str
    # Names of the desktops: their own, and those that others share with them.
    own: list[str]
    shared: list[str]
    homes: list[HomeSummary]

    @property
    def address(self) -> str:
        return "/admin/people?" + urlencode({"user": self.email})


class AdminPages(PortalPages):
    """Pages under `/admin`, for administrators only."""

    def routes(self) -> list[Route]:
        return [
            self._get("/admin", self.overview, admin=True),
            self._post("/admin/banner", self.set_banner, admin=True),
            self._get("/admin/sessions", self.sessions, admin=True),
            self._post("/admin/sessions", self.plan_ends, admin=True),
            self._post("/admin/sessions/restart", self.restart, admin=True),
            self._get("/admin/people", self.people, admin=True),
            self._post("/admin/people", self.remove_person, admin=True),
            self._get("/admin/templates", self.templates, admin=True),
            self._get("/admin/pools", self.pools, admin=True),
            self._get("/admin/doctor", self.doctor, admin=True),
            self._post("/admin/doctor", self.run_doctor, admin=True),
            self._get("/admin/audit", self.audit),
            self._get("/admin/transfers", self.transfers),
        ]

    async def overview(self, request: Request, user: User) -> Response:
        """GET /admin: figures, queue, nodes."""
        slots = await self._services.gpu_slots.read()
        pieces = overview_pieces(self._services, user)
        nodes = {node.name: node for node in slots.nodes}
        desktops = Counter[str]()
        for session in self._cluster.sessions.values():
            if session.status.pod_name:
                desktops[session.status.node_name] += 1
        return self._tab(
            request,
            user,
            "overview",
            slots=slots,
            nodes=nodes,
            desktops=desktops,
            pieces=pieces,
            seen=digest(pieces),
            doctor=self._services.doctor.last,
            troubles=[*self._services.problems()],
        )

    async def set_banner(self, _request: Request, user: User, form: Form) -> Response:
        await self._services.actions.set_banner(user, form.get("text", ""))
        return RedirectResponse("/admin", 303)

    async def plan_ends(self, request: Request, user: User, form: Form) -> Response:
        """POST /admin/sessions: announce the end of the chosen sessions, take that back, or show a
        message in them, after a question that names them.
        """
        action, notice, end = form.get("action", ""), form.get("notice", ""), None
        if action not in END_ACTIONS:
            raise invalid("action", action, f"one of {', '.join(END_ACTIONS)}")
        if notice not in NOTICE_TIMES:
            raise invalid("notice", notice, f"one of {', '.join(NOTICE_TIMES)}")
        names = self._chosen(form)
        time = form.get("time") or format_time(self._clock() + parse_duration(notice))
        message = form.get("message", "")
        if action == "message" and not message:
            raise invalid("message", message, "a text")
        if names and form.get("confirmed") != "yes":
            return self._ask_for_ends(request, user, form, time, names)
        if action in set(TimeoutAction):
            end = AnnouncedEnd(time, TimeoutAction(action), message)

        async def announce(name: str) -> None:
            if action == "message":
                await self._services.actions.show_message(user, name, message)
            else:
                await self._services.actions.act(user, name, PlanEnd(end))

        refused = await try_each(names, announce)
        if refused or not names:
            done = f"Done for {len(names) - len(refused)} of {len(names)} chosen sessions."
            return await self.sessions(request, user, status=409, error=" ".join([done, *refused]))
        if action == "message":
            code = action
        else:
            code = "plan-end" if end else "cancel-end"
        done = urlencode({"done": code, "name": count(len(names), "session")})
        return RedirectResponse(f"{read_filter(request.query_params).address(1)}&{done}", 303)

    def _chosen(self, form: Form) -> list[str]:
        """Names of the sessions that are ticked in the list."""
        names = []
        for session in self._cluster.sessions.values():
            if f"pick-{session.metadata.uid}" in form:
                names.append(session.metadata.name)
        return names

    def _ask_for_ends(
        self, request: Request, user: User, form: Form, time: str, names: list[str]
    ) -> Response:
        action, address = form["action"], read_filter(request.query_params).address(1)
        sent = {"action", "notice", "message"} & form.keys()
        fields = {"time": time, "confirmed": "yes", **{name: form[name] for name in sent}}
        fields |= _ticks(form)
        chosen = count(len(names), "desktop")
        if action in ("cancel", "message"):
            label, at = f"{END_ACTIONS[action]} in {chosen}", ""
            consequence = "These desktops go on."
            if action == "message":
                consequence = f"{form['message']} (until a user closes it)"
        else:
            label, at = f"{END_ACTIONS[action]} {chosen}", time
            consequence = "Until then each shows the time and the message. Home folders are kept."
        return self._confirm(
            request,
            user,
            here="admin",
            path=address,
            back=address,
            question=f"{label}?",
            consequence=consequence,
            label=label,
            dangerous=action == TimeoutAction.TERMINATE,
            at=at,
            names=sorted(names),
            fields=fields,
        )

    async def restart(self, request: Request, user: User, form: Form) -> Response:
        """POST /admin/sessions/restart: the chosen sessions, after a question that names them."""
        names = self._chosen(form)
        chosen, back = count(len(names), "session"), Filter(phase=_OUTDATED).address(1)
        if names and form.get("confirmed") != "yes":
            return self._confirm(
                request,
                user,
                here="admin",
                path="/admin/sessions/restart",
                back=back,
                question=f"Restart {chosen} now?",
                consequence="Open programs are closed at once. Home folders are kept.",
                label="Restart",
                dangerous=True,
                names=names,
                fields={"confirmed": "yes"} | _ticks(form),
            )
        refused = await try_each(
            names, lambda name: self._services.actions.act(user, name, Restart())
        )
        if refused or not names:
            error = " ".join(refused) or "No session is chosen."
            return await self.sessions(request, user, status=409, error=error)
        return RedirectResponse(f"{back}&{urlencode({'done': 'restart', 'name': chosen})}", 303)

    async def sessions(
        self, request: Request, user: User, *, status: int = 200, error: str = ""
    ) -> Response:
        """GET /admin/sessions: the sessions of all users."""
        query = request.query_params
        filters = read_filter(query)
        rows = sessions_page(self._services, user, filters, page_number(query.get("page", "")))
        pieces = session_list_pieces(rows)
        templates = sorted({session.spec.template for session in self._cluster.sessions.values()})
        return self._tab(
            request,
            user,
            "sessions",
            rows=rows,
            filters=filters,
            phases=[
                Choice("", "any"),
                *(Choice(phase, _STATES.get(phase, phase.lower())) for phase in PHASES),
            ],
            templates=_choices(*templates),
            idles=_times(*IDLE_TIMES),
            gpus=[Choice("", "any"), Choice("yes", "holds a GPU")],
            notices=_times(*NOTICE_TIMES)[1:],
            actions=[Choice(action, label) for action, label in END_ACTIONS.items()],
            pieces=pieces,
            seen=digest(pieces),
            done=done_message(request),
            error=error,
            status=status,
        )

    async def templates(self, request: Request, user: User) -> Response:
        """GET /admin/templates: all templates, and who may use them."""
        return self._tab(
            request,
            user,
            "templates",
            templates=sorted(
                self._cluster.templates.values(), key=lambda template: template.metadata.name
            ),
            sessions=Counter(session.spec.template for session in self._cluster.sessions.values()),
            icon_origins=self._settings.icon_origins,
            max_timeout=lambda template: max_timeout(template, self._settings.cluster),
        )

    async def pools(self, request: Request, user: User) -> Response:
        """GET /admin/pools: desktops that are started in advance."""
        pools = sorted(self._cluster.pools.values(), key=lambda pool: pool.metadata.name)
        return self._tab(request, user, "pools", pools=pools)

    async def people(
        self, request: Request, user: User, *, status: int = 200, error: str = ""
    ) -> Response:
        """GET /admin/people: everyone, who uses most GPUs first; with `user` this person alone."""
        query, limits, month = request.query_params, self._services.limits, Month.of(self._clock())
        accounts, hours_known = await self._accounts(), True
        person = self._find_person(request) if query.get("user") else None
        used: dict[str, Usage] = {}
        try:
            report = await self._services.history.usage(month, self._clock())
            used = {usage.name: usage for usage in report.users}
        except DatabaseUnavailableError:
            hours_known = False
        asked = person.email if person else query.get("q", "").strip()[:254]
        rows = []
        for row in uses(self._cluster, limits, used, accounts).items():
            if row[0] == asked or (not person and asked.casefold() in row[0]):
                rows.append(row)
        rows.sort(key=lambda row: (-row[1].gpus.used, -row[1].sessions.used, row[0]))
        return self._tab(
            request,
            user,
            "people",
            status=status,
            error=error,
            done=done_message(request),
            rows=paged(rows, page_number(query.get("page", "")), PEOPLE_SIZE),
            accounts=accounts,
            asked=asked,
            person=person,
            steps=_STEPS,
            quoted=shlex.quote(asked),
            month=str(month),
            hours_known=hours_known,
            default=limits.default,
            groups=sorted(limits.groups.items()),
            address=lambda number: "/admin/people?" + urlencode({"q": asked, "page": number}),
        )

    async def remove_person(self, request: Request, user: User, form: Form) -> Response:
        """POST /admin/people: one of the steps, after a question."""
        person, action = self._find_person(request), form.get("action", "")
        if action not in _STEPS:
            raise invalid("action", action, f"one of {', '.join(_STEPS)}")
        if form.get("confirmed") != "yes":
            names = {
                "end-access": person.own + person.shared,
                "delete-files": [home.name for home in person.homes],
            }
            label, consequence = _STEPS[action]
            return self._confirm(
                request,
                user,
                here="admin",
                path=person.address,
                back=person.address,
                question=f"{label}: {person.email}?",
                consequence=consequence,
                label=label,
                dangerous=action != "sign-out",
                names=names.get(action, ()),
                fields={"action": action, "confirmed": "yes"},
            )
        refused = []
        for step in self._steps_of(user, person, action):
            try:
                await step
            except ActionDenied as why:
                refused.append(why.sentence)
        if refused:
            return await self.people(request, user, status=409, error=" ".join(refused))
        done = urlencode({"done": action, "name": person.email})
        return RedirectResponse(f"{person.address}&{done}", 303)

    def _steps_of(self, user: User, person: _Person, action: str) -> Iterator[Awaitable[object]]:
        actions = self._services.actions
        if action == "delete-files":
            for home in person.homes:
                yield actions.delete_home(user, home.name, owner=person.email)
            return
        yield self._sign_out(user, person.email)
        if action == "end-access":
            for name in person.own:
                yield actions.end(user, name)
            for name in person.shared:
                yield actions.act(user, name, Unshare(person.email))

    async def _sign_out(self, user: User, email: str) -> None:
        act = Act(actor=user.email, action="login.end_all", target=email, owner=email)
        try:
            async with self._services.audit.act(act, closed=True):
                await self._services.sign_out.end_everything(email, tokens=True)
        except NotAuditedError as error:
            raise ActionDenied("Unavailable", str(error)) from error

    async def _accounts(self) -> dict[str, Counter[str]]:
        """Accounts, logins and tokens by person: `password`, and what the database has."""
        accounts = await count_credentials(self._services.context.database, self._clock())
        try:
            for email in await self._services.local.read():
                accounts.setdefault(email, Counter())["password"] = 1
        except UsersUnavailableError as error:
            raise ActionDenied("Unavailable", f"{error}.") from error
        return accounts

    def _find_person(self, request: Request) -> _Person:
        try:
            email = check_address(request.query_params.get("user", ""))
        except AddressError as error:
            raise refused_address(error) from error
        own, shared = [], []
        for session in self._cluster.sessions.values():
            if same_user(session.spec.user, email):
                own.append(session.metadata.name)
            elif any(same_user(access.user, email) for access in session.spec.access):
                shared.append(session.metadata.name)
        return _Person(email, own, shared, self._cluster.homes_of(email))

    async def doctor(self, request: Request, user: User) -> Response:
        """GET /admin/doctor: the last report, and a button for a new one."""
        report = self._services.doctor.last
        return self._tab(request, user, "doctor", report=report, checks=CHECK_COUNT)

    async def run_doctor(self, _request: Request, _user: User, _form: Form) -> Response:
        await self._services.doctor.run()
        return RedirectResponse("/admin/doctor", 303)

    async def audit(self, request: Request, user: User) -> Response:
        """GET /admin/audit: entries of the audit log, newest first."""
        return await self._entries(request, user, "audit", who="actor", title="Who")

    async def transfers(self, request: Request, user: User) -> Response:
        """GET /admin/transfers: what went into desktops and left them, newest first."""
        return await self._entries(
            request, user, "transfers", who="owner", title="Owner", words=TRANSFERS
        )

    async def _entries(
        self,
        request: Request,
        user: User,
        tab: str,
        *,
        who: str,
        title: str,
        words: Mapping[str, str] = {},
    ) -> Response:
        if not user.may_audit:
            raise HTTPException(
                403, f"Only administrators and auditors can do this; {user.email} is neither."
            )
        query = request.query_params
        kinds = [Choice("", "any"), *(Choice(kind, name) for kind, name in words.items())]
        names = (who, "action", "target", "since", "until", "order")
        filters = {name: query.get(name, "").strip()[:254] for name in names}
        days = {name: queries.read_day(name, filters[name]) for name in ("since", "until")}
        given: dict[str, Any] = {name: filters[name] for name in ("action", "target")}
        given |= {who: normal_user(filters[who]), **days}
        summed = given | {"since": days["since"] or self._clock() - timedelta(days=_SUM_DAYS)}
        entries, sums = None, []
        with suppress(DatabaseUnavailableError):
            sums = await self._services.audit.sum_bytes(**summed) if words else []
            entries = await queries.read_audit(
                self._services,
                limit=AUDIT_SIZE,
                cursor=query.get("before"),
                transfers=tab == "transfers",
                by_size=filters["order"] == "size",
                **given,
            )
        exported = {"what": tab, "user": filters[who] if "@" in filters[who] else ""}
        for name, day in days.items():
            exported[name] = format_time(day) if day else ""
        shown: dict[str, Any] = {
            "entries": entries,
            "filters": filters,
            "words": words,
            "kinds": kinds,
            "orders": [Choice("", "newest first"), Choice("size", "largest first")],
            "sums": sums,
            "sum_days": 0 if days["since"] else _SUM_DAYS,
            "csv": urlencode({name: value for name, value in exported.items() if value}),
        }
        return self._page(
            request, user, "admin_audit.html", here="admin", tab=tab, who=who, title=title, **shown
        )

    def _tab(self, request: Request, user: User, tab: str, **context: Any) -> Response:
        return self._page(request, user, f"admin_{tab}.html", here="admin", tab=tab, **context)

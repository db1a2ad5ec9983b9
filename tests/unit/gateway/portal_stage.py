"""A gateway that is nothing but its portal: real pages, real structs, users by cookie, recorded actions."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, cast

import httpx
from starlette.applications import Starlette

from support import builders
from support.clock import FakeClock
from support.csrf import csrf_of
from unit.gateway.component_stage import NOW, PORTAL, ComponentStage
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.current_use import GpuSlots
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import StartupScripts
from vdi.gateway.doctor import DoctorRunner
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.usage import Interval, Month, Period, RunTimes, Usage, UsageReport, trend
from vdi.gateway.limits import Limits, MonthUse
from vdi.gateway.login.guard import Guard
from vdi.gateway.portal.component import Portal
from vdi.gateway.rights import User
from vdi.gateway.services import PortalServices
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import Entry
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.subscriptions import Subscriptions
from vdi.gateway.thumbnails import Thumbnails
from vdi.gateway.web.credentials import LOGIN_COOKIE
from vdi.gateway.web.middleware import SecurityHeaders
from vdi.gateway.web.render import ErrorPages
from vdi.http_client import Response
from vdi.kube.errors import KubeError

ALICE = User("alice@example.com", "Alice Archer", login_id="login-alice")
BOB = User("bob@example.com", "Bob", login_id="login-bob")
ADMIN = User("root@example.com", "Root", admin=True, login_id="login-root")
PNG = "data:image/png;base64,iVBORw0KGgo="


a_session = partial(builders.a_session, template="ubuntu", created="2026-11-20T09:00:00Z")


def running(name: str = "alice-desktop", **rest: Any) -> VDISession:
    """A session whose desktop runs; `status` adds to that."""
    status = {
        "phase": "Running",
        "url": f"https://{name}.vdi.localhost",
        "startTime": "2026-11-20T09:00:00Z",
        "expiresAt": "2026-11-20T17:00:00Z",
        "podName": name,
        "nodeName": "gpu-node-1",
    }
    return a_session(name, status=status | rest.pop("status", {}), **rest)


def a_template(name: str = "ubuntu", **spec: Any) -> VDITemplate:
    """A template with a name that people read."""
    return builders.a_template(name, **{"displayName": name.title()} | spec)


@dataclass
class FakeLogins:
    """People by the value of their cookie."""

    by_cookie: dict[str, User] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    # Requests that count as use of a login.
    used: int = 0

    async def person_by_cookie(self, secret: str, *, in_use: bool = True) -> User | None:
        self.used += in_use
        found = self.by_cookie.get(secret)
        return found if found is not None and found.login_id not in self.ended else None

    async def person_by_token(self, token: str) -> User | None:
        return None

    async def is_live(self, login_id: str) -> bool:
        return login_id not in self.ended

    async def person_by_id(self, login_id: str) -> User | None:
        known = {user.login_id: user for user in self.by_cookie.values()}
        return known.get(login_id) if login_id not in self.ended else None


@dataclass
class RecordedActions:
    """Stands for Actions: notes what is asked, and refuses if it has been asked to."""

    world: ClusterCache
    done: list[tuple[Any, ...]] = field(default_factory=list)
    refuses: ActionDenied | None = None
    # Each action returns only when this is set.
    held: asyncio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        async def record(person: User, *args: Any, **kwargs: Any) -> Any:
            self.done.append((name, person.email, *args, *kwargs.values()))
            if self.held is not None:
                await self.held.wait()
            if self.refuses is not None:
                raise self.refuses
            if name == "start":
                return a_session(args[0].name or "named-by-the-gateway", user=person.email)
            return None

        return record


def _hours_of(name: str, month: str, hours: float) -> Usage:
    return Usage(
        name=name,
        month=month,
        sessions=1,
        runs=1,
        hours=hours,
        gpu_hours=hours,
        queued=0,
        median_queue_seconds=None,
        median_startup_seconds=None,
    )


@dataclass
class FakeHistory:
    """The past, from a list; with `down` the database does not answer."""

    pasts: list[SessionHistory] = field(default_factory=list)
    report: list[Usage] = field(default_factory=list)
    # Hours by template.
    templates: dict[str, float] = field(default_factory=dict)
    runs: list[RunTimes] = field(default_factory=list)
    # Gives the usage of a month, in place of the lists.
    reckon: Callable[[Month, datetime, str | None], UsageReport] | None = None
    down: bool = False

    def _up(self) -> None:
        if self.down:
            raise DatabaseUnavailableError("the database does not answer")

    async def session(self, uid: str) -> SessionHistory | None:
        self._up()
        return next((past for past in self.pasts if past.session.uid == uid), None)

    async def past(
        self, *, limit: int, user: str | None = None, before: Any = None, name: Any = None
    ) -> list[SessionHistory]:
        self._up()
        mine = [past for past in self.pasts if user is None or past.session.owner == user]
        mine.sort(key=lambda one: (one.session.created, one.session.uid), reverse=True)
        if before is not None:
            mine = [e for e in mine if (e.session.created, e.session.uid) < (before.created, before.uid)]
        return mine[:limit]

    async def usage(self, month: Month, now: datetime, user: str | None = None) -> UsageReport:
        self._up()
        if self.reckon is not None:
            return self.reckon(month, now, user)
        return UsageReport(
            month=str(month),
            users=tuple(each for each in self.report if each.month == str(month) and user in (None, each.name)),
            templates=tuple(_hours_of(name, str(month), hours) for name, hours in self.templates.items()),
        )

    async def use_this_month(self, user: str, now: datetime) -> MonthUse:
        self._up()
        month = Month.of(now)
        mine = [usage for usage in self.report if usage.month == str(month) and usage.name == user]
        return MonthUse(sum(each.hours for each in mine), sum(each.gpu_hours for each in mine), month.end)

    async def trend(self, period: Period, now: datetime) -> list[Interval]:
        self._up()
        return trend(self.runs, period, now)

    async def export(self, what: Any, form: Any, *, user: str | None = None) -> Any:
        self._up()
        yield f"{what} of {user or 'everybody'} as {form}\n".encode()


@dataclass
class FakeAudit:
    """Entries from a list."""

    rows: list[Entry] = field(default_factory=list)
    down: bool = False

    async def entries(self, *, limit: int, before: int | None = None, **desired: str) -> Sequence[Entry]:
        if self.down:
            raise DatabaseUnavailableError("the database does not answer")
        found = [row for row in self.rows if before is None or row.number < before]
        return [e for e in found if all(getattr(e, name) == value for name, value in desired.items())][:limit]


@dataclass
class FakeClient:
    """The cluster's nodes, or why they cannot be read."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    refuses: KubeError | None = None

    async def list(self, resource: Any, *, into: Any, **_: Any) -> list[dict[str, Any]]:
        if self.refuses is not None:
            raise self.refuses
        return self.nodes


@dataclass
class FakeAgent:
    """The agents of all desktops: what the screen of each looks like, by its session's name."""

    screens: dict[str, bytes] = field(default_factory=dict)
    # What is reported of the start-up scripts, by the session's name.
    scripts: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    asked: list[str] = field(default_factory=list)

    async def ask(self, session: VDISession, method: str, path: str, **_: Any) -> Response:
        self.asked.append(f"{method} {path} of {session.metadata.name}")
        answers = self.scripts if path == "/startup-scripts" else self.screens
        if session.metadata.name not in answers:
            raise ActionDenied("Unavailable", "The agent does not respond.")
        return Response(self.status, answers[session.metadata.name])


@dataclass
class FakeHomesAhead:
    """Notes for whom which home is to be made."""

    made: list[tuple[str, str]] = field(default_factory=list)

    async def make(self, user: User, template: str) -> None:
        self.made.append((user.email, template))


class PortalStage(ComponentStage):
    """The portal alone: users by cookie, recorded actions, a past from lists, and no database."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        settings: Settings | None = None,
        now: datetime = NOW,
        client: Any = None,
    ) -> None:
        self.client: Any = client or FakeClient()
        super().__init__(self.client, settings=settings, clock=FakeClock(now))
        self.people, self.history, self.audit = FakeLogins(), FakeHistory(), FakeAudit()
        self.actions = RecordedActions(self.world)
        self.agent, self.homes_ahead = FakeAgent(), FakeHomesAhead()
        logins: Any = self.people
        self.services = PortalServices(
            context=self.context,
            guard=Guard(logins, self.settings),
            logins=logins,
            limits=limits or Limits(),
            actions=cast(Any, self.actions),
            history=cast(Any, self.history),
            homes_ahead=cast(Any, self.homes_ahead),
            audit=cast(Any, self.audit),
            doctor=DoctorRunner(self.context),
            gpu_slots=GpuSlots(self.context),
            subscriptions=Subscriptions(self.world),
            problems=lambda: (),
            thumbnails=Thumbnails(context=self.context, agent=cast(Any, self.agent)),
            startup_scripts=StartupScripts(context=self.context, agent=cast(Any, self.agent)),
        )
        portal = Portal(self.services)
        app = Starlette(routes=[*portal.portal_routes()], exception_handlers=ErrorPages(self.settings).handlers())
        self.app = SecurityHeaders(app, self.settings)

    def browser(self, person: User | None = ALICE) -> "Browser":
        """A browser in which this person is logged in."""
        browser = Browser(self)
        if person is not None:
            secret = f"cookie-of-{person.email}"
            self.people.by_cookie[secret] = person
            browser.client.cookies.set(LOGIN_COOKIE, secret)
        return browser


class Browser:
    """Sends what a browser sends."""

    def __init__(self, stage: PortalStage) -> None:
        transport = httpx.ASGITransport(app=stage.app)
        self.client = httpx.AsyncClient(transport=transport, base_url=PORTAL, headers={"Accept": "text/html"})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def post(
        self, path: str, *, at: str = "/account-is-not-here", token: str | None = None, **fields: str
    ) -> Any:
        """Send a form as the page `at` shows it; `token` None: the one of that page."""
        if token is None:
            token = csrf_of((await self.get(at)).text)
        headers = {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}
        return await self.client.post(path, data={"csrf": token, **fields}, headers=headers)


def text_of(page: str) -> str:
    """What a person reads, more or less."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


async def settle() -> None:
    """Let what is waiting for the event loop run."""
    for _ in range(10):
        await asyncio.sleep(0)

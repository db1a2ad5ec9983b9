"""A gateway that is its login and its edge: real database in a file, real apps, a watched world that is told what it
sees, Secrets in memory, a clock to set, and Traefik as far as it matters here.
"""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec

from support import builders
from support.clock import FakeClock
from support.database import sqlite_with_tables
from support.passwords import HASHER
from vdi.api.session import Access, Phase, VDISession
from vdi.gateway.app import build_internal, build_public
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.edge.component import Edge
from vdi.gateway.health import Health
from vdi.gateway.login.component import Login
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Device, Identity, Logins
from vdi.gateway.login.passwords import Passwords
from vdi.gateway.login.sign_out import SignOut
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState
from vdi.gateway.store.audit import Audit
from vdi.gateway.store.base import Database, metadata
from vdi.gateway.users import User
from vdi.gateway.web.cookies import LOGIN
from vdi.kube.errors import Conflict, NotFound

SETTINGS = Settings(url_port=8443)
PORTAL = SETTINGS.portal_url
OWNER, GUEST, STRANGER = "alice@example.com", "bob@example.com", "mallory@example.com"
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
HANDSHAKE = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


class StillWorld(ClusterCache):
    """A world that is told what it sees, and has seen everything."""

    @property
    def synced(self) -> bool:
        return True


@dataclass
class FakeSecrets:
    """The part of kube.Client that the edge uses: Secrets by name, with versions."""

    data: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    before_patch: Callable[[], None] | None = None

    def put(self, name: str, **entries: str) -> None:
        self.data[name] = {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()}
        self.versions[name] = self.versions.get(name, 0) + 1

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> Any:
        self.gets.append(name)
        if name not in self.data:
            raise NotFound(404, "NotFound", f"secrets {name!r} not found")
        found = {"metadata": {"resourceVersion": str(self.versions[name])}, "data": self.data[name]}
        return msgspec.convert(found, into)

    async def patch(self, resource: Any, name: str, patch: Any, *, namespace: str, into: Any) -> Any:
        if self.before_patch is not None:
            before, self.before_patch = self.before_patch, None
            before()
        if patch["metadata"]["resourceVersion"] != str(self.versions[name]):
            raise Conflict(409, "Conflict", "the object has been modified")
        self.data[name] = {**self.data[name], **patch["data"]}
        self.versions[name] += 1
        return msgspec.Raw(b"{}")


@dataclass
class FakeActions:
    """Remembers who resumed what; `refusal` is what is answered instead."""

    world: "StillWorld"
    resumed: list[tuple[User, str]] = field(default_factory=list)
    refusal: str = ""

    async def resume(self, person: User, name: str) -> None:
        if self.refusal:
            raise ActionDenied("OverLimit", self.refusal)
        self.resumed.append((person, name))
        session = self.world.session(name)
        assert session is not None
        publish(self.world, changed(session, spec={"suspended": False}, status={"phase": Phase.PENDING}))


def a_session(name: str = "alice-desktop", user: str = OWNER) -> VDISession:
    """A session that runs."""
    status = {"phase": "Running", "podName": name, "readyTime": "2026-11-20T11:59:00Z"}
    return builders.a_session(name, user=user, template="office", status=status, created="2026-11-20T11:58:00Z")


def shared_with(user: str, role: str, expires: str | None = None) -> dict[str, Any]:
    """A spec that shares the session."""
    return {"access": [Access(user=user, role=role, **({"expires": expires} if expires else {}))]}


def changed(session: VDISession, **parts: Any) -> VDISession:
    """The next state of a session: `spec`, `status` and `metadata` with these fields changed."""
    version = str(int(session.metadata.resource_version) + 1)
    return VDISession(
        metadata=msgspec.structs.replace(
            session.metadata, **{"resource_version": version, **parts.get("metadata", {})}
        ),
        spec=msgspec.structs.replace(session.spec, **parts.get("spec", {})),
        status=msgspec.structs.replace(session.status, **parts.get("status", {})),
    )


def publish(world: ClusterCache, session: VDISession) -> VDISession:
    """The watch brings this state, with the address that the operator has given it."""
    url = session.status.url or world.settings.url(world.settings.host(session.metadata.name))
    session = VDISession(session.metadata, session.spec, msgspec.structs.replace(session.status, url=url))
    world.sessions.observe(session)
    return session


def gone(world: ClusterCache, session: VDISession) -> None:
    """The watch brings its end."""
    world.sessions.observe_deleted(changed(session))


@dataclass
class Stage:
    """Everything a test of the edge touches."""

    settings: Settings
    world: StillWorld
    secrets: FakeSecrets
    clock: FakeClock
    shared: SharedState
    database: Database
    context: GatewayContext
    logins: Logins
    edge: Edge
    actions: FakeActions
    public: Any
    internal: Any
    browsers: list["Browser"] = field(default_factory=list)

    def add(self, session: VDISession, master: str = "master") -> VDISession:
        """A session and its Secret."""
        self.secrets.put(f"{session.metadata.name}-auth", password=f"{master}-{session.metadata.name}")
        return publish(self.world, session)

    def browser(self) -> "Browser":
        """A new browser, behind Traefik."""
        browser = Browser(transport=FakeTraefik(self), base_url=PORTAL, headers=NAVIGATION)
        self.browsers.append(browser)
        return browser

    async def logged_in(self, user: str, **who: Any) -> "Browser":
        """A browser whose user has logged in at the portal."""
        browser = self.browser()
        secret, login = await self.logins.begin(Identity(user=user, **who), Device())
        browser.cookies.set(LOGIN, secret, domain=SETTINGS.portal_host, path="/")
        browser.login_id = login.id
        return browser

    async def verify(self, host: str, uri: str = "/", **headers: str | list[str]) -> httpx.Response:
        """Ask `/edge/verify` as Traefik does; a list sends the header several times."""
        asked = {"X-Forwarded-Host": host, "X-Forwarded-Uri": uri, "X-Forwarded-Method": "GET"}
        raw = [
            (name.encode(), one.encode())
            for name, value in {**asked, **headers}.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.internal), base_url="http://edge") as client:
            return await client.get("/edge/verify", headers=raw)


class FakeTraefik(httpx.AsyncBaseTransport):
    """What Traefik does with our routes: `/.vdi/` and hosts without a live route to the gateway, the rest past it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._public = httpx.ASGITransport(stage.public, client=("10.0.0.5", 1))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        session = self._stage.world.by_host(request.url.host)
        routed = session is not None and session.status.phase in (Phase.CREATING, Phase.RUNNING)
        if not routed or request.url.path.startswith("/.vdi/"):
            return await self._public.handle_async_request(request)
        passed = {
            name: value
            for name, value in request.headers.items()
            if name in ("accept", "cookie", "origin") or name.startswith("sec-")
        }
        uri = request.url.raw_path.decode()
        answer = await self._stage.verify(request.url.host, uri, **{**passed, "X-Forwarded-Method": request.method})
        if answer.status_code != 200:
            return httpx.Response(answer.status_code, headers=answer.headers.raw, content=answer.content)
        cookies = [(b"set-cookie", value.encode()) for value in answer.headers.get_list("set-cookie")]
        seen = {name: answer.headers.get(name) for name in ("authorization", "cookie", "sec-websocket-protocol")}
        return httpx.Response(200, headers=cookies, json={"desktop": request.url.host, **seen})


class Browser(httpx.AsyncClient):
    """A browser: keeps cookies by host, follows nothing by itself."""

    login_id: str = ""

    async def open(self, url: str, *, most: int = 12, headers: dict[str, str] | None = None) -> httpx.Response:
        """A person opens an address: follow redirects, as a browser does, fragments included."""
        fragment = urlsplit(url).fragment
        for _ in range(most):
            answer = await self.get(url, headers=headers)
            if answer.status_code not in (302, 303):
                answer.extensions["fragment"] = fragment
                return answer
            url = urljoin(url, answer.headers["location"])
            fragment = urlsplit(url).fragment or fragment
        raise AssertionError(f"too many redirects; the last one to {url}")

    def stolen(self, host: str, *names: str) -> str:
        """A Cookie header with what this browser has for a host."""
        return "; ".join(
            f"{one.name}={one.value}"
            for one in self.cookies.jar
            if one.domain == host and (not names or one.name in names)
        )


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(seconds):
        for pause in itertools.repeat(0.005):
            if await condition():
                return
            await asyncio.sleep(pause)


def address(session: str = "alice-desktop", path: str = "/") -> str:
    """The URL of a desktop."""
    return SETTINGS.url(SETTINGS.host(session)) + path


@asynccontextmanager
async def open_stage(
    folder: Path,
    *,
    settings: Settings = SETTINGS,
    secrets: FakeSecrets | None = None,
    shared: SharedState | None = None,
    database_url: str = "",
    selkies: Callable[[VDISession], str] = lambda _: "http://127.0.0.1:9",
) -> AsyncIterator[Stage]:
    """A gateway with alice's session `alice-desktop`. Another stage in the same folder is another replica."""
    database = Database(database_url or sqlite_with_tables(folder / "vdi.db"))
    if database_url:
        async with database.begin() as connection:
            await connection.run_sync(metadata.create_all)
    clock = FakeClock()
    if shared is None:
        shared = MemorySharedState(lambda: clock.now().timestamp())
    kept = secrets or FakeSecrets()
    if settings.keys_secret not in kept.data:
        kept.put(settings.keys_secret)
    client: Any = kept
    world = StillWorld(client, settings)
    context = GatewayContext(
        settings=settings,
        client=client,
        cluster=world,
        database=database,
        shared=shared,
        metrics=Metrics(),
        clock=clock.now,
    )
    logins = Logins(context)
    guard = Guard(logins, settings)
    actions: Any = FakeActions(world)
    edge = Edge(context, logins=logins, guard=guard, actions=actions, address=selkies)
    sign_out = SignOut(logins, edge.end_grants)
    login = Login(
        context,
        logins=logins,
        guard=guard,
        sign_out=sign_out,
        audit=Audit(database, clock.now),
        passwords=Passwords(HASHER),
    )
    components = (login, edge)
    health = Health(context, components)
    health.begun = True
    stage = Stage(
        settings=settings,
        world=world,
        secrets=kept,
        clock=clock,
        shared=shared,
        database=database,
        context=context,
        logins=logins,
        edge=edge,
        actions=actions,
        public=build_public(context, components, health),
        internal=build_internal(context, components, health),
    )
    stage.add(a_session())
    await edge.ring.refresh()
    await edge.revoker.poll()
    try:
        yield stage
    finally:
        for browser in stage.browsers:
            await browser.aclose()
        await edge.tables.close()
        await database.close()

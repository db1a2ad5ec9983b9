"""The gateway as unit tests have it: real logins, shared state and cluster cache, objects that a test puts into that
cache, and a clock that stands still. Each family of tests adds the component that it is about: `ApiStage`, `EdgeStage`,
`LoginStage`, `PortalStage`.
"""

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, cast
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec

from support.clock import FakeClock
from support.csrf import csrf_of
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Device, Identity, Logins
from vdi.gateway.metrics import Metrics
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState
from vdi.gateway.store.audit import Act, NotAuditedError
from vdi.gateway.store.database import Database
from vdi.gateway.web.credentials import LOGIN_COOKIE
from vdi.kinds import SESSIONS
from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.transport import Client

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PORTAL = "https://portal.vdi.localhost"
PASSWORD = "correct horse battery"
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class FilledCache(ClusterCache):
    """Has what a test puts into it, and waits for no watch."""

    @property
    def synced(self) -> bool:
        return True


@dataclass
class FakeSecrets:
    """The part of kube.Client that reads and changes Secrets: by name, with versions. It reads sessions, too."""

    # Where all of them are; empty: anywhere.
    namespace: str = ""
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    before_patch: Callable[[], None] | None = None
    broken: KubeError | None = None
    # What the replicas' watches have brought: a session is as the one has it that has seen the most of it.
    worlds: list[ClusterCache] = field(default_factory=list)

    def put(self, name: str, **entries: str) -> None:
        self.data[name] = {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()}
        self.versions[name] = self.versions.get(name, 0) + 1

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> Any:
        self.gets.append(name)
        if self.broken is not None:
            raise self.broken
        if resource is SESSIONS:
            return self._session(name, namespace)
        assert self.namespace in ("", namespace)
        if name not in self.data:
            raise NotFound(404, "NotFound", f"secrets {name!r} not found")
        found = {"metadata": {"resourceVersion": str(self.versions[name])}, "data": self.data[name]}
        return msgspec.convert(found, into)

    def _session(self, name: str, namespace: str) -> VDISession:
        found = [session for world in self.worlds if (session := world.sessions.get(namespace, name))]
        if not found:
            raise NotFound(404, "NotFound", f"vdisessions {name!r} not found")
        return max(found, key=lambda session: int(session.metadata.resource_version))

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
class FakeEdge:
    """Remembers whose grants were ended; its tickets say what they are for."""

    ended: list[dict[str, Any]] = field(default_factory=list)

    async def end_grants(self, **which: Any) -> None:
        self.ended.append(which)

    async def issue_ticket(self, person: User, session: VDISession, state: str) -> str:
        return f"ticket of {person.email} into {session.metadata.name} for {state[:4]}"


@dataclass
class RecordedAudit:
    """Remembers (actor, action, target, outcome); `broken` is an audit that cannot be written."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    broken: bool = False
    # Every act is one that is not done when it cannot be written.
    closed_only: bool = False

    @asynccontextmanager
    async def act(self, act: Act, *, closed: bool) -> AsyncIterator[None]:
        assert closed or not self.closed_only
        if self.broken and closed:
            raise NotAuditedError(
                "The action was not performed, because it cannot be written to the audit log right now."
            )
        try:
            yield
        except ActionDenied as why:
            self.rows.append((act.actor, act.action, act.target, why.code))
            raise
        self.rows.append((act.actor, act.action, act.target, "done"))

    async def record(
        self, *, actor: str, action: str, target: str, outcome: str, detail: Mapping[str, str], **rest: Any
    ) -> None:
        assert PASSWORD not in f"{detail} {rest}"
        self.rows.append((actor, action, target, outcome))


class Browser(httpx.AsyncClient):
    """A browser: keeps cookies by host, follows nothing by itself, says where its forms come from."""

    # Of its login.
    secret: str = ""
    login_id: str = ""

    async def open(self, url: str, *, most: int = 12, headers: dict[str, str] | None = None) -> httpx.Response:
        """A person opens an address: follow redirects, as a browser does, fragments included."""
        fragment = urlsplit(url).fragment
        for _ in range(most):
            answer = await self.get(url, headers=NAVIGATION | (headers or {}))
            if answer.status_code not in (302, 303):
                answer.extensions["fragment"] = fragment
                return answer
            url = urljoin(url, answer.headers["location"])
            fragment = urlsplit(url).fragment or fragment
        raise AssertionError(f"too many redirects; the last one to {url}")

    async def submit(self, path: str, page: str = "", **fields: str) -> httpx.Response:
        """Send a form of ours as the browser would: with the token that is in this page (default: /login)."""
        token = csrf_of(page or (await self.get("/login")).text)
        return await self.post(path, data={"csrf": token, **fields}, headers={"Origin": PORTAL})

    async def log_in(self, name: str = "alice", password: str = PASSWORD, **fields: str) -> httpx.Response:
        """Fill in the login form."""
        return await self.submit("/login", user=f"{name}@example.com", password=password, **fields)

    def copy_cookies(self) -> dict[str, str]:
        """What a thief would have."""
        return dict(self.cookies)

    def stolen(self, host: str, *names: str) -> str:
        """A Cookie header with what this browser has for a host."""
        return "; ".join(
            f"{cookie.name}={cookie.value}"
            for cookie in self.cookies.jar
            if cookie.domain == host and (not names or cookie.name in names)
        )


async def begin_login(browser: httpx.AsyncClient, logins: Logins, who: Identity, device: Device | None = None) -> str:
    """Log this person in, give the browser the login's cookie, and return the login's id."""
    secret, login = await logins.begin(who, device or Device())
    browser.cookies.set(LOGIN_COOKIE, secret, domain="portal.vdi.localhost", path="/")
    if isinstance(browser, Browser):
        browser.secret, browser.login_id = secret, login.id
    return login.id


class ComponentStage:
    """What every component of one gateway works with. Another stage on the same database is another replica."""

    def __init__(
        self,
        client: Any,
        *,
        settings: Settings | None = None,
        database: Any = None,
        shared: SharedState | None = None,
        world: Any = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.clock = clock or FakeClock(NOW)
        if shared is None:  # an empty MemorySharedState is false
            shared = MemorySharedState(lambda: self.clock.now().timestamp())
        self.shared = shared
        self.world: ClusterCache = world or FilledCache(cast(Client, client), self.settings)
        self.database: Database = database
        self.context = GatewayContext(
            settings=self.settings,
            client=client,
            cluster=self.world,
            database=self.database,
            shared=self.shared,
            metrics=Metrics(),
            clock=self.clock.now,
        )
        self.logins = Logins(self.context)
        self.guard = Guard(self.logins, self.settings)
        self.clients: list[httpx.AsyncClient] = []
        """Closed with the stage."""
        self._version = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.context.stopping.set()
        self.world.end_changes()
        for client in self.clients:
            await client.aclose()
        await self.database.close()

    def put(self, *objects: VDISession | VDITemplate | VDIPool) -> None:
        """The watch brings these; a later state of the same name replaces."""
        stores: dict[type, Any] = {
            VDISession: self.world.sessions,
            VDITemplate: self.world.templates,
            VDIPool: self.world.pools,
        }
        for obj in objects:
            stores[type(obj)].observe(self._newer(obj))

    def drop(self, session: VDISession) -> None:
        """The watch brings its end."""
        self.world.sessions.observe_deleted(self._newer(session))

    def _newer(self, obj: Any) -> Any:
        self._version += 1
        metadata = msgspec.structs.replace(obj.metadata, resource_version=str(self._version))
        return msgspec.structs.replace(obj, metadata=metadata)

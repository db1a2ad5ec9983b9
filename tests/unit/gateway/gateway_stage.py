"""The whole gateway for unit tests: real components on a database in memory, before an API server
that is a dictionary.

`GatewayStage` wires what `vdi.gateway.app` wires in production, so a test sees the routes, rights
and rows that users meet. Only the edges of the process are stand-ins: the Kubernetes API
(`FakeCluster`), the agents in desktops (`FakeAgent`) and the clock. A stage closes itself with the
test; another stage on the same database is another replica.
"""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Self, cast
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx
import msgspec
from sqlalchemy import update
from starlette.types import ASGIApp

from support.clock import FakeClock
from support.csrf import csrf_of
from support.database import MemoryDatabase
from support.desktop_key import DATA
from support.passwords import HASHER
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.app import build_gateway, build_internal, build_public
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.agent import DesktopAgent
from vdi.gateway.in_flight import ANSWERS_BYTES, USER_ANSWERS_BYTES, AnswerBudget, RequestLimits
from vdi.gateway.limits import Limits
from vdi.gateway.login.local_users import Passwords
from vdi.gateway.login.logins import Device, Identity, Logins
from vdi.gateway.metrics import Metrics
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState
from vdi.gateway.store.audit import audit as audit_table
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import RunRow, SessionRow, runs, sessions
from vdi.gateway.store.logins import grants
from vdi.gateway.store.logins import logins as logins_table
from vdi.gateway.web.credentials import LOGIN_COOKIE
from vdi.http_client import Response, ResponseStream
from vdi.kinds import SESSIONS
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from vdi.kube.resource import CLAIMS, NODES, SECRETS, Resource
from vdi.kube.transport import Client
from vdi.session.credentials import KEY_SECRET
from vdi.session.homes import HomeClaim

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PORTAL = "https://portal.vdi.localhost"
PASSWORD = "correct horse battery"
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
# Stages that the test has opened; `conftest.py` closes them when it ends.
OPEN: list["GatewayStage"] = []


class FilledCache(ClusterCache):
    """Has what a test puts into it, and waits for no watch."""

    @property
    def synced(self) -> bool:
        return True


@dataclass
class FakeCluster:
    """As much of kube.Client as the gateway calls.

    Sessions and homes are those that the caches of its stages hold, the newest state of each; what
    is written is in all of these caches at once. Secrets are here.
    """

    caches: list[ClusterCache] = field(default_factory=list)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    # Names of all that was read with `get`.
    reads: list[str] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    # What every write, and a list of nodes, fails with.
    refuses: Exception | None = None
    # What every read of one object fails with.
    broken: KubeError | None = None
    # Creating an object takes until this is set.
    held: asyncio.Event | None = None
    # How many creations wait for it.
    waiting: int = 0
    # Called once, before the next change of a Secret: another replica is faster.
    before_patch: Callable[[], None] | None = None
    # Plays the operator: what the status becomes after the next write, one after the other.
    then: list[dict[str, Any]] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    config: ClusterConfig = field(
        default_factory=lambda: ClusterConfig(server="http://127.0.0.1:9")
    )

    # --- what tests put and read

    def put_secret(self, name: str, **entries: str) -> None:
        """A Secret in the gateway's namespace, with these texts."""
        self.secrets[name] = {
            key: base64.b64encode(value.encode()).decode() for key, value in entries.items()
        }
        self.versions[name] = self.versions.get(name, 0) + 1

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """Sessions by name, as JSON."""
        names = {
            session.metadata.name for cache in self.caches for session in cache.sessions.values()
        }
        found = {name: self._newest(SESSIONS, name, "vdi-sessions") for name in sorted(names)}
        return {
            name: msgspec.json.decode(msgspec.json.encode(session))
            for name, session in found.items()
        }

    def put(self, obj: dict[str, Any], resource: Resource = SESSIONS) -> None:
        """Store an object; what its metadata lacks is filled in."""
        version, meta = next(self.numbers), obj["metadata"]
        meta.setdefault("namespace", "vdi-sessions")
        present = self._find(resource, meta["name"], meta["namespace"])
        if present is not None:
            meta.setdefault("uid", present.metadata.uid)
            version = max(version, int(present.metadata.resource_version or 0) + 1)
        meta.setdefault("uid", f"uid-{version}")
        meta.setdefault(
            "creationTimestamp", f"2026-11-20T10:{version // 60 % 60:02}:{version % 60:02}Z"
        )
        meta["resourceVersion"] = str(version)
        for cache in self.caches:
            _store(cache, resource).observe(msgspec.convert(obj, _KINDS[resource]))

    def drop(
        self, name: str, namespace: str = "vdi-sessions", resource: Resource = SESSIONS
    ) -> None:
        """An object ends."""
        present = self._newest(resource, name, namespace)
        version = max(next(self.numbers), int(present.metadata.resource_version) + 1)
        metadata = msgspec.structs.replace(present.metadata, resource_version=str(version))
        for cache in self.caches:
            _store(cache, resource).observe_deleted(
                msgspec.structs.replace(present, metadata=metadata)
            )

    # --- what the gateway calls

    def server_time(self) -> datetime | None:
        return None

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise Forbidden(403, "Forbidden", "the doctor may read nothing here")
        yield

    async def list(self, resource: Resource, *, namespace: str = "", into: Any) -> list[Any]:
        if resource is NODES:
            self._may_write()
            return [msgspec.convert(node, into) for node in self.nodes]
        found = {
            obj.metadata.name for cache in self.caches for obj in _store(cache, resource).values()
        }
        objects = [self._find(resource, name, namespace) for name in sorted(found)]
        return [
            msgspec.convert(msgspec.to_builtins(obj), into) for obj in objects if obj is not None
        ]

    async def get(self, resource: Resource, name: str, *, namespace: str, into: Any) -> Any:
        self.reads.append(name)
        if self.broken is not None:
            raise self.broken
        if resource in _KINDS:
            return self._read(resource, name, namespace, into)
        if resource is not SECRETS or name not in self.secrets:
            raise NotFound(404, "NotFound", f"{resource.plural} {name!r} not found")
        meta = {"name": name, "resourceVersion": str(self.versions[name])}
        return msgspec.convert({"metadata": meta, "data": self.secrets[name]}, into)

    async def create(self, resource: Resource, obj: Any, *, namespace: str = "", into: Any) -> Any:
        if resource not in _KINDS:
            # A token that no one has issued.
            return msgspec.convert({"status": {"authenticated": False}}, into)
        self._may_write()
        name = obj["metadata"]["name"]
        if self.held is not None:
            self.waiting += 1
            await self.held.wait()
        if self._find(resource, name, namespace) is not None:
            raise AlreadyExists(409, "AlreadyExists", "exists")
        self._play(name)
        self.put({**obj, "metadata": {**obj["metadata"], "namespace": namespace}}, resource)
        return self._read(resource, name, namespace, into)

    async def patch(
        self, resource: Resource, name: str, patch: Any, *, namespace: str, into: Any
    ) -> Any:
        self._may_write()
        if resource is SECRETS:
            return self._patch_secret(name, patch)
        self._play(name)
        old = msgspec.to_builtins(self._newest(resource, name, namespace))
        asked, version = msgspec.to_builtins(patch), old["metadata"]["resourceVersion"]
        if asked.get("metadata", {}).get("resourceVersion", version) != version:
            raise Conflict(409, "Conflict", "the object has been modified")
        self.put(_merged(old, asked), resource)
        return self._read(resource, name, namespace, into)

    async def delete(
        self, resource: Resource, name: str, *, namespace: str, dry_run: bool = False, **_: Any
    ) -> None:
        self._may_write()
        if not dry_run:
            self.drop(name, namespace, resource)

    # --- helpers

    def _may_write(self) -> None:
        if self.refuses is not None:
            raise self.refuses

    def _find(self, resource: Resource, name: str, namespace: str) -> Any:
        found = [
            obj for cache in self.caches if (obj := _store(cache, resource).get(namespace, name))
        ]
        return max(found, key=lambda obj: int(obj.metadata.resource_version or 0), default=None)

    def _newest(self, resource: Resource, name: str, namespace: str) -> Any:
        found = self._find(resource, name, namespace)
        if found is None:
            raise NotFound(404, "NotFound", f"{resource.plural} {name!r} not found")
        return found

    def _read(self, resource: Resource, name: str, namespace: str, into: Any) -> Any:
        return msgspec.convert(msgspec.to_builtins(self._newest(resource, name, namespace)), into)

    def _patch_secret(self, name: str, patch: Any) -> Any:
        if self.before_patch is not None:
            before, self.before_patch = self.before_patch, None
            before()
        if patch["metadata"]["resourceVersion"] != str(self.versions[name]):
            raise Conflict(409, "Conflict", "the object has been modified")
        self.secrets[name] = {**self.secrets[name], **patch["data"]}
        self.versions[name] += 1
        return msgspec.Raw(b"{}")

    def _play(self, name: str) -> None:
        if self.then:
            asyncio.get_running_loop().call_later(0.03, self._step, name)

    def _step(self, name: str) -> None:
        self.put({**self.objects[name], "status": self.then.pop(0)})
        self._play(name)


_KINDS: dict[Resource, Any] = {SESSIONS: VDISession, CLAIMS: HomeClaim}


def _store(cache: ClusterCache, resource: Resource) -> Any:
    return cache.sessions if resource is SESSIONS else cache.homes


def _merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch: null removes."""
    new = dict(old)
    for key, value in patch.items():
        if isinstance(value, dict):
            new[key] = _merged(new.get(key) or {}, value)
        elif value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return new


@dataclass
class FakeAgent:
    """The agents of all desktops, by the session's name: the picture of its screen, its report of
    start-up scripts.
    """

    screens: dict[str, bytes] = field(default_factory=dict)
    scripts: dict[str, bytes] = field(default_factory=dict)
    # Lists of its files.
    folders: dict[str, bytes] = field(default_factory=dict)
    memory: bytes = b"not known"
    status: int = 200
    asked: list[str] = field(default_factory=list)
    # Asked instead, where a test serves an agent.
    real: DesktopAgent | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    answers: AnswerBudget = field(
        default_factory=lambda: AnswerBudget(ANSWERS_BYTES, USER_ANSWERS_BYTES),
    )
    enter, read, _reserve = DesktopAgent.enter, DesktopAgent.read, DesktopAgent._reserve

    async def ask(self, session: VDISession, method: str, path: str, **options: Any) -> Response:
        if self.real is not None:
            return await self.real.ask(session, method, path, **options)
        if path == "/memory":
            return Response(200, self.memory)
        self.asked.append(f"{method} {path} of {session.metadata.name}")
        answers = self.scripts if path == "/startup-scripts" else self.screens
        if session.metadata.name not in answers:
            raise ActionDenied("Unavailable", "The agent does not respond.")
        return Response(self.status, answers[session.metadata.name])

    @asynccontextmanager
    async def stream(
        self, session: VDISession, method: str, path: str, **options: Any
    ) -> AsyncIterator[ResponseStream]:
        if self.real is not None:
            async with self.real.stream(session, method, path, **options) as answer:
                yield answer
        elif session.metadata.name not in self.folders:
            raise ActionDenied("Unavailable", "The agent does not respond.")
        else:
            yield ResponseStream(
                httpx.Response(200, stream=httpx.ByteStream(self.folders[session.metadata.name]))
            )


class Browser(httpx.AsyncClient):
    """A browser: keeps cookies by host, follows nothing by itself, says where its forms come
    from.
    """

    # The person that logs in with the first request.
    who: Identity | None = None
    logins: Logins
    # Of its login.
    secret: str = ""
    login_id: str = ""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        if self.who is not None and not self.secret:
            await begin_login(self, self.logins, self.who)
            self.cookies.set_cookie_header(request)
        return await super().send(request, **options)

    async def open(
        self, url: str, *, most: int = 12, headers: dict[str, str] | None = None
    ) -> httpx.Response:
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
        """Send a form of ours as the browser would: with the token that is in this page (default:
        /login).
        """
        token = csrf_of(page or (await self.get("/login")).text)
        return await self.post(path, data={"csrf": token, **fields}, headers={"Origin": PORTAL})

    async def log_in(
        self, name: str = "alice", password: str = PASSWORD, **fields: str
    ) -> httpx.Response:
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


async def begin_login(
    browser: httpx.AsyncClient, logins: Logins, who: Identity, device: Device | None = None
) -> str:
    """Log this person in, give the browser the login's cookie, and return the login's id."""
    secret, login = await logins.begin(who, device or Device())
    browser.cookies.set(LOGIN_COOKIE, secret, domain="portal.vdi.localhost", path="/")
    if isinstance(browser, Browser):
        browser.secret, browser.login_id = secret, login.id
    return login.id


def a_past(
    uid: str, user: str = "alice@example.com", template: str = "ubuntu", created: datetime = NOW
) -> SessionRow:
    """A session in history."""
    return SessionRow(
        uid=uid, name=uid, namespace="vdi-sessions", owner=user, template=template, created=created
    )


def identity_of(user: User) -> Identity:
    """Who logs in to be this user."""
    return Identity(user=user.email, name=user.name, groups=user.groups, admin=user.admin)


class GatewayStage:
    """One gateway process; with `shares` of another stage it is a replica of that one."""

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        limits: Limits | None = None,
        cluster: Any = None,
        cache: ClusterCache | None = None,
        memory: MemoryDatabase | None = None,
        database_url: str = "",
        shared: SharedState | None = None,
        now: datetime = NOW,
        selkies: Callable[[VDISession], str] | None = None,
    ) -> None:
        OPEN.append(self)
        self.settings, self.clock = settings or Settings(), FakeClock(now)
        self.cluster: Any = cluster or FakeCluster()
        if isinstance(self.cluster, FakeCluster):
            self.cluster.secrets.setdefault(KEY_SECRET, DATA)
            self.cluster.versions.setdefault(KEY_SECRET, 1)
            if self.settings.keys_secret not in self.cluster.secrets:
                self.cluster.put_secret(self.settings.keys_secret)
        self._numbers = (
            self.cluster.numbers if isinstance(self.cluster, FakeCluster) else itertools.count(1)
        )
        client = cast(Client, self.cluster)
        self.world = cache or FilledCache(client, self.settings)
        if isinstance(self.cluster, FakeCluster):
            self.cluster.caches.append(self.world)
        self.memory = None if database_url else memory or MemoryDatabase()
        self.database = Database(database_url or self.rows.url)
        if shared is None:  # an empty MemorySharedState is false
            shared = MemorySharedState(lambda: self.clock.now().timestamp())
        self.context = GatewayContext(
            settings=self.settings,
            client=client,
            cluster=self.world,
            database=self.database,
            shared=shared,
            metrics=Metrics(),
            clock=self.clock.now,
        )
        self.shared = shared
        self.agent = FakeAgent()
        self.gateway = build_gateway(
            self.context,
            limits or Limits(),
            selkies,
            Passwords(HASHER),
            agent=cast(DesktopAgent, self.agent),
        )
        self.services = self.gateway.services
        self.actions = self.services.actions
        self.audit = self.services.audit
        self.history = self.services.history
        self.login, self.edge = self.gateway.login, self.gateway.edge
        self.api = self.gateway.api
        self.logins, self.guard = self.login.services.logins, self.login.services.guard
        self.gateway.health.begun = True
        # Closed with the stage.
        self.clients: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End streams, and close everything; the test's end does so, too."""
        if self not in OPEN:
            return
        OPEN.remove(self)
        self.gateway.stop()
        for client in self.clients:
            await client.aclose()
        await self.edge.tables.close()
        await self.login.close()
        await self.database.close()

    @property
    def rows(self) -> MemoryDatabase:
        """The database, to be read and written without awaiting."""
        assert self.memory is not None, "this stage has a database of its own"
        return self.memory

    @property
    def shares(self) -> dict[str, Any]:
        """What replicas have in common."""
        return {"cluster": self.cluster, "memory": self.memory, "shared": self.context.shared}

    # --- the listeners

    @cached_property
    def public(self) -> ASGIApp:
        """What Traefik speaks to."""
        return build_public(self.gateway)

    @cached_property
    def internal(self) -> ASGIApp:
        """What forwardAuth and the operator speak to."""
        return build_internal(self.gateway)

    def new_browser(
        self, who: User | Identity | None = None, /, *, address: str = "", **headers: str
    ) -> Browser:
        """A new browser behind Traefik; this person logs in with its first request."""
        given = (
            {"Accept": "text/html"} | ({"X-Forwarded-For": address} if address else {}) | headers
        )
        browser = Browser(
            transport=self.transport(), base_url=self.settings.portal_url, headers=given
        )
        browser.logins = self.logins
        browser.who = identity_of(who) if isinstance(who, User) else who
        self.clients.append(browser)
        return browser

    def transport(self) -> httpx.AsyncBaseTransport:
        """How a browser reaches this gateway."""
        return httpx.ASGITransport(self.public, client=("10.0.0.5", 1), raise_app_exceptions=True)

    # --- the cluster

    def put(self, *objects: VDISession | VDITemplate | VDIPool) -> None:
        """The watch brings these; a later state of the same name replaces."""
        for obj in objects:
            self._store_of(obj).observe(self._newer(obj))

    def drop(self, session: VDISession) -> None:
        """The watch brings its end."""
        self.world.sessions.observe_deleted(self._newer(session))

    def _store_of(self, obj: object) -> Any:
        stores = {VDITemplate: self.world.templates, VDIPool: self.world.pools}
        return stores.get(type(obj), self.world.sessions)  # type: ignore[call-overload]

    def _newer(self, obj: Any) -> Any:
        present = self._store_of(obj).get(obj.metadata.namespace, obj.metadata.name)
        known = [
            int(each.metadata.resource_version or 0) + 1
            for each in (obj, present)
            if each is not None
        ]
        metadata = msgspec.structs.replace(
            obj.metadata, resource_version=str(max(next(self._numbers), *known))
        )
        return msgspec.structs.replace(obj, metadata=metadata)

    # --- the database

    def remember(self, session: SessionRow, *its_runs: RunRow) -> None:
        """History has this session, with these runs."""
        self.rows.insert(sessions, msgspec.structs.asdict(session))
        if its_runs:
            self.rows.insert(runs, *map(msgspec.structs.asdict, its_runs))

    def use(
        self, user: str, hours: float, template: str = "ubuntu", *, end: datetime = NOW, **run: Any
    ) -> None:
        """History has a session of this user with one run of so many hours that ended at `end`."""
        session = a_past(
            f"uid-{user}-{template}-{end:%m}", user=user, template=template, created=end
        )
        begin = end - timedelta(hours=hours)
        self.remember(session, RunRow(uid=session.uid, start=begin, ended=end, **run))

    @property
    def acts(self) -> list[tuple[str, str, str, str]]:
        """The audit: (actor, action, target, outcome) of each act, the oldest first."""
        last = {
            row.act: (row.actor, row.action, row.target, row.outcome)
            for row in self.rows.rows(audit_table)
        }
        return list(last.values())

    def enter_act(self, actor: str, action: str, target: str, **more: Any) -> None:
        """The audit has this act."""
        row = {
            "act": uuid4().hex,
            "at": self.clock.now(),
            "address": "",
            "target_uid": "",
            "target_owner": "",
        }
        row |= {"actor": actor, "action": action, "target": target, "outcome": "done", **more}
        self.rows.insert(
            audit_table, row | {"detail": msgspec.json.encode(more.get("detail", {})).decode()}
        )

    def lose_history(self) -> None:
        """From now on history cannot be read, as if the database were down; logins still can."""
        self.rows.drop(runs, sessions)

    def lose_audit(self) -> None:
        """From now on the audit can be neither read nor written."""
        self.rows.drop(audit_table)

    def enter_grant(
        self, login_id: str, user: str = "alice@example.com", session: str = "uid-alice-desktop"
    ) -> None:
        """A browser of this login is in a desktop."""
        row: dict[str, Any] = {
            "id": uuid4().hex,
            "handle_hash": uuid4().hex,
            "session_uid": session,
            "user": user,
        }
        row |= {
            "groups": "[]",
            "role": "owner",
            "login_id": login_id,
            "reason": "",
            "created": self.clock.now(),
        }
        self.rows.insert(
            grants, row | {"ended": None, "expires": self.clock.now() + timedelta(days=1)}
        )

    @property
    def ended_grants(self) -> list[str]:
        """Of which logins grants have ended."""
        return [grant.login_id for grant in self.rows.rows(grants) if grant.ended]

    async def change_logins(self, user: str = "", **values: Any) -> None:
        """The logins of a user, or of everyone, have these values from now on."""
        # Awaited, and on the gateway's own connections: a stream may be reading its login, and
        # could not end that while a test keeps the event loop.
        changed = update(logins_table).values(**values)
        async with self.database.engine.begin() as connection:
            await connection.execute(
                changed.where(logins_table.c.user == user) if user else changed
            )

    async def end_logins(self, user: str = "") -> None:
        """The logins of a user, or of everyone, have ended."""
        await self.change_logins(user, ended=self.clock.now())

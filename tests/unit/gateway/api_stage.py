"""A gateway that is nothing but its API: real actions, database, history and audit; a cluster of objects in memory."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette

from support.builders import a_template
from support.database import sqlite_with_tables
from support.passwords import HASHER
from unit.gateway.api_contract import Contract
from unit.gateway.component_stage import PORTAL, ComponentStage, FakeEdge, begin_login
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.api.component import Api
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.current_use import GpuSlots
from vdi.gateway.desktop_agent import DesktopAgent, DesktopKey, StartupScripts
from vdi.gateway.doctor import DoctorRunner
from vdi.gateway.history.component import History
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.login.component import Login
from vdi.gateway.login.local_users import Passwords
from vdi.gateway.login.logins import Device, Identity, SignOut
from vdi.gateway.probing import Prober
from vdi.gateway.services import ApiServices
from vdi.gateway.store.audit import Audit
from vdi.gateway.store.database import Database
from vdi.gateway.web.render import ErrorPages
from vdi.kinds import SESSIONS
from vdi.kube.errors import AlreadyExists, Cause, Invalid, NotFound
from vdi.kube.resource import NODES, Resource
from vdi.session.homes import HomeClaim

ALICE = Identity(user="alice@example.com", name="Alice", groups=frozenset({"engineering"}))
BOB = Identity(user="bob@example.com", name="Bob")
ROOT = Identity(user="root@example.com", name="Root", admin=True)
RUNNING: dict[str, Any] = {
    "phase": "Running",
    "url": "https://alice-desktop.vdi.localhost",
    "startTime": "2026-11-20T11:00:00Z",
    "expiresAt": "2026-11-20T19:00:00Z",
}


@dataclass
class FakeCluster:
    """As much of kube.Client as `Actions` uses; what it stores, the world sees at once."""

    world: ClusterCache | None = None
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    # Plays the operator: what the status becomes after the next write, one after the other.
    then: list[dict[str, Any]] = field(default_factory=list)
    refuses: Exception | None = None
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def put(self, obj: dict[str, Any]) -> dict[str, Any]:
        number = next(self.numbers)
        meta = obj["metadata"]
        meta.setdefault("namespace", "vdi-sessions")
        before = self.objects.get(meta["name"], {"metadata": {}})["metadata"]
        meta.setdefault("uid", before.get("uid", f"uid-{number}"))
        meta.setdefault("creationTimestamp", f"2026-11-20T10:{number // 60:02}:{number % 60:02}Z")
        meta["resourceVersion"] = str(number)
        self.objects[meta["name"]] = obj
        assert self.world is not None
        self.world.sessions.observe(msgspec.convert(obj, VDISession))
        return obj

    def drop(self, name: str) -> None:
        obj = self.objects.pop(name)
        obj["metadata"]["resourceVersion"] = str(next(self.numbers))
        assert self.world is not None
        self.world.sessions.observe_deleted(msgspec.convert(obj, VDISession))

    async def list(self, resource: Resource, *, namespace: str = "", into: Any) -> list[Any]:
        if resource is NODES:
            self._may()
            return self.nodes
        return [msgspec.convert(each, into) for each in self.objects.values()]

    async def get(self, resource: Resource, name: str, *, namespace: str, into: Any) -> Any:
        if name not in self.objects:
            raise NotFound(404, "NotFound", "not found")
        return msgspec.convert(self.objects[name], into)

    async def create(self, resource: Resource, obj: Any, *, namespace: str, into: Any) -> Any:
        self._may()
        if obj["metadata"]["name"] in self.objects:
            raise AlreadyExists(409, "AlreadyExists", "exists")
        self._play(obj["metadata"]["name"])
        return msgspec.convert(self.put(obj), into)

    async def patch(self, resource: Resource, name: str, change: Any, *, namespace: str, into: Any) -> Any:
        self._may()
        self._play(name)
        return msgspec.convert(self.put(_merged(self.objects[name], msgspec.to_builtins(change))), into)

    def _play(self, name: str) -> None:
        if self.then:
            asyncio.get_running_loop().call_later(0.03, self._step, name)

    def _step(self, name: str) -> None:
        self.put({**self.objects[name], "status": self.then.pop(0)})
        self._play(name)

    async def delete(self, resource: Resource, name: str, **_: Any) -> Any:
        self._may()
        if resource is SESSIONS:
            self.drop(name)

    def _may(self) -> None:
        if self.refuses is not None:
            raise self.refuses


def _merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    new = dict(old)
    for key, value in patch.items():
        new[key] = _merged(new.get(key, {}), value) if isinstance(value, dict) else value
    return new


def refused_field(name: str, message: str) -> Invalid:
    """What the API server says of a field that breaks a rule of the CRD."""
    return Invalid(422, "Invalid", "is invalid", causes=(Cause(name, "FieldValueInvalid", message),))


class ApiStage(ComponentStage):
    """The API alone, with the template ubuntu: real actions, database, history and audit."""

    def __init__(self, folder: Path, *, everybody: Limit | None = None) -> None:
        self.cluster, self.edge = FakeCluster(), FakeEdge()
        self.agent_url = ""
        """Of the agent in every desktop."""
        super().__init__(self.cluster, database=Database(sqlite_with_tables(folder / "vdi.db")))
        self.cluster.world = self.world
        context, logins, guard = self.context, self.logins, self.guard
        limits, history = Limits(default=everybody or Limit()), History(context)
        audit, sign_out = Audit(self.database, context.clock), SignOut(logins, self.edge.end_grants)
        actions = Actions(context, limits=limits, history=history, audit=audit)
        self.login = Login(
            context, logins=logins, guard=guard, sign_out=sign_out, audit=audit, passwords=Passwords(HASHER)
        )
        agent = DesktopAgent(DesktopKey(context.client, "vdi-system"), lambda _: self.agent_url)
        prober = Prober(context=context, issue_ticket=self.edge.issue_ticket, agent=agent)
        self.services = ApiServices(
            context=context, guard=guard, logins=logins, sign_out=sign_out, limits=limits, actions=actions,
            history=history, audit=audit, prober=prober, doctor=DoctorRunner(context), gpu_slots=GpuSlots(context),
            startup_scripts=StartupScripts(context=context, agent=agent),
        )  # fmt: skip
        self.api = Api(self.services)
        routes = [*self.api.portal_routes()]
        self.app = Starlette(routes=routes, exception_handlers=ErrorPages(self.settings).handlers())
        self.contract = Contract(self.api.document)
        self.template()

    def session(self, name: str = "alice-desktop", *, status: dict[str, Any] | None = None, **spec: Any) -> None:
        base = {"user": "alice@example.com", "template": "ubuntu"}
        self.cluster.put({"metadata": {"name": name}, "spec": base | spec, "status": status or {}})

    def template(self, name: str = "ubuntu", **spec: Any) -> None:
        self.put(a_template(name, **{"resources": {"defaultGPU": 0}} | spec))

    def home(self, name: str, user: str = "alice@example.com", template: str = "") -> None:
        """A home that no session has yet."""
        notes = {"vdi.kasm.io/user": user} | ({"vdi.kasm.io/template": template} if template else {})
        meta: dict[str, Any] = {"name": name, "namespace": "vdi-sessions", "uid": f"uid-{name}", "annotations": notes}
        meta |= {"resourceVersion": str(next(self.cluster.numbers)), "creationTimestamp": "2026-11-20T08:00:00Z"}
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
        made = msgspec.convert({"metadata": meta, "spec": spec, "status": {"phase": "Bound"}}, HomeClaim)
        self.services.context.cluster.homes.observe(made)

    def pool(self, name: str = "kiosk") -> None:
        spec = {"template": "ubuntu", "replicas": 2}
        self.put(msgspec.convert({"metadata": {"name": name}, "spec": spec}, VDIPool))

    async def anybody(self, **headers: str) -> httpx.AsyncClient:
        """Whose every answer is held against the OpenAPI document."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        hooks = {"response": [self.contract.check]}
        client = httpx.AsyncClient(transport=transport, base_url=PORTAL, headers=headers, event_hooks=hooks)
        self.clients.append(client)
        return client

    async def program(self, who: Identity = ALICE) -> httpx.AsyncClient:
        """A program with an API token of this person."""
        secret, _ = await self.logins.begin(who, Device())
        person = await self.logins.person_by_cookie(secret)
        assert person is not None
        token, _ = await self.logins.new_token(person, "test", timedelta(days=1))
        return await self.anybody(authorization=f"Bearer {token}")

    async def page(self, who: Identity = ALICE) -> httpx.AsyncClient:
        """A script on one of the portal's pages: the cookie of a login, and what a browser says of itself."""
        client = await self.anybody(origin=PORTAL)
        await begin_login(client, self.logins, who)
        token = (await client.get("/api/v1/me")).json()["csrfToken"]
        client.headers["X-CSRF-Token"] = token
        return client

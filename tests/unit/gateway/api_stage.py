"""The gateway for tests of the REST API: programs and pages of people, every answer held against
the document.
"""

from datetime import timedelta
from typing import Any

import httpx
import msgspec

from support.builders import a_template
from unit.gateway.api_contract import Contract
from unit.gateway.gateway_stage import PORTAL, GatewayStage, begin_login
from vdi.api.pool import VDIPool
from vdi.gateway.desktop.agent import DesktopAgent
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.login.logins import Device, Identity
from vdi.kube.errors import Cause, Invalid
from vdi.kube.resource import CLAIMS

ALICE = Identity(user="alice@example.com", name="Alice", groups=frozenset({"engineering"}))
BOB = Identity(user="bob@example.com", name="Bob")
ROOT = Identity(user="root@example.com", name="Root", admin=True)
RUNNING: dict[str, Any] = {
    "phase": "Running",
    "url": "https://alice-desktop.vdi.localhost",
    "startTime": "2026-11-20T11:00:00Z",
    "expiresAt": "2026-11-20T19:00:00Z",
}


def refused_field(name: str, message: str) -> Invalid:
    """What the API server says of a field that breaks a rule of the CRD."""
    return Invalid(
        422, "Invalid", "is invalid", causes=(Cause(name, "FieldValueInvalid", message),)
    )


class ApiStage(GatewayStage):
    """The gateway with the template ubuntu; `agent_url` is that of the agent in every desktop."""

    def __init__(self, *, everybody: Limit | None = None) -> None:
        super().__init__(limits=Limits(default=everybody or Limit()))
        self.agent_url = ""
        self.agent.real = DesktopAgent(self.edge.tables.key, lambda _: self.agent_url)
        self.contract = Contract(self.api.document)
        self.template()

    def session(
        self, name: str = "alice-desktop", *, status: dict[str, Any] | None = None, **spec: Any
    ) -> None:
        base = {"user": "alice@example.com", "template": "ubuntu"}
        self.cluster.put({"metadata": {"name": name}, "spec": base | spec, "status": status or {}})

    def template(self, name: str = "ubuntu", **spec: Any) -> None:
        self.put(a_template(name, **{"resources": {"defaultGPU": 0}} | spec))

    def home(self, name: str, user: str = "alice@example.com", template: str = "") -> None:
        """A home that no session has yet."""
        notes = {"vdi.kasm.io/user": user} | (
            {"vdi.kasm.io/template": template} if template else {}
        )
        meta = {
            "name": name,
            "uid": f"uid-{name}",
            "annotations": notes,
            "creationTimestamp": "2026-11-20T08:00:00Z",
        }
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
        self.cluster.put({"metadata": meta, "spec": spec, "status": {"phase": "Bound"}}, CLAIMS)

    def pool(self, name: str = "kiosk") -> None:
        spec = {"template": "ubuntu", "replicas": 2}
        self.put(msgspec.convert({"metadata": {"name": name}, "spec": spec}, VDIPool))

    async def anybody(self, **headers: str) -> httpx.AsyncClient:
        """Whose every answer is held against the OpenAPI document."""
        transport = httpx.ASGITransport(self.public, raise_app_exceptions=False)
        hooks = {"response": [self.contract.check]}
        client = httpx.AsyncClient(
            transport=transport, base_url=PORTAL, headers=headers, event_hooks=hooks
        )
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
        """A script on one of the portal's pages: the cookie of a login, and what a browser says of
        itself.
        """
        client = await self.anybody(origin=PORTAL)
        await begin_login(client, self.logins, who)
        token = (await client.get("/api/v1/me")).json()["csrfToken"]
        client.headers["X-CSRF-Token"] = token
        return client

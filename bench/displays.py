"""The same desktop on Wayland: a session of a copy of its template."""

from __future__ import annotations

from bench.ways import USER, Object, ThroughOperator, remove
from vdi.demo.browser import Login
from vdi.kube import CLAIMS, Client
from vdi.operator.kinds import TEMPLATES
from vdi.session.naming import home_claim_name

TEMPLATE = "bench-wayland"


class OnWayland(ThroughOperator):
    """A VDISession of that copy."""

    name = "vdi, Wayland"

    def __init__(self, client: Client, login: Login) -> None:
        super().__init__(client, TEMPLATE, login)

    async def prepare(self, template: str) -> None:
        """Copy the template. Raises KubeError."""
        like = await self._client.get(TEMPLATES, template, into=Object)
        spec = {**like["spec"], "streaming": {**like["spec"].get("streaming", {}), "display": "Wayland"}}
        made = {"apiVersion": TEMPLATES.api_version, "kind": TEMPLATES.kind}
        await self._client.create(TEMPLATES, {**made, "metadata": {"name": TEMPLATE}, "spec": spec}, into=Object)

    async def clear(self) -> None:
        """Remove the copy and the home of its sessions, which have ended. Raises TimeoutError."""
        await remove(self._client, TEMPLATES, TEMPLATE, namespace=None)
        home = home_claim_name(session_name="", user=USER, template=TEMPLATE, retain=True)
        await remove(self._client, CLAIMS, home)

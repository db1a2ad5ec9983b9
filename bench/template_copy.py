"""Sessions of a template that is a copy of another one, with other values here and there."""

from __future__ import annotations

from typing import Any

from bench.ways import USER, Object, ThroughOperator, remove
from vdi.demo.browser import Login
from vdi.kinds import TEMPLATES
from vdi.kube.resource import CLAIMS
from vdi.kube.transport import Client
from vdi.session.naming import home_claim_name


class OfTemplateCopy(ThroughOperator):
    """VDISessions of that copy. `changes`: by section of the template's spec."""

    def __init__(
        self, client: Client, login: Login, copy: str, changes: dict[str, dict[str, Any]]
    ) -> None:
        super().__init__(client, copy, login)
        self._copy, self._changes = copy, changes

    async def prepare(self, template: str) -> None:
        """Copy the template. Raises KubeError."""
        like = await self._client.get(TEMPLATES, template, into=Object)
        changed = {
            section: {**like["spec"].get(section, {}), **new}
            for section, new in self._changes.items()
        }
        made = {
            "apiVersion": TEMPLATES.api_version,
            "kind": TEMPLATES.kind,
            "metadata": {"name": self._copy},
        }
        await self._client.create(
            TEMPLATES, {**made, "spec": {**like["spec"], **changed}}, into=Object
        )

    async def clear(self) -> None:
        """Remove the copy and the home of its sessions, which have ended. Raises TimeoutError."""
        await remove(self._client, TEMPLATES, self._copy, namespace=None)
        home = home_claim_name(session_name="", user=USER, template=self._copy, retain=True)
        await remove(self._client, CLAIMS, home)


class Recorded(OfTemplateCopy):
    """The same desktop while it is recorded; its user may read the size of its recordings."""

    def __init__(self, client: Client, login: Login) -> None:
        recording = {"mode": "Always", "retention": "1h", "ownerMayWatch": True}
        super().__init__(client, login, "bench-recorded", {"recording": recording})


class OnWayland(OfTemplateCopy):
    """The same desktop on Wayland."""

    name = "vdi, Wayland"

    def __init__(self, client: Client, login: Login) -> None:
        super().__init__(client, login, "bench-wayland", {"streaming": {"display": "Wayland"}})


class WithIsolation(OfTemplateCopy):
    """The same desktop with this value of `isolation.userNamespaces`."""

    NAME = "vdi, user namespaces {}"

    def __init__(self, client: Client, login: Login, mode: str) -> None:
        self.name = self.NAME.format(mode)
        super().__init__(
            client,
            login,
            f"bench-isolation-{mode.lower()}",
            {"isolation": {"userNamespaces": mode}},
        )

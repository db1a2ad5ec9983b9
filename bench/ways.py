"""Two ways to a desktop on a real cluster: a session that the operator works on, and its very
objects applied raw.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec

from vdi.demo.browser import Login
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.errors import NotFound
from vdi.kube.resource import PODS, SECRETS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.session.children import PASSWORD_KEY
from vdi.session.naming import SESSION_LABEL

NAMESPACE = "vdi-sessions"
USER = "bench@example.com"
# What dies with a session. The home stays: both ways mount the same one.
CHILDREN = (SECRETS, PODS, SERVICES, ROUTES)
DEADLINE_SECONDS = 120

Object = dict[str, Any]


class Way(Protocol):
    """How a desktop comes about."""

    name: str

    @property
    def login(self) -> Login | None:
        """Who opens the desktop, where somebody has to be logged in."""

    async def apply(self, desktop: str) -> None:
        """Send what makes the desktop."""

    async def ready(self, desktop: str) -> None:
        """Wait until it is said to be ready to be opened."""

    async def url(self, desktop: str) -> str:
        """Where it is opened. Known before the desktop is ready."""

    async def remove(self, desktop: str) -> None:
        """Remove all that `apply` sent, and wait until the pod is gone."""


class ThroughOperator:
    """A VDISession; the operator does the rest."""

    name = "vdi"

    def __init__(self, client: Client, template: str, login: Login) -> None:
        self._client, self._template, self.login = client, template, login

    async def apply(self, desktop: str) -> None:
        session = {
            "apiVersion": SESSIONS.api_version,
            "kind": SESSIONS.kind,
            "metadata": {"name": desktop, "namespace": NAMESPACE},
            "spec": {"user": USER, "template": self._template},
        }
        await self._client.create(SESSIONS, session, namespace=NAMESPACE, into=Object)

    async def ready(self, desktop: str) -> None:
        """Wait for phase Running. Raises RuntimeError when the session fails."""
        session = await until(
            self._client,
            SESSIONS,
            desktop,
            lambda found: status(found, "phase") in ("Running", "Failed"),
        )
        if status(session, "phase") == "Failed":
            raise RuntimeError(f"session {desktop} failed: {status(session, 'message')}")

    async def url(self, desktop: str) -> str:
        """What `vdi session open` would use."""
        session = await until(
            self._client, SESSIONS, desktop, lambda found: bool(status(found, "url"))
        )
        return status(session, "url")

    async def remove(self, desktop: str) -> None:
        """Delete the session; the operator removes the pod before its finalizer."""
        await remove(self._client, SESSIONS, desktop)


class Raw:
    """The objects that the operator made for one session, under other names, all sent at once.

    No gateway knows of them: their route asks none, and Selkies gets its tokens from us.
    """

    name = "raw API"
    login = None

    def __init__(
        self, client: Client, model: str, children: Mapping[Resource, Object], url: str
    ) -> None:
        self._client, self._model, self._children, self._url = client, model, children, url
        self._token = secrets.token_urlsafe(32)

    @classmethod
    async def like(cls, client: Client, way: Way, model: str) -> Raw:
        """Take the running desktop `model` as the model."""
        children = {}
        for resource in CHILDREN:
            [listed] = await client.list(
                resource,
                namespace=NAMESPACE,
                label_selector=f"{SESSION_LABEL}={model}",
                into=Object,
            )
            children[resource] = listed
        for route in children[ROUTES]["spec"]["routes"]:
            route.pop("middlewares", None)
        return cls(client, model, children, await way.url(model))

    async def apply(self, desktop: str) -> None:
        """Create the copies, side by side."""
        copies = {
            resource: copy(child, self._model, desktop)
            for resource, child in self._children.items()
        }
        async with asyncio.TaskGroup() as tasks:
            for resource, child in copies.items():
                tasks.create_task(
                    self._client.create(resource, child, namespace=NAMESPACE, into=Object)
                )

    async def ready(self, desktop: str) -> None:
        """Wait until the pod is ready and has our token."""
        await until(self._client, PODS, self._named(PODS, desktop), is_ready)
        master = base64.b64decode(self._children[SECRETS]["data"][PASSWORD_KEY]).decode()
        await give_token(self._host_url(desktop), master, self._token)

    async def url(self, desktop: str) -> str:
        """The model's under the other name; Selkies' page takes its token from the fragment."""
        return f"{self._host_url(desktop)}/#token={self._token}"

    def _host_url(self, desktop: str) -> str:
        return self._url.replace(self._model, desktop)

    async def remove(self, desktop: str) -> None:
        for resource in CHILDREN:
            await remove(self._client, resource, self._named(resource, desktop))

    def _named(self, resource: Resource, desktop: str) -> str:
        name: str = self._children[resource]["metadata"]["name"]
        return name.replace(self._model, desktop)


async def give_token(url: str, master: str, token: str) -> None:
    """Tell the Selkies behind that URL of a controller's token, as soon as it can be reached.
    Raises TimeoutError.
    """
    there = urlsplit(url)
    headers = {"Host": there.netloc, "Authorization": f"Bearer {master}"}
    table = {token: {"role": "controller", "slot": None}}
    try:
        async with asyncio.timeout(DEADLINE_SECONDS), aiohttp.ClientSession() as http:
            while True:  # by address: nothing but a browser resolves *.localhost everywhere
                to = f"https://127.0.0.1:{there.port}/api/tokens"
                async with http.post(to, json=table, headers=headers, ssl=False) as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"{url} took no token within {DEADLINE_SECONDS} s") from None


def copy(child: Object, model: str, name: str) -> Object:
    """The object as it was sent, for another desktop: no owner, nothing that the API server or
    scheduler added.
    """
    kept = {key: value for key, value in child.items() if key not in ("status", "metadata")}
    metadata = child["metadata"]
    kept["metadata"] = {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "labels": {SESSION_LABEL: metadata["labels"][SESSION_LABEL]},
    }
    if "spec" in kept:
        added = ("nodeName", "serviceAccount", "serviceAccountName", "clusterIPs")
        kept["spec"] = {key: value for key, value in kept["spec"].items() if key not in added}
    copied: Object = json.loads(json.dumps(kept).replace(model, name))
    return copied


def status(session: Object, key: str) -> str:
    """A field of `status`, empty when it is not there yet."""
    return str(session.get("status", {}).get(key, ""))


def is_ready(pod: Object) -> bool:
    """Whether the pod's condition Ready is true."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


async def until(
    client: Client,
    resource: Resource,
    name: str,
    reached: Callable[[Object], bool],
    *,
    namespace: str | None = NAMESPACE,
) -> Object:
    """The object once `reached` says so. Raises TimeoutError, which names its last phase and
    why.
    """
    session: Object = {}
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            events = client.watch(
                resource,
                namespace=namespace,
                field_selector=f"metadata.name={name}",
                resource_version="0",
                timeout_seconds=DEADLINE_SECONDS,
            )
            async for event in events:
                session = msgspec.json.decode(event.object, type=Object)
                if event.type in ("ADDED", "MODIFIED") and reached(session):
                    return session
    except TimeoutError:
        pass
    stands = f"{status(session, 'phase') or 'without a phase'}: {status(session, 'message') or 'no message'}"
    raise TimeoutError(
        f"{resource.kind} {name} did not get there within {DEADLINE_SECONDS} s; it is {stands}"
    )


async def remove(
    client: Client, resource: Resource, name: str, *, namespace: str | None = NAMESPACE
) -> None:
    """Delete an object, if it is there, and wait until it is gone. Raises TimeoutError."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await client.delete(resource, name, namespace=namespace, into=Object)
            while True:
                await asyncio.sleep(0.1)
                await client.get(resource, name, namespace=namespace, into=Object)
    except NotFound:
        return

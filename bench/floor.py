"""The floor: a client that knows what to write: the operator's objects, without watch, cache or
decision.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp
import msgspec

from bench import objects
from bench.cluster import Cluster
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.session.children import build_home, build_pod, build_route, build_secret, build_service
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CONDITION_TYPES
from vdi.session.credentials import DesktopTokens
from vdi.session.effective import Desktop, resolve
from vdi.session.naming import FINALIZER, Identity, secret_name

MERGE_PATCH = "application/merge-patch+json"
SETTINGS = ClusterSettings()


def children_of(session: objects.Object) -> dict[str, objects.Object]:
    """Path of the collection -> object, built as the operator builds it; the pod first, it is what
    people wait for.
    """
    decoded = msgspec.convert(session, VDISession)
    identity = Identity.of(decoded)
    desktop = resolve(decoded, msgspec.convert(objects.template(), VDITemplate), SETTINGS)
    if not isinstance(desktop, Desktop) or desktop.home is None:
        raise TypeError(f"the bench's own session has no desktop with a home: {desktop}")
    return {
        objects.PODS: build_pod(identity=identity, desktop=desktop),
        objects.SECRETS: build_secret(identity=identity, tokens=DesktopTokens("bench", "bench")),
        objects.CLAIMS: build_home(identity=identity, home=desktop.home),
        objects.SERVICES: build_service(identity=identity),
        objects.ROUTES: build_route(
            identity=identity, host=SETTINGS.host(identity.name), settings=SETTINGS
        ),
    }


def status_of(name: str, *, now: str) -> objects.Object:
    """A status with as much in it as the operator's: the only one of a start that is quick."""
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": now}
        for kind in CONDITION_TYPES
    ]
    return {
        "phase": "Running",
        "url": SETTINGS.url(SETTINGS.host(name)),
        "startTime": now,
        "readyTime": now,
        "expiresAt": now,
        "templateRevision": "1",
        "podName": name,
        "podIP": "10.0.0.1",
        "nodeName": "fake-0",
        "homeClaim": f"home-{name}-0123456789",
        "observedGeneration": 1,
        "conditions": conditions,
    }


def event_of(name: str, uid: str, now: datetime) -> objects.Object:
    """The one Event of a start that goes well."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.ready", "namespace": objects.NAMESPACE},
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": "vdi-bench",
        "reportingInstance": "vdi-bench",
        "action": "Start",
        "reason": "Ready",
        "type": "Normal",
        "note": f"The desktop is ready: {SETTINGS.url(SETTINGS.host(name))}",
        "regarding": {
            "apiVersion": objects.API_VERSION,
            "kind": objects.SESSION_KIND,
            "name": name,
            "namespace": objects.NAMESPACE,
            "uid": uid,
        },
    }


@dataclass
class Floor:
    """One session's writes in the operator's order, those that do not need each other side by side.

    It runs in the bench's own process.
    """

    cluster: Cluster
    http: aiohttp.ClientSession
    follows_pods: bool = False
    posted: dict[str, float] = field(default_factory=dict)

    async def create(self, name: str) -> None:
        """Post a session and write all that its operator would. It does not wait for the pod."""
        async with self.cluster.http.post(objects.SESSIONS, json=objects.session(name)) as response:
            session = await response.json()
        self.posted[name] = time.monotonic()
        path = f"{objects.SESSIONS}/{name}"
        await self._write("PATCH", path, {"metadata": {"finalizers": [FINALIZER]}})
        await asyncio.gather(
            *(self._write("POST", where, child) for where, child in children_of(session).items())
        )
        now = datetime.now(UTC)
        status = status_of(name, now=now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        await self._write("PATCH", f"{path}/status", {"status": status})
        await self._write("POST", objects.EVENTS, event_of(name, session["metadata"]["uid"], now))

    async def delete(self, name: str) -> None:
        """Delete a session and its children but the home, and let the session go."""
        async with self.cluster.http.delete(f"{objects.SESSIONS}/{name}") as response:
            await response.read()
        path = f"{objects.SESSIONS}/{name}"
        await self._write("PATCH", f"{path}/status", {"status": {"phase": "Terminating"}})
        children = (
            f"{objects.PODS}/{name}",
            f"{objects.SERVICES}/{name}",
            f"{objects.ROUTES}/{name}",
            f"{objects.CORE}/secrets/{secret_name(name)}",
        )
        await asyncio.gather(*(self._write("DELETE", child, {}) for child in children))
        await self._write("PATCH", path, {"metadata": {"finalizers": None}})

    async def _write(self, method: str, path: str, body: objects.Object) -> None:
        headers = {"Content-Type": MERGE_PATCH if method == "PATCH" else "application/json"}
        async with self.http.request(
            method, path, data=json.dumps(body), headers=headers
        ) as response:
            if response.status >= 300:
                raise RuntimeError(
                    f"{method} {path}: {response.status} {(await response.text())[:400]}"
                )
            await response.read()

    def cpu(self) -> float:
        """CPU of the bench's process: it posts the sessions too, so this is a little more than the
        writes cost.
        """
        return time.process_time()

    def memory(self, key: str) -> float | None:
        """Nothing: the bench's own memory is not what anyone asks for."""

    def check(self) -> None:
        """It cannot end before the bench does."""

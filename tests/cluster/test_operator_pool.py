"""Pools against a real API server, scheduler and garbage collector; the test plays the kubelet."""

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from cluster.operator_stage import Object, Stage, condition
from cluster.test_operator_leader import read_page
from support.desktop_key import KEY
from support.waiting import eventually
from vdi.kinds import POOLS, ROUTES
from vdi.kube.errors import NotFound
from vdi.kube.resource import PODS, SECRETS, SERVICES
from vdi.session.credentials import derive_tokens

pytestmark = pytest.mark.timeout(150)

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}}


@dataclass
class Pool:
    """The pool of the stage, and what it has."""

    stage: Stage
    name: str

    @classmethod
    async def make(cls, stage: Stage, template: str, ready: int, **spec: Any) -> "Pool":
        return cls(stage, await stage.pool(template, ready, **spec))

    async def pods(self) -> list[Object]:
        """All desktops that came from it, taken or not, without those that go."""
        pods = await self.stage.all(PODS)
        mine = [
            pod
            for pod in pods
            if pod["metadata"].get("annotations", {}).get("vdi.kasm.io/pool") == self.name
        ]
        return [pod for pod in mine if "deletionTimestamp" not in pod["metadata"]]

    async def waiting(self) -> list[Object]:
        """The desktops that no session has claimed."""
        return [pod for pod in await self.pods() if owner_kind(pod) == "VDIPool"]

    async def is_empty(self) -> bool:
        return not await self.waiting()

    async def reach(self, ready: int, claimed: int = 0, seconds: float = 20.0) -> Object:
        """Wait until the status counts so many."""

        def is_so(pool: Object) -> bool:
            status = pool.get("status", {})
            return [status.get(count, 0) for count in ("ready", "starting", "claimed")] == [
                ready,
                0,
                claimed,
            ]

        return await self.stage.until(
            POOLS, self.name, is_so, f"{ready} ready, {claimed} claimed", seconds
        )

    async def touch(self) -> None:
        """Have the pool reconciled: a clock that is put forward enqueues nothing."""
        await self.stage.patch(
            POOLS, self.name, {"metadata": {"annotations": {"touched": uuid4().hex}}}
        )


def owner_kind(pod: Object) -> object:
    (owner,) = pod["metadata"]["ownerReferences"]
    return owner["kind"]


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


@asynccontextmanager
async def kubelet(stage: Stage) -> AsyncIterator[None]:
    """A kubelet: every pod that is bound to a node runs and answers at once."""

    async def play() -> None:
        while True:
            for pod in await stage.all(PODS):
                known = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
                is_new = pod["spec"].get("nodeName") and "Ready" not in known
                if is_new and "deletionTimestamp" not in pod["metadata"]:
                    try:
                        await stage.make_ready(pod)
                    except NotFound:
                        continue
            await asyncio.sleep(0.05)

    task = asyncio.create_task(play())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def password_in(stage: Stage, secret: str) -> str:
    found = await stage.until(SECRETS, secret)
    return base64.b64decode(found["data"]["password"]).decode()


async def test_session_claims_a_running_desktop(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    async with kubelet(stage), stage.operator():
        pool = await Pool.make(stage, template, 2)
        full = await pool.reach(2)
        assert full["status"]["conditions"][0]["reason"] == "Full"
        before = {pod["metadata"]["name"]: pod for pod in await pool.waiting()}
        stage.proxy.passed.clear()
        session = await stage.session("alice-desktop", template)
        running = await stage.reach("alice-desktop", "Running")
        pod = await stage.pod_of(session)
        old = before[pod["metadata"]["name"]]
        assert (pod["metadata"]["uid"], pod["spec"]) == (old["metadata"]["uid"], old["spec"])
        assert pod["status"]["containerStatuses"] == old["status"]["containerStatuses"], (
            "nothing was restarted"
        )
        assert running["status"]["podName"] == old["metadata"]["name"]
        assert condition(running, "Admitted")["reason"] == "ClaimedFromPool"
        assert running["status"].get("message", "") == ""
        assert running["status"]["startTime"] >= running["metadata"]["creationTimestamp"]
        own, kept = "alice-desktop-auth", f"{old['metadata']['name']}-auth"
        assert (await stage.until(SECRETS, own))["data"] == (await stage.until(SECRETS, kept))[
            "data"
        ]
        (service,) = await stage.owned(SERVICES, session)
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert len(await stage.owned(ROUTES, session)) == 1
        # Refilled by another one.
        await pool.reach(2, claimed=1)
        assert len(await pool.pods()) == 3
        await stage.end("alice-desktop")
        await pool.reach(2, claimed=0)
        assert old["metadata"]["uid"] not in uids(await pool.pods()), (
            "a used desktop is never given to another"
        )
    await stage.childless(session)
    await stage.gone(SECRETS, kept, 60)  # it dies with its pod


async def test_resumed_session_gets_tokens_of_its_own(stage: Stage) -> None:
    """The gateway derives them from the name of the pod, which is another one then."""
    template = await stage.template(**NO_HOME)
    async with kubelet(stage), stage.operator():
        pool = await Pool.make(stage, template, 1)
        await pool.reach(1)
        session = await stage.session("alice-desktop", template)
        claimed = await stage.reach("alice-desktop", "Running")
        place = {
            "namespace": stage.namespace,
            "name": "alice-desktop",
            "uid": session["metadata"]["uid"],
        }
        first = derive_tokens(KEY, **place, pod=claimed["status"]["podName"]).password
        assert await password_in(stage, "alice-desktop-auth") == first
        await stage.suspend("alice-desktop")
        await stage.reach("alice-desktop", "Suspended")
        await stage.suspend("alice-desktop", suspended=False)
        resumed = await stage.reach("alice-desktop", "Running")
        assert resumed["status"]["podName"] == "alice-desktop"
        own = derive_tokens(KEY, **place, pod="alice-desktop").password
        assert own != first and await password_in(stage, "alice-desktop-auth") == own


async def test_pool_is_scaled_like_a_deployment(stage: Stage, kubectl: list[str]) -> None:
    template = await stage.template(**NO_HOME)
    async with kubelet(stage), stage.operator() as port:
        pool = await Pool.make(stage, template, 1)
        await pool.reach(1)
        for desired in (3, 0, 2):
            scale = [*kubectl, "scale", "vdipool", pool.name, f"--replicas={desired}"]
            await asyncio.to_thread(subprocess.run, scale, check=True, capture_output=True)
            await pool.reach(desired)
            assert len(await pool.pods()) == desired
        selector = (await stage.until(POOLS, pool.name))["status"]["selector"]
        by_label = await stage.api.list(
            PODS, namespace=stage.namespace, label_selector=selector, into=dict
        )
        assert uids(by_label) == uids(await pool.waiting())
        _, text = await read_page(port, "/metrics")
        assert f'vdi_pool_desktops{{pool="{pool.name}",state="ready"}} 2.0' in text


async def test_deleted_pool_leaves_claimed_desktops_whole(stage: Stage) -> None:
    template = await stage.template(**NO_HOME)
    async with kubelet(stage), stage.operator():
        pool = await Pool.make(stage, template, 2)
        await pool.reach(2)
        session = await stage.session("alice-desktop", template)
        await stage.reach("alice-desktop", "Running")
        await pool.reach(2, claimed=1)
        await stage.delete(POOLS, pool.name)
        await eventually(pool.is_empty, "nobody's desktops go with the pool")
        claimed = await stage.pod_of(session)
        assert "deletionTimestamp" not in claimed["metadata"]
        kept = await stage.until(SECRETS, f"{claimed['metadata']['name']}-auth")
        # The garbage collector has looked at what the pool owned; a desktop that is started again
        # finds its password.
        await stage.delete(SECRETS, "alice-desktop-auth")
        await stage.until(
            SECRETS,
            "alice-desktop-auth",
            lambda found: found["data"] == kept["data"],
            "it has the same password",
        )
        assert (await stage.reach("alice-desktop", "Running"))["status"].get("message", "") == ""

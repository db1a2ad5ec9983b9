"""Pools against a real API server, scheduler and garbage collector; the test plays the kubelet."""

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import aiohttp
import msgspec
import pytest

from cluster.operator_stage import Object, Stage, condition
from cluster.test_operator_crash import cut_and_kill
from support.desktop_key import KEY
from support.metrics_token import AUTHORIZATION
from support.waiting import eventually
from vdi.kinds import POOLS, ROUTES
from vdi.kube.errors import NotFound
from vdi.kube.resource import PODS, SECRETS, SERVICES
from vdi.session.credentials import derive_tokens

pytestmark = pytest.mark.timeout(150)

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}}


class Pool:
    """One pool of the stage, and what it has."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name

    @classmethod
    async def make(cls, stage: Stage, template: str, ready: int, **spec: Any) -> "Pool":
        """Make a pool; the fixture `pools` removes it."""
        body = {
            "apiVersion": POOLS.api_version,
            "kind": POOLS.kind,
            "metadata": {"name": f"{stage.namespace}-warm"},
            "spec": {"template": template, "replicas": ready, **spec},
        }
        made = await stage.api.create(POOLS, body, into=dict)
        return cls(stage, made["metadata"]["name"])

    async def get(self) -> Object:
        return await self.stage.api.get(POOLS, self.name, into=dict)

    async def pods(self) -> list[Object]:
        """All desktops that came from it, taken or not, without those that go."""
        pods = await self.stage.all(PODS)
        mine = [pod for pod in pods if pod["metadata"].get("annotations", {}).get("vdi.kasm.io/pool") == self.name]
        return [pod for pod in mine if "deletionTimestamp" not in pod["metadata"]]

    async def waiting(self) -> list[Object]:
        """The desktops that no session has claimed."""
        return [pod for pod in await self.pods() if owner_kind(pod) == "VDIPool"]

    async def reach(self, ready: int, claimed: int = 0, seconds: float = 20.0) -> Object:
        """Wait until the status counts so many."""

        async def look() -> Object | None:
            pool = await self.get()
            status = pool.get("status", {})
            counts = (status.get("ready", 0), status.get("starting", 0), status.get("claimed", 0))
            return pool if counts == (ready, 0, claimed) else None

        try:
            return await eventually(look, f"{ready} are ready and {claimed} are claimed", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {(await self.get()).get('status')}") from None

    async def say(self, words: str) -> Object:
        """Wait until the status has these words."""

        async def look() -> Object | None:
            pool = await self.get()
            return pool if words in pool.get("status", {}).get("message", "") else None

        try:
            return await eventually(look, f"the pool says {words!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {(await self.get()).get('status')}") from None

    async def touch(self) -> None:
        """Have the pool reconciled: a clock that is put forward enqueues nothing."""
        await self.stage.api.patch(POOLS, self.name, {"metadata": {"annotations": {"touched": uuid4().hex}}}, into=dict)

    async def delete(self) -> None:
        await self.stage.api.delete(POOLS, self.name, into=msgspec.Raw)


def owner_kind(pod: Object) -> str:
    (owner,) = pod["metadata"]["ownerReferences"]
    kind: str = owner["kind"]
    return kind


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


@pytest.fixture
async def pools(stage: Stage) -> AsyncIterator[Stage]:
    """The stage; its pools go at the end, or the next test's operator would fill them."""
    yield stage
    for pool in await stage.api.list(POOLS, into=dict):
        if pool["metadata"]["name"].startswith(stage.namespace):
            await stage.api.delete(POOLS, pool["metadata"]["name"], into=msgspec.Raw)


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
    found = await stage.get(SECRETS, secret)
    assert found, f"there is no Secret {secret}"
    return base64.b64decode(found["data"]["password"]).decode()


async def test_session_claims_a_running_desktop(pools: Stage) -> None:
    stage, template = pools, await pools.template(**NO_HOME)
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
        assert pod["status"]["containerStatuses"] == old["status"]["containerStatuses"], "nothing was restarted"
        assert running["status"]["podName"] == old["metadata"]["name"]
        assert condition(running, "Admitted")["reason"] == "ClaimedFromPool"
        assert running["status"].get("message", "") == ""
        assert running["status"]["startTime"] >= running["metadata"]["creationTimestamp"]
        own, kept = "alice-desktop-auth", f"{old['metadata']['name']}-auth"
        assert await password_in(stage, own) == await password_in(stage, kept)
        assert (await stage.get(SECRETS, own))["data"] == (await stage.get(SECRETS, kept))["data"]  # type: ignore[index]
        (service,) = await stage.owned(SERVICES, session)
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert len(await stage.owned(ROUTES, session)) == 1
        # Refilled by another one.
        await pool.reach(2, claimed=1)
        assert len(await pool.pods()) == 3
        await stage.end("alice-desktop")
        await pool.reach(2, claimed=0)
        assert old["metadata"]["uid"] not in uids(await pool.pods()), "a used desktop is never given to another"
    await stage.childless(session)
    await eventually(partial(is_gone, stage, kept), "the desktop's own Secret dies with its pod", 60)


async def test_resumed_session_gets_tokens_of_its_own(pools: Stage) -> None:
    """The gateway derives them from the name of the pod, which is another one then."""
    stage, template = pools, await pools.template(**NO_HOME)
    async with kubelet(stage), stage.operator():
        pool = await Pool.make(stage, template, 1)
        await pool.reach(1)
        session = await stage.session("alice-desktop", template)
        claimed = await stage.reach("alice-desktop", "Running")
        place = {"namespace": stage.namespace, "name": "alice-desktop", "uid": session["metadata"]["uid"]}
        first = derive_tokens(KEY, **place, pod=claimed["status"]["podName"]).password
        assert await password_in(stage, "alice-desktop-auth") == first
        await stage.suspend("alice-desktop")
        await stage.reach("alice-desktop", "Suspended")
        await stage.suspend("alice-desktop", suspended=False)
        resumed = await stage.reach("alice-desktop", "Running")
        assert resumed["status"]["podName"] == "alice-desktop"
        own = derive_tokens(KEY, **place, pod="alice-desktop").password
        assert own != first and await password_in(stage, "alice-desktop-auth") == own


async def is_gone(stage: Stage, secret: str) -> bool:
    return await stage.get(SECRETS, secret) is None


async def test_pool_is_scaled_like_a_deployment(pools: Stage, kubectl: list[str]) -> None:
    stage, template = pools, await pools.template(**NO_HOME)
    async with kubelet(stage), stage.operator() as port:
        pool = await Pool.make(stage, template, 1)
        await pool.reach(1)
        for desired in (3, 0, 2):
            scale = [*kubectl, "scale", "vdipool", pool.name, f"--replicas={desired}"]
            await asyncio.to_thread(subprocess.run, scale, check=True, capture_output=True)
            await pool.reach(desired)
            assert len(await pool.pods()) == desired
        selector = (await pool.get())["status"]["selector"]
        by_label = await stage.api.list(PODS, namespace=stage.namespace, label_selector=selector, into=dict)
        assert uids(by_label) == uids(await pool.waiting())
        page = f"http://127.0.0.1:{port}/metrics"
        async with aiohttp.ClientSession(headers=AUTHORIZATION) as http, http.get(page) as answer:
            text = await answer.text()
        assert f'vdi_pool_desktops{{pool="{pool.name}",state="ready"}} 2.0' in text


async def test_deleted_pool_leaves_claimed_desktops_whole(pools: Stage) -> None:
    stage, template = pools, await pools.template(**NO_HOME)
    async with kubelet(stage), stage.operator():
        pool = await Pool.make(stage, template, 2)
        await pool.reach(2)
        session = await stage.session("alice-desktop", template)
        await stage.reach("alice-desktop", "Running")
        await pool.reach(2, claimed=1)
        await pool.delete()

        async def emptied() -> bool:
            return not await pool.waiting()

        await eventually(emptied, "nobody's desktops go with the pool")
        claimed = await stage.pod_of(session)
        assert "deletionTimestamp" not in claimed["metadata"]
        kept = await stage.get(SECRETS, f"{claimed['metadata']['name']}-auth")
        assert kept, "a container that is started again needs it"
        # The garbage collector has looked at what the pool owned; a desktop that is started again finds its password.
        await stage.delete(SECRETS, "alice-desktop-auth")

        async def same_again() -> bool:
            found = await stage.get(SECRETS, "alice-desktop-auth")
            return bool(found and found["data"] == kept["data"])

        await eventually(same_again, "the session's Secret comes back with the same password")
        assert (await stage.reach("alice-desktop", "Running"))["status"].get("message", "") == ""


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.timeout(300)
async def test_claim_survives_a_kill_at_every_write(pools: Stage, moment: Literal["before", "after"]) -> None:
    """After each kill: one pod, one Secret with that pod's password, none lost or shared."""
    stage, template = pools, await pools.template(**NO_HOME)
    async with kubelet(stage):
        pool = await Pool.make(stage, template, 1)
        for write in range(1, 20):
            async with stage.operator():
                await pool.reach(1)
            # Only the claim is to be counted: the pool wants no more, and has one that can be taken.
            name = f"desktop-{write}"
            session = await stage.session(name, template)
            stage.proxy.cut_at(write, moment)
            running = asyncio.create_task(stage.reach(name, "Running", seconds=60))
            was_cut = await cut_and_kill(stage, running)
            async with stage.operator():
                await running
                await pool.reach(1, claimed=1)
                (pod,) = await stage.owned(PODS, session)
                assert pod["metadata"]["annotations"]["vdi.kasm.io/pool"] == pool.name
                kept = await password_in(stage, f"{pod['metadata']['name']}-auth")
                assert await password_in(stage, f"{name}-auth") == kept
                assert len(await pool.pods()) == 2
                await stage.end(name)
                await pool.reach(1)
            if not was_cut:
                assert write > 5, f"the operator got through with {write - 1} writes: what has it not done?"
                return
    raise AssertionError("still writing after 19 writes")

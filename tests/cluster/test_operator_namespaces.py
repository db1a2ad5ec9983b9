"""One operator of two namespaces of sessions, on a real API server: one queue, one owner of each
host, Roles alone.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.operator_stage import CHILDREN, Object, Stage
from support.waiting import eventually
from vdi.kinds import POOLS, SESSIONS
from vdi.kube.resource import CLAIMS, LEASES, PODS, SECRETS
from vdi.operator.release_keys import HOST_KEY
from vdi.operator.runtime import LEASE
from vdi.session.naming import SESSIONS_NAMESPACE, host_label

pytestmark = pytest.mark.timeout(150)

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}}
BOB = "bob@example.com"


@pytest.fixture
async def both(stage: Stage, second_namespace: str) -> AsyncIterator[tuple[Stage, Stage]]:
    """The stage of an operator of two namespaces: seen in the first, and in the second."""
    stage.second = second_namespace
    await stage.grant()
    second = stage.of(second_namespace)
    yield stage, second
    for session in await second.all(SESSIONS):
        await second.patch(
            SESSIONS, session["metadata"]["name"], {"metadata": {"finalizers": None}}
        )


async def test_sessions_run_in_both_namespaces(both: tuple[Stage, Stage]) -> None:
    first, second = both
    template = await first.template()
    async with first.operator():
        here = await first.session("cad", template)
        there = await second.session("lab-cad", template)
        running = await asyncio.gather(first.run("cad"), second.run("lab-cad"))
        label = host_label(
            namespace=second.namespace,
            session_name="lab-cad",
            user="alice@example.com",
            key=b"k" * 32,
        )
        assert [session["status"]["url"] for session in running] == [
            f"https://{first.host('cad')}",
            f"https://{label}.vdi.localhost",
        ]
        for kind in (CHILDREN[name] for name in ("pod", "service", "secret", "route")):
            assert len(await first.owned(kind, here)) == len(await second.owned(kind, there)) == 1
            assert not await first.owned(kind, there)
        claims = [
            [claim["metadata"]["name"] for claim in await stage.all(CLAIMS)] for stage in both
        ]
        assert claims[0] == claims[1], "a home of the same person and template in each"
        await second.end("lab-cad")
        assert (await first.get(SESSIONS, "cad") or {})["status"]["phase"] == "Running"
    assert await first.get(LEASES, LEASE) and not await second.get(LEASES, LEASE)
    assert await first.get(SECRETS, HOST_KEY) and not await second.get(SECRETS, HOST_KEY)


async def waits(stage: Stage, name: str, position: int) -> Object:
    """The session, once it waits for a GPU at that place."""

    def is_so(session: Object) -> bool:
        queue = session.get("status", {}).get("queue") or {}
        return (queue.get("reason"), queue.get("position")) == ("GPUsBusy", position)

    return await stage.until(SESSIONS, name, is_so, f"number {position}")


async def test_both_namespaces_share_one_queue(both: tuple[Stage, Stage]) -> None:
    first, second = both
    template = await first.template(
        **NO_HOME, placement={"nodeSelector": first.here}, resources={"defaultGPU": 1}
    )
    await first.node("small", gpu="1")
    async with first.operator():
        await first.start("taken", template)
        await second.session("lab-next", template, user=BOB)
        await waits(second, "lab-next", 1)
        await first.session("last", template, user="carol@example.com")
        await waits(first, "last", 2)
        assert not await second.all(PODS), "a GPU that the other namespace has is taken"
    async with first.operator():
        await first.delete(SESSIONS, "taken")
        await second.run("lab-next")
        await waits(first, "last", 1)
        await second.delete(SESSIONS, "lab-next")
        await first.run("last")


async def test_pool_serves_the_namespace_of_its_label(both: tuple[Stage, Stage]) -> None:
    first, second = both
    template = await first.template(**NO_HOME)
    name = await first.pool(template, 1)
    await first.patch(POOLS, name, {"metadata": {"labels": {SESSIONS_NAMESPACE: second.namespace}}})
    async with first.operator():
        (pod,) = await eventually(lambda: second.all(PODS), "the pool has a desktop")
        await second.make_ready(pod)
        here = await first.session("cad", template)
        assert (await first.pod_of(here))["metadata"]["name"] == "cad"
        session = await second.session("lab-cad", template)
        claimed = await second.pod_of(session)
        assert claimed["metadata"]["uid"] == pod["metadata"]["uid"]
        await first.patch(POOLS, name, {"metadata": {"labels": {SESSIONS_NAMESPACE: None}}})

        async def moved() -> bool:
            pods = [
                pod
                for stage in both
                for pod in await stage.all(PODS)
                if [owner["kind"] for owner in pod["metadata"]["ownerReferences"]] == ["VDIPool"]
                and "deletionTimestamp" not in pod["metadata"]
            ]
            return [pod["metadata"]["namespace"] for pod in pods] == [first.namespace]

        await eventually(moved, "without the label the pool is in the first namespace")


async def test_missing_role_in_one_namespace_stops_all(stage: Stage, second_namespace: str) -> None:
    """Pods in a namespace without the role are unknown, and would be counted as free."""
    stage.second = second_namespace  # granted nothing there
    template = await stage.template(**NO_HOME)
    await stage.session("cad", template)
    async with stage.operator_process():
        log = stage.folder / "operator.log"
        await eventually(
            lambda: f'"{second_namespace}"' in log.read_text().replace("\\", ""), "it says why"
        )
        assert not await stage.all(PODS)
        await stage.grant()
        await stage.run("cad")

"""The queue against a real API server and a real scheduler: who waits has no pod, says why, and starts by itself."""

import asyncio
from typing import Any

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS

pytestmark = pytest.mark.timeout(150)
GPU = "nvidia.com/gpu"


def queue_of(session: Object) -> Object:
    queue: Object = session["status"]["queue"]
    return queue


def reason_of(session: Object) -> str:
    return str(condition(session, "Admitted")["reason"])


async def gpu_template(stage: Stage, suffix: str = "desktop", **spec: Any) -> str:
    """A template whose desktops have no home and stay on the stage's own nodes."""
    placement = {"nodeSelector": stage.here}
    name = f"{stage.namespace}-{suffix}"
    return await stage.template_named(name, **{"persistence": {"enabled": False}, "placement": placement, **spec})


async def running(stage: Stage, template: str, count: int, **spec: Any) -> list[str]:
    """So many sessions of different people, all Running."""
    names = [f"r{number}" for number in range(count)]
    await asyncio.gather(*(stage.session(name, template, **{"user": f"{name}@x.yz", **spec}) for name in names))
    await asyncio.gather(*(stage.run(name) for name in names))
    return names


async def waits(stage: Stage, name: str, reason: str, words: str = "") -> Object:
    """The session, once it waits for that reason in those words; and it has no pod."""

    async def look() -> Object | None:
        session = await stage.get(SESSIONS, name)
        status = (session or {}).get("status", {})
        reported = session and (status.get("queue") or {}).get("reason") == reason and words in status["message"]
        return session if reported else None

    try:
        session = await eventually(look, f"{name} waits: {reason} {words!r}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {(await stage.get(SESSIONS, name) or {}).get('status')}") from None
    assert session["status"]["phase"] == "Pending"
    assert reason_of(session) == reason
    assert condition(session, "Admitted")["status"] == "False"
    assert await stage.owned(PODS, session) == []
    return session


async def started(stage: Stage, names: list[str]) -> list[str]:
    """The sessions of these names that have a pod."""
    owners = {one["metadata"]["ownerReferences"][0]["name"] for one in await stage.all(PODS)}
    return [name for name in names if name in owners]


async def starts(stage: Stage, *names: str) -> None:
    """Wait until these, and of `names` in this order, have their pods."""

    async def look() -> bool:
        return await started(stage, list(names)) == list(names)

    await eventually(look, f"{names} have started")


async def test_burst_never_exceeds_capacity(stage: Stage) -> None:
    await stage.node("a", gpu="3")
    await stage.node("b", gpu="4")
    template = await gpu_template(stage)
    names = [f"b{number:02}" for number in range(20)]
    async with stage.operator():
        await asyncio.gather(*(stage.session(name, template, user=f"{name}@x.yz") for name in names))
        done: list[str] = []
        while len(done) < len(names):

            async def placed() -> list[Object] | None:
                pods = await stage.all(PODS)
                assert len(pods) <= 7
                ready = [pod for pod in pods if pod["spec"].get("nodeName")]
                return ready if len(ready) == min(7, len(names) - len(done)) else None

            pods = await eventually(placed, "as many as there are GPUs have a node")
            for pod in pods[:3]:
                name = pod["metadata"]["ownerReferences"][0]["name"]
                await stage.end(name)
                done.append(name)

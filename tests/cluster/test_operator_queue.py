"""The queue against a real API server and a real scheduler: who waits has no pod, says why, and
starts by itself.
"""

import asyncio

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS

pytestmark = pytest.mark.timeout(150)


async def gpu_template(stage: Stage) -> str:
    """A template whose desktops have no home and stay on the stage's own nodes."""
    return await stage.template(
        persistence={"enabled": False}, placement={"nodeSelector": stage.here}
    )


async def waits(stage: Stage, name: str, reason: str, words: str = "") -> Object:
    """The session, once it waits for that reason in those words; and it has no pod."""

    def is_so(session: Object) -> object:
        status = session.get("status", {})
        return (status.get("queue") or {}).get("reason") == reason and words in status["message"]

    session = await stage.until(SESSIONS, name, is_so, f"waits: {reason} {words!r}")
    assert session["status"]["phase"] == "Pending"
    admitted = condition(session, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", reason)
    assert await stage.owned(PODS, session) == []
    return session


async def starts(stage: Stage, *names: str) -> None:
    """Wait until these have their pods."""

    async def look() -> bool:
        owners = {pod["metadata"]["ownerReferences"][0]["name"] for pod in await stage.all(PODS)}
        return owners >= set(names)

    await eventually(look, f"{names} have started")


async def test_burst_never_exceeds_capacity(stage: Stage) -> None:
    await stage.node("a", gpu="3")
    await stage.node("b", gpu="4")
    template = await gpu_template(stage)
    names = [f"b{number:02}" for number in range(20)]
    async with stage.operator():
        await asyncio.gather(
            *(stage.session(name, template, user=f"{name}@x.yz") for name in names)
        )
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

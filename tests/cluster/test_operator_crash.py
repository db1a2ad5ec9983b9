"""The operator killed with SIGKILL at each of its writes in turn: it converges, without orphan and
without duplicate.

A proxy cuts the line at the n-th write: before the API server sees it, or after it was executed and
before the operator has its answer. Then the process is killed and started again, n = 1, 2, ...
until a run gets through untouched.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from cluster.operator_proxy import Request
from cluster.operator_stage import CHILDREN, Stage
from cluster.test_operator_leader import expect_complete
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import SECRETS

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")
# More than any run makes: the loop ends by itself, or the test fails.
MOST_WRITES = 20

pytestmark = pytest.mark.timeout(300)


async def cut_and_kill(stage: Stage, done: "asyncio.Task[Any]", seconds: float = 30.0) -> bool:
    """Run the operator until the line is cut, then kill it; False when it got through without."""
    async with stage.operator_process() as operator:
        cut = asyncio.create_task(stage.proxy.cut.wait())
        await asyncio.wait((cut, done), return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        assert cut.done() or done.done(), f"neither cut nor done after {seconds} s"
        await operator.kill()
    was_cut = stage.proxy.cut.is_set()
    cut.cancel()
    stage.proxy.repair()
    return was_cut


@pytest.mark.parametrize("moment", [MOMENTS[0], pytest.param(MOMENTS[1], marks=pytest.mark.long)])
async def test_start_survives_a_kill_at_every_write(
    stage: Stage, template: str, moment: Moment
) -> None:
    for write in range(1, MOST_WRITES):
        name = f"desktop-{write}"
        session = await stage.session(name, template)
        stage.proxy.cut_at(write, moment)
        running = asyncio.create_task(stage.run(name))
        was_cut = await cut_and_kill(stage, running)
        passwords = {
            one["metadata"]["uid"]: one["data"] for one in await stage.owned(SECRETS, session)
        }
        pods = await stage.owned(CHILDREN["pod"], session)
        async with stage.operator():
            await running
        await expect_complete(stage, [session])
        (secret,) = await stage.owned(SECRETS, session)
        assert not passwords or passwords == {secret["metadata"]["uid"]: secret["data"]}, (
            "the password has changed"
        )
        (pod,) = await stage.owned(CHILDREN["pod"], session)
        assert [pod["metadata"]["uid"]] == [pod["metadata"]["uid"] for pod in pods] or not pods
        async with stage.operator():
            await stage.end(name)
        await stage.childless(session)
        if not was_cut:
            assert write > 6, (
                f"the operator got through with {write - 1} writes: what has it not done?"
            )
            return
    raise AssertionError(f"still writing after {MOST_WRITES} writes")


async def delete(stage: Stage) -> None:
    await stage.delete(SESSIONS, "desktop")


async def suspend(stage: Stage) -> None:
    await stage.suspend("desktop")


@pytest.mark.parametrize("act", [delete, suspend])
async def test_change_during_a_status_write_is_not_lost(
    stage: Stage, act: Callable[[Stage], Awaitable[None]]
) -> None:
    """The answer to our write tells of it first; the watch then brings an older event that none of
    our writes made.
    """
    async with stage.operator():
        session = await stage.session("desktop", await stage.template())
        pod = await stage.pod_of(session)
        acted = False

        async def interfere(request: Request) -> None:
            nonlocal acted
            if request.path.endswith("/vdisessions/desktop/status") and not acted:
                acted = True
                stage.proxy.reported.clear()
                await act(stage)
            elif request.is_event:  # sent after the answer was taken in: now the watch may tell
                stage.proxy.reported.set()

        stage.proxy.meanwhile = interfere
        await stage.make_ready(pod)
        await eventually(lambda: acted, "the status is being written")
        await eventually(stage.proxy.reported.is_set, "the answer was taken in")
        stage.proxy.meanwhile = None
        if act is delete:
            await stage.gone(SESSIONS, "desktop")
        else:
            await stage.reach("desktop", "Suspended")

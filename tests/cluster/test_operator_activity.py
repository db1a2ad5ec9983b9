"""Idle desktops against a real API server: warned, spared by input, suspended, ended. The test is
kubelet and agent.
"""

import time
from base64 import b64decode
from collections.abc import AsyncIterator

import pytest

from cluster.desktop_agent import Agent, run_desktop
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import SECRETS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent("127.0.0.7").serve() as agent:
        yield agent


async def test_idle_desktop_is_warned_then_suspended(
    stage: Stage, template: str, agent: Agent
) -> None:
    async with stage.operator(cluster=ClusterSettings(agent_port=agent.port)):
        session = await stage.session(NAME, template, idleTimeout="8s")
        await run_desktop(stage, NAME, agent)
        await stage.warned(NAME, "Idle")
        await eventually(lambda: agent.notices, "the desktop shows it")
        assert (agent.notices[0]["id"], agent.notices[0]["untilInput"]) == ("Idle", True)
        assert agent.notices[0]["text"]

        agent.touch()
        await stage.warned(NAME, "Idle", expected=False)
        await eventually(lambda: not agent.notices[-1]["text"], "the notice is withdrawn")
        await stage.reach(NAME, "Suspended", seconds=30)
        assert time.time() - agent.last_input >= 8
        (secret,) = await stage.owned(SECRETS, session)
        assert agent.tokens == {"Bearer " + b64decode(secret["data"]["agentToken"]).decode()}


async def test_polls_cost_no_api_request(stage: Stage, template: str, agent: Agent) -> None:
    async with stage.operator(cluster=ClusterSettings(agent_port=agent.port)):
        await stage.session(NAME, template, idleTimeout="20s")
        await run_desktop(stage, NAME, agent)
        await eventually(lambda: agent.asked, "the first question")
        before = len(stage.proxy.writes()) + len(stage.proxy.reads())
        for seconds in (21, 22, 23):
            agent.touch()
            asked = agent.asked
            # Every change of the timeout has the desktop asked.
            await stage.patch(SESSIONS, NAME, {"spec": {"idleTimeout": f"{seconds}s"}})
            await wait_for_question(agent, asked)
        statuses = 3  # observedGeneration
        assert len(stage.proxy.writes()) + len(stage.proxy.reads()) - before <= statuses


async def wait_for_question(agent: Agent, asked: int) -> None:
    await eventually(lambda: agent.asked > asked, "it is asked")

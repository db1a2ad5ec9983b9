"""A gateway and an operator of two namespaces on a real API server: by a name alone, the right
session is meant.
"""

import asyncio
from pathlib import Path

import pytest

from cluster.gateway_stage import add_people, settings_of
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.gateway.app import open_gateway
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import User
from vdi.kinds import SESSIONS
from vdi.kube.resource import CLAIMS
from vdi.session.actions import Resume, Suspend
from vdi.session.request import SessionRequest

ALICE = User("alice@example.com")
CAROL = User("carol@example.com", groups=frozenset({"engineering"}))


@pytest.mark.long
async def test_desktops_of_two_groups_live_in_two_namespaces(
    stage: Stage, second_namespace: str, tmp_path: Path
) -> None:
    stage.second = second_namespace
    await stage.grant()
    lab = stage.of(second_namespace)
    template = await stage.template()
    await add_people(stage)
    settings = settings_of(stage, tmp_path, group_namespaces={"engineering": second_namespace})
    async with open_gateway(stage.api.config, settings) as gateway, stage.operator():
        cluster, actions = gateway.context.cluster, gateway.services.actions
        await eventually(lambda: gateway.health.begun, "the gateway has begun")
        await eventually(lambda: cluster.template(template), "the template is seen")
        made = [
            await actions.start(user, SessionRequest(template=template)) for user in (ALICE, CAROL)
        ]
        assert [session.metadata.namespace for session in made] == [
            stage.namespace,
            second_namespace,
        ]
        alices, carols = (session.metadata.name for session in made)
        await asyncio.gather(stage.run(alices), lab.run(carols))
        with pytest.raises(ActionDenied, match=f"name: '{carols}' is not available"):
            await actions.start(ALICE, SessionRequest(template=template, name=carols))

        await actions.act(CAROL, carols, Suspend())
        await lab.reach(carols, "Suspended")
        await actions.act(CAROL, carols, Resume())
        await lab.run(carols)
        (home,) = await eventually(lambda: cluster.homes_of(CAROL.email), "the home is seen")
        assert home.namespace == second_namespace
        await actions.end(CAROL, carols, delete_home=True)
        await lab.gone(SESSIONS, carols)
        await lab.gone(CLAIMS, home.name)
        assert await stage.get(SESSIONS, alices), "the other namespace is left alone"
        assert len(await stage.all(CLAIMS)) == 1
    for space in (stage, lab):
        for session in await space.all(SESSIONS):
            await space.patch(
                SESSIONS, session["metadata"]["name"], {"metadata": {"finalizers": None}}
            )

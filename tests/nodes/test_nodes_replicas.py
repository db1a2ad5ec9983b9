"""Two operators and two gateways on two nodes, of which one is lost: portal and reconcile go on."""

from pathlib import Path

import pytest

from e2e.desktops import reach, start, template
from e2e.release import SERVERS, is_known, replicated
from nodes.several import LIGHT, Nodes
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE

pytestmark = pytest.mark.timeout(900)
LABEL = "vdi-test/replicas"
# Requests: with two gateways of which one does not respond, about half of them fail.
IN_A_ROW = 10


def leader_of(nodes: Nodes) -> str:
    """The pod of the operator that works."""
    path = "jsonpath={.spec.holderIdentity}"
    holder = nodes.world.kubectl("get", "lease", "vdi-operator", "-o", path)
    return holder.partition("_")[0]


def wait_for_all(nodes: Nodes) -> None:
    for component in ("operator", "gateway"):
        nodes.world.kubectl(
            "-n",
            RELEASE_NAMESPACE,
            "rollout",
            "status",
            f"deploy/vdi-{component}",
            "--timeout=120s",
        )


def test_losing_the_node_of_operator_and_gateway_stops_nothing(
    nodes: Nodes, tmp_path: Path
) -> None:
    world, (first, *others) = nodes.world, nodes.names[:3]
    world.kubectl("label", "node", *others, f"{LABEL}=", "--overwrite")
    apart = [f"{scope}nodeSelector.{LABEL}=" for scope in ("", "gateway.")]
    servers = [f"{server}.nodeSelector.kubernetes\\.io/hostname={first}" for server in SERVERS]
    with (
        replicated(world, nodes.cluster, tmp_path, *apart, *servers),
        template(world, "light", resources=LIGHT),
    ):
        wait_for_all(nodes)
        operators, gateways = nodes.of_component("operator"), nodes.of_component("gateway")
        assert set(operators.values()) == set(gateways.values()) == set(others)
        with nodes.only(first):
            start(world, "rita", "light")
        with world.browser("rita") as browser:
            browser.open()
            portal = browser.page.context.new_page()
            portal.goto(f"{world.portal}/account")
            before = leader_of(nodes)
            lost = operators[before]
            nodes.cut(lost)
            try:
                wait_until("the other gateway answers", lambda: is_known(portal))
                world.vdi("session", "suspend", "rita")
                reach(world, "rita", "Suspended")
                after = leader_of(nodes)
                assert after != before and operators[after] != lost

                nodes.wait_not_ready(lost)
                wait_until(
                    "no request is lost", lambda: all(is_known(portal) for _ in range(IN_A_ROW))
                )
                start(world, "ron", "light")
                assert nodes.of("ron") != lost
            finally:
                nodes.bring_back(lost)
            wait_for_all(nodes)
            assert leader_of(nodes) == after, (
                "who was lost does not go on as if nothing had happened"
            )
            wait_until("no request is lost", lambda: all(is_known(portal) for _ in range(IN_A_ROW)))

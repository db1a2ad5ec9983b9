"""A pool over three nodes: each has a part of it, and what a node that leaves had is started on the
others.
"""

from collections import Counter

import pytest

from e2e.desktops import condition, is_ready, pool, start, template
from nodes.several import LIGHT, LOST_SECONDS, Nodes
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
REPLICAS = 3


def waiting(nodes: Nodes) -> Counter[str]:
    """The number of unclaimed desktops of the pool on each node, of those that the API server shows
    Ready.
    """
    pods = nodes.world.items("pod", "vdi.kasm.io/pool,!vdi.kasm.io/session")
    return Counter(pod["spec"]["nodeName"] for pod in pods if is_ready(pod))


def test_pool_spreads_over_nodes_and_is_refilled_after_a_loss(nodes: Nodes) -> None:
    world = nodes.world

    def further_node() -> str:
        """One that has a part of the pool, not the control plane."""
        return next(name for name in nodes.names[1:] if name in waiting(nodes))

    def wait_filled(*, without: str, seconds: float = 120.0) -> None:
        def filled() -> bool:
            found = waiting(nodes)
            return found.total() == REPLICAS and without not in found

        wait_until(f"the pool is full without {without}", filled, seconds)

    def claim(session: str, *, not_on: str) -> None:
        start(world, session, "kiosk")
        admitted = condition(world, session, "Admitted")
        assert admitted and admitted["reason"] == "ClaimedFromPool"
        assert nodes.of(session) != not_on

    with (
        template(world, "kiosk", resources=LIGHT, persistence={"enabled": False}) as name,
        pool(world, name, REPLICAS),
    ):
        wait_until("the pool is full", lambda: waiting(nodes).total() == REPLICAS, 180)
        assert len(waiting(nodes)) == REPLICAS, (
            "each on a node of its own: a node that fails takes a part of the pool"
        )

        cordoned = further_node()
        world.kubectl("cordon", cordoned)
        wait_filled(without=cordoned)
        claim("paul", not_on=cordoned)
        wait_filled(without=cordoned)
        world.kubectl("uncordon", cordoned)

        lost = further_node()
        nodes.cut(lost)
        wait_filled(without=lost, seconds=LOST_SECONDS + 60)
        claim("pia", not_on=lost)
        nodes.bring_back(lost)
        wait_filled(without=lost)
    wait_until("no desktop of the pool is left", lambda: not waiting(nodes))

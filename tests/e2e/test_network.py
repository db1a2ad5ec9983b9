"""The chart's NetworkPolicies enforced on a real node, by a stand-in for a network plugin: `helm test` finds all as it
should be. What people notice, and what it says of a hole, is in tests/network/packets.py, which takes longer.
"""

import pytest

from e2e.world import World
from network.enforcer import enforced
from network.on_a_node import helm_test, left_behind, node_of

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
def test_network_policies_are_enforced(sessions: World) -> None:
    with enforced(node_of(sessions)):
        status, said = helm_test(sessions)
    assert status == 0, said
    assert "NetworkPolicies are enforced: all" in said and "(!)" not in said
    assert left_behind(sessions) == []

"""NetworkPolicies hold between pods of different nodes, as between those of one."""

import pytest

from e2e.desktops import address_of, live_pod_of, run_in, start, template
from e2e.world import World
from network.enforcer import Nodes as Enforcing
from network.enforcer import enforced
from network.on_a_node import helm_test, left_behind
from nodes.several import LIGHT, Nodes, foreign_pod
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
STREAM, AGENT = 8080, 8082


def enforcing(nodes: Nodes) -> Enforcing:
    """All nodes, for the stand-in for a network plugin."""
    kubelets = [nodes.process(name, "kubelet") for name in nodes.names]
    first = nodes.world.get("node", nodes.names[0])
    assert first
    kubectl = ["kubectl", "--kubeconfig", str(nodes.world.kubeconfig)]
    return Enforcing(kubectl, tuple(kubelet for kubelet in kubelets if kubelet), address_of(first))


def connects(world: World, namespace: str, pod: str, address: str, port: int) -> bool:
    """Whether a connection from this pod is taken."""
    script = f"timeout 3 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo yes || echo no"
    return (
        world.kubectl("-n", namespace, "exec", pod, "--", "sh", "-c", script).split()[-1] == "yes"
    )


def test_policies_hold_between_nodes(nodes: Nodes) -> None:
    world, (first, second, third) = nodes.world, nodes.names[:3]
    with template(world, "roams", resources=LIGHT, persistence={"enabled": False}):
        for name, node in (("lea", second), ("liv", third)):
            with nodes.only(node):
                start(world, name, "roams")
        sender = live_pod_of(world, "lea")["metadata"]["name"]
        target = live_pod_of(world, "liv")["status"]["podIP"]
        with foreign_pod(world, first) as stranger:
            ways = [
                ("vdi-sessions", sender, STREAM),
                ("vdi-sessions", sender, AGENT),
                ("default", stranger, STREAM),
            ]

            def through() -> list[bool]:
                return [
                    connects(world, namespace, pod, target, port) for namespace, pod, port in ways
                ]

            assert all(through()), "nothing enforces the policies yet"
            with enforced(enforcing(nodes)):
                wait_until("no one reaches the desktop of another node", lambda: not any(through()))
                run_in(world, "liv", "getent hosts vdi-gateway.vdi-system.svc.cluster.local")
                with world.browser("liv") as browser:
                    browser.open()
                status, said = helm_test(world)
                assert status == 0, said
                assert "NetworkPolicies are enforced: all" in said and "(!)" not in said
                assert left_behind(world) == []
                assert not any(through())

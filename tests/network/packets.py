"""NetworkPolicies on a real node, the rest: what people notice, a hole, and nothing that enforces
them at all.

On the cluster of the end-to-end tests, in some two minutes: pytest tests/network/packets.py
"""

import json
from collections.abc import Iterator

import pytest
import yaml

from e2e.conftest import sessions, world
from e2e.desktops import condition, reach, start, template
from e2e.world import World
from network.enforcer import enforced
from network.on_a_node import helm_test, left_behind, node_of
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE

__all__ = ["sessions", "world"]

pytestmark = pytest.mark.timeout(1800)  # the first one may have to make the cluster
IDLE_TIMEOUT = 15
HOLE = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "hole"},
    "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
}


@pytest.fixture
def enforcing(sessions: World) -> Iterator[World]:
    with enforced(node_of(sessions)):
        yield sessions


def test_enforced_policies_do_not_disturb_users(enforcing: World) -> None:
    """Traefik and gateway reach the desktop, the operator its agent; the desktop is opened, left
    and suspended.
    """
    with template(enforcing, "enforced", lifecycle={"idleTimeout": f"{IDLE_TIMEOUT}s"}):
        start(enforcing, "nina", "enforced")
        with enforcing.browser("nina") as browser:
            browser.open()
            before = browser.picture()
            browser.open_terminal()
            browser.wait_for_change(before, pixels=20_000)
        # Only its agent can know that no one is there any more.
        wait_until(
            "it is noticed that nobody is there",
            lambda: condition(enforcing, "nina", "Idle"),
            2 * IDLE_TIMEOUT,
        )
        reach(enforcing, "nina", "Suspended", seconds=2 * IDLE_TIMEOUT)


def test_missing_policy_is_named(enforcing: World) -> None:
    enforcing.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(HOLE))
    try:
        status, said = helm_test(enforcing)
    finally:
        enforcing.kubectl("delete", "networkpolicy", "hole")
    assert status != 0 and "DOES NOT ENFORCE" not in said
    for words in ("desktop -> the API server 443", "fetcher -> names", "desktop -> neighbour 8080"):
        assert f"{words}: gets through, and should be blocked" in said, said
    assert "desktop -> desktop 8080" not in said.partition("connections are not as")[2], (
        "that one is denied twice"
    )


def test_unenforced_policies_are_reported(sessions: World) -> None:
    status, said = helm_test(sessions)
    assert status != 0
    assert "THIS CLUSTER DOES NOT ENFORCE NetworkPolicies: all" in said
    assert left_behind(sessions) == [], "its account least of all"
    pod = json.loads(
        sessions.kubectl("-n", RELEASE_NAMESPACE, "get", "pod", "vdi-network-test", "-o", "json")
    )
    assert pod["status"]["phase"] == "Failed"

"""One release with two namespaces of sessions, with real helm and a real operator that has only the
chart's rights.
"""

from functools import partial
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools, flat, rules_of
from cluster.release_stage import operator_of, pods_get_ready
from support.permissions import gateway_rules, operator_rules, operator_rules_elsewhere
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

FIRST, SECOND, RELEASE = "desks", "lab", "vdi-system"
VALUES: dict[str, Any] = {
    "domain": "vdi.localhost",
    "sessions": {
        "namespaces": [FIRST, SECOND],
        "groupNamespaces": {"engineering": SECOND},
        "podSecurity": "baseline",
    },
    "queue": {"countOtherWorkloads": False},
    "templates": {
        "small": {
            "image": "registry.example.com/desktop:1",
            "resources": {"defaultGPU": 0},
            "persistence": {"enabled": False},
        }
    },
    "pools": {"warm": {"namespace": SECOND, "template": "small", "replicas": 1}},
}
_OPERATOR = f"system:serviceaccount:{RELEASE}:vdi-operator"
_GATEWAY = f"system:serviceaccount:{RELEASE}:vdi-gateway"


@pytest.fixture(scope="module")
def tools(tools: Tools) -> Tools:
    """A cluster with the release."""
    file = tools.home / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES))
    for _ in range(2):  # the first run makes the kinds of what the second brings
        tools.upgrade(CHART, "-f", str(file))
    return tools


@pytest.mark.long
def test_rights_end_at_the_namespaces_of_the_release(tools: Tools) -> None:
    everywhere = flat(operator_rules()["ClusterRole"]) - {
        ("", "pods", "list"),
        ("", "pods", "watch"),
    }
    assert rules_of(tools, _OPERATOR, FIRST) == everywhere | flat(operator_rules()["Role"])
    assert rules_of(tools, _OPERATOR, SECOND) == everywhere | flat(operator_rules_elsewhere())
    gateway = flat(gateway_rules()["ClusterRole/vdi-gateway"])
    in_sessions = flat(gateway_rules()["Role/vdi-gateway-sessions"])
    assert (
        rules_of(tools, _GATEWAY, FIRST)
        == rules_of(tools, _GATEWAY, SECOND)
        == gateway | in_sessions
    )
    for namespace in ("default", "kube-system"):
        assert rules_of(tools, _OPERATOR, namespace) == everywhere
        assert rules_of(tools, _GATEWAY, namespace) == gateway


@pytest.mark.long
def test_one_operator_runs_sessions_and_a_pool_in_both(tools: Tools) -> None:
    with pods_get_ready(tools.kubeconfig), operator_of(tools, RELEASE):
        wait_until("the pool is full", partial(tools.pool_is_full, "warm"))
        waiting = tools.get("pod", "-A", "-l", "vdi.kasm.io/pool=warm,!vdi.kasm.io/session")[
            "items"
        ]
        assert [pod["metadata"]["namespace"] for pod in waiting] == [SECOND]
        for namespace, name in ((FIRST, "alice"), (SECOND, "bob")):
            tools.create_session(namespace, name, "small")
            wait_until(f"{name} runs", partial(tools.session_runs, namespace, name))
    assert "vdi-operator" in tools.kubectl("get", "lease", "-n", FIRST)
    assert "vdi-operator" not in tools.kubectl("get", "lease", "-n", SECOND)

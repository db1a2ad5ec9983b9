"""One release with two namespaces of sessions, with real helm and a real operator that has only the chart's rights."""

import json
from functools import partial
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools, flat, rules_of
from cluster.release_stage import operator_process, pods_get_ready
from support.permissions import gateway_rules, operator_rules, operator_rules_elsewhere
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

FIRST, SECOND, RELEASE = "desks", "lab", "vdi-system"
VALUES: dict[str, Any] = {
    "domain": "vdi.localhost",
    "sessions": {"namespaces": [FIRST, SECOND], "groupNamespaces": {"engineering": SECOND}, "podSecurity": "baseline"},
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
    everywhere = flat(operator_rules()["ClusterRole"]) - {("", "pods", "list"), ("", "pods", "watch")}
    assert rules_of(tools, _OPERATOR, FIRST) == everywhere | flat(operator_rules()["Role"])
    assert rules_of(tools, _OPERATOR, SECOND) == everywhere | flat(operator_rules_elsewhere())
    gateway = flat(gateway_rules()["ClusterRole/vdi-gateway"])
    in_sessions = flat(gateway_rules()["Role/vdi-gateway-sessions"])
    assert rules_of(tools, _GATEWAY, FIRST) == rules_of(tools, _GATEWAY, SECOND) == gateway | in_sessions
    for namespace in ("default", "kube-system"):
        assert rules_of(tools, _OPERATOR, namespace) == everywhere
        assert rules_of(tools, _GATEWAY, namespace) == gateway


@pytest.mark.long
def test_one_operator_runs_sessions_and_a_pool_in_both(tools: Tools) -> None:
    deployment = tools.get("deployment", "vdi-operator", "-n", RELEASE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["VDI_NAMESPACE"] == f"{FIRST},{SECOND}"
    del environment["VDI_GATEWAY_URL"]  # no gateway runs

    def is_full() -> bool:
        return bool(tools.get("vdipool", "warm").get("status", {}).get("ready") == 1)

    def runs(namespace: str, name: str) -> bool:
        return bool(tools.get("vdisession", name, "-n", namespace).get("status", {}).get("phase") == "Running")

    def desktops_of_pool() -> list[Any]:
        pods = tools.get("pod", "-A", "-l", "vdi.kasm.io/pool=warm,!vdi.kasm.io/session")["items"]
        return [pod["metadata"]["namespace"] for pod in pods]

    with (
        pods_get_ready(tools.kubeconfig),
        operator_process(tools, tools.kubeconfig_of("vdi-operator", RELEASE), environment),
    ):
        wait_until("the pool is full", is_full)
        assert desktops_of_pool() == [SECOND]
        for namespace, name in ((FIRST, "alice"), (SECOND, "bob")):
            session = {
                "apiVersion": "vdi.kasm.io/v1alpha1",
                "kind": "VDISession",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"user": f"{name}@example.com", "template": "small"},
            }
            tools.kubectl("create", "-f", "-", stdin=json.dumps(session))
            wait_until(f"{name} runs", partial(runs, namespace, name))
    assert "vdi-operator" in tools.kubectl("get", "lease", "-n", FIRST)
    assert "vdi-operator" not in tools.kubectl("get", "lease", "-n", SECOND)

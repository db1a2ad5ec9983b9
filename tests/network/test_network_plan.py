"""The plan of `helm test` is what the policies mean, asked of the same evaluator."""

import json
from pathlib import Path
from typing import Any

import pytest

from network import worlds
from network.evaluate import ask
from network.matrix import Variant
from network.roles import NODE, Port, Question, Role
from unit.chart.trial_module import trial

pytestmark = pytest.mark.timeout(600)
VARIANTS = worlds.variants()


def plan_of(helm: Path, variant: Variant) -> dict[str, Any]:
    objects = worlds.rendered(helm, variant, with_tests=True)
    (config,) = [
        each
        for each in objects
        if each["kind"] == "ConfigMap" and "plan.json" in each.get("data", {})
    ]
    plan: dict[str, Any] = json.loads(config["data"]["plan.json"])
    return plan


def roles_in(plan: dict[str, Any]) -> dict[str, Role]:
    """The trial's pods and targets as the evaluator knows them."""
    found = {
        name: Role(
            name,
            f"10.42.9.{number}",
            tuple(Port(port, "TCP", called) for called, port in role["ports"].items()),
            role["namespace"],
            tuple(role["labels"].items()),
            is_ours=role["ours"],
        )
        for number, (name, role) in enumerate(plan["roles"].items())
    }
    # As a policy sees it, behind its Service.
    found["the API server"] = Role("the API server", NODE, (Port(6443),))
    found["names"] = Role(
        "names", "10.42.9.100", (Port(53, "UDP"),), "kube-system", (("k8s-app", "kube-dns"),)
    )
    found["cloud metadata"] = Role("cloud metadata", "169.254.169.254", (Port(80),))
    found["the internet"] = Role("the internet", "1.1.1.1", (Port(443),))
    for name, label, port in (("PostgreSQL", "postgresql", 5432), ("Redis", "redis", 6379)):
        labels = (("app.kubernetes.io/name", label), ("app.kubernetes.io/instance", "vdi"))
        found[f"the {name} server"] = Role(
            name, "10.42.9.101", (Port(port, "TCP", label),), "vdi-system", labels
        )
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_the_plan_is_what_the_policies_mean(helm: Path, name: str) -> None:
    variant = VARIANTS[name]
    plan = plan_of(helm, variant)
    roles = roles_in(plan)
    tries = list(trial.connections(plan, dict.fromkeys(roles, "")))
    assert len(tries) >= 45
    asked = []
    for one in tries:
        target, source = roles[one.target], roles[one.source]
        if one.source == one.target:  # two pods of a kind
            source = Role(
                source.name,
                "10.42.9.200",
                source.ports,
                source.namespace,
                source.labels,
                is_ours=True,
            )
        (port,) = [port for port in target.ports if port.number == one.port] or target.ports
        asked.append(Question(source, target, port))
    (answers,) = ask(asked, [worlds.policies(worlds.rendered(helm, variant))])
    wrong = [
        str(one)
        for one, answer in zip(tries, answers, strict=True)
        if one.expected != (answer == "y")
    ]
    assert wrong == []


@pytest.mark.parametrize("name", VARIANTS)
def test_every_policy_subject_is_tested_or_listed_as_skipped(helm: Path, name: str) -> None:
    variant = VARIANTS[name]
    plan = plan_of(helm, variant)
    everybody = {"traefik", "prometheus", "operator", "gateway", "desktop", "fetcher", "neighbour"}
    missing = everybody - set(plan["roles"])
    expected = {
        "no gateway": {"gateway"},
        "Traefik on its nodes": {"traefik"},
        "no internet": {"prometheus"},
    }.get(name, set[str]())
    assert missing == expected
    assert len(plan["notTried"]) == len(missing - {"gateway"})
    servers = {"postgresql", "redis"} if name == "production" else set()
    assert servers == {"postgresql", "redis"} & set(plan["roles"])


def test_test_pods_pass_restricted_and_disturb_no_workload(helm: Path) -> None:
    objects = worlds.rendered(helm, VARIANTS["production"], with_tests=True)
    hooks = [each for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    (pod,) = [hook for hook in hooks if hook["kind"] == "Pod"]
    assert {hook["kind"] for hook in hooks} == {
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Pod",
    }
    for hook in hooks:
        policy = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert ("hook-succeeded" in policy) == (hook is not pod), (
            "its account is gone after the test"
        )
    rules = [rule for hook in hooks if hook["kind"] == "Role" for rule in hook["rules"]]
    assert (
        rules
        == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "delete"]}] * 2
    )
    for policy in worlds.policies(objects):
        if policy["metadata"]["namespace"] == "vdi-system":
            selector = policy["spec"]["podSelector"]["matchLabels"]
            assert not selector.items() <= pod["metadata"]["labels"].items(), (
                "what judges must be free"
            )

"""Objects of a release beside the manifest that Helm installed."""

import copy
from typing import Any

import pytest

from vdi.doctor.objects.manifest import compare
from vdi.snapshot.model import Difference

Object = dict[str, Any]
MANIFEST: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "vdi-operator",
        "namespace": "kasm",
        "labels": {"app.kubernetes.io/component": "operator"},
    },
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "vdi"}},
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "operator",
                        "image": "vdi:1",
                        "command": None,
                        "env": [
                            {"name": "VDI_DOMAIN", "value": "a.example.com"},
                            {"name": "WORD", "value": "hidden-1"},
                        ],
                        "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                    }
                ],
            }
        },
    },
}
CONTAINER: Object = {
    "f:image": {},
    "f:resources": {"f:limits": {"f:cpu": {}, "f:memory": {}}},
    "f:env": {'k:{"name":"VDI_DOMAIN"}': {"f:value": {}}, 'k:{"name":"WORD"}': {"f:value": {}}},
}
PODS = {"f:template": {"f:spec": {"f:containers": {'k:{"name":"operator"}': CONTAINER}}}}


def write(manager: str, fields: Object, **more: str) -> Object:
    return {"manager": manager, "time": "2026-11-20T09:00:00Z", "fieldsV1": fields, **more}


@pytest.fixture
def live() -> Object:
    """The object as the API server has it: with defaults, and in its own spelling."""
    live = copy.deepcopy(MANIFEST)
    live["metadata"]["managedFields"] = [
        write("helm", {"f:spec": {"f:replicas": {}, "f:selector": {}, **PODS}})
    ]
    live["spec"] |= {"strategy": {"type": "RollingUpdate"}}
    container = live["spec"]["template"]["spec"]["containers"][0]
    container |= {
        "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
        "imagePullPolicy": "Always",
    }
    del container["command"]
    return live


def container_of(live: Object) -> Object:
    found: Object = live["spec"]["template"]["spec"]["containers"][0]
    return found


def differences(live: Object | None, desired: Object = MANIFEST) -> list[Difference]:
    return list(compare(desired, live, "kasm/vdi", "helm rollback vdi 3 --namespace kasm"))


def test_defaults_and_spellings_are_no_differences(live: Object) -> None:
    assert differences(live) == []


def test_missing_object_is_a_difference() -> None:
    (found,) = differences(None)
    assert (found.object, found.field, found.component) == (
        "deployment/kasm/vdi-operator",
        "",
        "operator",
    )


def test_setting_by_hand_names_field_values_and_program(live: Object) -> None:
    container_of(live)["env"][0]["value"] = "b.example.com"
    env: Object = {"f:env": {'k:{"name":"VDI_DOMAIN"}': {"f:value": {}}}}
    fields = {
        "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"operator"}': env}}}}
    }
    live["metadata"]["managedFields"].append(write("kubectl-set", fields))
    (found,) = differences(live)
    assert found.field == "spec.template.spec.containers[operator].env[VDI_DOMAIN].value"
    assert (found.expected, found.observed) == ("a.example.com", "b.example.com")
    assert (found.manager, found.time) == ("kubectl-set", "2026-11-20T09:00:00Z")


def test_values_that_may_be_secret_are_not_shown(live: Object) -> None:
    container_of(live)["env"][1]["value"] = "hidden-2"
    live["metadata"]["managedFields"] = []
    live["metadata"]["annotations"] = {"note": "hidden-3"}
    desired = copy.deepcopy(MANIFEST)
    desired["metadata"]["annotations"] = {"note": "hidden-4"}
    found = differences(live, desired)
    assert len(found) == 2
    assert "hidden" not in str(found)
    secret: Object = {
        "kind": "Secret",
        "metadata": {"name": "users"},
        "data": {"alice": "aGlkZGVu"},
        "type": "hidden",
    }
    gone, other = differences({**secret, "data": {}, "type": "hidden-5"}, secret)
    assert (gone.field, gone.expected, other.observed) == ("data.alice", "(redacted)", "(redacted)")


@pytest.mark.parametrize(
    ("manager", "subresource"),
    [("kube-controller-manager", "scale"), ("keda-operator", ""), ("helm", "")],
)
def test_fields_of_controllers_and_webhooks_are_theirs(
    live: Object, manager: str, subresource: str
) -> None:
    live["spec"]["replicas"] = 5
    live["metadata"]["managedFields"] = [
        write(manager, {"f:spec": {"f:replicas": {}}}, subresource=subresource)
    ]
    assert differences(live) == []


def test_a_field_that_a_person_has_added_is_named(live: Object) -> None:
    live["spec"] |= {"paused": True}
    notes: Object = {"f:metadata": {"f:annotations": {"f:restartedAt": {}}}}
    fields = {"f:spec": {"f:paused": {}, "f:template": notes}}
    live["metadata"]["managedFields"].append(write("kubectl-rollout", fields))
    (found,) = differences(live)
    assert (found.field, found.expected, found.observed) == ("spec.paused", "not set", "true")


def test_content_that_the_chart_leaves_to_others_is_theirs() -> None:
    users: Object = {
        "kind": "Secret",
        "metadata": {"name": "vdi-gateway-users", "namespace": "kasm"},
    }
    live = copy.deepcopy(users) | {"data": {"alice": "aGlkZGVu"}}
    live["metadata"]["managedFields"] = [write("vdi-cli", {"f:data": {"f:alice": {}}})]
    assert differences(live, users) == []
    # As a backup of a Secret that the operator has filled brings it back.
    live |= {"immutable": True}
    live["metadata"]["managedFields"] = [write("kubectl-create", {"f:immutable": {}})]
    assert differences(live, users) == []


def test_each_rule_of_a_role_is_compared() -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    role: Object = {
        "kind": "Role",
        "metadata": {"name": "vdi-operator", "namespace": "kasm"},
        "rules": rules,
    }
    more = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    live = copy.deepcopy(role) | {"rules": [{**rules[0], "verbs": ["get"]}, more]}
    live["metadata"]["managedFields"] = [write("kubectl-edit", {"f:rules": {}})]
    assert [(one.field, one.expected, one.observed) for one in differences(live, role)] == [
        ("rules[0].verbs", "[get, list]", "[get]"),
        ("rules[1]", "not set", "{apiGroups: [*], resources: [*], verbs: [*]}"),
    ]


def test_a_rule_that_is_gone_is_named_wherever_it_stood() -> None:
    dns: Object = {"to": [{"podSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}
    web: Object = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    policy: Object = {"kind": "NetworkPolicy", "metadata": {"name": "out", "namespace": "s"}}

    def fields(*egress: Object) -> list[str]:
        live = {**policy, "spec": {"egress": [*egress]}}
        return [one.field for one in differences(live, {**policy, "spec": {"egress": [dns, web]}})]

    assert fields(dns, web) == fields(web, dns) == []
    assert fields(web) == ["spec.egress[0]"]
    assert fields({"to": dns["to"]}, web) == ["spec.egress[0].ports"]
    assert fields(dns, web, {}) == ["spec.egress[2]"]


def test_an_empty_map_that_is_gone_is_a_difference() -> None:
    crd: Object = {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "x"},
        "subresources": {"status": {}},
    }
    (found,) = differences({**crd, "subresources": {}}, crd)
    assert (found.field, found.expected) == ("subresources.status", "{}")


def test_a_claim_may_have_grown() -> None:
    def claim(size: str) -> Object:
        spec = {"resources": {"requests": {"storage": size}}}
        return {"kind": "PersistentVolumeClaim", "metadata": {"name": "vdi-gateway"}, "spec": spec}

    assert differences(claim("5Gi"), claim("1Gi")) == []
    assert len(differences(claim("1Gi"), claim("5Gi"))) == 1

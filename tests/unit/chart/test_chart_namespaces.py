"""The chart with several namespaces of sessions: what is in one of them is in each; real helm, no
cluster.
"""

import json
from pathlib import Path
from typing import Any

from tools.generate.chart_render import render
from vdi.gateway.settings import read_settings as gateway_settings
from vdi.settings import read_settings as operator_settings

Object = dict[str, Any]
_BOTH = ("--set", "sessions.namespaces={desks,lab}")
_ONE = ("--set", "sessions.namespace=desks")
_POOL = ("--set", "pools.warm.template=small,pools.warm.replicas=1")
_MORE = (
    *("--set", "traefik.certManager.issuer=le,doctor.schedule=*/10 * * * *"),
    *("--set-json", 'network.templates={"cad":[{"to":[{"ipBlock":{"cidr":"10.7.0.0/16"}}]}]}'),
    *_POOL,
)
_ONCE = {("", "configmaps"), ("coordination.k8s.io", "leases")}


def within(objects: list[Object], namespace: str) -> dict[tuple[str, str], Object]:
    """Objects of a namespace without its name, by kind and name."""
    found = [made for made in objects if made["metadata"].get("namespace") == namespace]
    bare: list[Object] = json.loads(json.dumps(found).replace(f'"{namespace}"', '"NAMESPACE"'))
    return {(made["kind"], made["metadata"]["name"]): made for made in bare}


def variables(objects: list[Object], deployment: str) -> dict[str, str]:
    (found,) = [
        made
        for made in objects
        if (made["kind"], made["metadata"]["name"]) == ("Deployment", deployment)
    ]
    container = found["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_each_namespace_has_the_same_objects(helm: Path) -> None:
    one = render(helm, "values.yaml", *_ONE, *_MORE)
    both = render(helm, "values.yaml", *_BOTH, *_MORE)
    desired = within(one, "desks")
    assert within(both, "desks") == desired
    assert {"Role", "RoleBinding", "NetworkPolicy", "Middleware", "PodDisruptionBudget"} <= {
        kind for kind, _ in desired
    }
    certificates = [made["metadata"]["namespace"] for made in both if made["kind"] == "Certificate"]
    assert certificates == ["vdi-system"], (
        "one for the portal and all desktops, where the gateway reads no Secret of it"
    )
    lab = within(both, "lab")
    first, second = (objects[("Role", "vdi-operator")].pop("rules") for objects in (desired, lab))
    assert lab == desired
    only_first = [rule for rule in first if rule not in second]
    assert [rule for rule in second if rule not in first] == []
    assert {(rule["apiGroups"][0], rule["resources"][0]) for rule in only_first} == _ONCE


def test_session_namespaces_enforce_pod_security(helm: Path) -> None:
    made = {
        made["metadata"]["name"]: made["metadata"]
        for made in render(helm, "values.yaml", *_BOTH)
        if made["kind"] == "Namespace"
    }
    assert made.keys() == {"desks", "lab"}
    assert made["desks"] | {"name": ""} == made["lab"] | {"name": ""}
    assert made["lab"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert made["lab"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    with_release = render(helm, "values.yaml", "--set", "sessions.namespaces={lab,vdi-system}")
    assert [made["metadata"]["name"] for made in with_release if made["kind"] == "Namespace"] == [
        "lab"
    ]


def test_one_list_of_namespaces_reaches_all_components(helm: Path) -> None:
    objects = render(
        helm, "values.yaml", *_BOTH, "--set-json", 'sessions.groupNamespaces={"a,b=c":"lab"}'
    )
    environment = variables(objects, "vdi-operator")
    assert operator_settings(environment).namespaces == ("desks", "lab")
    gateway = {
        name: value
        for name, value in variables(objects, "vdi-gateway").items()
        if value and "TURN" not in name
    }
    settings = gateway_settings(gateway)
    assert (settings.namespaces, settings.group_namespaces) == (("desks", "lab"), {"a,b=c": "lab"})
    for name in ("vdi-operator", "vdi-gateway"):
        (policy,) = [
            made
            for made in objects
            if (made["kind"], made["metadata"]["name"]) == ("NetworkPolicy", name)
        ]
        peers = [peer for rule in policy["spec"]["egress"] for peer in rule.get("to", ())]
        reached = [
            peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name")
            for peer in peers
            if "managed-by" in json.dumps(peer.get("podSelector", {}))
        ]
        assert reached == ["desks", "lab"], name


def test_a_pool_names_its_namespace_beside_its_spec(helm: Path) -> None:
    for words, namespace in (((), "desks"), (("--set", "pools.warm.namespace=lab"), "lab")):
        objects = render(helm, "values.yaml", *_BOTH, *_POOL, *words)
        (pool,) = [made for made in objects if made["kind"] == "VDIPool"]
        assert pool["metadata"]["labels"]["vdi.kasm.io/sessions-namespace"] == namespace
        assert pool["spec"] == {"template": "small", "replicas": 1}

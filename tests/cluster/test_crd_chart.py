"""The chart with real helm on a real API server: install, upgrade, rights, uninstall, and what
wrong values say.
"""

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools, allowed_of, flat, rules_of
from network.worlds import policies, rendered, variants
from support.permissions import key_rules, operator_rules, placeholder_rules
from support.waiting import wait_until
from vdi.session.autoscaling import AutoscalingSettings
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import HOLD
from vdi.settings import Settings, read_settings

OPERATOR = "system:serviceaccount:vdi-system:vdi-operator"
MAY_NOT = [
    ("get", "secrets", "vdi-system"),
    ("create", "secrets", "vdi-system"),
    ("get", "secrets/vdi-gateway-keys", "vdi-system"),
    ("list", "secrets", "kube-system"),
    ("create", "pods", "vdi-system"),
    ("get", "pods", ""),
    ("delete", "pods", "default"),
    ("create", "pods --subresource=eviction", "vdi-sessions"),
    ("create", "vditemplates.vdi.kasm.io", ""),
    ("delete", "vditemplates.vdi.kasm.io", ""),
    ("patch", "nodes", ""),
    ("patch", "vdipools.vdi.kasm.io", ""),
    ("create", "leases.coordination.k8s.io", "kube-system"),
    ("create", "namespaces", ""),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", ""),
    ("create", "rolebindings.rbac.authorization.k8s.io", "vdi-sessions"),
    ("create", "vdisessions.vdi.kasm.io", "vdi-sessions"),
    ("delete", "persistentvolumeclaims", "vdi-sessions"),
    ("create", "pods --subresource=exec", "vdi-sessions"),
    ("impersonate", "users", ""),
]


@pytest.fixture
def without_crds(tools: Tools) -> Tools:
    """A cluster that has never seen the chart, but for namespaces."""
    tools.helm("uninstall", "vdi", "--namespace", "vdi-system")
    crds = [f"{path.stem}.vdi.kasm.io" for path in (CHART / "files/crds").iterdir()]
    tools.kubectl("delete", "crd", "--ignore-not-found", *crds)
    return tools


@pytest.mark.long
def test_second_install_adds_templates_and_pools(without_crds: Tools) -> None:
    warm = ("--set", "pools.warm.template=small", "--set", "pools.warm.replicas=2")
    first = without_crds.upgrade(CHART, *warm)
    assert "NOT CREATED YET: the templates (small), the pools (warm) and the probe." in first
    assert without_crds.kubectl("get", "vdit", "-o", "name") == ""
    assert "NOT CREATED YET" not in without_crds.upgrade(CHART, *warm)
    shown = without_crds.get("vdit", "small")["spec"]["resources"]
    assert shown == {"defaultGPU": 0, "defaultCPU": "1000m", "defaultMemory": "4Gi"}
    shown = without_crds.get("vdipool", "warm")["spec"]
    assert shown == {"template": "small", "replicas": 2}

    other = (
        "--set",
        "templates.small=null",
        "--set",
        "templates.other.image=registry.example.com/d:1",
    )
    without_crds.upgrade(CHART, *other)
    assert without_crds.kubectl("get", "vdit", "-o", "name").split() == [
        "vditemplate.vdi.kasm.io/other"
    ]

    # Each kind is looked up for itself.
    without_crds.helm("uninstall", "vdi", "--namespace", "vdi-system")
    without_crds.kubectl("delete", "crd", "vdipools.vdi.kasm.io")
    assert "NOT CREATED YET: the pools (warm)." in without_crds.upgrade(CHART, *warm)


@pytest.mark.long
def test_upgrade_keeps_the_token_for_metrics(release: Tools) -> None:
    def token() -> str:
        return release.kubectl(
            "get", "secret", "vdi-metrics", "-n", "vdi-system", "-o", "jsonpath={.data.token}"
        )

    made = wait_until("the token is there", token)
    release.upgrade(CHART, "--set", "logLevel=debug")
    assert token() == made
    account = "system:serviceaccount:vdi-system:vdi-metrics"
    allowed = release.kubectl("auth", "can-i", "--list", "--as", account, "-n", "vdi-system")
    assert "secrets" not in allowed and "pods" not in allowed


def test_operator_has_rights_in_its_namespace_only(release: Tools) -> None:
    everywhere, in_sessions = (flat(operator_rules()[kind]) for kind in ("ClusterRole", "Role"))
    other_workloads = {("", "pods", "list"), ("", "pods", "watch")}
    assert other_workloads < everywhere
    assert rules_of(release, OPERATOR, "vdi-sessions") == everywhere | in_sessions
    assert rules_of(release, OPERATOR, "vdi-system") == everywhere | flat(key_rules())
    for namespace in ("kube-system", "default"):
        assert rules_of(release, OPERATOR, namespace) == everywhere, namespace
    release.upgrade(CHART, "--set", "queue.countOtherWorkloads=false")
    assert (
        rules_of(release, OPERATOR, "vdi-sessions") == (everywhere - other_workloads) | in_sessions
    )
    assert rules_of(release, OPERATOR, "default") == everywhere - other_workloads


def test_dangerous_requests_are_denied(release: Tools) -> None:
    may = [("create", "pods", "vdi-sessions")]
    assert allowed_of(release, OPERATOR, MAY_NOT + may) == may


def test_upgrade_and_rollback_replace_the_crds(release: Tools, tmp_path: Path) -> None:
    def fields(crd: dict[str, Any]) -> dict[str, Any]:
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found: dict[str, Any] = schema["properties"]["spec"]["properties"]
        return found

    def stored() -> dict[str, Any]:
        return fields(release.get("crd", "vdisessions.vdi.kasm.io"))

    shutil.copytree(CHART, newer := tmp_path / "vdi")
    path = newer / "files/crds/vdisessions.yaml"
    crd = yaml.safe_load(path.read_text())
    fields(crd)["later"] = {"type": "string"}
    path.write_text(yaml.safe_dump(crd))
    release.upgrade(newer)
    assert "later" in stored()
    assert release.helm("rollback", "vdi", "--namespace", "vdi-system").returncode == 0
    assert "later" not in stored()


@pytest.mark.long
def test_uninstall_keeps_crds_sessions_and_their_namespace(release: Tools) -> None:
    release.create_session("vdi-sessions", "kept", "small")
    patch = ("patch", "vdi", "kept", "--namespace", "vdi-sessions", "--type=merge", "-p")
    release.kubectl(*patch, '{"metadata":{"finalizers":["vdi.kasm.io/session-cleanup"]}}')
    try:
        # No pod runs here: helm would wait for a hook until `Tools.helm` ends it.
        done = release.helm("uninstall", "vdi", "--namespace", "vdi-system")
        assert done.returncode == 0, done.stderr
        kept = release.get("vdi", "kept", "--namespace", "vdi-sessions")
        assert "deletionTimestamp" not in kept["metadata"], (
            "no operator is there to remove its finalizer"
        )
        assert release.kubectl(
            "get", "deploy,sa", "--namespace", "vdi-system", "-o", "name"
        ).split() == ["serviceaccount/default"]
        of_cluster = (
            "clusterrole,clusterrolebinding",
            "-l",
            "app.kubernetes.io/name=vdi",
            "-o",
            "name",
        )
        assert release.kubectl("get", *of_cluster) == ""
        assert "small" in release.upgrade(), "what was kept is taken over again"
        assert (
            release.kubectl("get", "vdi", "--namespace", "vdi-sessions", "-o", "name")
            .strip()
            .endswith("/kept")
        )
    finally:
        release.kubectl(*patch, '{"metadata":{"finalizers":null}}')


def test_operator_pod_passes_restricted(installed: Tools) -> None:
    """Its namespace enforces nothing, but whoever labels it must not lose the operator."""
    deployment = installed.named("Deployment", "vdi-operator")
    spec = deployment["spec"]["template"]["spec"]
    del spec["serviceAccountName"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"}, "spec": spec}
    installed.kubectl(
        "create",
        "--dry-run=server",
        "--namespace",
        "vdi-sessions",
        "-f",
        "-",
        stdin=json.dumps(pod),
    )
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    paths = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
    assert paths == ["/healthz", "/readyz"]


def test_eviction_waits_until_the_desktop_is_released(installed: Tools) -> None:
    """No kubelet is needed for it: the API server asks the disruption budget."""
    here = ("--namespace", "vdi-sessions")

    def evicts() -> str:
        review = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "held", "namespace": here[1]},
        }
        path = f"/api/v1/namespaces/{here[1]}/pods/held/eviction"
        done = installed.try_kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(review))
        return done.stdout + done.stderr

    safe = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
    }
    seccomp = {"seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "held", "namespace": here[1], "labels": {HOLD: "true"}},
        "spec": {
            "securityContext": seccomp,
            "containers": [{"name": "c", "image": "i", "securityContext": safe}],
        },
    }
    installed.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    # An eviction of a pod that is Pending is always allowed: it is Running as far as the API server
    # knows.
    running = json.dumps(
        {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    )
    installed.kubectl(
        "patch", "pod", "held", *here, "--subresource=status", "--type=merge", "-p", running
    )
    wait_until(
        "the disruption budget has been looked at",
        lambda: (
            "1"
            in installed.kubectl(
                "get", "pdb", "vdi-desktops", *here, "-o", "jsonpath={.status.expectedPods}"
            )
        ),
    )
    assert "would violate the pod's disruption budget" in evicts()
    installed.kubectl("label", "pod", "held", *here, "--overwrite", f"{HOLD}=false")
    assert "Success" in evicts()


@pytest.mark.long
def test_internet_of_desktops_excludes_the_api_server(release: Tools) -> None:
    """Installed, not rendered: only a cluster knows its API server's address, which may be a public
    one.
    """
    known = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
        },  # an API server on loopback makes none itself
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["203.0.113.7"]}, {"addresses": ["203.0.113.8"]}],
        "ports": [{"name": "https", "port": 6443}],
    }

    def left_out() -> set[str]:
        policy = release.get("networkpolicy", "vdi-desktops", "--namespace", "vdi-sessions")
        peers = [peer for rule in policy["spec"]["egress"] for peer in rule["to"]]
        (internet,) = [
            peer["ipBlock"] for peer in peers if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
        ]
        return set(internet["except"])

    before = left_out()
    release.kubectl("create", "-f", "-", stdin=json.dumps(known))
    try:
        release.upgrade()
        assert left_out() - before == {"203.0.113.7/32", "203.0.113.8/32"}
    finally:
        release.kubectl("delete", "endpointslice", "kubernetes", "--namespace", "default")


def test_api_server_accepts_every_policy_of_the_matrix(installed: Tools) -> None:
    """Ranges of ports, exceptions within their networks, names: an evaluator minds none of it."""
    made = [
        policy
        for variant in variants().values()
        for policy in policies(rendered(installed.helm_binary, variant))
    ]
    assert len(made) >= 30
    installed.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(made))


def settings_of(tools: Tools, *words: str) -> Settings:
    variables = tools.named("Deployment", "vdi-operator", *words)["spec"]["template"]["spec"][
        "containers"
    ][0]["env"]
    return read_settings({variable["name"]: variable["value"] for variable in variables})


def test_values_reach_the_operators_settings(tools: Tools) -> None:
    given = {
        "domain": "vdi.example.com",
        "urlPort": "8443",
        "traefik.entryPoint": "secure",
        "traefik.tlsSecret": "wildcard",
        "requests.cpu": "100m",
        "requests.memory": "2Gi",
        "gpuResource": "nvidia.com/gpu.shared",
        "sessions.namespace": "desks",
        "logLevel": "debug",
        "queue.countOtherWorkloads": "false",
        r"queue.weights.alice@example\.com": "2",
        "queue.weights.bob": "0.5",
        "drainNotice": "2m",
    }
    words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    settings = settings_of(tools, *words)
    assert (settings.namespace, settings.log_level, settings.count_other_workloads) == (
        "desks",
        "debug",
        False,
    )
    assert settings.queue_weights == {"alice@example.com": 2, "bob": 0.5}
    expected = ClusterSettings(
        domain="vdi.example.com",
        url_port=8443,
        entry_point="secure",
        tls_secret="wildcard",
        requests_cpu="100m",
        requests_memory="2Gi",
        gpu_resource="nvidia.com/gpu.shared",
        drain_notice=timedelta(minutes=2),
    )
    assert replace(settings.cluster, edge_middleware=None, max_timeout=None) == expected
    roles = [
        each["metadata"] for each in tools.render(*words) if each["kind"] in ("Role", "RoleBinding")
    ]
    assert {role["namespace"] for role in roles if role["name"] == "vdi-operator"} == {"desks"}


def test_placeholders_have_a_namespace_and_rights_of_their_own(tools: Tools) -> None:
    words = ("--set", "autoscaling.enabled=true", "--set", "autoscaling.headroom.cad=2")
    before = {(each["kind"], each["metadata"]["name"]) for each in tools.render()}
    made = tools.render(*words)
    added = {
        each["kind"]: each
        for each in made
        if (each["kind"], each["metadata"]["name"]) not in before
    }
    assert set(added) == {"Namespace", "PriorityClass", "Role", "RoleBinding"}
    namespace = added["Namespace"]["metadata"]
    assert "annotations" not in namespace, "it goes with the release, and the placeholders with it"
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert (added["PriorityClass"]["value"], added["PriorityClass"]["preemptionPolicy"]) == (
        -10,
        "Never",
    )
    assert added["Role"]["rules"] == placeholder_rules()
    assert {added[kind]["metadata"]["namespace"] for kind in ("Role", "RoleBinding")} == {
        namespace["name"]
    }
    assert settings_of(tools, *words).autoscaling == AutoscalingSettings(
        headroom={"cad": 2},
        namespace=namespace["name"],
        image="localhost/vdi/vdi:dev",
        priority_class=added["PriorityClass"]["metadata"]["name"],
    )


def test_optional_objects_can_be_left_out(tools: Tools) -> None:
    everything = {each["kind"] for each in tools.render()}
    assert {"CustomResourceDefinition", "Namespace", "VDITemplate", "NetworkPolicy"} <= everything
    less = (
        "--set",
        "crds.install=false",
        "--set",
        "sessions.createNamespace=false",
        "--set",
        "templates=null",
    )
    assert {each["kind"] for each in tools.render(*less)} == everything - {
        "CustomResourceDefinition",
        "Namespace",
        "VDITemplate",
        "CronJob",  # the probe, whose desktop has the image of the template `small`
    }
    assert "Namespace" not in {
        each["kind"] for each in tools.render("--set", "sessions.namespace=vdi-system")
    }

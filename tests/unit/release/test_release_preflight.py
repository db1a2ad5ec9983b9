"""What stands in the way, in words."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.builders import a_node
from vdi.findings.model import Severity, errors
from vdi.helm.arguments import Place
from vdi.helm.releases import Chart as ReleasedChart
from vdi.helm.releases import ChartMeta, Info, Revision
from vdi.helm.run import Helm
from vdi.release.chart import Chart
from vdi.release.facts import Facts, ForeignObject, Refusal
from vdi.release.preflight import run_checks
from vdi.snapshot.model import Certificate, Snapshot, Unreadable

NOW = "2026-11-20T00:00:00Z"


def a_traefik(*args: str) -> dict[str, Any]:
    container = {
        "name": "traefik",
        "image": "docker.io/traefik:3",
        "args": args or ["--entrypoints.websecure.address=:8443"],
    }
    return {
        "metadata": {"namespace": "kube-system", "name": "traefik"},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"readyReplicas": 1},
    }


def an_operator(*, env: dict[str, str] | None = None, **pod: Any) -> dict[str, Any]:
    variables = {"VDI_NAMESPACE": "vdi-sessions", **(env or {})}
    container = {
        "name": "operator",
        "image": "localhost/vdi/vdi:dev",
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        **pod.pop("container", {}),
    }
    spec = {"template": {"spec": {"containers": [container], **pod}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vdi-operator"},
        "spec": spec,
    }


def a_revision(
    version: int = 1, status: str = "deployed", chart: str = "0.1.0", **more: Any
) -> Revision:
    info = Info(status, "2026-11-20T00:00:00Z", more.pop("description", "Install complete"))
    return Revision("vdi", "kasm", version, info, ReleasedChart(ChartMeta("vdi", chart)), **more)


def facts(**changes: Any) -> Facts:
    usual: dict[str, Any] = {
        "helm": Helm(Path("/usr/bin/helm"), (4, 3, 1)),
        "chart": Chart(Path("/c"), "0.1.0", "0.1.0"),
        "server": "https://k:6443",
        "kubernetes": "v1.34.4+k3s1",
        "release": "vdi",
        "place": Place("kasm"),
        "objects": (an_operator(),),
        "namespaces": ("kasm", "vdi-sessions"),
        "node_images": frozenset({"localhost/vdi/vdi:dev"}),
    }
    objects: dict[str, Any] = {
        "nodes": [a_node()],
        "deployments": [a_traefik()],
        "storageclasses": [{"metadata": {"name": "local-path"}}],
        "namespaces": [],
    }
    rest = {name: changes.pop(name) for name in ("certificates", "unread") if name in changes}
    objects |= {plural: changes.pop(plural) for plural in objects if plural in changes}
    raw = {"taken_at": NOW, "objects": objects}
    snapshot = msgspec.convert(msgspec.to_builtins(raw), Snapshot)
    snapshot = msgspec.structs.replace(snapshot, **rest)
    return Facts(**{**usual, "snapshot": snapshot, **changes})


def verdicts(upgrading: bool = False, **changes: Any) -> list[tuple[str, str]]:
    found = run_checks(facts(**changes), upgrading=upgrading)
    return [
        (one.severity.value, f"{one.message} {one.remedy.text}")
        for one in found
        if one.severity is not Severity.OK
    ]


def test_node_selectors_that_match_no_node_are_named() -> None:
    operator = an_operator(nodeSelector={"role": "turn"})
    alone = verdicts(objects=(operator,))
    assert [level for level, _ in alone] == ["error"]
    assert (
        "No node has the labels role=turn, which the values require for deployment/vdi-operator"
        in alone[0][1]
    )
    assert "kubectl label node node-1 role=turn" in alone[0][1]
    several = (a_node("node-1"), a_node("node-2"))
    assert "kubectl get nodes --show-labels" in verdicts(objects=(operator,), nodes=several)[0][1]
    labelled = (a_node("node-1", labels={"role": "turn"}), a_node("node-2"))
    assert verdicts(objects=(operator,), nodes=labelled) == []


def test_a_good_cluster_has_nothing_in_the_way() -> None:
    found = run_checks(facts(), upgrading=False)
    assert errors(found) == []
    assert {one.severity for one in found} == {Severity.OK}
    assert [one.code for one in found] == [
        "helm",
        "kubernetes",
        "nodes",
        "rights",
        "traefik",
        "storage",
    ]


TLS = an_operator(env={"VDI_TLS_SECRET": "wild", "VDI_DOMAIN": "vdi.example.com"})


def with_certificate(**fields: Any) -> dict[str, Any]:
    """The Secret of TLS, with this certificate in it."""
    return {
        "objects": (TLS,),
        "certificates": (Certificate(namespace="kasm", secret="wild", **fields),),
    }


def a_namespace(labels: dict[str, str] | None = None, **meta: str) -> list[dict[str, Any]]:
    return [{"metadata": {"name": "kasm", "labels": labels or {}, **meta}}]


def a_template(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "VDITemplate",
        "metadata": {"name": "t"},
        "spec": {"image": "i.example.com/d:1", **spec},
    }


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "old kubernetes": ({"kubernetes": "v1.29.9"}, "error", "1.30 or later is required"),
    "no node": ({"nodes": ()}, "error", "The cluster has no node"),
    "closed nodes": ({"nodes": (a_node(unschedulable=True),)}, "error", "None of 1 nodes is ready"),
    "a namespace that goes": (
        {"namespaces": a_namespace(deletionTimestamp="2026-11-20T00:00:00Z")},
        "error",
        "The namespace kasm is being deleted",
    ),
    "no rights": (
        {"lacking": tuple(f"{verb} secrets" for verb in "abcdefg")},
        "error",
        "may not: a secrets, b secrets, c secrets, d secrets, e secrets and 2 more",
    ),
    "no Traefik kinds": ({"traefik_known": False}, "error", "does not know Traefik's IngressRoute"),
    "no Traefik": ({"deployments": ()}, "warning", "No Traefik was found"),
    "a Traefik that looks elsewhere": (
        {"deployments": (a_traefik("--providers.kubernetescrd.namespaces=web"),)},
        "error",
        "Traefik watches only web, not kasm, vdi-sessions",
    ),
    "another entry point": (
        {"deployments": (a_traefik("--entryPoints.secure.address=:443"),)},
        "error",
        "Traefik has no entry point 'websecure' (traefik.entryPoint); it has: secure",
    ),
    "a kind nobody brings": (
        {"unknown": frozenset({("monitoring.coreos.com/v1", "PodMonitor")})},
        "error",
        "does not know PodMonitor (monitoring.coreos.com/v1), which these values create. Install the Prometheus "
        "operator",
    ),
    "no storage class": (
        {"objects": (an_operator(), {"kind": "PersistentVolumeClaim", "metadata": {"name": "d"}, "spec": {}})},
        "error",
        "The volume d needs a default StorageClass, which does not exist; available: local-path",
    ),
    "a template's class": (
        {"objects": (a_template(persistence={"enabled": True, "storageClass": "fast"}),)},
        "error",
        "The template t (homes) needs the StorageClass 'fast'",
    ),
    "a template that leaves out what is its default": (
        {"objects": (a_template(),), "storageclasses": ({"metadata": {"name": "gp3"}},)},
        "error",
        "The template t (homes) needs the StorageClass 'local-path'",
    ),
    "no certificate": (
        with_certificate(problem="missing"),
        "warning",
        "The TLS Secret kasm/wild does not exist; without it, Traefik presents its own certificate",
    ),
    "a certificate for somebody else": (
        with_certificate(names=("*.example.org",), ends="2027-01-01T00:00:00Z"),
        "warning",
        "is for *.example.org, not for *.vdi.example.com",
    ),
    "a certificate that has ended": (
        with_certificate(names=("*.vdi.example.com",), ends="2026-01-01T00:00:00Z"),
        "warning",
        "kasm/wild expired on 2026-01-01T00:00:00Z",
    ),
    "no DNS": (
        {"objects": (TLS,), "names": {"portal.vdi.example.com": "Name or service not known"}},
        "warning",
        "portal.vdi.example.com cannot be resolved from here: Name or service not known. Create a DNS record "
        "*.vdi.example.com",
    ),
    "an image that is nowhere": (
        {"objects": (an_operator(container={"image": "localhost/vdi/vdi:2"}),)},
        "warning",
        "localhost/vdi/vdi:2 is on no node, and no registry has it",
    ),
    "a Secret that is missing": (
        {
            "objects": (an_operator(volumes=[{"name": "s", "secret": {"secretName": "db"}}]),),
            "namespaces": a_namespace(),
            "secrets": {"kasm": {}},
        },
        "error",
        "The Secret kasm/db does not exist, but deployment/vdi-operator needs it.",
    ),
    "a key that is missing": (
        {
            "objects": (
                an_operator(container={"envFrom": []}, initContainers=[
                    {"image": "localhost/vdi/vdi:dev", "env": [
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}]}]),
            ),
            "namespaces": a_namespace(),
            "secrets": {"kasm": {"db": frozenset({"uri"})}},
        },
        "error",
        "The Secret kasm/db has no key 'url', only: uri",
    ),
    "a node's network where it is forbidden": (
        {
            "objects": (an_operator(hostNetwork=True),),
            "namespaces": a_namespace({"pod-security.kubernetes.io/enforce": "restricted"}),
        },
        "error",
        "uses its node's network, and the namespace kasm enforces 'restricted'",
    ),
    "a refusal of the API server": (
        {"refusals": (Refusal("ClusterRole vdi", "Forbidden", "is attempting to grant"),)},
        "error",
        "refuses ClusterRole vdi: is attempting to grant",
    ),
    "a namespace that somebody made before": (
        {"foreign": (ForeignObject("Namespace", "", "vdi-sessions", ""),)},
        "error",
        "Namespace vdi-sessions already exists and belongs to no release, so Helm would not adopt it. Set "
        "sessions.createNamespace=false, or let the release adopt it: kubectl annotate namespace vdi-sessions "
        "meta.helm.sh/release-name=vdi meta.helm.sh/release-namespace=kasm; kubectl label namespace "
        "vdi-sessions app.kubernetes.io/managed-by=Helm",
    ),
    "CRDs of another release": (
        {"foreign": (ForeignObject("CustomResourceDefinition", "", "vdipools.vdi.kasm.io", "other/vdi"),)},
        "error",
        "belongs to the release other/vdi, so Helm would not adopt it. Set crds.install=false",
    ),
    "something that could not be read": (
        {"unread": (Unreadable("nodes", "no"),)},
        "unknown",
        "Not checked: nodes: no",
    ),
    "a release that is there": (
        {"revisions": (a_revision(),)},
        "error",
        "is already installed in namespace kasm, revision 1. Change it with vdi upgrade",
    ),
    "a release that hangs": (
        {"revisions": (a_revision(3, "pending-upgrade"), a_revision(2))},
        "error",
        "Revision 3 of vdi is pending-upgrade",
    ),
}  # fmt: skip


UPGRADES: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing there": (
        {},
        "error",
        "There is no release vdi in the namespace kasm. Install it with vdi install",
    ),
    "only a failed one": (
        {"revisions": (a_revision(1, "failed", description="x\ny"),)},
        "error",
        "No revision of vdi is deployed (the newest is failed: x). Try again with vdi install.",
    ),
    "an older chart": (
        {"revisions": (a_revision(chart="0.10.0"),)},
        "warning",
        "The chart is 0.1.0, older than the deployed 0.10.0",
    ),
    "what only a merge refuses": (
        {
            "revisions": (a_revision(),),
            "refusals": (Refusal("Service kasm/x", "Invalid", "Duplicate value"),),
        },
        "warning",
        "Duplicate value",
    ),
    "what server-side apply refuses": (
        {
            "revisions": (a_revision(apply_method="ssa"),),
            "refusals": (Refusal("Deployment kasm/x", "Invalid", "field is immutable"),),
        },
        "error",
        "field is immutable",
    ),
}


@pytest.mark.parametrize(
    ("upgrading", "name"),
    [*((False, name) for name in CASES), *((True, name) for name in UPGRADES)],
)
def test_what_stands_in_the_way(upgrading: bool, name: str) -> None:
    changes, level, words = (UPGRADES if upgrading else CASES)[name]
    found = verdicts(upgrading, **changes)
    assert [one for one in found if one[0] == level and words in one[1]], found


def test_an_upgrade_of_what_is_there_has_nothing_in_its_way() -> None:
    assert verdicts(upgrading=True, revisions=(a_revision(),)) == []


def test_a_right_that_is_missing_is_said_once() -> None:
    refused = Refusal(
        "Role kasm/x",
        "Forbidden",
        'roles "x" is forbidden: User "bob" cannot patch resource "roles"',
    )
    assert len(verdicts(lacking=("patch roles -n kasm",), refusals=(refused,))) == 1


def test_crds_that_were_applied_by_hand_are_taken_over() -> None:
    assert (
        verdicts(
            foreign=(ForeignObject("CustomResourceDefinition", "", "vdipools.vdi.kasm.io", ""),)
        )
        == []
    )


def test_a_certificate_that_cert_manager_makes_need_not_be_there() -> None:
    made = {
        "kind": "Certificate",
        "metadata": {"name": "w", "namespace": "kasm"},
        "spec": {"secretName": "wild"},
    }
    assert verdicts(**with_certificate(problem="missing") | {"objects": (TLS, made)}) == []


def with_namespaces(*namespaces: str) -> dict[str, Any]:
    return an_operator(env={"VDI_NAMESPACE": ",".join(namespaces)})


def test_the_first_namespace_of_sessions_stays_the_first() -> None:
    before = a_revision(manifest=json.dumps(with_namespaces("desks", "lab")))
    for namespaces in (("desks", "lab"), ("desks", "lab", "third")):
        assert verdicts(True, revisions=(before,), objects=(with_namespaces(*namespaces),)) == []
    ((level, words),) = verdicts(
        True, revisions=(before,), objects=(with_namespaces("lab", "desks"),)
    )
    assert level == "error"
    assert words.startswith(
        "The first namespace of sessions would be lab instead of desks: two operators would be"
        " active"
    )
    assert words.endswith("Keep desks as the first of sessions.namespaces.")


def test_a_namespace_that_is_left_out_is_named() -> None:
    before = a_revision(manifest=json.dumps(with_namespaces("desks", "lab")))
    ((level, words),) = verdicts(True, revisions=(before,), objects=(with_namespaces("desks"),))
    assert level == "warning"
    assert words.startswith(
        "The namespace lab would have no operator: its sessions would not be processed."
    )

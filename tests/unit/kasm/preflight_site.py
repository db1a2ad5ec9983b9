"""A K3s cluster on paper, as the API server would describe it: good as it is, and each thing can be
made bad.
"""

import copy
import json
from typing import Any

import msgspec

from vdi.findings.model import Finding, Remedy
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.preflight.checks import run_checks
from vdi.kasm.preflight.facts import Facts, Probe, Resolution, Tool
from vdi.kasm.preflight.needs import PlannedRelease, plan_of_values
from vdi.snapshot.model import Unreadable

Object = dict[str, Any]
GENERATIONS = {"A": A, "B": B, "C": C}
SVCLB = "svccontroller.k3s.cattle.io/svcname"
SVCLB_NAMESPACE = "svccontroller.k3s.cattle.io/svcnamespace"
DENIED = Unreadable("nodes", "alice may not list it.", Remedy.run("kubectl create clusterrole ..."))
TRAEFIK = {"app.kubernetes.io/name": "traefik"}


def a_node(
    name: str = "k3s-1",
    *,
    cpu: str = "8",
    memory: str = "16Gi",
    disk: str = "120G",
    version: str = "v1.34.4+k3s1",
    args: tuple[str, ...] = ("server",),
    taints: tuple[Object, ...] = (),
    ready: bool = True,
) -> Object:
    sizes = {"cpu": cpu, "memory": memory, "ephemeral-storage": disk, "pods": "110"}
    return {
        "metadata": {"name": name, "annotations": {"k3s.io/node-args": json.dumps(args)}},
        "spec": {"taints": list(taints)},
        "status": {
            "capacity": dict(sizes),
            "allocatable": dict(sizes),
            "nodeInfo": {"kubeletVersion": version},
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.10"},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def a_pod(
    name: str,
    *,
    namespace: str = "kube-system",
    cpu: str = "",
    memory: str = "",
    labels: dict[str, str] | None = None,
    ports: tuple[Object, ...] = (),
    host_network: bool = False,
    ready: bool = True,
    phase: str = "Running",
) -> Object:
    requests = {name: amount for name, amount in (("cpu", cpu), ("memory", memory)) if amount}
    container = {"name": "main", "resources": {"requests": requests}, "ports": list(ports)}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}/{name}",
            "labels": labels or {},
        },
        "spec": {"nodeName": "k3s-1", "hostNetwork": host_network, "containers": [container]},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def a_service(
    name: str,
    *ports: int,
    namespace: str = "kube-system",
    kind: str = "LoadBalancer",
    address: str = "192.0.2.10",
    labels: dict[str, str] | None = None,
) -> Object:
    given = (
        {"loadBalancer": {"ingress": [{"ip": address}]}}
        if address and kind == "LoadBalancer"
        else {}
    )
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"type": kind, "ports": [{"port": port, "protocol": "TCP"} for port in ports]},
        "status": given,
    }


def a_storage_class(
    name: str, provisioner: str = "example.com/disks", *, default: bool = False
) -> Object:
    marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}, "provisioner": provisioner}


def k3s_with_traefik() -> Facts:
    """One K3s node as it is after installation, with room for anything."""
    of_traefik = {SVCLB: "traefik", SVCLB_NAMESPACE: "kube-system"}
    traefik = {
        "metadata": {"name": "traefik"},
        "spec": {"controller": "traefik.io/ingress-controller"},
    }
    svclb = {
        "metadata": {
            "name": "svclb-traefik-1a2b3c4d",
            "namespace": "kube-system",
            "labels": of_traefik,
        }
    }
    return Facts(
        objects={
            "nodes": [a_node()],
            "pods": [
                a_pod("coredns-1", cpu="100m", memory="70Mi"),
                a_pod("traefik-1", labels=TRAEFIK),
                a_pod("local-path-provisioner-1", labels={"app": "local-path-provisioner"}),
                a_pod(
                    "svclb-traefik-1",
                    labels={"app": "svclb-traefik", **of_traefik},
                    ports=(
                        {"hostPort": 80, "containerPort": 80},
                        {"hostPort": 443, "containerPort": 443},
                    ),
                ),
            ],
            "services": [
                a_service("kube-dns", 53, kind="ClusterIP"),
                a_service("traefik", 80, 443, labels=TRAEFIK),
            ],
            "daemonsets": [svclb],
            "storageclasses": [
                a_storage_class("local-path", "rancher.io/local-path", default=True)
            ],
            "ingressclasses": [traefik],
            "namespaces": [],
            "deployments": [],
            "statefulsets": [],
        },
        resolution=Resolution("kasm.example.com", ("192.0.2.10",)),
        probes=(Probe("192.0.2.10", 443, "open"), Probe("192.0.2.10", 3389, "refused")),
        tools={"helm": Tool("helm", "3.19.0"), "kubectl": Tool("kubectl", "v1.34.1")},
    )


def changed(facts: Facts, **objects: list[Object]) -> Facts:
    """With these objects in the place of those."""
    return msgspec.structs.replace(facts, objects={**copy.deepcopy(facts.objects), **objects})


def without(facts: Facts, *plurals: str) -> Facts:
    """As somebody sees it who may not read these."""
    kept = {plural: found for plural, found in facts.objects.items() if plural not in plurals}
    return msgspec.structs.replace(facts, objects=kept, unread=dict.fromkeys(plurals, DENIED))


def a_plan(generation: str = "C", values: Object | None = None, **answers: Any) -> PlannedRelease:
    found = GENERATIONS[generation]
    namespace = answers.pop("namespace", "kasm")
    return plan_of_values(
        found, answers.pop("version", found.newest), values or {}, namespace, "kasm"
    )


def line_of(check: str, facts: Facts, planned: PlannedRelease | None = None) -> Finding:
    """The one line of this name."""
    return next(line for line in run_checks(facts, planned or a_plan()) if line.code == check)

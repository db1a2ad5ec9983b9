"""A K3s cluster on paper, as the API server would describe it: good as it is, and each thing can be
made bad.
"""

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec

from vdi.findings.model import Finding, Remedy
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.preflight.checks import run_checks
from vdi.kasm.preflight.model import Preflight, Probe, Resolution, Surroundings, Tool
from vdi.kasm.preflight.needs import PlannedRelease, plan_of_values
from vdi.snapshot.model import Snapshot, Unreadable
from vdi.snapshot.objects import Objects, convert_object

Object = dict[str, Any]
GENERATIONS = {"A": A, "B": B, "C": C}
SVCLB = "svccontroller.k3s.cattle.io/svcname"
SVCLB_NAMESPACE = "svccontroller.k3s.cattle.io/svcnamespace"
DENIED = Unreadable("nodes", "alice may not list it.", Remedy.run("kubectl create clusterrole ..."))
TRAEFIK = {"app.kubernetes.io/name": "traefik"}


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of a cluster by plural, those that may not be read, and its surroundings."""

    objects: dict[str, list[Object]]
    unread: frozenset[str] = frozenset()
    resolution: Resolution | None = None
    probes: tuple[Probe, ...] = ()
    tools: dict[str, Tool] = {}

    def preflight(self, planned: PlannedRelease) -> Preflight:
        surroundings = Surroundings(self.resolution, self.probes, self.tools)
        return Preflight(a_snapshot(self.objects, self.unread), surroundings, planned)


def a_snapshot(objects: dict[str, list[Object]], unread: Iterable[str] = ()) -> Snapshot:
    """As it would be read."""
    read = {
        plural: [convert_object(plural, one) for one in raw]
        for plural, raw in objects.items()
        if plural not in unread
    }
    return Snapshot(
        taken_at="2026-12-01T12:00:00Z",
        objects=Objects(**read),
        unread=tuple(msgspec.structs.replace(DENIED, kind=plural) for plural in unread),
    )


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


def k3s_with_traefik() -> Site:
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
    return Site(
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
        tools={"helm": Tool("3.19.0"), "kubectl": Tool("v1.34.1")},
    )


def changed(facts: Site, **objects: list[Object]) -> Site:
    """With these objects in the place of those."""
    return msgspec.structs.replace(facts, objects={**copy.deepcopy(facts.objects), **objects})


def without(facts: Site, *plurals: str) -> Site:
    """As somebody sees it who may not read these."""
    return msgspec.structs.replace(facts, unread=frozenset(plurals))


def a_plan(generation: str = "C", values: Object | None = None, **fields: Any) -> PlannedRelease:
    """`fields`: the chart's version, or fields of the plan in place of what the values say."""
    found = GENERATIONS[generation]
    version = fields.pop("version", found.newest)
    return replace(plan_of_values(found, version, values or {}, "kasm", "kasm"), **fields)


def lines_of(facts: Site, planned: PlannedRelease | None = None) -> list[Finding]:
    return run_checks(facts.preflight(planned or a_plan()))


def line_of(check: str, facts: Site, planned: PlannedRelease | None = None) -> Finding:
    """The one line of this name."""
    return next(line for line in lines_of(facts, planned) if line.code == check)

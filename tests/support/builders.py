"""Objects of our kinds and of Kubernetes, with overrides for what the test is about."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Node, PersistentVolumeClaim, Pod, Service
from vdi.session.children import Route, Secret

GPU = "nvidia.com/gpu"
CREATED = "2026-11-20T08:00:00Z"


def a_session(
    name: str = "alice-desktop",
    *,
    status: dict[str, Any] | None = None,
    namespace: str = "vdi-sessions",
    created: str = CREATED,
    deleting: bool = False,
    generation: int = 1,
    **spec: Any,
) -> VDISession:
    """A session; keywords are fields of its spec."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}" if re.fullmatch("[a-z0-9-]+", name) else "uid-odd",
        "resourceVersion": "1",
        "generation": generation,
        "creationTimestamp": created,
    }
    if deleting:
        metadata["deletionTimestamp"] = created
    base = {"user": "alice@example.com", "template": "ubuntu-desktop"}
    return msgspec.convert(
        {"metadata": metadata, "spec": base | spec, "status": status or {}}, VDISession
    )


def a_template(name: str = "ubuntu-desktop", *, generation: int = 1, **spec: Any) -> VDITemplate:
    """A template; keywords are fields of its spec."""
    metadata = {"name": name, "generation": generation}
    base = {"image": "registry.example.com/desktop:1"}
    return msgspec.convert({"metadata": metadata, "spec": base | spec}, VDITemplate)


def a_pod(
    *,
    ready: bool = False,
    node: str = "node-1",
    home: str | None = None,
    container: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **metadata: Any,
) -> Pod:
    """The pod of `alice-desktop`."""
    meta = {
        "name": "alice-desktop",
        "uid": "uid-pod",
        "creationTimestamp": CREATED,
        "annotations": {"vdi.kasm.io/template-revision": "1"},
    }
    volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": home}}] if home else []
    conditions = [
        {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-11-20T08:00:03Z"}
    ]
    base: dict[str, Any] = {"phase": "Running" if ready else "Pending", "conditions": conditions}
    if container is not None:
        base["containerStatuses"] = [
            {"name": "desktop", "image": "registry.example.com/desktop:1", **container}
        ]
    spec = {"nodeName": node, "volumes": volumes}
    return msgspec.convert(
        {"metadata": meta | metadata, "spec": spec, "status": base | (status or {})}, Pod
    )


def a_node(
    name: str = "node-1",
    *,
    ready: bool = True,
    uid: str = "",
    labels: dict[str, str] | None = None,
    images: Sequence[str] = (),
    allocatable: dict[str, str] | None = None,
    **spec: Any,
) -> Node:
    """A node with 8 GPUs, 16 CPUs, 64Gi and 110 pods; keywords are fields of its spec,
    `allocatable` replaces some.
    """
    metadata = {
        "name": name,
        "uid": uid or f"uid-{name}",
        "labels": {"kubernetes.io/hostname": name} | (labels or {}),
    }
    status = {
        "allocatable": (
            {GPU: "8", "cpu": "16", "memory": "64Gi", "pods": "110"} | (allocatable or {})
        ),
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "images": [{"names": ["registry.example.com/desktop@sha256:1", image]} for image in images],
    }
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Node)


def a_claim(phase: str = "Bound", name: str = "home") -> PersistentVolumeClaim:
    """A home."""
    return msgspec.convert(
        {"metadata": {"name": name}, "status": {"phase": phase}}, PersistentVolumeClaim
    )


def a_route(host: str = "alice-desktop.vdi.localhost") -> Route:
    """The route to `host`."""
    return msgspec.convert(
        {"metadata": {"name": "alice-desktop", "annotations": {"vdi.kasm.io/host": host}}}, Route
    )


def a_service() -> Service:
    """The service."""
    return msgspec.convert({"metadata": {"name": "alice-desktop"}}, Service)


def a_secret(created: str = CREATED) -> Secret:
    """The Secret with the password."""
    return msgspec.convert(
        {"metadata": {"name": "alice-desktop-auth", "creationTimestamp": created}}, Secret
    )

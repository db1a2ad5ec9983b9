"""Objects for the tests of the domain: `a_session()`, `a_pod(...)`, with overrides for what the test is about."""

from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.session.observed import Node, PersistentVolumeClaim, Pod, Route, Secret, Service

CREATED = "2026-11-20T08:00:00Z"


def a_session(name: str = "alice-desktop", *, status: dict[str, Any] | None = None, **spec: Any) -> VDISession:
    """A session; keywords are fields of its spec, `deleting` is one of its metadata."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "vdi-sessions",
        "uid": f"uid-{name}",
        "generation": 1,
        "creationTimestamp": CREATED,
    }
    if spec.pop("deleting", False):
        metadata["deletionTimestamp"] = CREATED
    base = {"user": "alice@example.com", "template": "ubuntu-desktop"}
    return msgspec.convert({"metadata": metadata, "spec": base | spec, "status": status or {}}, VDISession)


def a_template(*, generation: int = 1, **spec: Any) -> VDITemplate:
    """The template `ubuntu-desktop`; keywords are fields of its spec."""
    metadata = {"name": "ubuntu-desktop", "generation": generation}
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
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-11-20T08:00:03Z"}]
    base: dict[str, Any] = {"phase": "Running" if ready else "Pending", "conditions": conditions}
    if container is not None:
        base["containerStatuses"] = [{"name": "desktop", "image": "registry.example.com/desktop:1", **container}]
    spec = {"nodeName": node, "volumes": volumes}
    return msgspec.convert({"metadata": meta | metadata, "spec": spec, "status": base | (status or {})}, Pod)


def a_node(name: str = "node-1", *, ready: bool = True, cordoned: bool = False) -> Node:
    """A node."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    spec = {"unschedulable": cordoned}
    return msgspec.convert({"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}, Node)


def a_claim(phase: str = "Bound", name: str = "home") -> PersistentVolumeClaim:
    """A home."""
    return msgspec.convert({"metadata": {"name": name}, "status": {"phase": phase}}, PersistentVolumeClaim)


def a_route(host: str = "alice-desktop.vdi.localhost") -> Route:
    """The route to `host`."""
    return msgspec.convert({"metadata": {"name": "alice-desktop", "annotations": {"vdi.kasm.io/host": host}}}, Route)


def a_service() -> Service:
    """The service."""
    return msgspec.convert({"metadata": {"name": "alice-desktop"}}, Service)


def a_secret(created: str = CREATED) -> Secret:
    """The Secret with the password."""
    return msgspec.convert({"metadata": {"name": "alice-desktop-auth", "creationTimestamp": created}}, Secret)

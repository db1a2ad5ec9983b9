"""Objects as the API server would have them, with overrides."""

import base64
from typing import Any

SESSIONS = "/apis/vdi.kasm.io/v1alpha1/namespaces/vdi-sessions/vdisessions"
TEMPLATES = "/apis/vdi.kasm.io/v1alpha1/vditemplates"
POOLS = "/apis/vdi.kasm.io/v1alpha1/vdipools"
CORE = "/api/v1/namespaces/vdi-sessions"
EVENTS = "/apis/events.k8s.io/v1/namespaces/vdi-sessions/events"
ROUTES = "/apis/traefik.io/v1alpha1/namespaces/vdi-sessions/ingressroutes"


def conditions(**true_or_message: str | bool) -> list[dict[str, Any]]:
    """`conditions(TemplateFound=True, HomeBound="Waits.")`: True, or False with that message."""
    return [
        {
            "type": kind,
            "status": "True" if value is True else "False",
            "reason": kind if value is True else "Waiting",
            "message": "" if value is True else value,
            "lastTransitionTime": "2026-11-20T08:00:05Z",
        }
        for kind, value in true_or_message.items()
    ]


def a_session(
    name: str = "alice-desktop",
    *,
    status: dict[str, Any] | None = None,
    namespace: str = "vdi-sessions",
    **spec: Any,
) -> dict[str, Any]:
    obj: dict[str, Any] = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": "2026-11-20T08:00:00Z",
        },
        "spec": {
            "user": "alice@example.com",
            "template": "ubuntu-desktop",
            "timeout": "8h",
            **spec,
        },
    }
    return obj if status is None else {**obj, "status": status}


def running(**more: Any) -> dict[str, Any]:
    """The status of a session that runs."""
    return {
        "phase": "Running",
        "url": "https://alice-desktop.vdi.localhost:1",
        "startTime": "2026-11-20T08:00:01Z",
        "readyTime": "2026-11-20T08:00:09Z",
        "expiresAt": "2026-11-20T16:00:01Z",
        "nodeName": "node-1",
        "podName": "alice-desktop",
        "conditions": conditions(
            TemplateFound=True, Admitted=True, HomeBound=True, PodReady=True, RouteReady=True
        ),
        **more,
    }


def a_template(name: str = "ubuntu-desktop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDITemplate",
        "metadata": {"name": name, "creationTimestamp": "2026-11-20T08:00:00Z", "generation": 3},
        "spec": {
            "image": "localhost/vdi/desktop:dev",
            "displayName": "Ubuntu",
            "resources": {"defaultGPU": 1, "defaultMemory": "8Gi", "defaultCPU": "2"},
            **spec,
        },
    }


def a_pool(
    name: str = "warm", *, status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    obj: dict[str, Any] = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDIPool",
        "metadata": {"name": name, "creationTimestamp": "2026-11-20T08:00:00Z"},
        "spec": {"template": "ubuntu-desktop", "replicas": 2, **spec},
    }
    return obj if status is None else {**obj, "status": status}


def a_secret(name: str = "alice-desktop-auth", password: str = "s3cret") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "data": {"password": base64.b64encode(password.encode()).decode()},
    }


def a_pod(name: str = "alice-desktop", *, ready: bool = True, restarts: int = 0) -> dict[str, Any]:
    state = {"running": {"startedAt": "2026-11-20T08:00:03Z"}}
    return {
        "metadata": {"name": name, "namespace": "vdi-sessions"},
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {"name": "desktop", "ready": ready, "restartCount": restarts, "state": state}
            ],
        },
    }

"""A desktop without our way in: the same image with the same limits, reached at a port of the node.
No gateway, no Traefik, no TLS, no token: what Selkies by itself would be.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from bench.ways import NAMESPACE, Object, is_ready, remove, until
from vdi.kube.resource import PODS, SERVICES
from vdi.kube.transport import Client
from vdi.session.children import MASTER_TOKEN_DIGEST

# Chromium decodes video for secure contexts alone; a name below `localhost` is one without TLS too.
HOST = "plain.localhost"
LABEL = "vdi-bench"
PASSWORD = "SELKIES_BASIC_AUTH_PASSWORD"


def plain_pod(pod: Object, name: str) -> Object:
    """The pod of a session under another name, with no gateway in front of it, and a home that goes
    with it.

    The image does not start without a password; that it asks for none is another setting, which the
    pod has already.
    """
    added = ("nodeName", "serviceAccount", "serviceAccountName")
    spec: Object = json.loads(
        json.dumps({key: value for key, value in pod["spec"].items() if key not in added})
    )
    [desktop] = spec["containers"]
    kept = [
        variable
        for variable in desktop["env"]
        if variable["name"] not in (MASTER_TOKEN_DIGEST, PASSWORD)
    ]
    desktop["env"] = [*kept, {"name": PASSWORD, "value": secrets.token_urlsafe(12)}]
    for volume in spec["volumes"]:
        if volume.pop("persistentVolumeClaim", None):
            volume["emptyDir"] = {}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def node_port(name: str, pod: Object) -> Object:
    """The Service that opens a port of the node for that pod's stream."""
    [stream] = [port for port in pod["spec"]["containers"][0]["ports"] if port["name"] == "http"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}},
        "spec": {
            "type": "NodePort",
            "selector": {LABEL: name},
            "ports": [{"port": stream["containerPort"]}],
        },
    }


@dataclass(frozen=True)
class Plain:
    name: str
    port: int

    @property
    def url(self) -> str:
        """Where a browser opens it that takes HOST for the node's address."""
        return f"http://{HOST}:{self.port}/"


async def start(client: Client, model: Object, name: str) -> Plain:
    """Start one like the session's pod `model`, and wait until it is ready. Raises TimeoutError,
    KubeError.
    """
    pod = plain_pod(model, name)
    await client.create(PODS, pod, namespace=NAMESPACE, into=Object)
    service: Any = await client.create(
        SERVICES, node_port(name, pod), namespace=NAMESPACE, into=Object
    )
    await until(client, PODS, name, is_ready)
    return Plain(name, service["spec"]["ports"][0]["nodePort"])


async def stop(client: Client, name: str) -> None:
    """Remove what `start` made, however far it came."""
    await remove(client, SERVICES, name)
    await remove(client, PODS, name)

"""The Service between Traefik and the pod."""

from typing import Any

from vdi.session.identity import SESSION_LABEL, Identity
from vdi.session.naming import service_name

PORT_NAME = "http"
"""Name of the pod's port: the Service asks for it by name, so a template's new port breaks no running desktop."""
_PORT = 8080


def build_service(*, identity: Identity) -> dict[str, Any]:
    """A headless Service: Traefik reads the EndpointSlice, and allocating a cluster IP is the slowest of all writes."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": identity.metadata(service_name(identity.name)),
        "spec": {
            "clusterIP": "None",
            "selector": {SESSION_LABEL: identity.labels[SESSION_LABEL]},
            "ports": [{"name": PORT_NAME, "port": _PORT, "targetPort": PORT_NAME, "protocol": "TCP"}],
        },
    }

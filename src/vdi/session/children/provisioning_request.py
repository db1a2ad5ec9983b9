"""The ProvisioningRequest of a waiting session, and the PodTemplate of its shape.

Desktops are not annotated as its consumers: the first session in line gets the node, whichever request brought it, and
the request is deleted when a session no longer waits.
"""

from typing import Any

from vdi.session.autoscaling import shape_key
from vdi.session.capacity_matching import Demand
from vdi.session.children.placeholder import build_pod_spec
from vdi.session.identity import MANAGED_BY
from vdi.session.provisioning import SHAPE, template_name

CLASS = "best-effort-atomic-scale-up.autoscaling.x-k8s.io"


def build_pod_template(demand: Demand, namespace: str, *, image: str) -> dict[str, Any]:
    """A pod of this shape, as cluster-autoscaler is to simulate it."""
    metadata = _metadata(demand, template_name(demand), namespace)
    template = {"spec": build_pod_spec(demand, image)}
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": template}


def build_provisioning_request(demand: Demand, name: str, namespace: str) -> dict[str, Any]:
    """The request of this name for one pod of this shape."""
    pod_set = {"count": 1, "podTemplateRef": {"name": template_name(demand)}}
    return {
        "apiVersion": "autoscaling.x-k8s.io/v1",
        "kind": "ProvisioningRequest",
        "metadata": _metadata(demand, name, namespace),
        "spec": {"provisioningClassName": CLASS, "podSets": [pod_set]},
    }


def _metadata(demand: Demand, name: str, namespace: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": {**MANAGED_BY, SHAPE: shape_key(demand)}}

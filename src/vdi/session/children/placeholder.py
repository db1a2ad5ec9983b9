"""The placeholder: a pod of a desktop's shape that does nothing. It passes Pod Security `restricted`."""

from typing import Any

import msgspec

from vdi.session.autoscaling import PLACEHOLDER, shape_key, terms_for_new_node
from vdi.session.capacity import PODS
from vdi.session.capacity_matching import Demand
from vdi.session.children.restricted import restricted_container, restricted_pod
from vdi.session.identity import MANAGED_BY

_USER_ID = 1000
_GRACE_SECONDS = 1
"""Not 0: the kubelet has to confirm the end, or it refuses the desktop that takes the GPU's place."""
_SAFE_TO_EVICT = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
"""A pod without a controller keeps a node from being removed, unless it says this."""


def build_placeholder(demand: Demand, name: str, namespace: str, *, image: str, priority_class: str) -> dict[str, Any]:
    """The placeholder of this name and shape."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {**MANAGED_BY, PLACEHOLDER: shape_key(demand)},
        "annotations": _SAFE_TO_EVICT,
    }
    spec: dict[str, Any] = {
        "priorityClassName": priority_class,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        **restricted_pod(_USER_ID),
        "containers": [_container(demand, image)],
    }
    if demand.selector:
        spec["nodeSelector"] = dict(demand.selector)
    if demand.tolerances:
        spec["tolerations"] = [
            {
                field: value
                for field, value in (
                    ("key", tolerance.key),
                    ("operator", tolerance.operator),
                    ("value", tolerance.value),
                    ("effect", tolerance.effect),
                )
                if value
            }
            for tolerance in demand.tolerances
        ]
    if terms := terms_for_new_node(demand):
        required = {"nodeSelectorTerms": msgspec.to_builtins(terms)}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(demand: Demand, image: str) -> dict[str, Any]:
    requests = {name: f"{number}m" if name == "cpu" else str(number) for name, number in demand.takes if name != PODS}
    extended = {name: quantity for name, quantity in requests.items() if "/" in name}
    return {
        "name": "placeholder",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        # Images built for GPUs would show all of them to the process.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": requests, **({"limits": extended} if extended else {})},
        "securityContext": restricted_container(is_read_only=True),
    }

"""The puller: a pod that makes one node fetch a template's image, and ends. It passes Pod Security `restricted`."""

import hashlib
from typing import Any

import msgspec

from vdi.api.meta import API_VERSION
from vdi.api.template import VDITemplate
from vdi.session.children.restricted import restricted_container, restricted_pod
from vdi.session.identity import MANAGED_BY
from vdi.session.naming import derive_base
from vdi.session.prepull import PREPULL, PREPULL_IMAGE, PREPULL_NODE

_USER_ID = 1000
_LONGEST_PULL = 3600
"""Seconds after which the kubelet gives up: a large image over a slow line takes many minutes, not hours."""


def build_puller(template: VDITemplate, node: str, namespace: str) -> dict[str, Any]:
    """The puller of this template's image for this node."""
    placement = template.spec.placement
    only_there = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _LONGEST_PULL,
        "terminationGracePeriodSeconds": 0,  # nothing to save, and nothing that two could write to
        **restricted_pod(_USER_ID),
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [only_there]}}
        },
        "containers": [_container(template.spec.image)],
    }
    if placement.tolerations:
        spec["tolerations"] = [msgspec.to_builtins(toleration) for toleration in placement.tolerations]
    if template.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in template.spec.image_pull_secrets]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(template, node, namespace), "spec": spec}


def puller_name(template: VDITemplate, node: str) -> str:
    """The same for the same template, node and image, so that a lost answer cannot make a second one."""
    identity = "\0".join((template.metadata.uid, node, template.spec.image))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"prepull-{derive_base(template.metadata.name)[:40].rstrip('-')}-{digest}"


def _metadata(template: VDITemplate, node: str, namespace: str) -> dict[str, Any]:
    meta = template.metadata
    owner = {"apiVersion": API_VERSION, "kind": "VDITemplate", "name": meta.name, "uid": meta.uid, "controller": True}
    return {
        "name": puller_name(template, node),
        "namespace": namespace,
        "labels": {**MANAGED_BY, PREPULL: derive_base(meta.name)},
        "annotations": {
            PREPULL: meta.name,
            PREPULL_NODE: node,
            PREPULL_IMAGE: template.spec.image,
        },
        "ownerReferences": [owner],
    }


def _container(image: str) -> dict[str, Any]:
    return {
        "name": "pull",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        # An image without this program cannot be started, and that is as good: by then it is on the node.
        "command": ["true"],
        # As in a desktop that asked for no GPU: images built for GPUs would get all of them.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": restricted_container(),
    }

"""How images reach the containerd of a node through a pod: what it runs, what it may touch. Pure.

No registry has an image for that pod, so it takes one that the node has, and runs the node's own `ctr` in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdi.release.images.archive import ArchiveImage

Object = Mapping[str, Any]
NAMESPACE = "kube-system"
"""Hardened clusters exempt it from Pod Security; elsewhere they refuse a pod with hostPath volumes."""
LABELS = {"app.kubernetes.io/name": "vdi-images-load"}
CONTAINER = "ctr"
PINNED = "io.cri-containerd.pinned=pinned"
"""The kubelet never deletes such an image: no registry could bring it back."""
_DEADLINE_SECONDS = 3600
"""A pod that is left behind by a killed command ends by itself."""
_K3S = "+k3s"
_LIBRARIES = {"amd64": ("/lib", "/lib64"), "arm64": ("/lib",)}
"""What a `ctr` of a distribution is linked to; K3s' own is static."""


class UnsupportedNodeError(Exception):
    """Raised for a node that images cannot be brought to; the message says why."""


@dataclass(frozen=True, slots=True)
class Containerd:
    """Where a node has containerd's socket and its client."""

    socket: str
    ctr: str
    libraries: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        """A command of `ctr` on the images that the kubelet sees."""
        return [self.ctr, "--address", self.socket, "--namespace", "k8s.io", *words]


def find_containerd(node: Object, socket: str | None, ctr: str | None) -> Containerd:
    """The paths on this node; `socket` and `ctr` win. Raises UnsupportedNodeError."""
    info = node["status"]["nodeInfo"]
    if info["operatingSystem"] != "linux":
        raise UnsupportedNodeError(f"its operating system is {info['operatingSystem']}; allowed: linux")
    runtime = str(info["containerRuntimeVersion"])
    if not runtime.startswith("containerd://"):
        raise UnsupportedNodeError(f"its container runtime is {runtime}; allowed: containerd")
    if _K3S in str(info["kubeletVersion"]):
        return Containerd(
            socket or "/run/k3s/containerd/containerd.sock", ctr or "/var/lib/rancher/k3s/data/current/bin/ctr"
        )
    libraries = _LIBRARIES.get(str(info["architecture"]), ())
    return Containerd(socket or "/run/containerd/containerd.sock", ctr or "/usr/bin/ctr", libraries)


def choose_image(node: Object) -> str:
    """An image that is on the node: `pause`, which every node has, else the smallest. Raises UnsupportedNodeError."""
    sizes = {
        name: image.get("sizeBytes", 0)
        for image in node["status"].get("images") or ()
        for name in _by_tag(image.get("names") or ())[:1]
    }
    if not sizes:
        raise UnsupportedNodeError("it reports no image that a pod could use")
    return min(sizes, key=lambda name: ("pause" not in name, sizes[name], name))


def _by_tag(names: Sequence[str]) -> list[str]:
    return sorted((name for name in names if "<none>" not in name), key=lambda name: "@" in name)


def check_architectures(node: Object, archives: Mapping[str, Sequence[ArchiveImage]]) -> dict[str, list[str]]:
    """By archive, the images for this node's architecture. Raises UnsupportedNodeError where one is in no archive."""
    architecture = str(node["status"]["nodeInfo"]["architecture"])
    fitting = {
        path: [image.name for image in images if image.architecture == architecture]
        for path, images in archives.items()
    }
    there = {name for names in fitting.values() for name in names}
    missing = sorted({image.name for images in archives.values() for image in images} - there)
    if missing:
        raise UnsupportedNodeError(
            f"its architecture is {architecture}, for which no archive contains {', '.join(missing)}"
        )
    return {path: names for path, names in fitting.items() if names}


def pod_of(name: str, node: Object, image: str, containerd: Containerd) -> dict[str, Any]:
    """The pod: root without capabilities, with containerd's socket and its client, and nothing else of the node."""
    mounts = [
        ("socket", containerd.socket, "Socket"),
        ("client", containerd.ctr, "File"),
        *((f"library-{index}", path, "Directory") for index, path in enumerate(containerd.libraries)),
    ]
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "Never",
        "command": containerd.command("events"),  # waits until it is ended
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "spc_t"},  # others may not connect to containerd's socket
        },
        "volumeMounts": [{"name": volume, "mountPath": path, "readOnly": True} for volume, path, _ in mounts],
    }
    spec = {
        "nodeName": node["metadata"]["name"],
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE_SECONDS,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": volume, "hostPath": {"path": path, "type": kind}} for volume, path, kind in mounts],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": LABELS}, "spec": spec}

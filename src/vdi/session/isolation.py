"""Isolation of a desktop: whether its pod gets a user namespace, and the reason why not. Pure; the operator decides.

The operator decides before the scheduler chooses a node. So Auto uses a user namespace only if every node that could
run the desktop has them: a choice of nodes would leave the others unused. Required binds the pod to the nodes that
have them now, and so do programs from images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vdi.api.streaming import Display
from vdi.api.template import AccessMode, TemplateSpec, UserNamespaces
from vdi.cluster.capacity import NodeCapacity
from vdi.cluster.features import Feature, Need
from vdi.cluster.objects import PersistentVolume
from vdi.session.homes import Home

# Filesystems that a CSI driver names, and that can be mounted with other user ids (idmapped).
_IDMAPPED = frozenset({"ext4", "xfs", "btrfs"})


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation of one desktop. Before `isolate`, Auto without an obstacle is undecided, and has no namespace."""

    needs: tuple[Need, ...] = ()
    # None: the template has turned it off.
    namespaces: Need | None = None
    user_namespace: bool = False
    # Why it cannot have a user namespace: a clause.
    obstacle: str = ""
    # The only nodes that the pod may run on; empty: all.
    nodes: tuple[str, ...] = ()


def find_obstacle(spec: TemplateSpec, gpu: int, gpu_resource: str) -> str:
    """A clause: what the template has that works in no user namespace; empty: nothing."""
    is_nvidia = gpu_resource.startswith("nvidia.com/")
    if gpu and (not is_nvidia or spec.streaming.display == Display.WAYLAND):
        what = "streaming.display: Wayland" if is_nvidia else f"a GPU of {gpu_resource}"
        return f"{what} needs /dev/dri, which cannot be opened in a user namespace"
    nfs = next((volume.name for volume in spec.volumes if volume.nfs), "")
    return f"the volume {nfs!r} is NFS, which cannot be mounted in a user namespace" if nfs else ""


def plan_isolation(spec: TemplateSpec, gpu: int, gpu_resource: str) -> Isolation:
    """The isolation of a template's desktops, as far as it depends on no node and no home."""
    namespaces = Need(Feature.USER_NAMESPACES, spec.placement.runtime_class_name or "")
    images = (Need(Feature.IMAGE_VOLUMES),) if spec.programs else ()
    match spec.isolation.user_namespaces:
        case UserNamespaces.OFF:
            return Isolation(images)
        case UserNamespaces.REQUIRED:
            return Isolation((namespaces, *images), namespaces, user_namespace=True)
        case UserNamespaces.AUTO:
            claim = next((volume.name for volume in spec.volumes if volume.persistent_volume_claim), "")
            unknown = f"the filesystem of the volume {claim!r} is not known" if claim else ""
            return Isolation(images, namespaces, obstacle=find_obstacle(spec, gpu, gpu_resource) or unknown)


def isolate(
    planned: Isolation, nodes: Sequence[NodeCapacity], home: Home | None, volumes: Sequence[PersistentVolume]
) -> Isolation:
    """The isolation of a pod that is created now.

    `nodes`: those that could run it. `volumes`: the home's; of a new home, those of its StorageClass.
    """
    if planned.needs:
        planned = replace(planned, nodes=tuple(sorted(node.name for node in nodes)))
    if planned.namespaces is None or planned.user_namespace or planned.obstacle:
        return planned
    # Also of nodes that are closed now: they may open before the scheduler looks.
    lacking = (f"node {node.name} has {lacks}" for node in nodes if (lacks := node.lacks(planned.namespaces)))
    obstacle = next(lacking, "") or (_find_home_obstacle(home, volumes) if home else "")
    return replace(planned, user_namespace=not obstacle, obstacle=obstacle)


def _find_home_obstacle(home: Home, volumes: Sequence[PersistentVolume]) -> str:
    if not volumes:
        return f"the filesystem of StorageClass {home.storage_class!r} is not known before its first volume"
    if home.access_mode is AccessMode.READ_WRITE_MANY or not all(map(_is_idmapped, volumes)):
        return f"the filesystem of the home {home.claim!r} is not known to allow other user ids (idmapped mounts)"
    return ""


def _is_idmapped(volume: PersistentVolume) -> bool:
    spec = volume.spec
    if "ReadWriteMany" in spec.access_modes:  # a network filesystem, also behind a driver that names ext4
        return False
    return bool(spec.local or spec.host_path) or (spec.csi is not None and spec.csi.fs_type in _IDMAPPED)

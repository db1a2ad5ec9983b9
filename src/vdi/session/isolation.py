"""Isolation of a desktop: whether its pod gets a user namespace, and the reason why not. Pure; the
operator decides.

The operator decides before the scheduler chooses a node. So Auto uses a user namespace only if
every node that could run the desktop has them. Required binds the pod to the nodes that have them
now, and so do programs from images.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from vdi.api.streaming import Display
from vdi.api.template import AccessMode, TemplateSpec, TemplateVolume, UserNamespaces
from vdi.cluster.capacity import IMAGE_VOLUMES, USER_NAMESPACES, Need, NodeCapacity
from vdi.cluster.objects import PersistentVolume
from vdi.session.homes import Home

# Filesystems that a CSI driver names, and that can be mounted with other user ids (idmapped).
_IDMAPPED = frozenset({"ext4", "xfs", "btrfs"})
_LACKING_NODE = re.compile(r"\bnode (\S+) has ")


@dataclass(frozen=True, slots=True)
class Isolation:
    needs: tuple[Need, ...] = ()
    # Auto: used where all nodes have it.
    option: Need | None = None
    user_namespace: bool = False
    # Why it cannot have a user namespace: a clause.
    obstacle: str = ""
    # The only nodes that the pod may run on; empty: all.
    nodes: tuple[str, ...] = ()
    # The volumes that decide whether a node can mount them in a user namespace, from
    # `describe_storage`.
    storage: str = ""


def plan_isolation(spec: TemplateSpec, gpu: int, gpu_resource: str) -> Isolation:
    """The isolation of a template's desktops, before `isolate`. With a user namespace, an obstacle
    refuses it.
    """
    mode = spec.isolation.user_namespaces
    namespaces = Need(USER_NAMESPACES, spec.placement.runtime_class_name or "")
    images = (Need(IMAGE_VOLUMES),) if spec.programs else ()
    if mode is UserNamespaces.OFF:
        return Isolation(images)
    obstacle, is_nvidia = "", gpu_resource.startswith("nvidia.com/")
    if gpu and (not is_nvidia or spec.streaming.display == Display.WAYLAND):
        if is_nvidia:
            what = "streaming.display: Wayland"
        else:
            what = f"a GPU of {gpu_resource}"
        obstacle = f"{what} needs /dev/dri, which cannot be opened in a user namespace"
    if mode is UserNamespaces.REQUIRED:
        return Isolation((namespaces, *images), user_namespace=True, obstacle=obstacle)
    for volume in spec.volumes:
        if volume.persistent_volume_claim or volume.nfs:
            obstacle = obstacle or f"the filesystem of the volume {volume.name!r} is not known"
    return Isolation(images, namespaces, obstacle=obstacle)


def isolate(
    planned: Isolation,
    nodes: Sequence[NodeCapacity],
    home: Home | None,
    volumes: Sequence[PersistentVolume],
    storage: str = "",
    refusing: Collection[str] = (),
) -> Isolation:
    """The isolation of a pod that is created now.

    `nodes`: those that could run it. `volumes`: the home's; of a new home, those of its
    StorageClass. `refusing`: nodes that could not mount `storage` in a user namespace.
    """
    planned = replace(planned, storage=storage)
    if planned.user_namespace:
        able = [node for node in nodes if node.name not in refusing]
        if nodes and not able:
            return replace(planned, obstacle=_refusal(nodes[0].name, storage))
        nodes = able
    if planned.needs:
        planned = replace(planned, nodes=tuple(sorted(node.name for node in nodes)))
    if planned.option is None or planned.obstacle:
        return planned
    obstacle = ""
    # Also of nodes that are closed now: they may open before the scheduler looks.
    for node in nodes:
        if lack := node.find_lack(planned.option):
            obstacle = obstacle or f"node {node.name} has {lack}"
        elif node.name in refusing:
            obstacle = obstacle or _refusal(node.name, storage)
    if home and not obstacle:
        obstacle = _obstacle_of_home(home, volumes)
    return replace(planned, user_namespace=not obstacle, obstacle=obstacle)


def _obstacle_of_home(home: Home, volumes: Sequence[PersistentVolume]) -> str:
    if not volumes:
        return (
            f"the filesystem of StorageClass {home.storage_class!r} is not known before its"
            " first volume"
        )
    if home.access_mode is AccessMode.READ_WRITE_MANY or not all(map(_is_idmapped, volumes)):
        return f"the filesystem of the home {home.claim!r} is not known to allow other user ids"
    return ""


def lacking_node(message: str) -> str:
    """The node whose lack is the reason in `status.isolation.message`; empty: another reason, or
    none.
    """
    match = _LACKING_NODE.search(message)
    return match[1] if match else ""


def describe_storage(
    mounted: Sequence[TemplateVolume], home: Home | None, volumes: Sequence[PersistentVolume]
) -> str:
    """The volumes of a desktop whose filesystems are not the node's own: equal for desktops that
    mount the same kind.

    `mounted`: of the template. Desktops with claims or NFS of their own say nothing about others
    with the same home.
    """
    names = []
    for volume in mounted:
        if volume.persistent_volume_claim or volume.nfs:
            names.append(repr(volume.name))
    if names:
        return f"the template's volumes {', '.join(names)}"
    if home is None:
        return "the volumes of a desktop without a home"
    if volumes:
        name = volumes[0].spec.storage_class_name
    else:
        name = home.storage_class
    if name or not volumes:
        return f"StorageClass {name!r}"
    return f"the volume {volumes[0].metadata.name!r}"


def _refusal(node: str, storage: str) -> str:
    return f"node {node} has no idmapped mounts for {storage}"


def _is_idmapped(volume: PersistentVolume) -> bool:
    spec = volume.spec
    is_known = spec.local or spec.host_path or (spec.csi and spec.csi.fs_type in _IDMAPPED)
    # ReadWriteMany: a network filesystem, also behind a driver that names ext4.
    return bool(is_known) and "ReadWriteMany" not in spec.access_modes

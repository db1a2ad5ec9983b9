"""User namespaces, root inside the desktop, and programs from images: what a template says, and
what its pod gets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from support.builders import a_node
from unit.session.resolving import IDENTITY, desktop_of, refused
from vdi.cluster.capacity import NodeCapacity, read_capacity
from vdi.cluster.objects import NodeInfo, NodeStatus, PersistentVolume, RuntimeHandler
from vdi.session.children import build_pod
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.isolation import Isolation, describe_storage, isolate, lacking_node

REQUIRED: dict[str, Any] = {"isolation": {"userNamespaces": "Required"}}
ROOT: dict[str, Any] = {"isolation": {"userNamespaces": "Required", "rootInDesktop": True}}
WITHOUT_HOME: dict[str, Any] = {"persistence": {"enabled": False}}
NFS = [{"name": "files", "mountPath": "/files", "nfs": {"server": "nfs", "path": "/x"}}]
CLAIM = [{"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}]
BLENDER = {"image": "registry.example.com/blender:4", "mountPath": "/opt/blender"}
WAYLAND: dict[str, Any] = {"streaming": {"display": "Wayland"}}
LOCAL: dict[str, Any] = {"hostPath": {}}
EXT4: dict[str, Any] = {"csi": {"fsType": "ext4"}}


def an_able_node(name: str = "able") -> NodeCapacity:
    capacity = read_capacity(a_node(name))
    info = NodeInfo("v1.36.0", "containerd://2.3.4", "6.8.0")
    capacity.status = NodeStatus(info, (RuntimeHandler("", {"userNamespaces": True}),))
    return capacity


def isolated(
    template: dict[str, Any],
    *nodes: NodeCapacity,
    volumes: list[dict[str, Any]] | None = None,
    refusing: Sequence[str] = (),
) -> Isolation:
    desktop = desktop_of(**template)
    found = [
        {"metadata": {"name": "pv"}, "spec": spec}
        for spec in ([LOCAL] if volumes is None else volumes)
    ]
    of_home = msgspec.convert(found, list[PersistentVolume])
    storage = describe_storage(desktop.volumes, desktop.home, of_home)
    return isolate(desktop.isolation, nodes, desktop.home, of_home, storage, refusing)


def pod(template: dict[str, Any], *nodes: NodeCapacity) -> dict[str, Any]:
    desktop = replace(desktop_of(**template), isolation=isolated(template, *nodes))
    return build_pod(identity=IDENTITY, desktop=desktop)


@pytest.mark.parametrize(
    ("template", "nodes", "volumes", "words"),
    [
        ({}, [an_able_node()], [LOCAL], ""),
        ({}, [an_able_node()], [EXT4], ""),
        (WITHOUT_HOME, [an_able_node()], [], ""),
        (
            {},
            [an_able_node(), read_capacity(a_node("old"))],
            [LOCAL],
            "node old has kubelet of unknown version",
        ),
        (
            {},
            [an_able_node()],
            [],
            "StorageClass 'local-path' is not known before its first volume",
        ),
        (
            {},
            [an_able_node()],
            [EXT4 | {"accessModes": ["ReadWriteMany"]}],
            "not known to allow other user ids",
        ),
        ({}, [an_able_node()], [{"nfs": {}}], "not known to allow other user ids"),
        (
            {},
            [an_able_node()],
            [{"csi": {"driver": "nfs.csi.k8s.io"}}],
            "not known to allow other user ids",
        ),
        (
            {"persistence": {"accessMode": "ReadWriteMany"}},
            [an_able_node()],
            [LOCAL],
            "not known to allow other",
        ),
        (
            {"volumes": CLAIM},
            [an_able_node()],
            [LOCAL],
            "the filesystem of the volume 'data' is not known",
        ),
        (
            {"volumes": NFS},
            [an_able_node()],
            [LOCAL],
            "the filesystem of the volume 'files' is not known",
        ),
        ({"resources": {"defaultGPU": 1}}, [an_able_node()], [LOCAL], ""),
        (
            {"resources": {"defaultGPU": 1}, **WAYLAND},
            [an_able_node()],
            [LOCAL],
            "Wayland needs /dev/dri",
        ),
        ({"resources": {"defaultGPU": 0}, **WAYLAND}, [an_able_node()], [LOCAL], ""),
    ],
)
def test_auto_needs_able_nodes_and_volumes(
    template: dict[str, Any], nodes: list[NodeCapacity], volumes: list[dict[str, Any]], words: str
) -> None:
    decided = isolated(template, *nodes, volumes=volumes)
    assert decided.user_namespace == (not words) and not decided.nodes
    assert words in decided.obstacle and bool(words) == bool(decided.obstacle)


@pytest.mark.parametrize(
    ("template", "gpu_resource", "words"),
    [
        (REQUIRED, "gpu.intel.com/i915", "a GPU of gpu.intel.com/i915 needs /dev/dri"),
        (REQUIRED | WAYLAND, "nvidia.com/gpu", "display: Wayland needs /dev/dri"),
        (REQUIRED, "nvidia.com/gpu", ""),
        (REQUIRED | {"resources": {"defaultGPU": 0}}, "gpu.intel.com/i915", ""),
        ({}, "gpu.intel.com/i915", ""),
        (
            {"programs": [BLENDER], "volumes": [CLAIM[0] | {"mountPath": "/opt/blender/data"}]},
            "nvidia.com/gpu",
            "already mounted at /opt/blender/data",
        ),
        (
            {"volumes": [CLAIM[0] | {"name": "vdi-program-0"}]},
            "nvidia.com/gpu",
            "name 'vdi-program-0' is taken",
        ),
        (
            {"programs": [BLENDER], "persistence": {"mountPath": "/opt/blender/me"}},
            "nvidia.com/gpu",
            "already mounted",
        ),
    ],
)
def test_impossible_template_is_refused_in_words(
    template: dict[str, Any], gpu_resource: str, words: str
) -> None:
    settings = ClusterSettings(gpu_resource=gpu_resource)
    if not words:
        assert desktop_of(settings=settings, **template)
        return
    blocked = refused(settings=settings, **template)
    assert blocked.reason == "InvalidTemplate" and words in blocked.message


OF_CLASS: dict[str, Any] = LOCAL | {"storageClassName": "ramfs"}
OF_RAMFS = "StorageClass 'ramfs'"


@pytest.mark.parametrize(
    ("volumes", "storage"),
    [
        ([OF_CLASS], OF_RAMFS),
        ([LOCAL], "the volume 'pv'"),
        ([], "the volumes of a desktop without"),
    ],
)
def test_node_without_idmapped_mounts_counts_for_both_modes(
    volumes: list[dict[str, Any]], storage: str
) -> None:
    nodes = [an_able_node("n1"), an_able_node("n2")]
    for mode in ({}, REQUIRED):
        template = mode | ({} if volumes else WITHOUT_HOME)
        one = isolated(template, *nodes, volumes=volumes, refusing=["n2"])
        both = isolated(template, *nodes, volumes=volumes, refusing=["n1", "n2"])
        assert f"node n1 has no idmapped mounts for {storage}" in both.obstacle
        assert lacking_node(both.obstacle) == "n1"
        if mode:
            assert one.user_namespace and not one.obstacle and one.nodes == ("n1",)
            assert both.user_namespace, "refused: see `find_refusal`"
        else:
            assert not one.user_namespace and lacking_node(one.obstacle) == "n2"
            assert not both.user_namespace


@pytest.mark.parametrize("volumes", [CLAIM, NFS])
def test_claims_of_a_template_say_nothing_about_homes(volumes: list[dict[str, Any]]) -> None:
    """Such a refusal must not take the user namespace from every desktop with a home of this
    StorageClass.
    """
    with_claims = isolated(REQUIRED | {"volumes": volumes}, an_able_node(), volumes=[OF_CLASS])
    plain = isolated(REQUIRED, an_able_node(), volumes=[OF_CLASS])
    assert (with_claims.storage, plain.storage) == (
        f"the template's volumes {volumes[0]['name']!r}",
        OF_RAMFS,
    )
    assert (
        pod(REQUIRED, an_able_node())["metadata"]["annotations"]["vdi.kasm.io/storage"]
        == "the volume 'pv'"
    )
    assert isolated(REQUIRED, an_able_node(), volumes=[]).storage == "StorageClass 'local-path'", (
        "the first of it"
    )


def test_required_binds_the_pod_to_able_nodes() -> None:
    spec = pod(REQUIRED, an_able_node("b"), an_able_node("a"))["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert [term["matchFields"][0]["values"] for term in terms] == [["a"], ["b"]]
    assert spec["hostUsers"] is False and spec["securityContext"]["runAsUser"] == 1000


def test_pod_without_a_namespace_says_why() -> None:
    built = pod({}, read_capacity(a_node("old")))
    assert "node old has" in built["metadata"]["annotations"]["vdi.kasm.io/isolation"]
    assert lacking_node(built["metadata"]["annotations"]["vdi.kasm.io/isolation"]) == "old"
    assert not {"hostUsers", "affinity"} & built["spec"].keys()
    off = pod({"isolation": {"userNamespaces": "Off"}}, an_able_node())
    assert (
        "vdi.kasm.io/isolation" not in off["metadata"]["annotations"]
        and "hostUsers" not in off["spec"]
    )


def test_root_keeps_no_right_and_gets_a_home() -> None:
    spec = pod(ROOT | WITHOUT_HOME, an_able_node())["spec"]
    (container,) = spec["containers"]
    assert spec["hostUsers"] is False and not spec["securityContext"]["runAsNonRoot"]
    assert {spec["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {0}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "home", "emptyDir": {}} in spec["volumes"]
    assert {"name": "home", "mountPath": "/home/user"} in container["volumeMounts"]


def test_programs_are_read_only_image_volumes() -> None:
    spec = pod({"programs": [BLENDER]}, an_able_node())["spec"]
    image = {"reference": BLENDER["image"], "pullPolicy": "IfNotPresent"}
    assert {"name": "vdi-program-0", "image": image} in spec["volumes"]
    mount = {"name": "vdi-program-0", "mountPath": "/opt/blender", "readOnly": True}
    assert mount in spec["containers"][0]["volumeMounts"]
    assert spec["affinity"]

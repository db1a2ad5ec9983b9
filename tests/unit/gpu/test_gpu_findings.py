"""States of clusters, named for what is wrong with them, and what is found."""

from dataclasses import replace

import pytest

from unit.gpu.gpu_states import (
    EARLIER,
    LATER,
    LONG_AGO,
    SEVERAL,
    a_config_map,
    a_daemon_set,
    a_node,
    a_policy,
    configured,
    labelled,
    shared,
    unlabelled,
)
from unit.gpu.test_gpu_sharing import MISSION
from vdi.findings.model import Finding, Severity
from vdi.gpu.sharing.config import RENAMED, Sharing
from vdi.gpu.sharing.findings import find
from vdi.gpu.sharing.plan import SharingRequest
from vdi.gpu.sharing.state import DaemonSet, GpuNode, GpuState
from vdi.snapshot.objects.config import ConfigMap
from vdi.snapshot.objects.gpu import ClusterPolicy

POINTED = {"name": "time-slicing-config", "default": "any"}


def operator(
    policy: ClusterPolicy | None = None,
    config_map: ConfigMap | None = None,
    *nodes: GpuNode,
    plugin: DaemonSet | None = None,
    reader: DaemonSet | None = None,
) -> GpuState:
    """The GPU Operator, its DaemonSets as its ClusterPolicy has them."""
    policy = policy or a_policy(POINTED)
    config = policy.spec.device_plugin.config
    name, default = config.name, config.default
    return GpuState(
        "gpu-operator",
        nodes=nodes or (shared(a_node()),),
        plugins=(plugin or a_daemon_set(config_map=name or None, default=default),),
        readers=(
            (reader or a_daemon_set("gpu-feature-discovery", config_map=name, plugin=False),)
            if name
            else ()
        ),
        policy=policy,
        config_maps={config_map.metadata.name: config_map} if config_map else {},
        runtime_class=True,
    )


def codes(observed: GpuState) -> list[str]:
    return [each.code for each in find(observed)]


def only(observed: GpuState) -> Finding:
    (finding,) = find(observed)
    return finding


GOOD = a_config_map(any=MISSION)


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_healthy(gpus: int) -> None:
    assert codes(configured(a_node(gpus=gpus))) == []
    assert codes(operator(None, GOOD, shared(a_node(gpus=gpus)))) == []


def test_healthy_with_several_configurations() -> None:
    observed = configured(a_node("a"), a_node("b", 2), a_node("c", 4), request=SEVERAL)
    assert codes(observed) == []
    assert [node.allocatable("nvidia.com/gpu") for node in observed.nodes] == [8, 4, 4]


def test_healthy_when_renamed() -> None:
    observed = configured(request=SharingRequest({"any": Sharing(rename=True)}, "any"))
    assert (observed.nodes[0].allocatable(RENAMED), codes(observed)) == (8, [])


def test_without_default_but_every_node_labelled() -> None:
    node = labelled(shared(a_node()), "any")
    assert codes(operator(a_policy({"name": "time-slicing-config"}), GOOD, node)) == []


def test_shared_by_mps_instead() -> None:
    node = labelled(shared(a_node()), "mps", "nvidia.com/gpu.sharing-strategy")
    assert "shared by MPS" in only(operator(None, GOOD, node)).message


@pytest.mark.parametrize(
    ("has", "words"), [(12, "12 nvidia.com/gpu, not a multiple of 8"), (0, "should be shared by 8")]
)
def test_without_feature_discovery_what_is_no_multiple_is_wrong(has: int, words: str) -> None:
    node = labelled(unlabelled(a_node(advertises=has)), "true", "nvidia.com/gpu.present")
    finding = only(operator(None, GOOD, node))
    assert finding.code == "gpu_capacity_wrong"
    assert words in finding.message


@pytest.mark.parametrize(("made", "read"), [(LONG_AGO, False), (EARLIER, True), (LATER, True)])
def test_the_config_map_is_newer_than_the_pods(made: str, read: bool) -> None:
    plugin = a_daemon_set(config_map="time-slicing-config", default="any", made=made)
    assert codes(operator(None, GOOD, plugin=plugin)) == ([] if read else ["gpu_config_not_read"])


def test_pods_that_no_restart_replaces_are_to_be_deleted() -> None:
    plugin = a_daemon_set(config_map="time-slicing-config", default="any", made=LONG_AGO)
    plugin.workload.spec.update_strategy.type = "OnDelete"
    finding = only(operator(None, GOOD, plugin=plugin))
    assert (
        finding.remedy.text
        == "kubectl --namespace gpu-operator delete pod nvidia-device-plugin-daemonset-x"
    )


def test_feature_discovery_has_not_read_it_either() -> None:
    reader = a_daemon_set(
        "gpu-feature-discovery", config_map="time-slicing-config", made=LONG_AGO, plugin=False
    )
    finding = only(operator(None, GOOD, reader=reader))
    assert (finding.code, finding.object) == (
        "gpu_config_not_read",
        "daemonset/gpu-operator/gpu-feature-discovery",
    )


def test_toolkit_with_another_containerd_than_k3s() -> None:
    observed = operator(None, GOOD, shared(a_node(k3s="+k3s1")))
    finding = only(observed)
    assert (finding.code, finding.severity) == ("gpu_toolkit_paths_not_k3s", Severity.WARNING)
    assert "/run/k3s/containerd/containerd.sock" in finding.remedy.text
    right = {"env": [{"name": "CONTAINERD_SOCKET", "value": "/run/k3s/containerd/containerd.sock"}]}
    for toolkit in (right, {"enabled": False}):
        assert codes(replace(observed, policy=a_policy(POINTED, toolkit=toolkit))) == []

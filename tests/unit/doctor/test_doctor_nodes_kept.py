"""What keeps a node that an autoscaler could remove: what is said of it, and when nothing is
said.
"""

import pytest

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import (
    desktop_without_an_end,
    node_annotated_to_stay,
    pods_that_no_autoscaler_evicts,
    with_autoscaler,
)
from vdi.findings.model import Finding, Severity
from vdi.session.autoscaling import PLACEHOLDER


def node_findings(cluster: Cluster) -> list[Finding]:
    return [finding for finding in cluster.findings() if finding.code == "node_kept"]


def test_an_endless_desktop_is_named_with_its_command() -> None:
    cluster = Cluster()
    desktop_without_an_end(cluster)
    (finding,) = node_findings(cluster)
    assert finding.severity == Severity.WARNING
    assert finding.object == "node/node-1"
    assert (
        finding.message
        == "An autoscaler cannot remove the node node-1: a desktop without an end keeps it."
    )
    assert finding.remedy.commands == ("vdi session suspend alice-0 --namespace vdi-sessions",)
    runs, desktop = finding.evidence
    assert runs.startswith(
        "vdisession/vdi-sessions/alice-0: runs for 1 h, without idleTimeout, timeout and schedule"
    )
    assert desktop.endswith(" is on this node's disk, and is lost with the node")


def test_pods_and_annotations_are_named_with_what_changes_them() -> None:
    cluster = Cluster(sessions=2)
    node_annotated_to_stay(cluster)
    pods_that_no_autoscaler_evicts(cluster)
    cluster.objects["vdisessions"][1]["status"]["expiresAt"] = "2026-11-20T20:00:00Z"
    (finding,) = node_findings(cluster)
    assert (
        finding.message
        == "An autoscaler cannot remove the node node-1: an annotation of the node, 2 pods that are"
        " not evicted keep it."
    )
    assert finding.remedy.commands == (
        "kubectl annotate node node-1 cluster-autoscaler.kubernetes.io/scale-down-disabled-",
        (
            "kubectl annotate pod toolbox --namespace lab"
            " cluster-autoscaler.kubernetes.io/safe-to-evict=true"
        ),
        "kubectl annotate pod batch --namespace lab karpenter.sh/do-not-disrupt-",
    )
    assert (
        finding.evidence[-1] == "vdisession/vdi-sessions/alice-1: ends at 2026-11-20T20:00:00Z; "
        "its PodDisruptionBudget refuses evictions until drainNotice is over"
    )


@pytest.mark.parametrize("field", ["idleTimeout", "schedule", "not yet"])
def test_a_desktop_with_an_end_in_sight_is_no_finding(field: str) -> None:
    cluster = Cluster()
    desktop_without_an_end(cluster)
    if field == "idleTimeout":
        cluster.template["lifecycle"] = {"idleTimeout": "1h"}
    elif field == "schedule":
        cluster.template["schedule"] = {
            "timeZone": "UTC",
            "windows": [{"start": "0 8 * * *", "end": "0 18 * * *"}],
        }
    else:
        cluster.session["status"]["startTime"] = "2026-11-20T11:30:00Z"
    assert node_findings(cluster) == []


def test_evictable_pods_are_no_finding() -> None:
    cluster = Cluster()
    with_autoscaler(cluster)
    for name, kind in (("agent", "DaemonSet"), ("static", "Node")):
        owner = {"apiVersion": "v1", "kind": kind, "name": name, "uid": name, "controller": True}
        cluster.add_pod(name, ownerReferences=[owner])
    cluster.add_pod("loose", annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"})
    cluster.add_pod("place", labels={PLACEHOLDER: "x"})
    cluster.add_pod("done")
    cluster.objects["pods"][-1]["status"]["phase"] = "Succeeded"
    assert cluster.findings() == []


def test_without_an_autoscaler_nothing_is_said() -> None:
    cluster = Cluster()
    desktop_without_an_end(cluster)
    next(
        variable
        for variable in cluster.operator_env
        if variable["name"] == "VDI_PLACEHOLDER_NAMESPACE"
    )["value"] = ""
    assert node_findings(cluster) == []


def test_control_plane_and_unused_nodes_are_left_out() -> None:
    cluster = Cluster()
    node_annotated_to_stay(cluster)
    cluster.one("nodes")["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "true"
    assert node_findings(cluster) == []

    empty = Cluster()
    node_annotated_to_stay(empty)
    empty.drop("vdisessions")
    assert node_findings(empty) == []
    empty.one("nodes")["metadata"]["labels"]["karpenter.sh/nodepool"] = "gpu"
    assert len(node_findings(empty)) == 1

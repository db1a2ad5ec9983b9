"""`vdi cluster` with several nodes: what is printed, and what is refused before anything is
touched.
"""

import json
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi
from vdi.devcluster import cluster
from vdi.devcluster.status import ClusterStatus, ComponentStatus, NodeStatus

RUNNING = ComponentStatus("kubelet", "running", 7, 0, "")
NODES = [
    NodeStatus("vdi-demo", "running", True, []),
    NodeStatus("vdi-demo-2", "cut", False, [RUNNING]),
    NodeStatus("vdi-demo-3", "stopped", None, [ComponentStatus("kubelet", "dead", 0, 0, "")]),
]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[NodeStatus]:
    """The nodes of the cluster, as a look at it finds them; the test may change them."""
    nodes = list(NODES)

    def status(name: str) -> ClusterStatus:
        return ClusterStatus(
            name=name, state="degraded", node_ready=True, components=[RUNNING], nodes=nodes
        )

    monkeypatch.setattr(cluster, "status", status)
    return nodes


def test_a_node_that_is_not_ready_is_a_finding(known: list[NodeStatus], vdi: Vdi) -> None:
    ran = vdi("cluster", "nodes")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["NODE", "STATE", "READY"],
        ["vdi-demo", "running", "Ready"],
        ["vdi-demo-2", "cut", "not", "Ready"],
        ["vdi-demo-3", "stopped", "unknown", "(the", "API", "server", "does", "not", "say)"],
    ]
    assert ran.code == 1
    known[:] = [NODES[0]]
    assert vdi("cluster", "nodes").code == 0


def test_two_changes_at_a_time_are_refused(known: list[NodeStatus], vdi: Vdi) -> None:
    ran = vdi("cluster", "nodes", "--add-node", "--stop-node", "vdi-demo-2")
    assert ran.code == 2
    assert "--add-node, --stop-node, --cut-node and --start-node" in ran.err


def test_logs_of_further_nodes_are_named_by_their_node(
    vdi: Vdi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDI_STATE", str(tmp_path))
    settings = {
        "name": "demo",
        "control_plane_only": False,
        "fake_gpus": 0,
        "api_host": "127.0.0.1",
        "nodes": 2,
    }
    settings |= {"api_port": 1, "etcd_port": 2, "etcd_peer_port": 3}
    for folder in ("logs", "nodes/2/logs"):
        (tmp_path / "demo" / folder).mkdir(parents=True)
        (tmp_path / "demo" / folder / "kubelet.log").touch()
    (tmp_path / "demo" / "cluster.json").write_text(json.dumps(settings))
    assert vdi("cluster", "logs").out.split() == ["kubelet", "vdi-demo-2/kubelet"]
    refused = vdi("cluster", "logs", "vdi-demo-2/etcd")
    assert refused.code != 0
    assert "vdi-demo-2/kubelet" in refused.err

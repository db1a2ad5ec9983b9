"""A rolling upgrade: one node after the other is drained, restarted and put back; each desktop
moves once.
"""

import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.desktops import live_pod_of, reach, start, template, uid_of
from e2e.world import World
from nodes.several import LIGHT, Nodes, drain
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster import cluster

pytestmark = pytest.mark.timeout(900)
TAINT = "vdi-test/old:PreferNoSchedule"


@contextmanager
def watched(world: World, *words: str) -> Iterator[list[str]]:
    """The output of `kubectl get --watch` while the context lasts, a line for each change; complete
    at its end.
    """
    lines: list[str] = []
    with subprocess.Popen(
        ["kubectl", "get", "--watch", *words],
        env={**os.environ, "KUBECONFIG": str(world.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        lines.append(process.stdout.readline())  # it watches
        try:
            yield lines
        finally:
            process.terminate()
            lines += process.stdout


def test_a_rolling_upgrade_moves_each_desktop_once(nodes: Nodes) -> None:
    world, old = nodes.world, nodes.names[1:3]
    desktops = {old[0]: ("lea", "leo"), old[1]: ("liv", "lou")}
    everyone = [name for names in desktops.values() for name in names]
    of_pod = "jsonpath={.metadata.labels.vdi\\.kasm\\.io/session} {.metadata.uid}{'\\n'}"
    pods_of_desktops = ["-n", "vdi-sessions", "pods", "-l", "vdi.kasm.io/session", "-o", of_pod]
    operators = [
        "-n",
        RELEASE_NAMESPACE,
        "deploy",
        "vdi-operator",
        "-o",
        "jsonpath={.status.availableReplicas}{'\\n'}",
    ]
    with template(world, "roams", resources=LIGHT, persistence={"enabled": False}):
        for node, names in desktops.items():
            with nodes.only(node):
                for name in names:
                    start(world, name, "roams")
        before = {name: uid_of(world, name) for name in everyone}
        world.kubectl("taint", "node", *old, TAINT)  # a desktop that moves goes where it can stay
        try:
            with watched(world, *pods_of_desktops) as seen, watched(world, *operators) as available:
                for node, names in desktops.items():
                    pods = [live_pod_of(world, name)["metadata"]["name"] for name in names]
                    draining = drain(world, node)
                    try:
                        said, _ = draining.communicate(timeout=180)
                    finally:
                        draining.kill()
                    assert draining.returncode == 0, said
                    for name, pod in zip(names, pods, strict=True):
                        assert (
                            f'evicting pods/"{pod}"' in said or f'evicting pods "{pod}"' in said
                        ), said
                        nodes.wait_moved(name, node)
                    assert "would violate the pod's disruption budget" in said
                    cluster.stop_node(nodes.cluster, node)
                    nodes.bring_back(node)
                    world.kubectl("taint", "node", node, f"{TAINT}-")
                    world.kubectl("uncordon", node)
                for name in everyone:
                    reach(world, name, "Running")
        finally:
            world.kubectl("taint", "node", *old, f"{TAINT}-", check=False)
        after = {name: uid_of(world, name) for name in everyone}
    runs = defaultdict(set)
    for line in seen:
        name, uid = line.split()
        runs[name].add(uid)
    assert runs == {name: {before[name], after[name]} for name in everyone}
    assert all(int(line or 0) >= 1 for line in map(str.strip, available)), (
        f"no operator was there: {available}"
    )

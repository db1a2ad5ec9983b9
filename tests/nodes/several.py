"""The nodes of the tests' cluster, and which desktop is on which of them."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.desktops import home_claim_of, live_pod_of, status_of
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster import cluster
from vdi.devcluster.progress import Progress

# Resources of a desktop of which six fit on one node of two CPUs.
LIGHT = {"defaultGPU": 0, "defaultMemory": "1Gi"}
# By then Kubernetes has called a node not Ready, which it does after 50 s, and what follows has
# been done.
LOST_SECONDS = 120.0
_FOR_10_SECONDS = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}
# Placement of a desktop that Kubernetes deletes so soon after its node was lost, not after the
# usual 300 s.
GIVES_UP_SOON = {
    "tolerations": [
        {"key": f"node.kubernetes.io/{state}", **_FOR_10_SECONDS}
        for state in ("not-ready", "unreachable")
    ]
}


@dataclass(frozen=True)
class Nodes:
    """A cluster of several nodes."""

    cluster: str
    world: World

    @property
    def names(self) -> list[str]:
        """All nodes; the first one runs the control plane."""
        return [node.name for node in cluster.status(self.cluster).nodes]

    @property
    def spare(self) -> str:
        """A further node that people can do without: the gateway's volume, and so the gateway, is
        not on it.
        """
        return next(
            name for name in self.names[1:] if name not in self.of_component("gateway").values()
        )

    def of_component(self, component: str) -> dict[str, str]:
        """The pods of operator or gateway and their nodes."""
        words = [
            "-n",
            RELEASE_NAMESPACE,
            "get",
            "pods",
            "-l",
            f"app.kubernetes.io/component={component}",
            "-o",
            "json",
        ]
        pods = json.loads(self.world.kubectl(*words))["items"]
        return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods}

    def of(self, session: str) -> str:
        """The node of the session's desktop."""
        return str(live_pod_of(self.world, session)["spec"]["nodeName"])

    def wait_moved(self, session: str, node: str, seconds: float = 90.0) -> None:
        """Wait until the session's desktop runs on another node than this one."""

        def moved() -> bool:
            found = status_of(self.world, session)
            return found.get("phase") == "Running" and found.get("nodeName") not in (None, "", node)

        wait_until(f"{session} runs on another node than {node}", moved, seconds)

    def volume_of(self, session: str) -> str:
        """The PersistentVolume of the session's home."""
        claim = self.world.get("pvc", home_claim_of(self.world, session))
        assert claim
        return str(claim["spec"]["volumeName"])

    def process(self, node: str, component: str) -> int | None:
        """The component's process id on this machine; None while it does not run."""
        status = cluster.status(self.cluster)
        of_node = {found.name: found.components for found in status.nodes}
        components = of_node.get(node) or (status.components if node == self.names[0] else [])
        found = [
            each.pid for each in components if each.name == component and each.state == "running"
        ]
        return found[0] if found and found[0] else None

    def kill(self, node: str, *components: str) -> None:
        """End these processes of a node with SIGKILL."""
        for component in components:
            process = self.process(node, component)
            assert process
            os.kill(process, signal.SIGKILL)

    def cut(self, node: str) -> None:
        """Cut the network of a further node."""
        cluster.cut_node(self.cluster, node)

    def bring_back(self, node: str) -> None:
        """Start a further node that was stopped, join one whose network was cut, and wait until it
        is Ready.
        """
        with Progress(Path(tempfile.mkdtemp(prefix="vdi-nodes-"))) as progress:
            cluster.start_node(self.cluster, node, progress=progress)

    def wait_not_ready(self, node: str) -> None:
        """Wait until Kubernetes has noticed that the node does not respond."""

        def noticed() -> bool:
            return any(
                status.name == node and status.ready is False
                for status in cluster.status(self.cluster).nodes
            )

        wait_until(f"{node} is not Ready", noticed, LOST_SECONDS)

    @contextmanager
    def only(self, node: str) -> Iterator[None]:
        """New desktops start on this node alone while the context lasts."""
        others = [name for name in self.names if name != node]
        self.world.kubectl("cordon", *others)
        try:
            yield
        finally:
            self.world.kubectl("uncordon", *others)


@contextmanager
def foreign_pod(world: World, node: str, **container: object) -> Iterator[str]:
    """A Ready pod of someone else on this node, in the namespace `default`, while the context
    lasts: its name.
    """
    base = {
        "name": "foreign",
        "image": "docker.io/library/debian:13-slim",
        "command": ["sleep", "infinity"],
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 0,
        "containers": [base | container],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "foreign", "namespace": "default"},
        "spec": spec,
    }
    world.kubectl("-n", "default", "apply", "-f", "-", stdin=json.dumps(pod))
    try:
        world.kubectl(
            "-n", "default", "wait", "pod/foreign", "--for=condition=Ready", "--timeout=60s"
        )
        yield "foreign"
    finally:
        world.kubectl("-n", "default", "delete", "pod", "foreign")


def drain(world: World, node: str) -> subprocess.Popen[str]:
    """The command that docs/upgrading.md names, in the background."""
    words = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m"]
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        ["kubectl", *words], env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )

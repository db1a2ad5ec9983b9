"""`helm test` on a real node, and where the stand-in for a network plugin works on it."""

import os
import subprocess
from pathlib import Path

from e2e.world import World
from network.enforcer import Nodes
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.run import RELEASE


def node_of(world: World) -> Nodes:
    """The one node of the tests' cluster."""
    (address,) = [
        address["address"]
        for node in world.items("node")
        for address in node["status"]["addresses"]
        if address["type"] == "InternalIP"
    ]
    argument = f"--config={world.kubeconfig.parent}/config/kubelet.json".encode()
    found = [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and argument in _command_of(process)
    ]
    return Nodes(["kubectl", "--kubeconfig", str(world.kubeconfig)], (min(found),), address)


def _command_of(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []


def helm_test(world: World) -> tuple[int, str]:
    """Exit status, and what it said."""
    command = [
        "helm",
        "test",
        RELEASE,
        "--namespace",
        RELEASE_NAMESPACE,
        "--logs",
        "--timeout",
        "3m",
    ]
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


def left_behind(world: World) -> list[str]:
    """Objects of the trial that are still there, but for the pod with the result."""
    words = [
        "get",
        "pods,serviceaccounts,roles,rolebindings,configmaps",
        "--all-namespaces",
        "-o",
        "name",
    ]
    names = [name for name in world.kubectl(*words).split() if "vdi-network" in name]
    return [name for name in names if name != "pod/vdi-network-test"]

"""The node can run a pod in a user namespace: what a template's isolation will need."""

import platform
import secrets
from pathlib import Path

import pytest
import yaml

from e2e.world import World
from vdi.devcluster.images import DESKTOP

_KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])


def processes(*words: str) -> list[Path]:
    """Folders in /proc of the processes with this command line, in all namespaces of this machine."""
    line = b"".join(f"{word}\0".encode() for word in words)
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes() == line:
                found.append(folder)
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.platform
@pytest.mark.skipif(_KERNEL < (6, 3), reason="this kernel has no idmapped tmpfs, which the kubelet asks for")
def test_uid_in_a_user_namespace_is_another_on_the_node(world: World) -> None:
    mark = str(10**6 + secrets.randbelow(10**6))
    container = {
        "name": "sleep",
        "image": DESKTOP,
        "imagePullPolicy": "Never",
        "command": ["sleep", mark],
        "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {"hostUsers": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    name = f"userns-{mark}"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
    world.kubectl("apply", "-n", "default", "-f", "-", stdin=yaml.safe_dump(pod))
    try:
        world.kubectl("wait", "-n", "default", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")
        (process,) = processes("sleep", mark)
        assert world.kubectl("exec", "-n", "default", name, "--", "id", "-u").strip() == "1000"
        assert process.stat().st_uid >= 2**16
    finally:
        world.kubectl("delete", "-n", "default", "pod", name)

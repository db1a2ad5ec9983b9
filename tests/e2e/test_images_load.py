"""`vdi images load` on a real node: containerd takes images that no registry has, and nothing of
the way stays.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import NAME
from e2e.world import World
from support.waiting import wait_until
from vdi.devcluster import binaries
from vdi.devcluster.images.archive import ImageConfig, write_archive, write_program_layer
from vdi.devcluster.layout import layout_of
from vdi.devcluster.progress import Progress
from vdi.release.images import LABELS

# Of a registry that is nowhere: only containerd can have it. Not called pause: a node reports its
# images now and then, and a pod that brings images would be made of this one, which is gone by
# then.
IMAGE = "registry.invalid/load/small:1"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with Progress(tmp_path_factory.mktemp("tools")) as progress:
        return dict(binaries.ensure(["ctr", "pause"], progress=progress))


@pytest.fixture
def here(tools: dict[str, Path], world: World) -> Iterator[tuple[str, ...]]:
    """This node's containerd; the image is on it neither before nor after."""
    socket = f"{layout_of(NAME).run}/containerd.sock"
    remove = [
        str(tools["ctr"]),
        "--address",
        socket,
        "--namespace",
        "k8s.io",
        "images",
        "rm",
        "--sync",
        IMAGE,
    ]
    subprocess.run(remove, capture_output=True, check=False)
    yield "--containerd", socket, "--ctr", str(tools["ctr"])
    world.kubectl("delete", "pod", "loaded", "--ignore-not-found", "--wait=true")
    subprocess.run(remove, capture_output=True, check=False)


def an_archive(folder: Path, tools: dict[str, Path], padding: int = 0) -> Path:
    program = tools["pause"]
    if padding:
        program = folder / "pause"
        with program.open("wb") as file:
            file.write(tools["pause"].read_bytes())
            file.truncate(file.tell() + padding)
        program.chmod(0o755)
    write_program_layer({"/pause": program}, folder / "layer.tar")
    config, comment = ImageConfig(entrypoint=("/pause",), user="65535:65535"), "pause"
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    target = folder / "image.tar"
    write_archive(
        target, name=IMAGE, layer=folder / "layer.tar", config=config, arch=arch, comment=comment
    )
    return target


def pods_of_the_way(world: World) -> list[str]:
    label = ",".join(f"{key}={value}" for key, value in LABELS.items())
    return world.kubectl("-n", "kube-system", "get", "pods", "-l", label, "-o", "name").split()


@pytest.mark.timeout(180)
def test_a_pod_runs_from_an_image_that_no_registry_has(
    world: World, tools: dict[str, Path], here: tuple[str, ...], tmp_path: Path
) -> None:
    archive = an_archive(tmp_path, tools)
    report = json.loads(world.vdi("images", "load", str(archive), *here, "-o", "json"))
    (node,) = report["nodes"]
    assert report["images"] == node["images"] == [IMAGE] and node["loaded"] and not node["message"]

    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "pause",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": security,
    }
    of_pod = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": of_pod}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loaded"}, "spec": spec}
    world.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    world.kubectl("wait", "pod/loaded", "--for=condition=Ready", "--timeout=60s")
    wait_until("nothing of the way is left", lambda: not pods_of_the_way(world))

    socket, ctr = here[1], here[3]
    listed = [ctr, "--address", socket, "--namespace", "k8s.io", "images", "ls", f"name=={IMAGE}"]
    shown = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    assert "io.cri-containerd.pinned=pinned" in shown, (
        "the kubelet must not delete it: nothing brings it back"
    )


@pytest.mark.ci
@pytest.mark.timeout(180)
def test_a_node_that_fails_is_named_with_the_reason(
    world: World, tools: dict[str, Path], here: tuple[str, ...], tmp_path: Path
) -> None:
    archive = an_archive(tmp_path, tools)
    said = world.vdi("images", "load", str(archive), *here[:2], "--ctr", "/bin/false", check=False)
    assert f"node vdi-{NAME}: its pod ended: Error: exit status 1" in said, said
    wait_until("nothing of the way is left", lambda: not pods_of_the_way(world))


@pytest.mark.long
@pytest.mark.timeout(180)
def test_ctrl_c_removes_the_pod(
    world: World, tools: dict[str, Path], here: tuple[str, ...], tmp_path: Path
) -> None:
    archive = an_archive(tmp_path, tools, padding=1 << 29)
    command = [sys.executable, "-m", "vdi", "images", "load", str(archive), *here]
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "image.tar 0%" in line:
                break
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Interrupted; the pods are removed." in said, said
    wait_until("nothing of the way is left", lambda: not pods_of_the_way(world))

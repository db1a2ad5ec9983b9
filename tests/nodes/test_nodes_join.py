"""A node joins: it gets the images of templates with `prePull` before the first desktop, and runs
desktops.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from e2e.desktops import reach, start, status_of, template
from nodes.registry import HOST, push_image, registry
from nodes.several import LIGHT, Nodes, foreign_pod
from support.waiting import wait_until
from vdi.devcluster import binaries, cluster
from vdi.devcluster.images.archive import ImageConfig, write_program_layer
from vdi.devcluster.progress import Progress

pytestmark = pytest.mark.timeout(600)
IMAGE = f"{HOST}/late/pause:1"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Folder of a registry with an image that no node has."""
    with Progress(tmp_path / "logs") as progress:
        program = binaries.ensure(["pause"], progress=progress)["pause"]
    layer = tmp_path / "layer.tar"
    # Named after this run, so that it is new to all nodes.
    write_program_layer({f"/{tmp_path.name}": program}, layer)
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = ImageConfig(entrypoint=(f"/{tmp_path.name}",), user="65535:65535")
    document = config.document(
        arch=arch, diff_id=sha256(layer.read_bytes()).hexdigest(), comment="pause"
    )
    with registry(tmp_path):
        push_image("late/pause", "1", layer.read_bytes(), json.dumps(document).encode())
    return tmp_path


def test_joining_node_pulls_images_before_the_first_desktop(
    nodes: Nodes, image: Path, tmp_path: Path
) -> None:
    world, before = nodes.world, nodes.names

    def wait_pulled(count: int) -> None:
        def on_all() -> bool:
            pulled = status_of(world, "late", "vditemplate").get("prePull", {})
            return bool(pulled.get("desired") == pulled.get("ready") == count)

        wait_until(f"the image is on {count} nodes", on_all)

    with ExitStack() as registries, ThreadPoolExecutor(1) as background:
        for name in before:
            process = nodes.process(name, "containerd")
            assert process
            registries.enter_context(registry(image, process))
        registries.enter_context(template(world, "late", image=IMAGE, prePull=True))
        wait_pulled(len(before))

        progress = registries.enter_context(Progress(tmp_path / "node"))
        joining = background.submit(cluster.add_node, nodes.cluster, progress=progress)

        def joined() -> int | None:
            return (
                nodes.process(name, "containerd")
                if (name := nodes.names[-1]) not in before
                else None
            )

        # The kubelet waits until the images are loaded.
        process = wait_until("its containerd runs", joined)
        registries.enter_context(registry(image, process))
        node = joining.result()
        wait_pulled(len(before) + 1)
        wait_until("no puller is left", lambda: not world.items("pod", "vdi.kasm.io/prepull"))
        with foreign_pod(world, node, image=IMAGE, imagePullPolicy="Never", command=None):
            pass  # it runs without a pull

        registries.enter_context(template(world, "plain", resources=LIGHT))
        with nodes.only(node):
            start(world, "nia", "plain", wait=False)
            reach(world, "nia", "Running", seconds=120)
        assert nodes.of("nia") == node

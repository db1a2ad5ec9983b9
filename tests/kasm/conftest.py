"""A real node for the charts that stand for Kasm's: `make kasm`. Needs root.

It is a cluster of its own name, taken down at the end, unless it ran before: `vdi cluster up --name
kasm` keeps it for the next run.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cluster.helm_tools import Tools
from kasm.kasm_ward import KasmStage
from vdi.devcluster import binaries, cluster, images
from vdi.devcluster.progress import Progress

NAME = "kasm"
# Seconds: the first run on a machine may have to build Kubernetes and an image.
SLOW_FIRST_START = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fixtures count into a test's time, so the first test of a run gets what making the node may
    take.
    """
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for place, item in enumerate(ours):
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300 if place else SLOW_FIRST_START))


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    """helm and kubectl on a node that has the images."""
    if os.geteuid() != 0:
        pytest.fail("the tests of Kasm's diagnosis need root: a node runs kubelet and containerd")
    folder = tmp_path_factory.mktemp("kasm")
    ran = False
    try:
        with Progress(folder) as progress:
            found = binaries.ensure(["helm", "kubectl"], progress=progress)
            archives = [images.ensure_image("postgresql", progress=progress)]
            made = cluster.up(NAME, image_archives=archives, progress=progress)
            ran = made.was_running
        yield Tools(found["helm"], found["kubectl"], made.kubeconfig, folder)
    finally:
        if not ran:
            cluster.down(NAME)


@pytest.fixture
def ward(tools: Tools, request: pytest.FixtureRequest) -> Iterator[KasmStage]:
    """A namespace of its own, removed without waiting for the end of it."""
    words = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())
    ward = KasmStage(tools, f"k-{words.removeprefix('test-')[:40].strip('-')}-{uuid4().hex[:4]}")
    tools.kubectl("create", "namespace", ward.namespace)
    yield ward
    tools.kubectl("delete", "namespace", ward.namespace, "--wait=false")

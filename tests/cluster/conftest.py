"""Fixtures over a real API server: one control plane per worker, with our CRDs; a fresh namespace
per test.

Needs no root. `pytest tests/cluster` makes the control plane in a few seconds once the binaries are
in the cache.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from cluster.control_plane import (
    empty_namespace,
    install_crds,
    make_namespace,
    restart_garbage_collector,
)
from cluster.crd_server import Server
from cluster.gateway_stage import GatewayStage, open_gateway_stage
from cluster.helm_tools import Tools, open_tools
from cluster.operator_stage import Stage, open_stage
from cluster.stand_in import Administrator, nodes_stand_in
from support.helm_program import helm
from vdi.devcluster import binaries, cluster
from vdi.devcluster.progress import Progress
from vdi.kube.config import load_config

__all__ = ["helm"]

# Seconds: the first run on a machine may have to build Kubernetes.
SLOW_FIRST_START = 1800
# Seconds: the slowest tests take 20, and several times that on a machine with other work.
TEST = 180


@pytest.hookimpl(trylast=True)  # when `-m` and `-k` have left out what is not run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fixtures count into a test's time, so tests that may make a control plane get what that
    takes.

    A worker makes its own in the first test that needs it, of whichever file it is given. Some
    files make another one in their first test.
    """
    here, begun = Path(__file__).parent, set[tuple[Path, bool]]()
    for item in items:
        if here not in item.path.parents:
            continue
        kind = item.path, "control_plane" in getattr(item, "fixturenames", ())
        if kind not in begun:
            begun.add(kind)
            # Before the test's own.
            item.add_marker(pytest.mark.timeout(SLOW_FIRST_START), append=False)
        elif item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    """A control plane of this worker alone; taken down at its end."""
    folder = tmp_path_factory.mktemp("control-plane")
    name = f"t{os.getpid():x}"
    with pytest.MonkeyPatch.context() as patch, Progress(folder) as progress:
        patch.setenv("VDI_STATE", str(folder))
        try:
            yield cluster.up(name, control_plane_only=True, progress=progress)
        finally:
            cluster.down(name)


@pytest.fixture(scope="session")
def administrator(control_plane: cluster.Cluster) -> Iterator[Administrator]:
    """Our CRDs, and a node that has plenty of room, on this worker's control plane."""
    with nodes_stand_in(control_plane.kubeconfig) as administrator:
        administrator.run(install_crds)
        administrator.run(partial(restart_garbage_collector, control_plane.name))
        yield administrator


@pytest.fixture(scope="session")
def kubeconfig(control_plane: cluster.Cluster, administrator: Administrator) -> Path:
    """The administrator's kubeconfig of this run's control plane."""
    return control_plane.kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The first words of a kubectl command line against this run's control plane."""
    with Progress(tmp_path_factory.mktemp("kubectl")) as progress:
        binary = binaries.ensure(["kubectl"], progress=progress)["kubectl"]
    return [str(binary), "--kubeconfig", str(kubeconfig)]


@contextmanager
def _fresh_namespace(administrator: Administrator) -> Iterator[str]:
    """With its default service account; emptied afterwards."""
    name = f"test-{uuid4().hex[:8]}"
    administrator.run(partial(make_namespace, name=name))
    yield name
    administrator.run(partial(empty_namespace, name=name))


@pytest.fixture
def namespace(administrator: Administrator) -> Iterator[str]:
    """Of this test alone."""
    with _fresh_namespace(administrator) as name:
        yield name


@pytest.fixture
def second_namespace(administrator: Administrator) -> Iterator[str]:
    """Another one of this test alone."""
    with _fresh_namespace(administrator) as name:
        yield name


@pytest.fixture(scope="module")
def shared_namespace(administrator: Administrator) -> Iterator[str]:
    """Of the tests of a module together."""
    with _fresh_namespace(administrator) as name:
        yield name


@pytest.fixture(scope="module")
def server(kubectl: list[str], kubeconfig: Path, shared_namespace: str) -> Iterator[Server]:
    """A server for dry runs of objects: as most store nothing, a module's tests share a
    namespace.
    """
    config = load_config(kubeconfig)
    with httpx.Client(
        base_url=config.server, verify=config.ssl_context() or True, trust_env=False
    ) as http:
        yield Server(kubectl, shared_namespace, http)


@pytest.fixture
async def stage(kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """The operator's stage: rights and a proxy for it in a namespace of its own."""
    async with open_stage(kubeconfig, namespace, tmp_path) as stage:
        yield stage


@pytest.fixture
async def template(stage: Stage) -> str:
    """Name of a template of desktops with a home, for any user."""
    return await stage.template()


@pytest.fixture
async def gateway(stage: Stage, tmp_path: Path) -> AsyncIterator[GatewayStage]:
    """A gateway beside the operator's stage."""
    async with open_gateway_stage(stage, tmp_path) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def traefik(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; a machine's first run builds it."""
    with Progress(tmp_path_factory.mktemp("traefik")) as progress:
        return binaries.ensure(["traefik"], progress=progress)["traefik"]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    """helm and kubectl on a control plane of this module's own: nothing of the chart is there."""
    with open_tools(tmp_path_factory.mktemp("tools"), f"h{os.getpid():x}") as tools:
        yield tools


@pytest.fixture(scope="module")
def installed(tools: Tools) -> Tools:
    """A release that is there, for tests that leave it as it is."""
    tools.upgrade()
    return tools


@pytest.fixture
def release(tools: Tools) -> Tools:
    """A release with the chart's own values, whatever the test before has made of it."""
    tools.upgrade()
    return tools

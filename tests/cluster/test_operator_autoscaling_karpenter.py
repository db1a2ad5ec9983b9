"""Karpenter on a real API server with a real scheduler: its core, with its provider for nodes
without machines.

kwok plays the kubelets of the nodes that Karpenter adds. Karpenter serves its metrics on all
addresses, and no setting chooses another: its ports are free ones.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import yaml

from cluster.edge_traefik import free_port
from cluster.operator_stage import STAGE, Object, Stage
from cluster.test_operator_autoscaling import Autoscaler
from cluster.test_operator_queue import gpu_template
from support.waiting import eventually
from tools import binaries
from vdi.devcluster.progress import Progress
from vdi.kinds import SESSIONS
from vdi.kube.errors import NotFound
from vdi.kube.resource import CRDS, NODES, Resource

NODE_POOLS = Resource("karpenter.sh", "v1", "nodepools", "NodePool", namespaced=False)
NODE_CLAIMS = Resource("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
NODE_CLASSES = Resource(
    "karpenter.kwok.sh", "v1alpha1", "kwoknodeclasses", "KWOKNodeClass", namespaced=False
)
CRD_FILES = tuple(
    f"karpenter-{kind}.yaml"
    for kind in ("nodepools", "nodeclaims", "nodeoverlays", "kwoknodeclasses")
)
# The first run on a machine builds Karpenter and kwok.
BUILD_SECONDS = 2400
# What a machine takes to come up, as Karpenter's provider plays it: sessions say meanwhile what
# they wait for.
_BOOT = "20s"
# Seconds for what Karpenter, the scheduler and the operator do one after the other on a busy
# machine.
_MINUTES = 180.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(BUILD_SECONDS)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with Progress(tmp_path_factory.mktemp("karpenter")) as progress:
        return binaries.ensure(["karpenter", "kwok", *CRD_FILES], progress=progress)


@asynccontextmanager
async def running(
    folder: Path, program: Path, *words: str, **environment: str
) -> AsyncIterator[None]:
    """A program that writes a log beside its settings."""
    with (folder / f"{program.name}.log").open("wb") as log:
        given = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        process = await asyncio.create_subprocess_exec(
            program, *words, env=given, stdout=log, stderr=log
        )
        try:
            yield
            assert process.returncode is None, (folder / f"{program.name}.log").read_text()[-4000:]
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def instance_types() -> list[Object]:
    """Of one kind: a machine with a GPU."""
    chosen = (("karpenter.sh/capacity-type", "on-demand"), ("topology.kubernetes.io/zone", "a"))
    requirements = [{"key": key, "operator": "In", "values": [value]} for key, value in chosen]
    return [
        {
            "name": "gpu-1x",
            "offerings": [{"Price": 1.0, "Available": True, "Requirements": requirements}],
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": {
                "cpu": "8",
                "memory": "32Gi",
                "ephemeral-storage": "100Gi",
                "nvidia.com/gpu": "1",
            },
        }
    ]


class Karpenter(Autoscaler):
    """A node pool of this stage's own, and what Karpenter makes of it."""

    async def open_pool(self, limits: Object) -> None:
        api, name = self.stage.api, self.stage.namespace
        node_class: Object = {"apiVersion": NODE_CLASSES.api_version, "kind": NODE_CLASSES.kind}
        node_class |= {"metadata": {"name": name}, "spec": {"nodeRegistrationDelay": _BOOT}}
        await api.create(NODE_CLASSES, node_class, into=msgspec.Raw)
        spec: Object = {
            "template": {
                "metadata": {"labels": self.stage.here},
                "spec": {
                    "nodeClassRef": {
                        "group": NODE_CLASSES.group,
                        "kind": NODE_CLASSES.kind,
                        "name": name,
                    },
                    "requirements": [
                        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
                    ],
                },
            },
            "disruption": {
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": "5s",
                "budgets": [{"nodes": "100%"}],
            },
            "limits": limits,
        }
        pool = {
            "apiVersion": NODE_POOLS.api_version,
            "kind": NODE_POOLS.kind,
            "metadata": {"name": name},
        }
        await api.create(NODE_POOLS, {**pool, "spec": spec}, into=msgspec.Raw)

    async def close_pool(self) -> None:
        """Remove what is left, also where Karpenter has not done so."""
        api, name = self.stage.api, self.stage.namespace
        for kind in (NODE_POOLS, NODE_CLASSES):
            with suppress(NotFound):
                await api.delete(kind, name, into=dict)
        for kind in (NODE_CLAIMS, NODES):
            for found in await api.list(kind, label_selector=f"{STAGE}={name}", into=dict):
                with suppress(NotFound):
                    await api.delete(kind, found["metadata"]["name"], into=dict)
                    await api.patch(
                        kind,
                        found["metadata"]["name"],
                        {"metadata": {"finalizers": None}},
                        into=dict,
                    )

    async def nodes(self) -> list[Object]:
        return await self.stage.api.list(
            NODES, label_selector=f"{STAGE}={self.stage.namespace}", into=dict
        )

    async def has_nodes(self, count: int) -> None:
        async def look() -> bool:
            return len(await self.nodes()) == count

        await eventually(look, f"{count} nodes of Karpenter's", _MINUTES)

    async def runs(self, *names: str) -> list[Object]:
        """The sessions, once all run."""
        return [await self.stage.reach(name, "Running", seconds=_MINUTES) for name in names]

    async def said(self, name: str, words: str) -> Object:
        """The session, once its message has these words while it waits."""
        return await self.stage.reach(name, "Pending", words, _MINUTES)


@pytest.fixture
async def karpenter(
    stage: Stage, kubeconfig: Path, programs: dict[str, Path], tmp_path: Path
) -> AsyncIterator[Karpenter]:
    for file in CRD_FILES:
        crd = yaml.safe_load(programs[file].read_text())
        await stage.api.apply(CRDS, crd["metadata"]["name"], crd, into=msgspec.Raw)
    types = tmp_path / "instance-types.json"
    types.write_text(json.dumps(instance_types()))
    karpenter = Karpenter(stage)
    await karpenter.prepare()

    async def is_served() -> bool:
        try:
            for kind in (NODE_POOLS, NODE_CLAIMS, NODE_CLASSES):
                await stage.api.list(kind, into=msgspec.Raw)
        except NotFound:
            return False
        return True

    await eventually(is_served, "Karpenter's kinds are served", 60)
    async with AsyncExitStack() as programs_running:
        kwok = (
            f"--kubeconfig={kubeconfig}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{free_port()}",
        )
        await programs_running.enter_async_context(running(tmp_path, programs["kwok"], *kwok))
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(free_port()),
            "HEALTH_PROBE_PORT": str(free_port()),
            "INSTANCE_TYPES_FILE_PATH": str(types),
        }
        await programs_running.enter_async_context(
            running(tmp_path, programs["karpenter"], **settings)
        )
        yield karpenter
        await karpenter.close_pool()
    await karpenter.clean_up()


async def test_karpenter_adds_and_removes_nodes(stage: Stage, karpenter: Karpenter) -> None:
    """From no node through a NodePool at its limit to five desktops, and back to no node."""
    template = await gpu_template(stage)
    names = [f"s{number}" for number in range(5)]
    await karpenter.open_pool({"nvidia.com/gpu": "2"})
    assert await karpenter.nodes() == []
    async with stage.operator(autoscaling=karpenter.settings()):
        for name in names:  # in line one after the other
            await stage.session(name, template, user=f"{name}@x.yz")
            await karpenter.said(name, " in line: ")
        await karpenter.said("s0", "A node is being added (requested at ")
        await karpenter.runs("s0", "s1")
        session = await karpenter.said("s2", "exceed limits for nodepool")
        assert session["status"]["queue"]["position"] == 1, (
            "the first two in line had the first two nodes"
        )
        placeholders = {pod["metadata"]["uid"] for pod in await karpenter.has(3)}
        stage.proxy.passed.clear()
        for number in range(3):  # three changes later
            await stage.session(f"other{number}", "unknown", user="o@x.yz")
            await stage.reach(f"other{number}", "Pending", seconds=60)
        assert {pod["metadata"]["uid"] for pod in await karpenter.placeholders()} == placeholders
        assert not [
            sent
            for sent in stage.proxy.passed
            if sent.is_write and karpenter.namespace in sent.path
        ]
        assert len(await karpenter.nodes()) == 2

        more = {"spec": {"limits": {"nvidia.com/gpu": "5"}}}
        await stage.api.patch(NODE_POOLS, stage.namespace, more, into=dict)
        sessions = await karpenter.runs(*names)
        assert len({session["status"]["nodeName"] for session in sessions}) == 5, "a GPU each"
        await karpenter.has(0, _MINUTES)
        for name in names:
            await stage.delete(SESSIONS, name)
        await karpenter.has_nodes(0)

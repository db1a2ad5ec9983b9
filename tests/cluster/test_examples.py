"""Every file of docs/examples, applied unchanged by kubectl to a real API server with the real
operator.

The test plays the kubelet, so no image is pulled here; tests/e2e runs the image that the examples
name.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cluster.control_plane import empty_namespace, make_namespace
from cluster.operator_stage import Object, Stage, open_stage
from cluster.stand_in import Administrator
from support.waiting import eventually
from vdi.kinds import POOLS
from vdi.kube.resource import CLAIMS, PODS, Resource

FOLDER = Path(__file__).parents[2] / "docs/examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
# Another example that the first comment of an example names.
BESIDE = {"session.yaml": FOLDER / "template-cpu.yaml"}
NAMESPACE = "vdi-sessions"
CLAIM = "persistentVolumeClaim"
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
NVIDIA: Object = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "nvidia"}


@pytest.fixture(scope="module")
def installed(administrator: Administrator) -> Iterator[None]:
    """The namespace that the chart makes with its own values, which the examples name."""
    administrator.run(partial(make_namespace, name=NAMESPACE))
    yield
    administrator.run(partial(empty_namespace, name=NAMESPACE))


@pytest.fixture
async def stage(
    installed: None, kubeconfig: Path, kubectl: list[str], tmp_path: Path
) -> AsyncIterator[Stage]:
    """The operator's stage in that namespace; what the examples have made is gone afterwards."""
    async with open_stage(kubeconfig, NAMESPACE, tmp_path) as made:
        yield made
    for kinds in ("vditemplates,vdipools,vdisessions", "runtimeclasses"):
        await run([*kubectl, "delete", kinds, "--all", "--namespace", NAMESPACE, "--wait=false"])


async def run(command: list[str]) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 0, done.stderr


async def apply(kubectl: list[str], path: Path) -> list[Any]:
    await run([*kubectl, "apply", "-f", str(path)])
    return list(yaml.safe_load_all(await asyncio.to_thread(path.read_text)))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
async def test_example_works_unchanged(stage: Stage, kubectl: list[str], path: Path) -> None:
    async with stage.operator():
        if path.name in BESIDE:
            await apply(kubectl, BESIDE[path.name])
        made = await apply(kubectl, path)
        pooled = {one["spec"]["template"] for one in made if one["kind"] == "VDIPool"}
        for one in made:
            name, kind = one["metadata"]["name"], one["kind"]
            if kind == "VDIPool":
                await fill(stage, name, one["spec"]["replicas"])
            elif kind == "VDISession":
                await stage.run(name)
            elif name not in pooled:
                await stage.session(f"of-{name}", name)
                if path.name == "template-gpu.yaml":
                    await needs_the_runtime_class(stage, f"of-{name}")
                await stage.run(f"of-{name}")
        await expect_complete(stage)


async def expect_complete(stage: Stage) -> None:
    """Pods refer to nothing that is missing, which a kubelet would wait for, and have the image of
    `make demo`.
    """
    claims = {one["metadata"]["name"] for one in await stage.all(CLAIMS)}
    for pod in await stage.all(PODS):
        spec = pod["spec"]
        assert {
            volume[CLAIM]["claimName"] for volume in spec.get("volumes", ()) if CLAIM in volume
        } <= claims
        assert "imagePullSecrets" not in spec
        assert [container["image"] for container in spec["containers"]] == [
            "localhost/vdi/desktop:dev"
        ]


async def fill(stage: Stage, name: str, ready: int) -> None:
    """Play the kubelet for a pool's desktops, until the pool has those that it should have."""

    async def desktops() -> list[Object]:
        found = [
            pod
            for pod in await stage.all(PODS)
            if "vdi.kasm.io/pool" in pod["metadata"].get("annotations", {})
        ]
        return found if len(found) == ready else []

    for pod in await eventually(desktops, f"pool {name} has {ready} pods"):
        await stage.make_ready(pod)

    async def full() -> bool:
        pool = await stage.api.get(POOLS, name, into=dict)
        return bool(pool["status"].get("ready") == ready)

    await eventually(full, f"pool {name} has {ready} desktops")


async def needs_the_runtime_class(stage: Stage, session: str) -> None:
    """Without what the file's comment names the session says what is missing; with it, it starts by
    itself.
    """
    await stage.reach(session, "Failed", 'RuntimeClass "nvidia" not found')
    made = {**NVIDIA, "metadata": {"name": "nvidia"}}
    await stage.api.create(RUNTIME_CLASSES, made, into=msgspec.Raw)

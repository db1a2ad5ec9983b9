"""A cluster that a release can be ready on, without kubelets: a node, a StorageClass, and pods that
are made Ready.

A pod with an image of `BROKEN` stays as a kubelet leaves one that it cannot pull.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec

from cluster.helm_tools import Tools
from cluster.stand_in import in_background, nodes_stand_in
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.main import main
from vdi.kube.config import load_config
from vdi.kube.errors import KubeError
from vdi.kube.resource import CLAIMS, PODS, STORAGE_CLASSES, VOLUMES
from vdi.kube.transport import Client

# Repository of an image that cannot be pulled.
BROKEN = "registry.example.com/nowhere"
_PULL = {
    "reason": "ImagePullBackOff",
    "message": "Back-off pulling image: ErrImagePull: manifest unknown",
}
Object = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """`vdi` as a program, with one helm, on one cluster."""

    tools: Tools

    def words(self, words: tuple[str, ...], values: str) -> list[str]:
        """The command's words, with the cluster, the helm and a values file."""
        where = ("--helm", str(self.tools.helm_binary), "--kubeconfig", str(self.tools.kubeconfig))
        command = [words[0], *where, *words[1:]]
        if not values:
            return command
        file = self.tools.home / "values.yaml"
        file.write_text(values)
        return [*command, "-f", str(file)]

    def run(self, *words: str, values: str = "", status: int = 0) -> str:
        """The output of a `vdi` command, stdout and then stderr. In this process, which spares each
        its start.
        """
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            ended = main(self.words(words, values))
        said = out.getvalue() + err.getvalue()
        assert ended == status, f"{ended}\n{said}"
        return said

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """A `vdi` command as a program of its own."""
        command = [sys.executable, "-m", "vdi", *self.words(words, "")]
        out = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True
        )

    def revisions(self) -> list[tuple[int, str]]:
        """(revision, status), the newest first."""
        done = self.tools.helm("history", "vdi", "--namespace", RELEASE_NAMESPACE, "-o", "json")
        assert done.returncode == 0, done.stderr
        return [(load["revision"], load["status"]) for load in reversed(json.loads(done.stdout))]

    def there(self, *words: str) -> list[str]:
        """Names of what kubectl gets."""
        return self.tools.kubectl("get", "--ignore-not-found", *words, "-o", "name").split()

    def operator(self) -> AbstractContextManager[None]:
        """A real operator at work, in the place of the one whose pods only look as if they ran."""
        return operator_process(
            self.tools, self.tools.kubeconfig, {"VDI_NAMESPACE": "vdi-sessions"}
        )


@contextmanager
def operator_process(tools: Tools, kubeconfig: Path, environment: dict[str, str]) -> Iterator[None]:
    """`vdi operator run` with this kubeconfig, while the context lasts."""
    given = {
        **os.environ,
        **environment,
        "KUBECONFIG": str(kubeconfig),
        "VDI_METRICS_ADDR": "127.0.0.1:0",
    }
    command = [sys.executable, "-m", "vdi", "operator", "run"]
    with (tools.home / "operator.log").open("a") as log:
        process = subprocess.Popen(
            command, env=given, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(15)


@contextmanager
def operator_of(tools: Tools, namespace: str) -> Iterator[None]:
    """The operator of a release, as its ServiceAccount and with the variables of its Deployment."""
    kubeconfig = tools.kubeconfig_of("vdi-operator", namespace)
    deployment = tools.get("deployment", "vdi-operator", "-n", namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    del environment["VDI_GATEWAY_URL"]  # no gateway runs
    with operator_process(tools, kubeconfig, environment):
        yield


@contextmanager
def pods_get_ready(kubeconfig: Path) -> Iterator[None]:
    """A node that is Ready, a default StorageClass, bound claims, and pods that become Ready as
    they come.
    """
    with kubelet(kubeconfig, _make_ready):
        yield


async def _make_ready(api: Client) -> None:
    for pod in await api.list(PODS, field_selector="spec.nodeName!=", into=Object):
        await look_after(api, pod)
    await bind_claims(api)


@contextmanager
def kubelet(kubeconfig: Path, look: Callable[[Client], Awaitable[None]]) -> Iterator[None]:
    """A node that is Ready, and in a thread what looks after its pods, while the context lasts."""

    async def live(ready: threading.Event) -> None:
        async with Client(load_config(kubeconfig), field_manager="stand-in") as api:
            ready.set()
            while True:
                with suppress(KubeError):
                    await look(api)
                await asyncio.sleep(0.2)

    with nodes_stand_in(kubeconfig), in_background("the kubelet's stand-in", live):
        yield


async def bind_claims(api: Client) -> None:
    """A volume for each claim, of the default StorageClass."""
    await api.apply(STORAGE_CLASSES, "local-path", _storage_class(), into=msgspec.Raw)
    for claim in await api.list(CLAIMS, into=Object):
        if not claim["spec"].get("volumeName"):
            await api.create(VOLUMES, _volume(claim["metadata"]), into=msgspec.Raw)


async def look_after(api: Client, pod: Object) -> None:
    """Make it Ready, unless its image is broken."""
    if pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get(
        "containerStatuses"
    ):
        return
    broken = [one["name"] for one in pod["spec"]["containers"] if one["image"].startswith(BROKEN)]
    phase = "Pending" if broken else "Running"
    await set_status(
        api, pod, phase, {name: {"waiting": _PULL} for name in broken}, ready=not broken
    )


async def set_status(
    api: Client, pod: Object, phase: str, states: dict[str, Object], *, ready: bool
) -> None:
    """Containers without a state run."""
    status, meta = pod.get("status") or {}, pod["metadata"]
    running = {"running": {"startedAt": meta["creationTimestamp"]}}
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": states.get(container["name"], running),
        }
        for container in pod["spec"]["containers"]
    ]
    flag = "True" if ready else "False"
    conditions = [
        *(
            condition
            for condition in status.get("conditions") or ()
            if condition["type"] == "PodScheduled"
        ),
        *({"type": kind, "status": flag} for kind in ("Ready", "ContainersReady", "Initialized")),
    ]
    patch = {"status": {"phase": phase, "conditions": conditions, "containerStatuses": containers}}
    await api.patch(
        PODS,
        meta["name"],
        patch,
        namespace=meta["namespace"],
        subresource="status",
        into=msgspec.Raw,
    )


def _volume(claim: Object) -> Object:
    """The volume that Kubernetes binds to the claim."""
    owner = {
        "kind": "PersistentVolumeClaim",
        **{key: claim[key] for key in ("namespace", "name", "uid")},
    }
    spec = {
        "capacity": {"storage": "100Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "local-path",
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": "/nowhere"},
        "claimRef": owner,
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pv-{claim['uid']}"},
        "spec": spec,
    }


def _storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "vdi.test/none",
        "volumeBindingMode": "Immediate",
    }

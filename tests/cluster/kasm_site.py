"""A K3s as an API server sees it: nodes, Traefik with ServiceLB, local-path, all placed by hand;
nothing runs.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import Tools, open_tools
from cluster.stand_in import STAND_IN, add_node, nodes_stand_in, remove_node
from vdi.cli.main import main
from vdi.devcluster.binaries.components import KUBERNETES
from vdi.kube.config import load_config
from vdi.kube.resource import DAEMON_SETS, NODES, PODS, SERVICES, STORAGE_CLASSES, Resource
from vdi.kube.transport import Client

Object = dict[str, Any]
# Of the node: no one listens there unless a test does.
ADDRESS = "127.0.0.77"
SVCLB = {
    "svccontroller.k3s.cattle.io/svcname": "traefik",
    "svccontroller.k3s.cattle.io/svcnamespace": "kube-system",
}
TRAEFIK = {"app.kubernetes.io/name": "traefik"}
K3S = f"{KUBERNETES}+k3s1"
_NODE_INFO = {
    "machineID": "",
    "systemUUID": "",
    "bootID": "",
    "kernelVersion": "6.1",
    "osImage": "Debian",
    "containerRuntimeVersion": "containerd://2.1",
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": "amd64",
}


@dataclass
class KasmK3s:
    """Commands at a K3s that is placed by hand."""

    tools: Tools
    capsys: pytest.CaptureFixture[str]

    def kasm(self, *words: str, kubeconfig: Path | None = None) -> tuple[int, Object]:
        """Exit status and data of a `vdi kasm` command."""
        credentials = ("--kubeconfig", str(kubeconfig or self.tools.kubeconfig))
        status = main(["kasm", *words, *credentials, "-o", "json"])
        said = self.capsys.readouterr()
        assert said.out, said.err
        data: Object = json.loads(said.out)
        return status, data

    def preflight(
        self, *words: str, kubeconfig: Path | None = None
    ) -> tuple[int, dict[str, Object]]:
        """Exit status, and findings by code."""
        status, data = self.kasm("preflight", "--hostname", ADDRESS, *words, kubeconfig=kubeconfig)
        return status, {line["code"]: line for line in data["findings"]}

    def apply(self, *objects: Object) -> None:
        given = yaml.safe_dump_all(list(objects))
        self.tools.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=given)


@contextmanager
def open_k3s(folder: Path) -> Iterator[Tools]:
    """One K3s node with 8 CPUs, Traefik behind ServiceLB, and local-path; an empty namespace
    kasm.
    """
    with (
        open_tools(folder, f"k{os.getpid():x}") as tools,
        nodes_stand_in(tools.kubeconfig) as administrator,
    ):
        administrator.run(lambda api: remove_node(api, STAND_IN))
        asyncio.run(_make(tools.kubeconfig))
        tools.kubectl("create", "namespace", "kasm")
        tools.kubectl(
            "wait", "serviceaccount/default", "--for=create", "-n", "kasm", "--timeout=30s"
        )
        yield tools


async def _make(kubeconfig: Path) -> None:
    async with Client(load_config(kubeconfig), field_manager="test") as api:
        room = {"cpu": "8", "memory": "16Gi", "ephemeral-storage": "120G", "pods": "110"}
        await add_node(api, "k3s-1", room)
        about = {
            "nodeInfo": {**_NODE_INFO, "kubeletVersion": K3S},
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
        }
        await api.patch(NODES, "k3s-1", {"status": about}, subresource="status", into=dict)
        pods = [
            ("traefik-1", TRAEFIK, []),
            ("local-path-provisioner-1", {"app": "local-path-provisioner"}, []),
            (
                "svclb-traefik-1",
                {"app": "svclb-traefik", **SVCLB},
                [{"containerPort": 443, "hostPort": 443}],
            ),
        ]
        for name, labels, ports in pods:
            await run_pod(api, name, labels, ports)
        for kind, made in _others():
            await api.create(kind, made, namespace=made["metadata"].get("namespace"), into=dict)
        given = {"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}}
        await api.patch(
            SERVICES, "traefik", given, namespace="kube-system", subresource="status", into=dict
        )


async def run_pod(
    api: Client,
    name: str,
    labels: dict[str, str],
    ports: list[Object],
    *,
    namespace: str = "kube-system",
    requests: dict[str, str] | None = None,
) -> None:
    """A pod that is on the node, and that its kubelet calls ready."""
    container = {
        "name": "main",
        "image": "none",
        "ports": ports,
        "resources": {"requests": requests or {}},
    }
    pod = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": "k3s-1",
            "containers": [container],
            "automountServiceAccountToken": False,
        },
    }
    await api.create(PODS, pod, namespace=namespace, into=dict)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await api.patch(
        PODS, name, {"status": status}, namespace=namespace, subresource="status", into=dict
    )


def _others() -> Iterator[tuple[Resource, Object]]:
    ingress = Resource(
        "networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False
    )
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    meta: Object = {"name": "local-path", "annotations": default}
    yield STORAGE_CLASSES, {"metadata": meta, "provisioner": "rancher.io/local-path"}
    yield (
        ingress,
        {"metadata": {"name": "traefik"}, "spec": {"controller": "traefik.io/ingress-controller"}},
    )
    where = {"name": "traefik", "namespace": "kube-system", "labels": TRAEFIK}
    ports = [{"name": "websecure", "port": 443}]
    yield (
        SERVICES,
        {"metadata": where, "spec": {"type": "LoadBalancer", "selector": TRAEFIK, "ports": ports}},
    )
    match = {"matchLabels": {"app": "svclb-traefik-none"}}
    template = {
        "metadata": {"labels": match["matchLabels"]},
        "spec": {
            "nodeSelector": {"none": "none"},
            "containers": [{"name": "main", "image": "none"}],
        },
    }
    meta = {"name": "svclb-traefik-1a2b3c4d", "namespace": "kube-system", "labels": SVCLB}
    yield DAEMON_SETS, {"metadata": meta, "spec": {"selector": match, "template": template}}


@contextmanager
def in_path(*programs: Path) -> Iterator[None]:
    """With the folders of these programs before all others in PATH."""
    folders = os.pathsep.join(str(program.parent) for program in programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folders}{os.pathsep}{os.environ['PATH']}")
        yield


def helm_of(tools: Tools, *words: str) -> None:
    """Helm, which has to succeed."""
    done: subprocess.CompletedProcess[str] = tools.helm(*words)
    assert done.returncode == 0, done.stderr

"""`vdi gpu` and scripts/configure_gpu_slicing.sh against a real API server, controller manager and
scheduler.

There is no GPU here: what the device plugin tells the nodes is played by `gpu_player`. The control
plane is one of its own, since nodes that are shared would be in the way of other tests.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.gpu_player import CRD, NAMESPACE, PLUGIN, POLICY, daemon_set, played
from cluster.helm_tools import Tools, open_tools
from cluster.stand_in import STAND_IN, add_node, nodes_stand_in
from support.waiting import wait_until
from tools.generate.chart_render import DEV_IMAGES
from vdi.kube.config import load_config
from vdi.kube.transport import Client

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "configure_gpu_slicing.sh"
MANIFESTS = CONFIG_MAP, PATCH = [
    ROOT / "manifests" / name for name in ("gpu-time-slicing.yaml", "gpu-cluster-policy-patch.yaml")
]
CHART = ROOT / "charts" / "vdi"
GPUS = {"gpu-a": 1, "gpu-b": 2}
CONFIG_MAPS = ("time-slicing-config", "plugin-configs")
ROOM = {"cpu": "8", "memory": "32Gi", "pods": "50"}
SHARED = "nvidia.com/gpu"


class GpuCluster(Tools):
    """The cluster and what is typed at it."""

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
        return {**ours, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=80,
        )

    def gpu(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "vdi", "gpu", *words)

    def advertised(self, resource: str = SHARED) -> list[int]:
        return [
            int(self.get("node", name)["status"]["allocatable"].get(resource, 0)) for name in GPUS
        ]

    def codes(self) -> list[str]:
        return [
            finding["code"]
            for finding in json.loads(self.gpu("verify", "-o", "json").stdout)["findings"]
        ]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuCluster]:
    with open_tools(tmp_path_factory.mktemp("gpu-control-plane"), f"g{os.getpid():x}") as tools:
        gpus = GpuCluster(tools.helm_binary, tools.kubectl_binary, tools.kubeconfig, tools.home)
        with nodes_stand_in(gpus.kubeconfig):
            gpus.kubectl("delete", "node", STAND_IN)
            gpus.kubectl("apply", "-f", "-", stdin=json.dumps(CRD))
            gpus.kubectl(
                "wait",
                "--for=condition=Established",
                "crd/clusterpolicies.nvidia.com",
                "--timeout=20s",
            )
            gpus.kubectl("create", "namespace", NAMESPACE)
            gpus.kubectl(
                "wait",
                "serviceaccount/default",
                "--for=create",
                "--namespace",
                NAMESPACE,
                "--timeout=30s",
            )
            yield gpus


@pytest.fixture
def nodes(gpus: GpuCluster) -> Iterator[GpuCluster]:
    """Two nodes, with 1 and 2 GPUs; nothing of NVIDIA's installed."""

    async def add() -> None:
        async with Client(load_config(gpus.kubeconfig), field_manager="test") as api:
            for name, count in GPUS.items():
                labels = {
                    "nvidia.com/gpu.present": "true",
                    "nvidia.com/gpu.count": str(count),
                    "nvidia.com/gpu.product": "NVIDIA-L4",
                    "nvidia.com/gpu.memory": "23034",
                }
                await add_node(api, name, {**ROOM, SHARED: str(count)}, labels=labels)

    asyncio.run(add())
    yield gpus
    gpus.kubectl("delete", "clusterpolicy", "--all")
    gpus.kubectl(
        "delete",
        "daemonset",
        "--all",
        "--namespace",
        NAMESPACE,
        "--cascade=foreground",
        "--timeout=40s",
    )
    gpus.kubectl(
        "delete", "configmap", "--namespace", NAMESPACE, "--ignore-not-found", *CONFIG_MAPS
    )
    gpus.kubectl("delete", "node", *GPUS)


@pytest.fixture
def operator(nodes: GpuCluster) -> Iterator[GpuCluster]:
    """NVIDIA's GPU Operator as it comes: nothing shared."""
    nodes.kubectl("apply", "-f", "-", stdin=json.dumps(POLICY))
    status = {"status": {"namespace": NAMESPACE, "state": "ready"}}
    words = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    nodes.kubectl("patch", "clusterpolicy", "cluster-policy", *words)
    with played(nodes.kubeconfig, GPUS):
        wait_until("the device plugin runs", lambda: plugin_ready(nodes))
        yield nodes


def plugin_ready(gpus: GpuCluster) -> bool:
    found = gpus.get("daemonset", "--namespace", NAMESPACE)["items"]
    return len(found) > 0 and all(each["status"].get("numberReady") == len(GPUS) for each in found)


def pods(gpus: GpuCluster) -> set[str]:
    found = gpus.get("pods", "--namespace", NAMESPACE, "-l", f"app={PLUGIN}")["items"]
    return {
        each["metadata"]["uid"] for each in found if "deletionTimestamp" not in each["metadata"]
    }


@pytest.mark.long
def test_configure_shares_gpus_among_8_and_undo_reverts(operator: GpuCluster) -> None:
    assert operator.codes() == ["gpu_sharing_not_configured"]
    assert operator.gpu("verify").returncode == 1

    dry = operator.gpu("configure", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "+++ ClusterPolicy cluster-policy (then)" in dry.stdout
    assert re.search(r"^  \+ +default: any$", dry.stdout, re.MULTILINE)
    assert "isolates neither memory nor faults" in dry.stdout
    assert operator.codes() == ["gpu_sharing_not_configured"]

    done = operator.gpu("configure", "--timeout", "20s")
    assert done.returncode == 0, done.stderr + done.stdout
    assert operator.advertised() == [8, 16]
    assert "✓ node gpu-b: 2 GPUs x 8 = 16 nvidia.com/gpu" in done.stdout
    assert re.search(
        r"^✓ the nodes advertise what they should \d+\.\ds$", done.stderr, re.MULTILINE
    ), done.stderr
    config = operator.get("clusterpolicy", "cluster-policy")["spec"]["devicePlugin"]["config"]
    assert config == {"name": "time-slicing-config", "default": "any"}
    verified = operator.gpu("verify")
    assert (verified.returncode, verified.stderr) == (0, "")

    before = pods(operator)
    again = operator.gpu("configure")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "Nothing to change.")
    assert pods(operator) == before

    undone = operator.gpu("configure", "--undo", "--timeout", "20s")
    assert undone.returncode == 0, undone.stderr + undone.stdout
    assert operator.advertised() == [1, 2]
    assert operator.get("clusterpolicy", "cluster-policy")["spec"] == POLICY["spec"]
    assert "time-slicing-config" not in operator.kubectl(
        "get", "configmap", "--namespace", NAMESPACE, "-o", "name"
    )
    assert operator.gpu("configure", "--undo").returncode == 1


def script(gpus: GpuCluster, *words: str, timeout: int = 40) -> subprocess.CompletedProcess[str]:
    """configure_gpu_slicing.sh where there is kubectl and no vdi, nor Python."""
    path = f"{gpus.kubectl_binary.parent}:/usr/bin:/bin"
    environment = {
        "PATH": path,
        "HOME": str(gpus.kubeconfig.parent),
        "KUBECONFIG": str(gpus.kubeconfig),
        "TIMEOUT": str(timeout),
    }
    command = [str(SCRIPT), *words]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=80,
    )


@pytest.mark.long
def test_the_script_shares_each_gpu_among_8_with_kubectl_alone(operator: GpuCluster) -> None:
    before = pods(operator)
    done = script(operator)
    assert done.returncode == 0, done.stderr + done.stdout
    assert operator.advertised() == [8, 16]
    assert "✓ node gpu-a: 1 x 8 = 8 nvidia.com/gpu" in done.stdout
    assert "✓ node gpu-b: 2 x 8 = 16 nvidia.com/gpu" in done.stdout
    assert "isolates neither memory nor faults" in done.stdout
    config = operator.get("clusterpolicy", "cluster-policy")["spec"]["devicePlugin"]
    assert config == {"enabled": True, "config": {"name": "time-slicing-config", "default": "any"}}
    assert not pods(operator) & before
    wait_until("vdi gpu verify agrees", lambda: operator.gpu("verify").returncode == 0)

    # Again, after somebody has changed the number: the device plugin reads a ConfigMap only when it
    # starts.
    text = operator.get("configmap", "time-slicing-config", "--namespace", NAMESPACE)["data"]["any"]
    patch = json.dumps({"data": {"any": text.replace("8", "5"), "mine": "version: v1"}})
    operator.kubectl(
        "patch",
        "configmap",
        "time-slicing-config",
        "--namespace",
        NAMESPACE,
        "--type=merge",
        "-p",
        patch,
    )
    again = script(operator)
    assert again.returncode == 0, again.stderr + again.stdout
    assert operator.advertised() == [8, 16]
    data = operator.get("configmap", "time-slicing-config", "--namespace", NAMESPACE)["data"]
    assert data == {"any": text, "mine": "version: v1"}


@pytest.mark.long
def test_script_names_unshared_nodes_with_the_reason(operator: GpuCluster) -> None:
    operator.kubectl("label", "node", "gpu-a", "nvidia.com/device-plugin.config=mine")
    operator.kubectl("label", "node", "gpu-b", "--overwrite", "nvidia.com/gpu.count=3")
    done = script(operator, timeout=15)
    assert done.returncode == 1
    assert (
        "✗ node gpu-a: 1 nvidia.com/gpu instead of 8: its label selects the configuration mine."
        in done.stdout
    )
    assert "kubectl label node gpu-a nvidia.com/device-plugin.config-" in done.stdout
    assert "✗ node gpu-b: 16 nvidia.com/gpu instead of 24" in done.stdout
    assert "Not all nodes advertise 8 per GPU" in done.stderr


@pytest.mark.ci
def test_script_changes_nothing_without_the_gpu_operator(nodes: GpuCluster) -> None:
    done = script(nodes)
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no ClusterPolicy cluster-policy" in done.stderr
    assert "helm install gpu-operator" in done.stderr
    assert "time-slicing-config" not in nodes.kubectl(
        "get", "configmap", "--namespace", NAMESPACE, "-o", "name"
    )
    assert script(nodes, "--replicas", "4").returncode == 2


@pytest.mark.long
def test_the_manifests_do_the_same_as_configure(operator: GpuCluster) -> None:
    for file in MANIFESTS:
        # Neither of them makes half a ClusterPolicy.
        assert "kind: ClusterPolicy" not in file.read_text()
    refused = operator.run(operator.kubectl_binary, "apply", "-f", PATCH)
    assert refused.returncode == 1
    assert "kind not set" in refused.stderr

    operator.kubectl("apply", "-f", str(CONFIG_MAP))
    without_default = json.dumps(
        {"spec": {"devicePlugin": {"config": {"name": "time-slicing-config"}}}}
    )
    operator.kubectl(
        "patch", "clusterpolicy/cluster-policy", "--type", "merge", "-p", without_default
    )
    wait_until(
        "the Operator has taken it up", lambda: operator.codes() == ["gpu_default_key_unset"]
    )
    assert operator.advertised() == [1, 2]

    operator.kubectl(
        "patch", "clusterpolicy", "cluster-policy", "--type=merge", "--patch-file", str(PATCH)
    )
    wait_until("8 per GPU", lambda: operator.gpu("verify").returncode == 0)
    assert operator.advertised() == [8, 16]

    back = '[{"op": "remove", "path": "/spec/devicePlugin/config"}]'  # as docs/gpu.md has it
    operator.kubectl("patch", "clusterpolicy", "cluster-policy", "--type=json", "-p", back)
    operator.kubectl("delete", "configmap", "time-slicing-config", "--namespace", NAMESPACE)
    wait_until("nothing is shared", lambda: operator.advertised() == [1, 2])


@pytest.mark.long
def test_the_charts_config_map_does_the_same(operator: GpuCluster) -> None:
    on = (
        "--values",
        DEV_IMAGES,
        "--set",
        "gpu.timeSlicing.enabled=true",
        "--set",
        "gpu.timeSlicing.configs.big=2",
    )
    helm = (operator.helm_binary, "--kubeconfig", operator.kubeconfig)
    nowhere = (
        "--dry-run=server",
        "--create-namespace",
        "--set",
        "gpu.timeSlicing.namespace=nowhere",
    )
    refused = operator.run(
        *helm, "install", "vdi", CHART, "--namespace", "vdi-system", *on, *nowhere
    )
    assert refused.returncode == 1
    assert (
        "gpu.timeSlicing.namespace: nowhere does not exist: install NVIDIA's GPU Operator"
        in refused.stderr
    )

    rendered = operator.run(
        *helm, "template", "vdi", CHART, *on, "--show-only", "templates/gpu.yaml"
    )
    made = yaml.safe_load(rendered.stdout)
    made["metadata"]["annotations"] = {"meta.helm.sh/release-name": "vdi"}
    operator.kubectl(
        "apply", "--server-side", "--field-manager=helm", "-f", "-", stdin=json.dumps(made)
    )
    done = operator.gpu("configure", "--config", "big=2", "--node", "gpu-b=big", "--timeout", "20s")
    assert done.returncode == 0, done.stderr + done.stdout
    assert operator.advertised() == [8, 4]
    kept = operator.get("configmap", "time-slicing-config", "--namespace", NAMESPACE)
    assert kept["data"] == made["data"]
    assert (
        "belongs to the Helm release vdi: set the same content in that release's values"
        in done.stdout
    )

    assert operator.gpu("configure", "--undo", "--timeout", "20s").returncode == 0
    assert operator.advertised() == [1, 2]
    assert (
        operator.get("configmap", "time-slicing-config", "--namespace", NAMESPACE)["data"]
        == made["data"]
    )


@pytest.mark.long
def test_ctrl_c_ends_the_wait_for_gpus(operator: GpuCluster) -> None:
    """No one plays the device plugin of a node that has just come, so there is something to wait
    for.
    """
    operator.kubectl("label", "node", "gpu-b", "--overwrite", "nvidia.com/gpu.count=3")
    words = [sys.executable, "-m", "vdi", "gpu", "configure"]
    with subprocess.Popen(
        words, env=operator.environment, stdout=-1, stderr=-1, text=True
    ) as process:
        try:
            assert process.stderr is not None
            seen = ""
            while "instead of 24" not in seen:
                line = process.stderr.readline()
                assert line, seen
                seen += line
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=40)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Interrupted. Changes so far are kept" in rest
    assert "Traceback" not in rest


@pytest.mark.long
def test_gpu_configuration_timeout_is_reported(operator: GpuCluster) -> None:
    operator.kubectl("label", "node", "gpu-b", "--overwrite", "nvidia.com/gpu.count=3")
    late = operator.gpu("configure", "--timeout", "5s")
    assert late.returncode == 1
    assert "advertises 16 nvidia.com/gpu instead of 24." in late.stdout
    assert "3 GPUs x 8 (configuration any)" in late.stdout
    assert "not done within 5s; check again: vdi gpu verify" in late.stderr


@pytest.mark.long
def test_a_static_device_plugin_without_any_configuration(nodes: GpuCluster) -> None:
    """No label says how many GPUs there are, either: what the nodes advertised before is noted."""
    for name in GPUS:
        nodes.kubectl("label", "node", name, "nvidia.com/gpu.count-")
    plain = daemon_set(PLUGIN, None, "")
    nodes.kubectl("create", "-f", "-", stdin=json.dumps(plain))
    before = nodes.get("daemonset", PLUGIN, "--namespace", NAMESPACE)["spec"]
    with played(nodes.kubeconfig, GPUS, operator=False, discovery=False):
        wait_until("the device plugin runs", lambda: plugin_ready(nodes))
        done = nodes.gpu("configure", "--timeout", "20s")
        assert done.returncode == 0, done.stderr + done.stdout
        assert nodes.advertised() == [8, 16]
        undone = nodes.gpu("configure", "--undo", "--timeout", "20s")
        assert undone.returncode == 0, undone.stderr + undone.stdout
        assert nodes.advertised() == [1, 2]
    assert nodes.get("daemonset", PLUGIN, "--namespace", NAMESPACE)["spec"] == before

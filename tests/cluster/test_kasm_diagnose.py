"""`vdi kasm diagnose` on a real API server, with the charts that stand for Kasm's three
generations.

What the API server, the controllers and the scheduler say is real; what a kubelet would say is
played. All of it for real, on a real node, is in tests/kasm.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.helm_tools import Tools
from kasm.kasm_ward import KasmStage
from support.clock import ShiftedClock
from support.kubeconfigs import write_kubeconfig
from support.waiting import wait_until
from vdi.doctor.collect import KASM_BUDGET, collect
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope

BEGAN = "2026-11-20T11:00:00Z"


CLASS: dict[str, Any] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "local-path",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "rancher.io/local-path",
    "volumeBindingMode": "WaitForFirstConsumer",
}


@pytest.fixture
def ward(
    helm: Path, kubectl: list[str], kubeconfig: Path, namespace: str, tmp_path: Path
) -> Iterator[KasmStage]:
    """Checked from half a minute ahead: no one makes the database's volume, and that is no fault so
    soon.
    """
    ward = KasmStage(
        Tools(helm, Path(kubectl[0]), kubeconfig, tmp_path), namespace, timedelta(seconds=30)
    )
    ward.tools.kubectl("apply", "-f", "-", stdin=json.dumps(CLASS))
    yield ward
    # Later tests' doctor looks at all namespaces.
    ward.kubectl("delete", "deployment,statefulset,job", "--all", "--wait=false")
    ward.kubectl("delete", "storageclass", "local-path")


def pod_of(ward: KasmStage, start: str) -> str:
    """The pod whose name begins so, as soon as it is there."""

    def look() -> str:
        names = ward.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}").split()
        return next((name for name in names if name.startswith(start)), "")

    return wait_until(f"pod {start}", look)


def play(ward: KasmStage, start: str, done: int, **main: Any) -> None:
    """Play the kubelet: so many init containers are done; the next one runs, or the container is as
    `main` says.
    """
    pod = json.loads(ward.kubectl("get", "pod", pod_of(ward, start), "-o", "json"))
    base = {"image": "x", "imageID": "x", "restartCount": 0, "ready": False}
    steps = []
    for place, step in enumerate(pod["spec"].get("initContainers") or ()):
        ended = {
            "terminated": {
                "exitCode": 0,
                "reason": "Completed",
                "startedAt": BEGAN,
                "finishedAt": BEGAN,
            }
        }
        later = (
            {"running": {"startedAt": BEGAN}}
            if place == done
            else {"waiting": {"reason": "PodInitializing"}}
        )
        steps.append({**base, "name": step["name"], "state": ended if place < done else later})
    waiting = {"state": {"waiting": {"reason": "PodInitializing"}}}
    name = pod["spec"]["containers"][0]["name"]
    status = {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": BEGAN}],
        "initContainerStatuses": steps,
        "containerStatuses": [{**base, "name": name, **(main or waiting)}],
    }
    change = json.dumps({"status": status})
    words = [
        "patch",
        "pod",
        pod["metadata"]["name"],
        "--subresource",
        "status",
        "--type",
        "merge",
        "--patch",
        change,
    ]
    wait_until(
        "it is on a node",
        lambda: ward.kubectl("get", "pod", words[2], "-o", "jsonpath={.spec.nodeName}"),
    )
    ward.kubectl(*words)


def test_first_wait_differs_between_generations_a_and_b(ward: KasmStage, tmp_path: Path) -> None:
    ended = {
        "terminated": {"exitCode": 3, "reason": "Error", "startedAt": BEGAN, "finishedAt": BEGAN}
    }
    crash = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": ended,
        "restartCount": 4,
    }
    ward.install("a")
    play(ward, "kasm-manager-deployment-", 1, **crash)
    play(ward, "kasm-proxy-deployment-", 1)
    ward.finds("kasm_crashes", "pod/kasm-manager-deployment-", seconds=30)
    assert "Init:1/5 (chart kasm-single-zone-1.17.0)" in ward.message_of("kasm-proxy-deployment-")
    assert "second init container kasm-manager-is-ready" in ward.message_of(
        "kasm-proxy-deployment-"
    )
    bundle = tmp_path / "kasm.json"
    place = ["--namespace", ward.namespace, "--kubeconfig", str(ward.tools.kubeconfig)]
    assert vdi("diagnose", *place, "--bundle", str(bundle))[0] == 1
    code, said = vdi("diagnose", "kasm-proxy-deployment", "--from", str(bundle))
    assert code == 1
    assert said.startswith("ERROR    kasm_crashes  pod/")
    assert "kasm-manager-is-ready" in said
    assert vdi("diagnose", "kasm-prox", "--from", str(bundle))[0] == 1
    assert b"db-password" not in bundle.read_bytes()

    ward.tools.helm("uninstall", "kasm", "--namespace", ward.namespace, "--wait=false")
    ward.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
    # A hook of A's, which no uninstallation removes.
    ward.kubectl("delete", "secret", "kasm-secrets")
    ward.kubectl("delete", "pvc", "--all", "--wait=false")
    ward.install("b")
    play(ward, "kasm-api-deployment-", 1, **crash)
    play(ward, "kasm-proxy-default-deployment-", 1)
    ward.finds("kasm_crashes", "pod/kasm-api-deployment-", seconds=30)
    assert "Init:1/5 (chart kasm-1.1181.1)" in ward.message_of("kasm-proxy-default-deployment-")
    assert "second init container kasm-api-is-ready" in ward.message_of(
        "kasm-proxy-default-deployment-"
    )


def vdi(*words: str) -> tuple[int, str]:
    """As somebody types it."""
    environment = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "vdi", "kasm", *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_diagnosis_works_with_rights_in_one_namespace(ward: KasmStage, tmp_path: Path) -> None:
    ward.install("c", database__storage__storageClassName="longhorn", database__standalone="true")
    ward.kubectl("delete", "service", "kasm-api-default")
    play(ward, "kasm-proxy-default-", 0)
    kinds = "pods,pods/log,services,events.events.k8s.io,persistentvolumeclaims,endpointslices.discovery.k8s.io"
    kinds += ",deployments.apps,statefulsets.apps,jobs.batch"
    ward.kubectl("create", "serviceaccount", "helper")
    ward.kubectl("create", "role", "helper", "--verb=get,list", f"--resource={kinds}")
    ward.kubectl(
        "create",
        "rolebinding",
        "helper",
        "--role=helper",
        f"--serviceaccount={ward.namespace}:helper",
    )
    account = write_kubeconfig(
        ward.tools.kubeconfig, ward.kubectl("create", "token", "helper"), tmp_path / "account.yaml"
    )
    code, said = vdi("diagnose", "--namespace", ward.namespace, "--kubeconfig", str(account))
    assert code == 1
    assert said.startswith("ERROR    kasm_service_missing  service/")
    unknown = [line for line in said.splitlines() if line.startswith("UNKNOWN")]
    assert unknown == ["UNKNOWN  not_readable  kind/nodes"], said


def test_doctor_reads_kasm_within_its_request_budget(ward: KasmStage) -> None:
    async def count() -> int:
        requests: list[str] = []
        note = lambda method, plural, status, seconds: requests.append(plural)  # noqa: E731
        async with Client(
            load_config(ward.tools.kubeconfig), field_manager="test", on_request=note
        ) as client:
            await collect(client, Scope("default"), ShiftedClock())
        return len([request for request in requests if request != "pods/log"])

    before = asyncio.run(count())
    ward.install("c")
    # Who may list Services, EndpointSlices and StatefulSets of all namespaces has those of Kasm
    # among them.
    assert asyncio.run(count()) - before == KASM_BUDGET - 3

"""The rights that the chart grants are enough: the operator, with no others, takes a session from create to gone."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kubeconfigs import write_kubeconfig
from support.waiting import wait_until
from tools.generate import chart
from vdi.api.crd import build_crds

SESSIONS = "vdi-sessions"
TEMPLATE: dict[str, Any] = {
    "apiVersion": "vdi.kasm.io/v1alpha1",
    "kind": "VDITemplate",
    "metadata": {"name": "rights"},
    "spec": {"image": "localhost/vdi/desktop:dev", "prePull": True, "resources": {"defaultGPU": 0}},
}
HOMELESS = {
    "apiVersion": "vdi.kasm.io/v1alpha1",
    "kind": "VDITemplate",
    "metadata": {"name": "rights-homeless"},
    "spec": {**TEMPLATE["spec"], "prePull": False, "persistence": {"enabled": False}},
}
POOL = {
    "apiVersion": "vdi.kasm.io/v1alpha1",
    "kind": "VDIPool",
    "metadata": {"name": "rights"},
    "spec": {"template": "rights-homeless"},
}
SESSION = {
    "apiVersion": "vdi.kasm.io/v1alpha1",
    "kind": "VDISession",
    "metadata": {"name": "rights", "namespace": SESSIONS},
    "spec": {"user": "alice@example.com", "template": "rights", "persistence": {"retain": False}},
}
HERE = ("--namespace", SESSIONS)
CHILDREN = "pod,service,ingressroute,secret,pvc"

Kube = Callable[..., str]


@pytest.fixture
def kube(kubectl: list[str]) -> Kube:
    def run(*words: str, given: dict[str, Any] | None = None) -> str:
        command = [*kubectl, *words]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def operator(kube: Kube, kubeconfig: Path, tmp_path: Path) -> Iterator[Path]:
    """The operator as a process of its own, with the token of the chart's ServiceAccount; gives its log."""
    manifest = tmp_path / "vdi.yaml"
    manifest.write_text(chart.MANIFEST.read_text().replace('image: ""', "image: localhost/vdi/vdi:dev"))
    kube("apply", "--server-side", "--force-conflicts", "-f", str(manifest))
    for crd in build_crds():
        kube("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=20s")
    token = kube("create", "token", "vdi-operator", "--namespace", "vdi-system")
    write_kubeconfig(kubeconfig, token, tmp_path / "kubeconfig")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment = {**ours, "KUBECONFIG": str(tmp_path / "kubeconfig"), "VDI_METRICS_ADDR": "127.0.0.1:0"}
    log = tmp_path / "operator.log"
    command = [sys.executable, "-c", "from vdi.cli.main import main; main()", "operator", "run"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(15)
        sys.stderr.write(log.read_text())
        kube("delete", "vdipool", "rights", "--ignore-not-found")
        kube("delete", "vditemplate", "rights", "rights-homeless", "--ignore-not-found")
        deployments = ("deployment/vdi-operator", "deployment/vdi-gateway")
        kube("delete", "--wait=false", "--ignore-not-found", *deployments, "--namespace", "vdi-system")
        kube("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "-l", "app.kubernetes.io/name=vdi")


@pytest.mark.long
def test_rights_are_enough_for_a_session_from_create_to_gone(kube: Kube, operator: Path) -> None:
    def children() -> set[str]:
        found = kube("get", *HERE, CHILDREN, "-o", "name", "-l", "vdi.kasm.io/session=rights").split()
        return {each.split("/")[0].split(".")[0] for each in found}

    kube("create", "-f", "-", given=TEMPLATE)
    kube("create", "-f", "-", given=SESSION)
    every = {"pod", "service", "ingressroute", "secret", "persistentvolumeclaim"}
    wait_until("every child is there", lambda: children() == every)
    wait_until(
        "the status has a condition Ready",
        lambda: "Ready" in kube("get", *HERE, "vdi", "rights", "-o", "jsonpath={.status.conditions}"),
    )
    secret = json.loads(kube("get", *HERE, "secret", "-o", "json", "-l", "vdi.kasm.io/session=rights"))["items"][0]
    password = base64.b64decode(secret["data"]["password"]).decode()

    # Drift: what somebody has removed or changed comes back.
    kube("delete", *HERE, "service,ingressroute", "-l", "vdi.kasm.io/session=rights")
    wait_until("removed children are made again", lambda: children() == every)

    kube("patch", *HERE, "vdi", "rights", "--type=merge", "-p", '{"spec": {"suspended": true}}')
    kube("wait", *HERE, "vdi/rights", "--for=jsonpath={.status.phase}=Suspended", "--timeout=30s")

    kube("delete", *HERE, "vdi", "rights", "--timeout=30s")
    # The rest goes by Kubernetes' garbage collection, which learns of new kinds every 30 s: too long to wait here.
    assert "pod" not in children()
    assert "forbidden" not in operator.read_text().lower()
    assert password not in operator.read_text()


@pytest.mark.long
def test_rights_are_enough_for_pools_and_pulled_images(kube: Kube, operator: Path) -> None:
    for made in (TEMPLATE, HOMELESS, POOL):
        kube("create", "-f", "-", given=made)
    kube("wait", "vdipool/rights", "--for=jsonpath={.status.starting}=1", "--timeout=30s")
    wait_until(
        "the template tells how far its image is",
        lambda: kube("get", "vditemplate", "rights", "-o", "jsonpath={.status.prePull.desired}") == "1",
    )
    kube("scale", "vdipool", "rights", "--replicas=0")
    wait_until(
        "the pool has let its desktop go",
        lambda: kube("get", *HERE, "pod", "-o", "name", "-l", "vdi.kasm.io/pool=rights") == "",
    )
    assert "forbidden" not in operator.read_text().lower()

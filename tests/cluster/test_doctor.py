"""The doctor against a real API server: its reads, its permissions and its fixes.

Its rules are in tests/unit/doctor, faults of a real node in tests/doctor. There is no machine
behind the nodes: a test plays what a kubelet would report (`make_ready`).
"""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.doctor_ward import DoctorStage
from cluster.operator_stage import Stage
from vdi.doctor.collect import prepare_fix
from vdi.findings.model import Severity
from vdi.gpu.cluster import apply_change
from vdi.kube.errors import Conflict
from vdi.kube.resource import DEPLOYMENTS, NAMESPACES, Resource

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}, "resources": {"defaultGPU": 0}}


@pytest.fixture
async def ward(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kubectl: list[str]
) -> AsyncIterator[DoctorStage]:
    ward = DoctorStage(stage, monkeypatch, kubectl=kubectl)
    yield ward
    await ward.clear()


# Nothing is wrong


async def test_a_healthy_cluster_has_no_findings(ward: DoctorStage) -> None:
    ward.later = timedelta()
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.running("alice", template)
        await ward.stage.session("bob", template, user="bob@example.com")  # on its way
        assert ward.of_here(await ward.look()) == []


# Control plane


async def test_pod_security_refusal_is_found(ward: DoctorStage) -> None:
    await ward.deploy()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await ward.stage.api.patch(
        NAMESPACES, ward.namespace, {"metadata": {"labels": labels}}, into=msgspec.Raw
    )
    nfs = {"name": "share", "mountPath": "/share", "nfs": {"server": "10.0.0.1", "path": "/share"}}
    template = await ward.stage.template(**NO_HOME, volumes=[nfs])
    async with ward.at_work():
        await ward.stage.session("alice", template)
        assert "Pod Security" in (await ward.finds("pod_refused")).message


# Few permissions, the command itself, and fixes


async def test_account_with_few_rights_gets_unknown_findings(ward: DoctorStage) -> None:
    """Nothing of it is a pass, and nothing of it a fault that is not there."""
    template = await ward.stage.template(**NO_HOME)
    await ward.stage.session("alice", template)
    user, rbac = "nosy@example.com", "rbac.authorization.k8s.io"
    role: dict[str, Any] = {
        "apiVersion": f"{rbac}/v1",
        "kind": "Role",
        "metadata": {"name": "nosy"},
    }
    rule = {"apiGroups": ["vdi.kasm.io"], "resources": ["vdisessions"], "verbs": ["get", "list"]}
    roles, bindings = (
        Resource(rbac, "v1", f"{kind.lower()}s", kind) for kind in ("Role", "RoleBinding")
    )
    await ward.stage.api.create(
        roles, {**role, "rules": [rule]}, namespace=ward.namespace, into=msgspec.Raw
    )
    binding: dict[str, Any] = {
        **role,
        "kind": "RoleBinding",
        "subjects": [{"kind": "User", "name": user}],
    }
    binding["roleRef"] = {"kind": "Role", "name": "nosy", "apiGroup": rbac}
    await ward.stage.api.create(bindings, binding, namespace=ward.namespace, into=msgspec.Raw)
    found = await ward.look(user=user)
    assert found
    assert {one.severity for one in found} == {Severity.UNKNOWN}, [one.key for one in found]
    pods = next(one for one in found if one.object == "kind/pods")
    assert f"{user} may not list pods in namespace {ward.namespace}" in pods.message
    assert "--verb=list --resource=pods" in pods.remedy.text


def doctor(
    ward: DoctorStage, kubeconfig: Path, *words: str | Path
) -> subprocess.CompletedProcess[str]:
    """The command as a process without a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment |= {"KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": ward.namespace}
    command = [sys.executable, "-m", "vdi", "doctor", *map(str, words)]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )


async def test_doctor_command_bundles_and_reports(
    ward: DoctorStage, kubeconfig: Path, tmp_path: Path
) -> None:
    await ward.deploy(ready=False, VDI_URL_PORT="many")
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    run = partial(doctor, ward, kubeconfig)
    bundle = tmp_path / "bundle.json"
    live = run("--bundle", bundle, "-o", "json")
    assert live.returncode == 1, live.stderr
    top = json.loads(live.stdout)["findings"][0]
    assert top["code"] == "operator_settings_bad"
    assert set(top) == {
        *("code", "severity", "object", "message", "observed", "expected"),
        *("evidence", "remedy", "remedy_url", "caused_by"),
    }
    replayed = run("--from", bundle, "-o", "json")
    assert json.loads(replayed.stdout) == json.loads(live.stdout)
    assert "alice@example.com" not in bundle.read_text()
    shown = run("alice")
    assert "operator_settings_bad" in shown.stdout
    assert run("nobody").returncode == 1
    assert run("-o", "junit").stdout.startswith("<?xml")
    assert run("--kubeconfig", tmp_path / "none").returncode == 3
    assert run("--explain", "nonsense").returncode == 2
    assert run("alice", "--all").returncode == 2


async def test_fix_applies_only_the_confirmed_change(ward: DoctorStage, kubeconfig: Path) -> None:
    await ward.deploy()
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"spec": {"replicas": 0}})

    async def replicas() -> int:
        found = await ward.stage.api.get(
            DEPLOYMENTS, "vdi-operator", namespace=ward.namespace, into=dict
        )
        return int(found["spec"]["replicas"])

    asked = doctor(ward, kubeconfig, "--fix")
    assert asked.returncode == 2
    assert "there is no terminal for the question: use --yes" in asked.stderr
    assert await replicas() == 0
    fixed = doctor(ward, kubeconfig, "--fix", "--yes")
    assert fixed.returncode == 1, fixed.stderr
    assert "operator_down: change Deployment" in fixed.stdout
    assert "-  replicas: 0" in fixed.stdout
    assert "+  replicas: 2" in fixed.stdout
    assert "1 change made. Check again: vdi doctor" in fixed.stdout
    assert await replicas() == 2


async def test_fix_conflicts_when_the_object_has_changed(ward: DoctorStage) -> None:
    await ward.deploy()
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"spec": {"replicas": 0}})
    finding = await ward.finds("operator_down")
    step = await prepare_fix(ward.stage.api, finding, await ward.snapshot())
    assert step is not None
    await ward.stage.patch(
        DEPLOYMENTS, "vdi-operator", {"metadata": {"annotations": {"by": "somebody"}}}
    )
    with pytest.raises(Conflict):
        await apply_change(ward.stage.api, step, only_as_seen=True)

"""The doctor against a real API server: what it reads of each kind of object. Its rules are in tests/unit/doctor.

There is no machine behind the nodes: what a kubelet would report is played (`make_ready`).
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.control_plane import install_crds
from cluster.doctor_ward import DoctorStage
from cluster.operator_stage import Stage
from support.variants import first_of
from support.waiting import eventually
from vdi.api.crd import build_crds
from vdi.devcluster import cluster
from vdi.doctor.collect import prepare_fix
from vdi.findings.model import Severity, roots
from vdi.gpu.cluster import apply_change
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.errors import Conflict
from vdi.kube.resource import CLAIMS, CRDS, DEPLOYMENTS, EVENTS, SECRETS, Resource
from vdi.session.cluster_settings import ClusterSettings

NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}, "resources": {"defaultGPU": 0}}
RUN_MAIN = "import sys; from vdi.cli.main import main; sys.exit(main())"
CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)


@pytest.fixture
async def ward(stage: Stage, monkeypatch: pytest.MonkeyPatch, kubectl: list[str]) -> AsyncIterator[DoctorStage]:
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


async def test_no_operator(ward: DoctorStage) -> None:
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    found = await ward.finds("operator_missing")
    assert found.remedy.commands == ("vdi install",)
    ignored = [one for one in ward.of_here(await ward.look()) if one.code == "session_ignored"]
    assert [one.caused_by for one in ignored] == [found.key]


@pytest.mark.parametrize("resource", first_of(["ingressroutes", "vditemplates"]))
async def test_operator_without_a_right(ward: DoctorStage, resource: str) -> None:
    await ward.deploy()
    await ward.apply_rights(without=resource)
    async with ward.at_work():
        found = await ward.finds("operator_rights_missing")
    assert any(resource in line for line in found.evidence)


async def test_kinds_missing_and_old(ward: DoctorStage) -> None:
    _, _, pool = build_crds()
    name = pool["metadata"]["name"]
    old = msgspec.json.decode(msgspec.json.encode(build_crds()[1]))
    schema = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["properties"]["prePull"]
    try:
        await ward.stage.api.delete(CRDS, name, into=dict)
        await ward.stage.api.apply(CRDS, old["metadata"]["name"], old, into=msgspec.Raw)

        async def both() -> bool:
            codes = {root.code for root in roots(await ward.look())}
            return {"crd_missing", "crd_outdated"} <= codes

        await eventually(both, "both kinds are named")
        outdated = next(one for one in await ward.look() if one.code == "crd_outdated")
        assert "spec.prePull" in outdated.message
    finally:
        await install_crds(ward.stage.api)


@pytest.mark.long
async def test_a_finalizer_that_no_one_drops(ward: DoctorStage) -> None:
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.running("alice", template)
    await ward.stage.delete(SESSIONS, "alice")
    top = await ward.finds("operator_missing")
    stuck = [one for one in await ward.look() if one.code == "finalizer_stuck"]
    assert [one.caused_by for one in stuck] == [top.key]
    assert "finalizers" in stuck[0].remedy.text


async def test_a_quota_that_is_used_up(ward: DoctorStage) -> None:
    await ward.deploy()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    await ward.stage.api.create(QUOTAS, quota, namespace=ward.namespace, into=msgspec.Raw)
    template = await ward.stage.template(**NO_HOME)

    async def enforced() -> bool:
        found = await ward.stage.get(QUOTAS, "few")
        return bool(found and found.get("status", {}).get("used"))

    await eventually(enforced, "the quota is enforced")
    async with ward.at_work():
        await ward.stage.session("alice", template)
        assert "quota" in (await ward.finds("pod_refused")).message


async def test_pod_security_that_refuses(ward: DoctorStage) -> None:
    await ward.deploy()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await ward.stage.api.patch(NAMESPACES, ward.namespace, {"metadata": {"labels": labels}}, into=msgspec.Raw)
    nfs = {"name": "share", "mountPath": "/share", "nfs": {"server": "10.0.0.1", "path": "/share"}}
    template = await ward.stage.template(**NO_HOME, volumes=[nfs])
    async with ward.at_work():
        await ward.stage.session("alice", template)
        assert "Pod Security" in (await ward.finds("pod_refused")).message


# Infrastructure


@pytest.mark.parametrize("speaks", first_of([False, True]))
async def test_a_provisioner_that_makes_no_volume(ward: DoctorStage, speaks: bool) -> None:
    await ward.deploy()
    name = f"{ward.namespace}-class"
    body = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    body |= {"provisioner": "example.com/nobody", "volumeBindingMode": "Immediate"}
    await ward.stage.api.create(CLASSES, body, into=msgspec.Raw)
    template = await ward.stage.template(resources={"defaultGPU": 0}, persistence={"storageClass": name})
    try:
        async with ward.at_work():
            await ward.stage.session("alice", template)

            async def claim() -> Any:
                return next((one for one in await ward.stage.all(CLAIMS) if one["metadata"]["name"] != ""), None)

            made = await eventually(claim, "the claim")
            if speaks:
                await _warn(
                    ward, "PersistentVolumeClaim", made, "ProvisioningFailed", "mkdir /opt/x: permission denied"
                )
            code = "home_not_provisioned" if speaks else "provisioner_silent"
            found = await ward.finds(code)
            assert ("permission denied" in found.message) is speaks
    finally:
        await ward.stage.api.delete(CLASSES, name, into=dict)


async def _warn(ward: DoctorStage, kind: str, about: Any, reason: str, note: str) -> None:
    meta = about["metadata"]
    regarding = {"kind": kind, "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": f"e-{reason.lower()}"}}
    event |= {"regarding": regarding, "type": "Warning", "reason": reason, "note": note, "action": "Try"}
    event |= {"eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    event |= {"reportingController": "example.com/test", "reportingInstance": "test"}
    await ward.stage.api.create(EVENTS, event, namespace=ward.namespace, into=msgspec.Raw)


# Data plane


async def test_routes_that_traefik_leaves_out(ward: DoctorStage) -> None:
    """The operator is stopped, then somebody edits: both are named, the operator first."""
    await ward.deploy()
    args = ["--entryPoints.web.address=:80", "--entryPoints.websecure.address=:443"]
    await ward.workload("traefik", "traefik", "docker.io/library/traefik:v3.7", args=args)
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        for name in ("old", "other", "guarded", "crossing"):
            await ward.running(name, template, user=f"{name}@example.com")
    rule = {"kind": "Rule", "match": "Host(`{}`)"}

    async def edit(name: str, **spec: Any) -> None:
        route = {
            **rule,
            "match": rule["match"].format(ward.stage.host(name, f"{name}@example.com")),
            **spec.pop("rule", {}),
        }
        await ward.stage.patch(ROUTES, name, {"spec": {"routes": [route], **spec}})

    await edit("old", rule={"match": "HostRegexp(`{user:[a-z]+}.vdi.localhost`)"})
    await edit("other", entryPoints=["secure"])
    await edit("guarded", rule={"middlewares": [{"name": "nobody"}]})
    await edit("crossing", rule={"middlewares": [{"name": "auth", "namespace": "kasm"}]})
    desired = {"route_rule_v2", "route_entry_point_unknown", "middleware_missing", "route_crosses_namespaces"}
    found = ward.of_here(await ward.look())
    assert desired <= {one.code for one in found}, [one.key for one in found]


async def test_a_service_without_endpoints(ward: DoctorStage) -> None:
    """A pod that is ready, but has got no address from its network."""
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.stage.session("alice", template)
        await ward.stage.run("alice")
        await ward.finds("service_without_endpoints")


def _certificate(name: str, days: int) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ends = datetime.now(UTC) + timedelta(days=days)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=90))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    parts = {"tls.crt": made.public_bytes(pem), "tls.key": secret}
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


@pytest.mark.parametrize(
    ("name", "days", "code"),
    [
        ("*.vdi.localhost", -3, "certificate_expired"),
        ("*.example.com", 60, "certificate_for_other_names"),
    ],
)
async def test_a_bad_certificate(ward: DoctorStage, name: str, days: int, code: str) -> None:
    await ward.deploy(VDI_TLS_SECRET="wildcard")
    data = _certificate(name, days)
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "wildcard"}}
    await ward.stage.api.create(SECRETS, {**secret, "data": data}, namespace=ward.namespace, into=msgspec.Raw)
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work(cluster=ClusterSettings(tls_secret="wildcard")):
        await ward.running("alice", template)
        await ward.finds(code)
        snapshot = msgspec.json.encode(await ward.snapshot())
    assert b"PRIVATE KEY" not in snapshot
    assert data["tls.key"].encode() not in snapshot


# Who may see little, and the command itself


async def test_an_account_that_may_only_read_sessions(ward: DoctorStage) -> None:
    """Nothing of it is a pass, and nothing of it a fault that is not there."""
    template = await ward.stage.template(**NO_HOME)
    await ward.stage.session("alice", template)
    user = "nosy@example.com"
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "nosy"}}
    rule = {"apiGroups": ["vdi.kasm.io"], "resources": ["vdisessions"], "verbs": ["get", "list"]}
    roles = Resource(rbac, "v1", "roles", "Role")
    bindings = Resource(rbac, "v1", "rolebindings", "RoleBinding")
    await ward.stage.api.create(roles, {**role, "rules": [rule]}, namespace=ward.namespace, into=msgspec.Raw)
    binding: dict[str, Any] = {"kind": "RoleBinding", "subjects": [{"kind": "User", "name": user}]}
    binding |= {"roleRef": {"kind": "Role", "name": "nosy", "apiGroup": rbac}}
    await ward.stage.api.create(bindings, {**role, **binding}, namespace=ward.namespace, into=msgspec.Raw)
    found = await ward.look(user=user)
    assert found
    assert {one.severity for one in found} == {Severity.UNKNOWN}, [one.key for one in found]
    pods = next(one for one in found if one.object == "kind/pods")
    assert f"{user} may not list pods in namespace {ward.namespace}" in pods.message
    assert "--verb=list --resource=pods" in pods.remedy.text


async def test_the_command(ward: DoctorStage, kubeconfig: Path, tmp_path: Path) -> None:
    await ward.deploy(ready=False, VDI_URL_PORT="many")
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment = {**ours, "KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": ward.namespace}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN_MAIN, "doctor", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)

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


@pytest.mark.long
def test_an_api_server_that_hangs(control_plane: cluster.Cluster, kubeconfig: Path) -> None:
    """It takes connections and answers none: the command gives up by itself and says so."""
    name = control_plane.name
    (server,) = [part for part in cluster.status(name).components if part.name == "kube-apiserver"]
    os.kill(server.pid, signal.SIGSTOP)
    try:
        command = [sys.executable, "-c", RUN_MAIN, "doctor", "--kubeconfig", str(kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert done.returncode == 3, done
    assert "it has not responded for 10 s: it hangs, or is overloaded" in done.stderr


async def test_what_is_fixed(ward: DoctorStage, kubeconfig: Path) -> None:
    """The one change that is shown, after asking, and nothing that somebody else has changed meanwhile."""
    await ward.deploy()
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"spec": {"replicas": 0}})
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VDI_")}
    environment = {**ours, "KUBECONFIG": str(kubeconfig), "VDI_NAMESPACE": ward.namespace}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN_MAIN, "doctor", "--fix", *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL
        )

    async def replicas() -> int:
        found = await ward.stage.api.get(DEPLOYMENTS, "vdi-operator", namespace=ward.namespace, into=dict)
        return int(found["spec"]["replicas"])

    asked = run()
    assert asked.returncode == 2
    assert "there is no terminal for the question: use --yes" in asked.stderr
    assert await replicas() == 0
    fixed = run("--yes")
    assert fixed.returncode == 1, fixed.stderr
    assert "operator_down: change Deployment" in fixed.stdout
    assert "-  replicas: 0" in fixed.stdout
    assert "+  replicas: 2" in fixed.stdout
    assert "1 change made. Check again: vdi doctor" in fixed.stdout
    assert await replicas() == 2


async def test_a_change_is_made_only_to_what_was_shown(ward: DoctorStage) -> None:
    await ward.deploy()
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"spec": {"replicas": 0}})
    finding = await ward.finds("operator_down")
    step = await prepare_fix(ward.stage.api, finding, await ward.snapshot())
    assert step is not None
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"metadata": {"annotations": {"by": "somebody"}}})
    with pytest.raises(Conflict):
        await apply_change(ward.stage.api, step, only_as_seen=True)

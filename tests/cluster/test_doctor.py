"""The doctor against a real API server: each fault is made for real, and the top finding is its cause.

There is no machine behind the nodes: what a kubelet would report is played (`report`, `make_ready`).
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
from cluster.doctor_ward import DoctorStage, now
from cluster.operator_stage import Stage
from support.variants import first_of
from support.waiting import eventually
from vdi.api.crd import build_crds
from vdi.devcluster import cluster
from vdi.doctor.fix.apply import carry_out, prepare
from vdi.findings.model import Severity, roots
from vdi.kube.errors import Conflict
from vdi.kube.resource import CLAIMS, CRDS, DEPLOYMENTS, EVENTS, NODES, PODS, SECRETS, VOLUMES, Resource
from vdi.operator.kinds import ROUTES, SESSIONS
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


async def test_operator_down(ward: DoctorStage) -> None:
    pod = await ward.deploy(ready=False)
    await ward.report(pod, waiting={"reason": "ErrImagePull", "message": "manifest unknown"})
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    found = await ward.finds("operator_down")
    assert found.object == f"deployment/{ward.namespace}/vdi-operator"
    assert "cannot be pulled" in found.message


async def test_operator_that_does_not_lead(ward: DoctorStage) -> None:
    await ward.deploy()
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    assert "The Lease is missing" in (await ward.finds("operator_without_lease")).message


@pytest.mark.parametrize("resource", first_of(["ingressroutes", "vditemplates"]))
async def test_operator_without_a_right(ward: DoctorStage, resource: str) -> None:
    await ward.deploy()
    await ward.apply_rights(without=resource)
    async with ward.at_work():
        found = await ward.finds("operator_rights_missing")
    assert any(resource in line for line in found.evidence)


async def test_settings_that_cannot_be_read(ward: DoctorStage) -> None:
    await ward.deploy(ready=False, VDI_URL_PORT="many")
    found = await ward.finds("operator_settings_bad")
    assert "VDI_URL_PORT='many'" in found.message
    assert [one.caused_by for one in await ward.look() if one.code == "operator_down"] == [found.key]


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


async def test_sessions_that_no_one_watches(ward: DoctorStage) -> None:
    await ward.deploy(VDI_NAMESPACE="elsewhere")
    await ward.stage.session("alice", await ward.stage.template(**NO_HOME))
    found = await ward.finds("session_unwatched")
    assert found.object == f"namespace/{ward.namespace}"


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


async def test_a_template_that_is_missing(ward: DoctorStage) -> None:
    await ward.deploy()
    async with ward.at_work():
        await ward.stage.session("alice", "nowhere")
        found = await ward.finds("template_missing")
    assert "'nowhere'" in found.message


async def test_a_template_that_cannot_be_used(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME, env=[{"name": "SELKIES_MASTER_TOKEN", "value": "hunter2"}])
    async with ward.at_work():
        await ward.stage.session("alice", template)
        await ward.stage.session("bob", template, user="bob@example.com", resources={"memory": "900Gi"})
        assert "SELKIES_MASTER_TOKEN" in (await ward.finds("template_invalid")).message


async def test_more_than_the_template_allows(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.stage.session("alice", template, resources={"memory": "900Gi"})
        assert "900Gi" in (await ward.finds("session_over_limit")).message


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


async def test_no_gpu_for_a_gpu_session(ward: DoctorStage) -> None:
    await ward.deploy()
    await ward.stage.node("bare", gpu="0")
    gpu = {"persistence": {"enabled": False}, "placement": {"nodeSelector": ward.stage.here}}
    template = await ward.stage.template(**gpu)
    async with ward.at_work():
        await ward.stage.session("alice", template)
        found = await ward.finds("gpu_insufficient")
    assert found.severity is Severity.ERROR
    assert "nvidia.com/gpu" in found.message


async def test_all_gpus_in_use(ward: DoctorStage) -> None:
    await ward.deploy()
    node = await ward.stage.node("one", gpu="1")
    gpu = {"persistence": {"enabled": False}, "placement": {"nodeSelector": ward.stage.here}}
    template = await ward.stage.template(**gpu)
    async with ward.at_work():
        await ward.running("alice", template)
        await ward.stage.session("bob", template, user="bob@example.com")
        found = await ward.finds("gpu_insufficient")
    assert found.severity is Severity.WARNING
    assert node in found.message
    assert found.object.endswith("/bob")


async def test_a_node_that_does_not_answer(ward: DoctorStage) -> None:
    name = f"{ward.namespace}-dead"
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting",
    }
    condition |= {"lastTransitionTime": now(), "lastHeartbeatTime": now()}
    pressure = {**condition, "type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}
    await ward.deploy()
    await ward.stage.api.create(
        NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}, into=msgspec.Raw
    )
    status = {"status": {"conditions": [condition, pressure]}}
    await ward.stage.api.patch(NODES, name, status, subresource="status", into=msgspec.Raw)
    try:
        async with ward.at_work():
            await ward.finds("node_not_ready")
        assert {one.code for one in ward.top} >= {"node_not_ready", "node_under_pressure"}
    finally:
        await ward.stage.api.delete(NODES, name, into=dict)


async def test_a_storage_class_that_is_missing(ward: DoctorStage) -> None:
    await ward.deploy()
    home = {"resources": {"defaultGPU": 0}, "persistence": {"storageClass": "nowhere"}}
    template = await ward.stage.template(**home)
    async with ward.at_work():
        await ward.stage.session("alice", template)
        assert "'nowhere'" in (await ward.finds("storage_class_missing")).message


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


@pytest.mark.long
async def test_a_home_on_a_node_that_is_gone_and_mounted_twice(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(resources={"defaultGPU": 0})
    async with ward.at_work():
        session = await ward.stage.session("alice", template)
        pod = await ward.stage.pod_of(session)
        claim = next(volume["persistentVolumeClaim"] for volume in pod["spec"]["volumes"] if volume["name"] == "home")[
            "claimName"
        ]
        other = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "intruder"}}
        other["spec"] = {
            "containers": [{"name": "x", "image": "x"}],
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": claim}}],
        }
        await ward.stage.api.create(PODS, other, namespace=ward.namespace, into=msgspec.Raw)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{ward.namespace}-pv"},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local-path",
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": ward.namespace, "name": claim},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-that-was"]}
                                ]
                            }
                        ]
                    }
                },
            },
        }
        await ward.stage.api.create(VOLUMES, volume, into=msgspec.Raw)
        try:
            seen: set[str] = set()  # the operator takes a pod back that finds no node, and tries again

            async def both() -> bool:
                seen.update(root.code for root in roots(await ward.look()))
                return {"home_mounted_twice", "home_on_lost_node"} <= seen

            await eventually(both, "both are named", 45)
        finally:
            await ward.stage.api.delete(VOLUMES, volume["metadata"]["name"], into=dict)  # type: ignore[index]


async def test_an_image_that_cannot_be_fetched(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        pod = await ward.stage.pod_of(await ward.stage.session("alice", template))
        await ward.report(pod["metadata"]["name"], waiting={"reason": "ErrImagePull", "message": "manifest unknown"})
        assert "has no such image" in (await ward.finds("image_unavailable")).message


async def test_a_desktop_that_crashes_and_one_out_of_memory(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        alice = await ward.stage.pod_of(await ward.stage.session("alice", template))
        bob = await ward.stage.pod_of(await ward.stage.session("bob", template, user="bob@example.com"))
        back_off = {"reason": "CrashLoopBackOff", "message": "back-off"}
        words = {"exitCode": 1, "reason": "Error", "message": "no display"}
        await ward.report(alice["metadata"]["name"], waiting=back_off, terminated=words, restartCount=1)
        killed = {"exitCode": 137, "reason": "OOMKilled"}
        await ward.report(bob["metadata"]["name"], waiting=back_off, terminated=killed, restartCount=1)

        async def both() -> bool:
            return {"desktop_crashes", "desktop_out_of_memory"} == {
                root.code for root in roots(ward.of_here(await ward.look()))
            }

        await eventually(both, "both are named, and nothing else")


# Data plane


async def test_a_route_for_another_host(ward: DoctorStage) -> None:
    """The Deployment was edited, its pod still runs with the old domain."""
    await ward.deploy(VDI_DOMAIN="desktops.example.com")
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.running("alice", template)
        found = await ward.finds("route_host_mismatch")
    assert f"{ward.stage.host('alice').partition('.')[0]}.desktops.example.com" in found.message


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


async def test_traefik_down_and_looking_elsewhere(ward: DoctorStage) -> None:
    await ward.deploy()
    args = ["--providers.kubernetesCRD.namespaces=kasm,web"]
    await ward.workload("traefik", "traefik", "docker.io/library/traefik:v3.7", args=args, ready=False)
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work():
        await ward.running("alice", template)

        async def both() -> bool:
            codes = {root.code for root in roots(ward.of_here(await ward.look()))}
            return codes == {"traefik_down", "traefik_not_watching"}

        await eventually(both, "both are named, and nothing else")


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
        ("", 0, "certificate_missing"),
        ("*.vdi.localhost", -3, "certificate_expired"),
        ("*.vdi.localhost", 5, "certificate_expires_soon"),
        ("*.example.com", 60, "certificate_for_other_names"),
    ],
)
async def test_a_bad_certificate(ward: DoctorStage, name: str, days: int, code: str) -> None:
    await ward.deploy(VDI_TLS_SECRET="wildcard")
    data = _certificate(name, days) if name else {}
    if name:
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "wildcard"}}
        await ward.stage.api.create(SECRETS, {**secret, "data": data}, namespace=ward.namespace, into=msgspec.Raw)
    template = await ward.stage.template(**NO_HOME)
    async with ward.at_work(cluster=ClusterSettings(tls_secret="wildcard")):
        await ward.running("alice", template)
        await ward.finds(code)
        snapshot = msgspec.json.encode(await ward.snapshot())
    assert b"PRIVATE KEY" not in snapshot
    assert not data or data["tls.key"].encode() not in snapshot


async def test_an_encoder_of_selkies_1_and_a_slow_start(ward: DoctorStage) -> None:
    await ward.deploy()
    template = await ward.stage.template(**NO_HOME, env=[{"name": "SELKIES_ENCODER", "value": "nvh264enc"}])
    async with ward.at_work():
        pod = await ward.stage.pod_of(await ward.stage.session("alice", template))
        found = await ward.finds("start_slow")  # its kubelet says nothing
        assert "on the node" in found.message
        await ward.make_ready(pod["metadata"]["name"])
        await ward.stage.reach("alice", "Running")
        assert "nvh264enc" in (await ward.finds("encoder_obsolete")).message


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
    step = await prepare(ward.stage.api, finding, await ward.snapshot())
    assert step is not None
    await ward.stage.patch(DEPLOYMENTS, "vdi-operator", {"metadata": {"annotations": {"by": "somebody"}}})
    with pytest.raises(Conflict):
        await carry_out(ward.stage.api, step)

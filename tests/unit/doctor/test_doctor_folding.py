"""One fault is one cause: what follows from it is folded under it, and what is over is no fault."""

import json
import shlex

import pytest

from unit.doctor.doctor_breaks import Break, put
from unit.doctor.doctor_builders import POD, SPACE, Cluster
from unit.doctor.doctor_faults import FAULTS, SETUP, local_path, pending_claim
from unit.doctor.doctor_gateways import GATEWAY_FAULTS
from unit.doctor.doctor_gpus import GPU_FAULTS
from unit.doctor.doctor_kasm import KASM_FAULTS
from unit.doctor.kasm_builders import Kasm
from vdi.doctor.checks.run import rank
from vdi.doctor.codes import make_finding
from vdi.doctor.fixes import FIXES
from vdi.doctor.objects.references import observe_gpus
from vdi.doctor.probe.reach import Seen, Target, judge
from vdi.doctor.report import make_report
from vdi.findings.model import Remedy, roots
from vdi.findings.render import as_text
from vdi.kasm.generations.c import C


def keys(cluster: Cluster) -> list[str]:
    return [root.key for root in roots(cluster.findings())]


def test_a_missing_class_is_the_only_cause() -> None:
    cluster = Cluster()
    claim = pending_claim(cluster)
    claim["spec"]["storageClassName"] = "fast-ssd"
    note = 'storageclass.storage.k8s.io "fast-ssd" not found'
    cluster.warn("PersistentVolumeClaim", claim["metadata"]["name"], "ProvisioningFailed", note)
    assert keys(cluster) == [
        f"storage_class_missing persistentvolumeclaim/{SPACE}/{claim['metadata']['name']}"
    ]


def test_events_of_a_deleted_claim_are_not_its_namesakes() -> None:
    cluster = Cluster()
    claim = pending_claim(cluster)["metadata"]["name"]
    cluster.warn(
        "PersistentVolumeClaim",
        claim,
        "ProvisioningFailed",
        "mkdir: Permission denied",
        uid="of-the-last-one",
    )
    assert cluster.roots() == ["provisioner_silent"]


@pytest.mark.parametrize(("uid", "is_found"), [("", True), ("of-the-last-one", False)])
def test_events_of_a_claim_of_kasm_are_matched_by_uid(uid: str, is_found: bool) -> None:
    cluster = KASM_FAULTS.broken("kasm_provisioner_fails")
    regarding = cluster.objects["events"][-1]["regarding"]
    regarding["uid"] = uid or regarding["uid"]
    assert any("mkdir /data" in finding.message for finding in cluster.findings()) == is_found


def test_a_pod_without_login_secret_is_a_consequence() -> None:
    cluster = GATEWAY_FAULTS.broken("no_secret_to_sign_in_to_an_image")
    cluster.waits("CreateContainerConfigError", 'secret "kasmvnc" not found')
    assert [root.code for root in roots(cluster.findings())] == ["basic_auth_secret_missing"]
    assert "reference_missing" in [finding.code for finding in cluster.findings()]


def test_a_quota_that_refused_a_pod_seconds_ago_is_reported() -> None:
    cluster = Cluster()
    cluster.without_pod(
        "QuotaExceeded", "exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3"
    )
    cluster.session["metadata"]["creationTimestamp"] = "2026-11-20T11:59:52Z"
    (found,) = cluster.findings()
    assert found.code == "pod_refused"
    assert found.remedy.commands == (f"kubectl --namespace {SPACE} edit resourcequota few",)


def test_no_restart_is_advised_for_a_broken_gpu_configuration() -> None:
    cluster = GPU_FAULTS.broken("plugin_not_restarted")
    put("configmaps", "data.any", "version: [")(cluster)
    assert observe_gpus(cluster.snapshot()).config_map
    assert "gpu_config_not_read" not in cluster.roots()


@pytest.mark.parametrize(
    ("host", "why", "codes"),
    [
        ("alice.vdi.localhost", "unable to get local issuer certificate", []),
        ("alice.vdi.localhost", "self-signed certificate in certificate chain", []),
        ("alice.vdi.localhost", "certificate has expired", ["probe_certificate_refused"]),
        (
            "alice.vdi.example.com",
            "unable to get local issuer certificate",
            ["probe_certificate_refused"],
        ),
    ],
)
def test_own_authority_of_a_local_cluster_is_no_fault(
    host: str, why: str, codes: list[str]
) -> None:
    target = Target("vdisession/vdi-sessions/alice", f"https://{host}:8443")
    assert [
        one.code for one in judge(target, Seen(certificate=why, status=200, websocket=101))
    ] == codes


def test_only_the_mode_of_the_setup_script_is_fixed() -> None:
    cluster = Cluster()
    local_path(cluster, SETUP.format("0700"))
    (found,) = cluster.findings()
    config_map = cluster.one("configmaps", "local-path-config")
    changed = FIXES[found.code].change(config_map, cluster.snapshot())
    assert changed == {**config_map, "data": {"setup": SETUP.format("0777")}}
    assert json.loads(shlex.split(found.remedy.commands[0])[-1]) == {
        "data": {"setup": SETUP.format("0777")}
    }


RAW = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    ' create failed: unable to start container process: error during container init: exec: "/init":'
    " executable file not found in $PATH: unknown"
)


def _desktop_has_no_program(cluster: Cluster) -> None:
    cluster.waits("RunContainerError", RAW)
    cluster.warn_pod("Failed", RAW)


def _operator_has_no_program(cluster: Cluster) -> None:
    cluster.one("deployments", "vdi-operator")["status"] = {}
    container = {
        "name": POD,
        "ready": False,
        "state": {"waiting": {"reason": "RunContainerError", "message": RAW}},
    }
    status = {"conditions": [], "phase": "Pending", "containerStatuses": [container]}
    cluster.one("pods", POD)["status"] = status


def _kasm_has_no_program(cluster: Cluster) -> None:
    Kasm(cluster, C).unready(
        "api", state={"waiting": {"reason": "RunContainerError", "message": RAW}}
    )


@pytest.mark.parametrize(
    "breaks", [_desktop_has_no_program, _operator_has_no_program, _kasm_has_no_program]
)
def test_layers_of_the_runtime_are_evidence_not_message(breaks: Break) -> None:
    cluster = Cluster()
    breaks(cluster)
    finding = roots(cluster.findings())[0]
    assert 'exec: "/init": executable file not found in $PATH.' in finding.message
    assert not any(layer in finding.message for layer in ("containerd", "OCI", "unknown"))
    assert any(RAW in line for line in finding.evidence), finding.evidence
    snapshot = cluster.snapshot()
    assert RAW not in "\n".join(as_text(make_report([finding], snapshot)))


def test_evidence_is_cut_unless_it_is_asked_for_in_full() -> None:
    cluster = Cluster()
    cluster.say("OSError: [Errno 98] address already in use " + 80 * "words ")
    snapshot = cluster.snapshot()
    short = "\n".join(as_text(make_report(cluster.findings(), snapshot)))
    full = "\n".join(as_text(make_report(cluster.findings(), snapshot, verbose=True)))
    assert len(full) > len(short) + 200


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "--entryPoints.websecure.transport.respondingTimeouts.readTimeout=60s",
            "readTimeout is 60s",
        ),
        (
            "--entrypoints.websecure.transport.respondingtimeouts.idletimeout=1m",
            "idletimeout is 1m",
        ),
        (
            "--entryPoints.websecure.transport.respondingTimeouts.writeTimeout=60",
            "writeTimeout is 60",
        ),
        ("--entryPoints.websecure.transport.respondingTimeouts.readTimeout=10m", ""),
        ("--entryPoints.websecure.transport.respondingTimeouts.readTimeout=0", ""),
    ],
)
def test_a_timeout_of_traefik_that_cuts_websockets_is_named(argument: str, words: str) -> None:
    cluster = GATEWAY_FAULTS.broken("a_proxy_in_front_cuts_connections")
    cluster.traefik_args.append(argument)
    (found,) = cluster.findings()
    assert f"deployment/kube-system/traefik: {argument}" in found.evidence
    assert words in found.message
    edit = ("kubectl --namespace kube-system edit deployment traefik",)
    assert found.remedy.commands == (edit if words else ())


def test_nothing_that_needs_names_is_a_second_cause_beside_dns() -> None:
    """What the gateway lacks, and what `--probe` finds of a pod and of the way in, while no name is
    found.
    """
    cluster = GATEWAY_FAULTS.broken("no_names")
    line = 'level=warning msg="trouble: {}: Temporary failure in name resolution"'
    for what in ("shared state", "single sign-on", "webhooks"):
        cluster.logs["kasm/vdi-gateway-1"].append(line.format(what))
    tried = [
        make_finding(code, f"vdisession/{SPACE}/alice", "It was tried.", remedy=Remedy.run("true"))
        for code in ("probe_pod_failed", "probe_bad_answer", "probe_turn_refused")
    ]
    assert [root.code for root in roots(rank([*cluster.findings(), *tried]))] == ["dns_down"]


def test_a_log_of_a_desktop_killed_for_memory_is_folded() -> None:
    cluster = Cluster()
    cluster.crashes("OOMKilled", restarts=1)
    cluster.say("Error: cannot open display :0")
    memory, log = cluster.findings()
    assert (memory.code, log.code, log.caused_by) == (
        "desktop_out_of_memory",
        "selkies_error",
        memory.key,
    )


def test_an_unknown_entry_point_explains_the_silence() -> None:
    cluster = FAULTS.broken("entry_point_wrong")
    (route,) = cluster.findings()
    target = Target(
        f"vdisession/{SPACE}/alice-0",
        "https://alice-0.vdi.example.com",
        related_objects=(route.object,),
    )
    tried = judge(target, Seen("connection", "connection refused"))
    assert [root.code for root in roots(rank([route, *tried]))] == ["route_entry_point_unknown"]


def waits(cluster: Cluster, image: str) -> None:
    """A desktop of a template of its own, whose image is nowhere."""
    name = f"desktop-{len(cluster.objects['vdisessions'])}"
    cluster.add_session(name, f"{name}@example.com")
    status = cluster.one("pods", name)["status"]
    container = {
        "name": "desktop",
        "image": image,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "404"}},
    }
    status |= {"conditions": [], "containerStatuses": [container]}


def test_another_cause_is_not_hidden_behind_and_more() -> None:
    cluster = Cluster(0)
    for number in range(5):
        waits(
            cluster,
            "registry.example.com/wrong:1" if number < 4 else "registry.example.com/other:2",
        )
    lines = "\n".join(as_text(make_report(cluster.findings(), cluster.snapshot())))
    assert "... and 1 more image_unavailable" in lines
    assert "other:2" in lines


@pytest.mark.parametrize("name", ["no_memory", "no_node_has_gpus"])
def test_a_desktop_larger_than_any_node_needs_no_other_to_end(name: str) -> None:
    (finding,) = FAULTS.broken(name).findings()
    assert finding.remedy.sentence.startswith("Request less")
    assert "vdi session" not in finding.remedy.text

"""Faults that others have made and no check had been written for."""

import pytest

from support.certificates import self_signed
from unit.doctor.doctor_builders import JUST_NOW, POD, Cluster, meta_of
from unit.doctor.doctor_faults import FAULTS, attempt
from unit.doctor.doctor_gateways import with_gateway
from unit.doctor.doctor_gpus import GPU_FAULTS
from vdi.findings.model import Severity
from vdi.snapshot.certificate import read_certificate
from vdi.snapshot.model import Certificate, ServiceAttempt

_REFUSED = (
    'sessions vdi-sessions/alice-0: again in {} s: failed calling webhook \\"sessions.audit\\":'
    ' service \\"session-audit\\" not found'
)


def logged(cluster: Cluster, time: str, pause: float) -> None:
    line = f'time={time} level=WARNING logger=vdi.kube.queue msg="{_REFUSED.format(pause)}"'
    cluster.logs[f"kasm/{POD}"] = [line]


def test_what_the_operator_tries_again_and_again_is_named() -> None:
    cluster = Cluster()
    logged(cluster, "2026-11-20T11:59:50.123", 16.0)
    [finding] = cluster.findings()
    assert (finding.code, finding.object) == ("operator_troubled", "deployment/kasm/vdi-operator")
    assert 'webhook "sessions.audit": service "session-audit" not found' in finding.message


@pytest.mark.parametrize(
    ("time", "pause"),
    [("2026-11-20T11:59:20.123", 16.0), ("2026-11-20T11:59:58.123", 0.5)],
    ids=["it has succeeded since", "it may pass"],
)
def test_an_error_that_is_over_or_may_pass_is_not_named(time: str, pause: float) -> None:
    cluster = Cluster()
    logged(cluster, time, pause)
    assert cluster.findings() == []


def test_a_key_of_another_certificate_is_a_problem_of_its_secret() -> None:
    (pem, key), (_, other) = (self_signed("*.vdi.example.com", days=90) for _ in range(2))
    assert read_certificate("a", "b", pem.encode(), key.encode()).problem == ""
    problem = read_certificate("a", "b", pem.encode(), other.encode()).problem
    assert problem == "its private key does not belong to its certificate"
    assert read_certificate("a", "b", pem.encode(), b"rubbish").problem == problem


def test_the_certificate_of_the_portals_own_route_is_checked() -> None:
    cluster = Cluster()
    with_gateway(cluster)
    route = cluster.one("ingressroutes", "vdi-gateway")
    route["spec"]["tls"] = {"secretName": "portal-tls"}
    cluster.certificates.append(
        Certificate(namespace="kasm", secret="portal-tls", problem="its private key is wrong")
    )
    [finding] = cluster.findings()
    assert (finding.code, finding.object) == ("certificate_missing", "secret/kasm/portal-tls")


def test_endpoints_that_someone_has_added_to_a_service_are_named() -> None:
    cluster = Cluster()
    with_gateway(cluster)
    labels = {"kubernetes.io/service-name": "vdi-gateway"}
    cluster.add(
        "endpointslices",
        meta_of("kasm", "vdi-gateway-restored", labels=labels),
        endpoints=[{"conditions": {"ready": True}}],
        ports=[{"name": "http", "port": 8080}, {"name": "internal", "port": 8081}],
    )
    [finding] = cluster.findings()
    assert finding.object == "endpointslice/kasm/vdi-gateway-restored"
    assert finding.severity is Severity.WARNING
    assert finding.remedy.commands[-1] == (
        "kubectl --namespace kasm delete endpointslice vdi-gateway-restored"
    )


@pytest.mark.parametrize(
    "tried",
    [None, attempt(pod=False), attempt(address=True)],
    ids=["outside the cluster", "a policy denies both", "all is well"],
)
def test_kube_proxy_is_blamed_only_beside_a_pod_that_responds(tried: ServiceAttempt | None) -> None:
    cluster = Cluster()
    cluster.service_attempt = tried
    assert cluster.findings() == []


def test_limit_range_that_refuses_a_pod_is_named() -> None:
    [finding] = FAULTS.broken("limit_range_below_the_template").findings()
    assert finding.message.endswith("but limit is 4Gi. LimitRange: container-limits.")
    assert finding.remedy.commands == (
        "kubectl --namespace vdi-sessions edit limitrange container-limits",
    )


def test_namespace_whose_pod_security_refuses_the_provisioner_is_named() -> None:
    cluster = FAULTS.broken("provisioner_scaled_to_0")
    claim = cluster.one("persistentvolumeclaims")["metadata"]["name"]
    note = 'pods "helper-pod-create-pvc-1" is forbidden: violates PodSecurity "restricted:latest"'
    cluster.warn("PersistentVolumeClaim", claim, "ProvisioningFailed", note)
    finding = cluster.findings()[0]
    assert finding.code == "home_not_provisioned"
    assert "Pod Security of the namespace kube-system refuses its pod" in finding.message
    [command] = finding.remedy.commands
    assert command.startswith("kubectl label namespace kube-system --overwrite pod-security.")


def test_node_whose_gpus_are_gone_is_named_first() -> None:
    finding = GPU_FAULTS.broken("gpus_of_a_node_are_gone").findings()[0]
    assert (finding.code, finding.object) == ("gpu_nodes_missing", "node/node-1")
    assert "advertises 0 nvidia.com/gpu" in finding.message
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "scheduler_hangs",
            "kube-scheduler does not work: no scheduler has processed the pod alice-0",
        ),
        ("controller_manager_hangs", "the Service vdi-sessions/alice-0 has had no EndpointSlice"),
        ("controller_manager_does_not_renew", "Lease has not been renewed for 68 s"),
    ],
)
def test_part_of_the_control_plane_is_named(name: str, words: str) -> None:
    finding = FAULTS.broken(name).findings()[0]
    assert finding.object.startswith("component/kube-")
    assert words in finding.message


def test_a_pod_that_waits_behind_newer_ones_is_not_the_schedulers_fault() -> None:
    cluster = FAULTS.broken("scheduler_hangs")
    cluster.add_pod("newer", creationTimestamp=JUST_NOW)
    assert "control_plane_silent" not in cluster.roots()


@pytest.mark.parametrize("answers", ["a log", "an error of the kubelet"])
def test_kubelet_that_answers_for_one_pod_is_reached(answers: str) -> None:
    cluster = FAULTS.broken("firewall_before_the_kubelet")
    if answers == "a log":
        cluster.logs[f"kasm/{POD}"] = ["serving"]
        del cluster.log_errors[f"kasm/{POD}"]
    else:
        cluster.log_errors[f"kasm/{POD}"] = "failed to open log file"
    assert cluster.findings() == []

"""The connections that docs/network.md promises are those that the doctor checks against the
policies.
"""

import pytest

from network.matrix import load
from unit.doctor.doctor_gateways import GATEWAY_FAULTS
from vdi.doctor.checks.cluster import PROMISED
from vdi.doctor.objects.access import Party, Port, blocking
from vdi.findings.model import roots
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects import Objects, convert_object

# Whose connections no desktop needs.
_BESIDE = {"Prometheus", "probe", "doctor"}
# Other ports of servers that are checked by one.
_ALIKE = {"API server 443/TCP", "coturn 3478/TCP", "coturn 62000/UDP", "desktop 8083/UDP"}


def test_the_promised_connections_are_those_of_the_page() -> None:
    checked: dict[str, set[str]] = {}
    for sources, target, port in PROMISED:
        checked.setdefault(f"{target} {port.number}/{port.protocol}", set()).update(sources)
    variants = {variant.name: variant.rows for variant in load()}
    rows = {**variants["default"], **variants["production"], "coturn 3478/UDP": ("desktop",)}
    assert "desktop" in variants["coturn in a pod"]["coturn 3478/UDP"]
    targets = {target for _, target, _ in PROMISED}
    page = {
        row: set(who) - _BESIDE
        for row, who in rows.items()
        if row.rpartition(" ")[0] in targets and row not in _ALIKE and set(who) - _BESIDE
    }
    assert page == checked


def snapshot(*egress: object) -> Snapshot:
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [*egress]}
    policy = {"metadata": {"name": "out", "namespace": "desks"}, "spec": spec}
    objects = Objects(networkpolicies=[convert_object("networkpolicies", policy)])
    return Snapshot(taken_at="2026-11-20T12:00:00Z", objects=objects)


_PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]


@pytest.mark.parametrize(
    ("rule", "reaches_pod", "reaches_server"),
    [
        ({}, True, True),
        ({"to": [{"namespaceSelector": {}}]}, True, False),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}, True, True),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": _PRIVATE}}]}, False, True),
        ({"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": _PRIVATE[:1]}}]}, True, True),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, True, True),
        ({"ports": [{"port": 53}]}, False, False),
    ],
)
def test_pods_and_servers_outside_are_told_apart(
    rule: object, reaches_pod: bool, reaches_server: bool
) -> None:
    source, port = Party("a desktop", "desks", {}), Port(53, "dns", "UDP")
    for target, reaches in (
        (Party("DNS", "kube-system", {}), reaches_pod),
        (Party("outside", "", {}), reaches_server),
    ):
        assert (blocking(snapshot(rule), source, target, port) is None) == reaches, target


@pytest.mark.parametrize(
    ("cidr", "cluster_ip", "reaches"),
    [
        ("::/0", "10.43.0.10", False),
        ("0.0.0.0/0", "10.43.0.10", True),
        ("::/0", "fd00::a", True),
        ("0.0.0.0/0", "fd00::a", False),
    ],
)
def test_addresses_of_another_family_allow_no_pod(
    cidr: str, cluster_ip: str, reaches: bool
) -> None:
    allowed = snapshot({"to": [{"ipBlock": {"cidr": cidr}}]})
    service = {
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": cluster_ip},
    }
    allowed.objects.services.append(convert_object("services", service))
    ends = Party("a desktop", "desks", {}), Party("DNS", "kube-system", {})
    assert (blocking(allowed, *ends, Port(53, "dns", "UDP")) is None) == reaches


def test_a_closed_policy_names_both_ends_and_the_port() -> None:
    (finding,) = roots(GATEWAY_FAULTS.broken("desktops_may_not_ask_for_names").findings())
    assert (
        finding.message
        == "A desktop may not connect to the cluster's DNS on port 53. None of the 1 policies for"
        " that egress allows it."
    )
    assert finding.object == "networkpolicy/vdi-sessions/desktops-out"

"""Codes of the cluster's network: names, policies, clocks."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.diagnosis.dns import DNS_DOWN
from vdi.findings.model import Severity

_code = partial(Code, layer="infrastructure")

NETWORK = (
    DNS_DOWN,
    _code(
        code="network_policy_blocks",
        means="NetworkPolicies block connections that Traefik, the gateway or the operator need.",
        proof="The policies that select the pods, evaluated as a network plugin does; unknown parts count as allowed.",
        remedy="Allow the connection in the chart's values (traefik.peers, network), or delete the policy.",
    ),
    _code(
        code="turn_down",
        means=(
            "No replica of the TURN server is ready: WebRTC does not work through firewalls. Desktops use WebSockets."
        ),
        proof="Ready replicas of the workload with the label app.kubernetes.io/name=coturn.",
        remedy="Read the Events of its pods. On the host's network, another program may use port 3478.",
        severity=Severity.WARNING,
        follows=("node_not_ready",),
    ),
    _code(
        code="clock_wrong",
        means="Clocks differ: tokens count as not yet valid or expired, and Leases as stale.",
        proof="A time recorded by the cluster is in the future of the machine that runs the doctor.",
        remedy="Set up time synchronisation (systemd-timesyncd, chrony) on the node and here.",
        severity=Severity.WARNING,
    ),
    _code(
        code="api_server_slow",
        means="The API server takes more than a second for a small request: operator and portal are equally slow.",
        proof="The fastest of three consecutive small requests from the machine that runs the doctor.",
        remedy="Check the server's disk, on which etcd or SQLite depends, its CPU, and the network.",
        severity=Severity.WARNING,
        cluster_wide=True,
    ),
    _code(
        code="api_certificate_ends",
        means="The API server's certificate expires soon. K3s renews it at its start, in the last 90 days.",
        proof="The certificate that the API server presents.",
        remedy="Restart K3s on one server after the other (kubeadm: kubeadm certs renew all).",
        severity=Severity.WARNING,
    ),
)

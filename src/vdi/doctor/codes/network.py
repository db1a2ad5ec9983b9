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
        means="NetworkPolicies keep Traefik, the gateway or the operator from what they have to reach.",
        proof="The policies that select the pods, read as a network plugin reads them; what is not known is let pass.",
        remedy="Allow the connection in the chart's values (traefik.peers, network), or delete the policy.",
    ),
    _code(
        code="turn_down",
        means="No replica of the TURN server is ready: WebRTC does not pass firewalls. Desktops use WebSockets.",
        proof="Ready replicas of the workload with the label app.kubernetes.io/name=coturn.",
        remedy="Read the Events of its pods. On the host's network, another program may use port 3478.",
        severity=Severity.WARNING,
        follows=("node_not_ready",),
    ),
    _code(
        code="clock_wrong",
        means="Clocks differ: tokens count as not yet valid or over, and Leases as stale.",
        proof="A time that the cluster wrote down lies in the future of whoever runs the doctor.",
        remedy="Set up time synchronisation (systemd-timesyncd, chrony) on the node and here.",
        severity=Severity.WARNING,
    ),
    _code(
        code="api_server_slow",
        means="The API server takes more than a second for a small request: operator and portal are as slow.",
        proof="The fastest of three small requests, one after the other, from the machine that runs the doctor.",
        remedy="Check the server's disk, which etcd or SQLite waits for, its CPU, and the network.",
        severity=Severity.WARNING,
        cluster_wide=True,
    ),
    _code(
        code="api_certificate_ends",
        means="The API server's certificate is about to end. K3s renews it when it starts, from 90 days before on.",
        proof="The certificate that the API server shows.",
        remedy="Restart K3s on one server after the other (kubeadm: kubeadm certs renew all).",
        severity=Severity.WARNING,
    ),
)

"""Codes of what `vdi doctor --probe` tries."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="probes")
_FROM_HERE = "Tried from the machine that runs the doctor, with the session's own address."
_WAY_IN = ("node_not_ready", "traefik_down", "traefik_crds_missing", "gateway_down", "gateway_missing")
_ROUTE = (
    *("route_missing", "route_rule_v2", "route_host_mismatch", "route_entry_point_unknown", "middleware_missing"),
    *("route_crosses_namespaces", "traefik_not_watching", "service_missing", "service_without_endpoints"),
)

PROBES = (
    _code(
        code="probe_name_not_found",
        means="The name of a desktop cannot be resolved in DNS.",
        proof=_FROM_HERE,
        remedy="Create a wildcard DNS record for the sessions' domain that points to Traefik.",
    ),
    _code(
        code="probe_unreachable",
        means="Nothing listens at the address of a desktop's name.",
        proof=_FROM_HERE,
        remedy="Check Traefik's Service and entry point, the firewall, and the chart's urlPort.",
        follows=_WAY_IN,
    ),
    _code(
        code="probe_certificate_refused",
        means="The certificate of a desktop is not trusted here, has expired, or is for another name.",
        proof=_FROM_HERE,
        remedy="Install a wildcard certificate that browsers trust, or your own authority in the browsers.",
        severity=Severity.WARNING,
        follows=("certificate_missing", "certificate_expired", "certificate_for_other_names"),
    ),
    _code(
        code="probe_not_routed",
        means="Traefik responds with 404: it has no route for the name of a running desktop.",
        proof=_FROM_HERE,
        remedy="Check the session's IngressRoute and Traefik's log.",
        follows=(*_WAY_IN, *_ROUTE),
    ),
    _code(
        code="probe_bad_answer",
        means="A desktop's address responds with a server error.",
        proof=_FROM_HERE,
        remedy="Check the desktop for 502 to 504, the gateway for 500.",
        follows=(*_WAY_IN, *_ROUTE, "dns_down", "network_policy_blocks", "database_unreachable"),
    ),
    _code(
        code="probe_websocket_refused",
        means="The page of a desktop responds, but its WebSocket does not: there is no picture.",
        proof=f"{_FROM_HERE} The gateway admits no one without a token: its refusal is the right response.",
        remedy="Let the proxy in front of Traefik pass upgrades (nginx: proxy_http_version 1.1, Upgrade, Connection).",
        follows=(*_WAY_IN, *_ROUTE),
    ),
    _code(
        code="probe_desktop_silent",
        means="A desktop that counts as ready does not respond on its port.",
        proof="Its health page, requested through the API server.",
        remedy="Read the desktop's log, then restart the session.",
        follows=("library_missing", "selkies_error", "network_policy_blocks", "node_not_ready"),
    ),
    _code(
        code="probe_pod_failed",
        means="A pod of the template's image with an empty volume fails at a step of a desktop's start.",
        proof=(
            "A pod that the probe creates and removes: it pulls the image, mounts a volume, writes and resolves a name."
        ),
        remedy="Follow the message.",
        follows=(
            *("image_unavailable", "storage_class_missing", "home_not_provisioned", "provisioner_silent", "dns_down"),
            *("node_not_ready", "pod_refused", "room_insufficient", "node_under_pressure"),
        ),
    ),
    _code(
        code="network_policy_not_enforced",
        means="The cluster has NetworkPolicies but does not enforce them: each desktop can reach every other pod.",
        proof="A connection that the policies deny, from the probe's pod with a desktop's labels.",
        remedy="Install a network plugin that enforces them (docs/network.md).",
        severity=Severity.WARNING,
    ),
    _code(
        code="probe_turn_refused",
        means=(
            "The TURN server does not allocate a relay address, or does not respond: WebRTC does not work through "
            "firewalls."
        ),
        proof="An allocation with credentials like the gateway's, from the machine that runs the doctor.",
        remedy="Open port 3478 over UDP. After a 401, upgrade the release: both sides then share a secret.",
        severity=Severity.WARNING,
        follows=("turn_down", "dns_down"),
    ),
    _code(
        code="turn_peers_denied",
        means="The TURN server relays only to allowed addresses, which do not include a desktop's address.",
        proof="allowed-peer-ip of its configuration, compared with the addresses of desktops' pods.",
        remedy="Add the range of the pods to the chart's coturn.allowedPeers (K3s: 10.42.0.0/16).",
        severity=Severity.WARNING,
    ),
    _code(
        code="gpu_memory_full",
        means=(
            "The memory of a shared GPU is nearly used up. Slicing shares the time, not the memory: the next desktop "
            "that needs more fails."
        ),
        proof="The metrics of NVIDIA's DCGM exporter, requested through the API server.",
        remedy="Suspend a desktop on that node, or share its GPUs among fewer desktops.",
        severity=Severity.WARNING,
    ),
)

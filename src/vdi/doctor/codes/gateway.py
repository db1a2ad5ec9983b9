"""Codes of the gateway, and of what it leans on."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="data plane")
_LOG = "The gateway's log, in which it says so every minute while it lasts."

GATEWAY = (
    _code(
        code="gateway_down",
        means="No replica of the gateway is ready: no one can log in or open a desktop. Open desktops go on streaming.",
        proof="status.readyReplicas of its Deployment, the state of its pods, and their logs.",
        remedy="Do what the message says; the gateway's log has the rest.",
        follows=("node_not_ready", "dns_down", "database_newer", "database_unreachable"),
    ),
    _code(
        code="gateway_missing",
        means="Routes of desktops ask a gateway that is not there: every desktop answers 500.",
        proof="The operator has VDI_EDGE_MIDDLEWARE, and no Deployment has a container 'gateway'.",
        remedy="Upgrade the release with gateway.enabled=true.",
    ),
    _code(
        code="database_unreachable",
        means="The gateway's database does not answer: no one can log in, and no history is written.",
        proof=_LOG,
        remedy="Check the server that the Secret's url names. With SQLite, check the volume.",
        follows=("dns_down", "node_not_ready"),
    ),
    _code(
        code="history_not_written",
        means="The gateway cannot write history. Logins and desktops go on; history is lost if it lasts.",
        proof=_LOG,
        remedy="Free its disk, or make its volume or its tables writable: the message has the database's own error.",
        follows=("database_unreachable", "dns_down", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        code="database_newer",
        means="A newer gateway has changed the database's tables: this one does not touch them, and does not start.",
        proof="The gateway's last words.",
        remedy="Run the newer version, or restore a backup from before the upgrade (docs/history.md).",
    ),
    _code(
        code="redis_unreachable",
        means="Redis does not answer: replicas of the gateway do not hear of what the others revoke, until they poll.",
        proof=_LOG,
        remedy="Check the server that the Secret's url names.",
        follows=("dns_down", "node_not_ready"),
    ),
    _code(
        code="oidc_unreachable",
        means="The identity provider does not answer as it should: single sign-on is not possible. Local users do.",
        proof=_LOG,
        remedy="Check gateway.oidc.issuer, the provider, and network policies.",
        follows=("dns_down",),
    ),
    _code(
        code="websocket_cut",
        severity=Severity.WARNING,
        means="The connections of a desktop are cut at the same age again and again, and its page opens new ones: the"
        " picture stops each time. Proxies and load balancers do so, often after 60 s.",
        proof="The gateway is asked before each connection; four gaps of the same length are in its log. Timeouts of"
        " Traefik are read from its arguments (respondingTimeouts).",
        remedy="Raise the idle timeout of the proxy before Traefik, or of Traefik's entry point (respondingTimeouts).",
    ),
    _code(
        code="gateway_troubled",
        means="The gateway lacks something that it needs.",
        proof=_LOG,
        remedy="Do what the message says; the gateway's log has the rest.",
        follows=("dns_down", "database_unreachable", "operator_missing", "crd_missing"),
    ),
)

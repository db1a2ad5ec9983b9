"""Codes of the gateway, and of what it leans on."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="data plane")
_LOG = "The gateway's log, which reports it every minute as long as it continues."

GATEWAY = (
    _code(
        code="gateway_down",
        means=(
            "No replica of the gateway is ready: no one can log in or open a desktop. Open desktops are not affected."
        ),
        proof="status.readyReplicas of its Deployment, the state of its pods, and their logs.",
        remedy="Follow the message; the gateway's log has the details.",
        follows=("node_not_ready", "dns_down", "database_newer", "database_unreachable"),
    ),
    _code(
        code="gateway_missing",
        means="Routes of desktops refer to a gateway that does not exist: every desktop responds with 500.",
        proof="The operator has VDI_EDGE_MIDDLEWARE, but no Deployment has a container 'gateway'.",
        remedy="Upgrade the release with gateway.enabled=true.",
    ),
    _code(
        code="database_unreachable",
        means="The gateway's database does not respond: no one can log in, and no history is written.",
        proof=_LOG,
        remedy="Check the server in the url of the Secret. With SQLite, check the volume.",
        follows=("dns_down", "node_not_ready"),
    ),
    _code(
        code="history_not_written",
        means=(
            "The gateway cannot write history. Logins and desktops are not affected; history is lost if this continues."
        ),
        proof=_LOG,
        remedy="Free its disk, or make its volume or its tables writable: the message contains the database's error.",
        follows=("database_unreachable", "dns_down", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        code="database_newer",
        means=(
            "A newer gateway has changed the database's tables: this version does not modify them, and does not start."
        ),
        proof="The last line of the gateway's log.",
        remedy="Run the newer version, or restore a backup from before the upgrade (docs/history.md).",
    ),
    _code(
        code="redis_unreachable",
        means=(
            "Redis does not respond: replicas of the gateway learn about revocations by the others only when they poll."
        ),
        proof=_LOG,
        remedy="Check the server in the url of the Secret.",
        follows=("dns_down", "node_not_ready"),
    ),
    _code(
        code="oidc_unreachable",
        means=(
            "The identity provider does not respond correctly: single sign-on is not possible. Local users can log in."
        ),
        proof=_LOG,
        remedy="Check gateway.oidc.issuer, the provider, and network policies.",
        follows=("dns_down",),
    ),
    _code(
        code="websocket_cut",
        severity=Severity.WARNING,
        means=(
            "The connections of a desktop repeatedly end at the same age, and its page opens new ones: the picture "
            "stops each time. Proxies and load balancers do this, often after 60 s."
        ),
        proof=(
            "The gateway is called before each connection; its log has four gaps of the same length. Timeouts of "
            "Traefik are read from its arguments (respondingTimeouts)."
        ),
        remedy=(
            "Raise the idle timeout of the proxy in front of Traefik, or of Traefik's entry point (respondingTimeouts)."
        ),
    ),
    _code(
        code="gateway_troubled",
        means="The gateway lacks something that it needs.",
        proof=_LOG,
        remedy="Follow the message; the gateway's log has the details.",
        follows=("dns_down", "database_unreachable", "operator_missing", "crd_missing"),
    ),
)

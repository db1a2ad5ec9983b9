"""The IngressRoute (Traefik 3) that leads the session's host to its Service."""

from typing import Any

from vdi.session.children.service import PORT_NAME
from vdi.session.identity import Identity
from vdi.session.naming import route_name, service_name
from vdi.session.observed import HOST
from vdi.session.policy import Policy


def build_route(*, identity: Identity, host: str, policy: Policy) -> dict[str, Any]:
    """One route for one host. TLS from the named Secret, the named resolver, or Traefik's default certificate."""
    tls: dict[str, Any] = {}
    if policy.tls_secret:
        tls = {"secretName": policy.tls_secret}
    elif policy.cert_resolver:
        # Named as in the chart's own route: without it Traefik orders a certificate for each desktop's host.
        tls = {"certResolver": policy.cert_resolver, "domains": [{"main": f"*.{policy.domain}"}]}
    rule: dict[str, Any] = {
        "kind": "Rule",
        "match": f"Host(`{host}`)",
        "services": [{"kind": "Service", "name": service_name(identity.name), "port": PORT_NAME}],
    }
    if policy.edge_middleware:
        rule["middlewares"] = [{"name": policy.edge_middleware}]
    return {
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "IngressRoute",
        "metadata": identity.metadata(route_name(identity.name), {HOST: host}),
        "spec": {
            "entryPoints": [policy.entry_point],
            "routes": [rule],
            "tls": tls,
        },
    }

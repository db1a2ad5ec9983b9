"""The IngressRoute (Traefik 3) that leads the session's host to its Service."""

from typing import Any

from vdi.api.template import Scheme
from vdi.session.children.service import PORT_NAME
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.identity import Identity
from vdi.session.naming import route_name, service_name
from vdi.session.observed import HOST

DESKTOP_TRANSPORT = "vdi-desktop-tls"
"""The chart's ServersTransport in the sessions' namespace: TLS without a look at the certificate. Only routes to pods
that speak TLS name it: their certificates are the images' own, and no authority vouches for them."""

_DEFAULT_CERTIFICATE = {"certResolver": ""}
"""Not an empty map: where the route named a Secret before, server-side apply would make it null, which is refused."""


def build_route(
    *, identity: Identity, host: str, settings: ClusterSettings, scheme: Scheme = Scheme.HTTP
) -> dict[str, Any]:
    """One route for one host. `scheme`: what the pod speaks."""
    service = {"kind": "Service", "name": service_name(identity.name), "port": PORT_NAME}
    if scheme is Scheme.HTTPS:
        service |= {"scheme": "https", "serversTransport": DESKTOP_TRANSPORT}
    rule: dict[str, Any] = {"kind": "Rule", "match": f"Host(`{host}`)", "services": [service]}
    if settings.edge_middleware:
        rule["middlewares"] = [{"name": settings.edge_middleware}]
    return {
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "IngressRoute",
        "metadata": identity.metadata(route_name(identity.name), {HOST: host}),
        "spec": {
            "entryPoints": [settings.entry_point],
            "routes": [rule],
            "tls": _tls(settings),
        },
    }


def _tls(settings: ClusterSettings) -> dict[str, Any]:
    """From the named Secret, the named resolver, or Traefik's default certificate."""
    if settings.tls_secret:
        # With a gateway the portal's route names the Secret, and Traefik presents its certificate for every host that
        # it covers. So the private key is not in the sessions' namespace, of which the gateway reads every Secret.
        return _DEFAULT_CERTIFICATE if settings.edge_middleware else {"secretName": settings.tls_secret}
    if settings.cert_resolver:
        # Named as in the chart's own route: without it Traefik orders a certificate for each desktop's host.
        return {"certResolver": settings.cert_resolver, "domains": [{"main": f"*.{settings.domain}"}]}
    return _DEFAULT_CERTIFICATE

"""Who is at the other end: a browser behind Traefik, or a desktop."""

import ssl
from ipaddress import ip_address

from starlette.requests import HTTPConnection

from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.settings import Network
from vdi.kube.http import url_host
from vdi.session.naming import service_name

# For clients of desktops, which speak plain HTTP: loading the usual authorities takes 20 ms each time.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_address(request: HTTPConnection, trusted: tuple[Network, ...], cluster: ClusterCache) -> str:
    """The browser's address, for rate limits and the audit.

    That is the last entry of X-Forwarded-For, which Traefik wrote, if it is Traefik (a trusted proxy) that is connected
    to us. What stands left of it the browser may have written itself. Without a proxy in front: our own peer.

    Pods of desktops share their network with Traefik, and run what their users please: where no NetworkPolicy is
    enforced, one can connect to us directly. It is never a proxy.
    """
    peer = request.client.host if request.client else ""
    if not _is_among(peer, trusted) or cluster.is_desktop(peer):
        return peer
    last = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    return last if _is_address(last) else peer


def desktop_url(session: VDISession, port: int) -> str:
    """Where the gateway asks a desktop, at one of its pod's own ports.

    By address: cluster DNS learns of a ready desktop a moment after its session is Running, and a client that
    asked before gets "no such name" for seconds (CoreDNS's `ttl`, 5 s). The Service is headless, so its name, which
    serves under an operator that does not write status.podIP yet, leads to the same port.
    """
    address, meta = session.status.pod_ip, session.metadata
    host = address if _is_address(address) else f"{service_name(meta.name)}.{meta.namespace}.svc"
    return f"http://{url_host(host)}:{port}"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_among(text: str, networks: tuple[Network, ...]) -> bool:
    return _is_address(text) and any(ip_address(text) in network for network in networks)

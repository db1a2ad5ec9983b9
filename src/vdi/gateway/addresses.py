"""Who is at the other end, behind Traefik."""

from ipaddress import ip_address

from starlette.requests import HTTPConnection

from vdi.gateway.settings import Network


def client_address(request: HTTPConnection, trusted: tuple[Network, ...]) -> str:
    """The browser's address, for rate limits and the audit.

    That is the last entry of X-Forwarded-For, which Traefik wrote, if it is Traefik (a trusted proxy) that is connected
    to us. What stands left of it the browser may have written itself. Without a proxy in front: our own peer.
    """
    peer = request.client.host if request.client else ""
    if not _is_among(peer, trusted):
        return peer
    last = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    return last if _is_address(last) else peer


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_among(text: str, networks: tuple[Network, ...]) -> bool:
    return _is_address(text) and any(ip_address(text) in network for network in networks)

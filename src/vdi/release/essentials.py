"""What only the administrator knows: domain, certificate, administrators. Text -> values of the chart. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from vdi.gateway.users import check_address
from vdi.operator.variables import SUBDOMAIN

_KINDS = {
    "secret": "traefik.tlsSecret",
    "issuer": "traefik.certManager.issuer",
    "resolver": "traefik.certResolver",
}
_CERTIFICATES = (
    "none (Traefik's own), secret:NAME (a TLS Secret), issuer:NAME (a ClusterIssuer of cert-manager),"
    " resolver:NAME (a certificate resolver of Traefik)"
)


def domain_values(text: str) -> Mapping[str, Any]:
    """Raises ValueError."""
    domain = text.strip().lower().removeprefix("*.").rstrip(".")
    if not re.fullmatch(SUBDOMAIN, domain) or "." not in domain:
        raise ValueError(f"{text!r} is not a domain; allowed: names such as vdi.example.com")
    return {"domain": domain}


def certificate_values(text: str) -> Mapping[str, Any]:
    """Raises ValueError."""
    kind, separator, name = text.strip().partition(":")
    if kind == "none" and not separator:
        return {}
    if kind not in _KINDS or not re.fullmatch(SUBDOMAIN, name):
        raise ValueError(f"{text!r} is not a certificate; allowed: {_CERTIFICATES}")
    return {_KINDS[kind]: name}


def admin_values(text: str) -> Mapping[str, Any]:
    """Addresses, separated by commas. Raises ValueError."""
    users = [check_address(address) for address in filter(None, map(str.strip, text.split(",")))]
    if not users:
        raise ValueError(f"{text!r} contains no administrator; allowed: e-mail addresses, separated by commas")
    return {"gateway.adminUsers": users}

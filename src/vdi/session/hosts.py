"""Which host a session may have, and the record of who owns a host name that was chosen. Pure.

A host is an origin: whoever serves a page there can leave a service worker behind, which then runs in the pages of the
next owner. So a host never passes to another person.

    no spec.hostname   `naming.host_label`: the label carries a keyed hash of the user. Nothing is recorded.
    spec.hostname      the first user who gets the name owns it, also after their session. A ConfigMap records it.
"""

import re
from typing import Any

from vdi.api.session import VDISession
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.identity import MANAGED_BY
from vdi.session.naming import KEYED_LABEL, reservation_name
from vdi.session.observed import HOST

_LOOKS_KEYED = re.compile(KEYED_LABEL)
_LOOKS_ENCODED = re.compile(r"..--")
"""Start of `xn--` labels, which browsers show in other letters, and of all that IDNA keeps for such uses."""


def has_label(session: VDISession, label: str) -> bool:
    """Whether the session's address, which the operator alone writes, begins with this label."""
    return session.status.url.removeprefix("https://").partition(".")[0] == label


def refuse_hostname(session: VDISession, settings: ClusterSettings) -> str | None:
    """Why the session may not have the `spec.hostname` that it asks for."""
    label = session.spec.hostname
    if label is None:
        return None
    if settings.edge_middleware is not None and label == settings.portal_label:
        return f"{settings.host(label)} is the portal's own address. Choose another hostname for this session"
    if _LOOKS_KEYED.search(label):
        return f"{label!r} ends like an address that the operator generates, such as alice-5tq2mzk4; choose another"
    if _LOOKS_ENCODED.match(label):
        return f"{label!r} has -- as its third and fourth characters, like an encoded name (xn--...); choose another"
    return None


def build_reservation(namespace: str, label: str, user: str) -> dict[str, Any]:
    """The ConfigMap that records who owns a label. It has no owner reference: it outlives the user's sessions."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": reservation_name(label),
            "namespace": namespace,
            "labels": {**MANAGED_BY, HOST: label},
        },
        "data": {"user": user},
    }

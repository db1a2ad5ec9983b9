"""Whose address it is: what a browser writes itself is never believed."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import cast

import msgspec
import pytest
from starlette.requests import HTTPConnection

from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.settings import Settings
from vdi.gateway.web.middleware import client_address
from vdi.kube.transport import Client

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def a_cluster(*pod_ips: str) -> ClusterCache:
    """With a session for each of these pods."""
    cluster = ClusterCache(cast(Client, None), Settings())
    for number, pod_ip in enumerate(pod_ips):
        meta = {
            "name": f"desktop-{number}",
            "namespace": "vdi-sessions",
            "uid": f"{number}",
            "resourceVersion": "1",
        }
        session = {
            "metadata": meta,
            "spec": {"user": "a@b.cd", "template": "x"},
            "status": {"podIP": pod_ip},
        }
        cluster.sessions.observe(msgspec.convert(session, VDISession))
    return cluster


def asked(peer: str, *forwarded: str, pods: Sequence[str] = ()) -> str:
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    scope = {"type": "http", "headers": headers, "client": (peer, 1234) if peer else None}
    return client_address(HTTPConnection(scope), TRUSTED, a_cluster(*pods))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.1.2.3", ["203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", ["1.1.1.1, 10.9.9.9"], "10.9.9.9"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["unknown"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7, "], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.7\n203.0.113.8"], "10.1.2.3"),
        ("198.51.100.9", ["203.0.113.7"], "198.51.100.9"),
        ("", ["203.0.113.7"], ""),
    ],
)
def test_only_the_last_word_of_a_trusted_proxy_counts(
    peer: str, forwarded: list[str], address: str
) -> None:
    assert asked(peer, *forwarded) == address


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_a_desktops_pod_is_no_proxy(peer: str) -> None:
    """One that reaches the gateway past Traefik, where no NetworkPolicy is enforced, cannot choose
    its address.
    """
    pods = ["10.1.2.3", "fd00:0:0:0::1", ""]
    assert asked(peer, "203.0.113.7", pods=pods) == peer
    assert asked("10.1.2.4", "203.0.113.7", pods=pods) == "203.0.113.7", "Traefik"

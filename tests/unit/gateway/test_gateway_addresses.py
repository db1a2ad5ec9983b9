"""Whose address it is: what a browser writes itself is never believed."""

from ipaddress import ip_network

import pytest
from starlette.requests import HTTPConnection

from vdi.gateway.addresses import client_address

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def asked(peer: str, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    scope = {"type": "http", "headers": headers, "client": (peer, 1234) if peer else None}
    return client_address(HTTPConnection(scope), TRUSTED)


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
def test_only_the_last_word_of_a_trusted_proxy_counts(peer: str, forwarded: list[str], address: str) -> None:
    assert asked(peer, *forwarded) == address

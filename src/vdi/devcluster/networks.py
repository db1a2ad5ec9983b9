"""Addresses of the embedded cluster: pure choice of ranges that no route of the host already uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_network

import msgspec


class NoFreeNetwork(Exception):  # noqa: N818 - named for what is the case
    """Raised when the host's routes leave no private range free."""


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """The ranges of one cluster, as text: `link` joins host and node, the others exist inside the node only."""

    link: str
    pods: str
    services: str

    @property
    def host_address(self) -> str:
        """The host's end of the link."""
        return str(ip_network(self.link)[1])

    @property
    def node_address(self) -> str:
        """The node's end of the link, where the API server listens."""
        return str(ip_network(self.link)[2])

    @property
    def api_service(self) -> str:
        """The Service `kubernetes` always has the first address."""
        return str(ip_network(self.services)[1])

    @property
    def dns_service(self) -> str:
        """The cluster's DNS, tenth address as everywhere."""
        return str(ip_network(self.services)[10])


CONTROL_PLANE_SERVICES = "10.96.0.0/16"
"""Without a node nothing routes to Services: any range does."""


def choose_networks(taken: Iterable[str]) -> Networks:
    """A /24 for pods, a /20 for Services and a /30 for the link, outside every range in `taken` (CIDRs).

    Tries 10.213-10.249 and 172.20-172.31, away from what K3s (10.42, 10.43), kubeadm (10.96, 10.244) and Docker
    (172.17-172.19) take. Raises NoFreeNetwork.
    """
    used = [ip_network(cidr, strict=False) for cidr in taken]
    # A default route, or the two halves a VPN installs, is a way out, not somebody's network.
    used = [network for network in used if isinstance(network, IPv4Network) and network.prefixlen > 1]
    for block in _candidates():
        if not any(block.overlaps(other) for other in used):
            parts = list(block.subnets(new_prefix=20))
            pods = next(parts[1].subnets(new_prefix=24))
            link = next(parts[2].subnets(new_prefix=30))
            return Networks(link=str(link), pods=str(pods), services=str(parts[0]))
    tried = "10.213.0.0-10.249.255.255 and 172.20.0.0-172.31.255.255"
    raise NoFreeNetwork(
        f"no private /16 is free of the host's routes; tried {tried}, taken: {', '.join(map(str, used))}"
    )


def _candidates() -> Iterator[IPv4Network]:
    for second in range(213, 250):
        yield IPv4Network(f"10.{second}.0.0/16")
    for second in range(20, 32):
        yield IPv4Network(f"172.{second}.0.0/16")

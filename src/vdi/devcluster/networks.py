"""Addresses of the embedded cluster: pure choice of ranges that no route of the host already
uses.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_network

import msgspec

# A cluster has a /20 for pods, and each node a /24 of it.
MAX_NODES = 16
_RANGE = 20
_POD_RANGE = 24
# Without a node nothing routes to Services: any range does.
CONTROL_PLANE_SERVICES = "10.96.0.0/16"


class NoFreeNetwork(Exception):  # noqa: N818 - named for what is the case
    """Raised when the host's routes leave no private range free."""


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """The ranges of one cluster, as text: `link` joins host and first node, the others exist inside
    the nodes only.

    `link` and `pods` are those of the first node; those of the others follow them.
    """

    link: str
    pods: str
    services: str

    @property
    def host_address(self) -> str:
        """The host's end of the link."""
        return str(ip_network(self.link)[1])

    @property
    def node_address(self) -> str:
        """The first node's end of the link, where the API server listens."""
        return self.address_of(1)

    @property
    def all_pods(self) -> str:
        """The range of the pods of all nodes."""
        return str(ip_network(self.pods).supernet(new_prefix=_RANGE))

    @property
    def all_links(self) -> str:
        return str(ip_network(self.link).supernet(new_prefix=_RANGE))

    def link_of(self, number: int) -> str:
        """The range of the link to node `number`: from the host to the first node, from there to
        each of the others.
        """
        return _nth(self.link, number)

    def gateway_of(self, number: int) -> str:
        """The end of its link that node `number` sends everything through."""
        return str(ip_network(self.link_of(number))[1])

    def address_of(self, number: int) -> str:
        return str(ip_network(self.link_of(number))[2])

    def pods_of(self, number: int) -> str:
        """The range of the pods of node `number`."""
        return _nth(self.pods, number)

    @property
    def api_service(self) -> str:
        """The Service `kubernetes` always has the first address."""
        return str(ip_network(self.services)[1])

    @property
    def dns_service(self) -> str:
        """The cluster's DNS, tenth address as everywhere."""
        return str(ip_network(self.services)[10])


def _nth(first: str, number: int) -> str:
    start = ip_network(first)
    return str(type(start)((int(start[0]) + (number - 1) * start.num_addresses, start.prefixlen)))


def choose_networks(taken: Iterable[str]) -> Networks:
    """A /24 for a node's pods, a /20 for Services and a /30 for a link, outside every range in
    `taken` (CIDRs).

    Tries 10.213-10.249 and 172.20-172.31, away from what K3s (10.42, 10.43), kubeadm (10.96,
    10.244) and Docker (172.17-172.19) take. Raises NoFreeNetwork.
    """
    used = [ip_network(cidr, strict=False) for cidr in taken]
    # A default route, or the two halves a VPN installs, is a way out, not somebody's network.
    used = [
        network for network in used if isinstance(network, IPv4Network) and network.prefixlen > 1
    ]
    for block in _candidates():
        if not any(block.overlaps(other) for other in used):
            parts = list(block.subnets(new_prefix=_RANGE))
            pods = next(parts[1].subnets(new_prefix=_POD_RANGE))
            link = next(parts[2].subnets(new_prefix=30))
            return Networks(link=str(link), pods=str(pods), services=str(parts[0]))
    tried = "10.213.0.0-10.249.255.255 and 172.20.0.0-172.31.255.255"
    raise NoFreeNetwork(
        f"no private /16 is free of the host's routes; tried {tried}, taken:"
        f" {', '.join(map(str, used))}"
    )


def _candidates() -> Iterator[IPv4Network]:
    for second in range(213, 250):
        yield IPv4Network(f"10.{second}.0.0/16")
    for second in range(20, 32):
        yield IPv4Network(f"172.{second}.0.0/16")

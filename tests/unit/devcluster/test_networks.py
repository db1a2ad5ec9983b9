"""Ranges are chosen beside everything the host already routes."""

from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdi.devcluster.networks import MAX_NODES, NoFreeNetwork, choose_networks

cidrs = st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)).map(
    lambda pair: str(IPv4Network((pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1])))
)


@given(taken=st.lists(cidrs, max_size=20))
def test_what_is_chosen_overlaps_nothing(taken: list[str]) -> None:
    try:
        chosen = choose_networks(taken)
    except NoFreeNetwork:
        return
    own = [ip_network(cidr) for cidr in (chosen.link, chosen.pods, chosen.services)]
    others = [ip_network(cidr) for cidr in taken]
    assert not [(one, other) for one in own for other in others if one.overlaps(other)]
    assert not [
        (one, other) for one in own for other in own if one is not other and one.overlaps(other)
    ]


def test_a_host_that_routes_all_private_ranges_is_reported_so() -> None:
    with pytest.raises(NoFreeNetwork, match=r"10\.0\.0\.0/8, 172\.16\.0\.0/12"):
        choose_networks(["10.0.0.0/8", "172.16.0.0/12"])


def test_the_ranges_of_several_nodes_overlap_nothing() -> None:
    chosen = choose_networks([])
    numbers = range(1, MAX_NODES + 1)
    assert [chosen.address_of(number) for number in (1, 2, 3)] == [
        "10.213.32.2",
        "10.213.32.6",
        "10.213.32.10",
    ]
    assert chosen.gateway_of(1) == chosen.host_address
    assert (chosen.pods_of(1), chosen.pods_of(2)) == (chosen.pods, "10.213.17.0/24")
    ranges = [ip_network(chosen.pods_of(number)) for number in numbers]
    ranges += [ip_network(chosen.link_of(number)) for number in numbers] + [
        ip_network(chosen.services)
    ]
    assert not [
        (first, second)
        for first in ranges
        for second in ranges
        if first is not second and first.overlaps(second)
    ]
    assert all(
        IPv4Network(chosen.pods_of(number)).subnet_of(IPv4Network(chosen.all_pods))
        for number in numbers
    )
    assert all(
        IPv4Network(chosen.link_of(number)).subnet_of(IPv4Network(chosen.all_links))
        for number in numbers
    )

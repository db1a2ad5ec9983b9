"""The chart's NetworkPolicies mean to a third party's evaluator what the matrix says: all pairs,
both ways.
"""

from collections.abc import Iterator
from copy import deepcopy
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from network.evaluate import Policy, ask
from network.matrix import contradictions
from network.roles import Question, questions
from network.worlds import variants, world_of

VARIANTS = variants()
pytestmark = pytest.mark.timeout(600)  # the first run on a machine builds helm and the evaluator


@pytest.mark.parametrize("name", VARIANTS)
def test_permitted_connections_are_those_of_the_matrix(helm: Path, name: str) -> None:
    variant = VARIANTS[name]
    policies, roles = world_of(helm, variant)
    asked = list(questions(roles))
    (answers,) = ask(asked, [policies])
    assert list(contradictions(variant, asked, answers)) == []
    known = {each.row for each in asked} | {"desktop 8080/TCP", "desktop 8082/TCP"}
    unknown = [row for row, who in variant.rows.items() if who and row not in known]
    assert unknown == [], "rows of the matrix that nothing asks about"


def without_each_part(policies: list[Policy]) -> Iterator[tuple[str, list[Policy]]]:
    """The policies with one thing taken away: a policy, a direction, a rule, a peer, a port, an
    exception.
    """
    for number, policy in enumerate(policies):
        name, spec = policy["metadata"]["name"], policy["spec"]
        yield f"{name}", [*policies[:number], *policies[number + 1 :]]

        def changed(*path: Any, number: int = number) -> list[Policy]:
            copy = deepcopy(policies)
            part = copy[number]["spec"]
            for key in path[:-1]:
                part = part[key]
            del part[path[-1]]
            return copy

        for place, kind in enumerate(spec["policyTypes"]):
            if len(spec["policyTypes"]) > 1:
                yield f"{name}: {kind}", changed("policyTypes", place)
        for way, peers in (("ingress", "from"), ("egress", "to")):
            for place, rule in enumerate(spec.get(way) or []):
                yield f"{name}: {way} rule {place}", changed(way, place)
                for inner in (peers, "ports"):
                    yield from (
                        (
                            f"{name}: {way} rule {place}: {inner} {index}",
                            changed(way, place, inner, index),
                        )
                        for index in range(len(rule.get(inner) or []))
                    )
                for index, peer in enumerate(rule.get(peers) or []):
                    excepted = peer.get("ipBlock", {}).get("except", [])
                    yield from (
                        (
                            f"{name}: except {one}",
                            changed(way, place, peers, index, "ipBlock", "except", nth),
                        )
                        for nth, one in enumerate(excepted)
                        if not any(is_within(one, other) for other in excepted if other != one)
                    )


def is_within(inner: str, outer: str) -> bool:
    """Whether an exception is no exception beside a wider one: the API server's, where its address
    is a private one.
    """
    small, large = ip_network(inner), ip_network(outer)
    return (
        small.version == large.version
        and small.network_address in large
        and small.prefixlen >= large.prefixlen
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_removed_rule_breaks_the_matrix(helm: Path, name: str) -> None:
    """So the test above can fail, and no rule is there for nothing. A rule without its last peer is
    open to all.
    """
    variant = VARIANTS[name]
    policies, roles = world_of(helm, variant)
    asked = list(questions(roles))
    mutants = dict(without_each_part(policies))
    assert len(mutants) >= 40
    answers = ask(asked, list(mutants.values()))
    unnoticed = [
        what
        for what, answer in zip(mutants, answers, strict=True)
        if not any(contradictions(variant, asked, answer))
    ]
    assert unnoticed == []


def test_roles_of_the_matrix_exist(helm: Path) -> None:
    for variant in VARIANTS.values():
        _, roles = world_of(helm, variant)
        names = {role.name for role in roles} | {"desktop", "gateway", "probe"}
        assert {who for row in variant.rows.values() for who in row} <= names, variant.name


def test_pairs_outside_our_policies_are_skipped(helm: Path) -> None:
    _, roles = world_of(helm, VARIANTS["default"])
    asked: list[Question] = list(questions(roles))
    assert all(each.source.is_ours or each.target.is_ours for each in asked)
    assert {"desktop", "gateway", "operator", "lodger", "image fetcher", "stranger"} <= {
        each.source.name for each in asked
    }

"""Admission of a session, and what a refusal of the API server means for it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import CREATED, a_claim, a_pod, a_session, a_template
from vdi.cluster.units import parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import (
    Contender,
    Observed,
    decide,
    explain_api_error,
    find_holder,
    host_taken,
    is_from_webhook,
    name_taken,
)
from vdi.session.homes import COPYING, home_names

SETTINGS = ClusterSettings()
NOW = parse_time(CREATED)


def test_missing_template_is_waited_for() -> None:
    blocked = decide(Observed(a_session()), SETTINGS, NOW).blocked
    assert blocked and (blocked.condition, blocked.needs_change) == ("TemplateFound", False)
    assert "'ubuntu-desktop'" in blocked.message


def test_running_desktop_is_never_taken_away() -> None:
    observed = Observed(
        a_session(), None, pod=a_pod(), home_holder="bob", host_blocked=host_taken("desk")
    )
    assert decide(observed, SETTINGS, NOW).blocked is None


def test_existing_home_may_exceed_the_templates_limit() -> None:
    large = a_session(persistence={"size": "500Ti"})
    blocked = decide(Observed(large, a_template()), SETTINGS, NOW).blocked
    assert blocked and blocked.reason == "OverLimit"
    homes = {home_names(large)[0]: a_claim()}
    assert decide(Observed(large, a_template(), home=a_claim(), homes=homes), SETTINGS, NOW).desktop
    assert (
        decide(
            Observed(large, a_template(), pod=a_pod(home="home"), home=a_claim()), SETTINGS, NOW
        ).blocked
        is None
    )


def test_home_in_use_blocks_only_sessions_that_share_it() -> None:
    blocked = decide(
        Observed(a_session(), a_template(), home_holder="first"), SETTINGS, NOW
    ).blocked
    assert blocked and blocked.reason == "HomeInUse"
    assert "are in use by the desktop 'first'" in blocked.message
    own = a_session(persistence={"retain": False})
    assert decide(Observed(own, a_template(), home_holder="first"), SETTINGS, NOW).desktop


def test_no_desktop_starts_on_a_home_that_a_command_fills() -> None:
    home = a_claim()
    home.metadata.annotations = {COPYING: "vdi home import"}
    observed = Observed(
        a_session(), a_template(), home=home, homes={home_names(a_session())[0]: home}
    )
    blocked = decide(observed, SETTINGS, NOW).blocked
    assert blocked and (blocked.reason, blocked.needs_change) == ("HomeInUse", False)
    assert "in use by `vdi home import`" in blocked.message
    running = Observed(a_session(), a_template(), pod=a_pod(home="home"), home=home)
    assert decide(running, SETTINGS, NOW).blocked is None


def test_taken_host_is_named_without_its_holder() -> None:
    observed = Observed(a_session(hostname="desk"), a_template(), host_blocked=host_taken("desk"))
    blocked = decide(observed, SETTINGS, NOW).blocked
    assert blocked and (blocked.reason, blocked.needs_change) == ("HostTaken", False)
    assert (
        blocked.message == "The host name `desk` is not available. Choose another `spec.hostname`."
    )


def contender(
    uid: str, created: str, *, holds: bool = False, terminating: bool = False
) -> Contender:
    return Contender(uid=uid, name=uid, created=created, holds=holds, terminating=terminating)


def test_oldest_gets_it_unless_somebody_has_it() -> None:
    old, young = contender("a", "2026-11-20T08:00:00Z"), contender("b", "2026-11-20T09:00:00Z")
    assert find_holder([young, old]) == old
    having = contender("c", "2026-11-20T10:00:00Z", holds=True, terminating=True)
    assert find_holder([young, old, having]) == having
    assert find_holder([contender("d", "2026-11-20T07:00:00Z", terminating=True)]) is None


contenders = st.lists(
    st.builds(
        contender,
        uid=st.text("abcdef", min_size=1, max_size=3),
        created=st.sampled_from(["1", "2"]),
        holds=st.booleans(),
        terminating=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda one: one.uid,
)


@given(contenders)
def test_all_come_to_the_same_answer_in_whatever_order_they_look(several: list[Contender]) -> None:
    assert len({find_holder(order) for order in itertools.permutations(several)}) == 1


REFUSALS = [
    (
        (
            'pods "a" is forbidden: violates PodSecurity "restricted:latest": volume types (volume'
            ' "x" uses nfs)'
        ),
        "PodSecurity",
        True,
        "Pod Security level: violates PodSecurity",
    ),
    (
        (
            'pods "a" is forbidden: exceeded quota: q, requested: limits.memory=4Gi, used:'
            " limits.memory=8Gi, limited: 8Gi"
        ),
        "QuotaExceeded",
        False,
        "quota: exceeded quota: q, requested: limits.memory=4Gi",
    ),
    (
        'pods "a" is forbidden: maximum memory usage per Container is 2Gi, but limit is 4Gi',
        "Refused",
        True,
        "LimitRange: maximum memory usage",
    ),
    (
        (
            'pods "a" is forbidden: unable to create new content in namespace x because it is being'
            " terminated"
        ),
        "Refused",
        True,
        "namespace is being deleted",
    ),
    (
        'pods is forbidden: User "o" cannot create resource "pods" in API group ""',
        "Refused",
        True,
        "(RBAC)",
    ),
    (
        'Pod "a" is invalid: spec.volumes[0].name: Invalid value: "X"',
        "Refused",
        True,
        "the desktop's Pod: spec.vol",
    ),
    (
        (
            'Internal error occurred: failed calling webhook "pods.example.com": failed to call:'
            " connection refused"
        ),
        "Refused",
        False,
        "is blocked by an admission webhook that does not respond",
    ),
]


@pytest.mark.parametrize(
    ("message", "reason", "stuck", "words"), REFUSALS, ids=[row[3] for row in REFUSALS]
)
def test_refusal_of_the_api_server_is_explained(
    message: str, reason: str, stuck: bool, words: str
) -> None:
    problem = explain_api_error("Pod", message)
    assert (problem.condition, problem.reason, problem.needs_change) == ("Admitted", reason, stuck)
    assert words in problem.message


@pytest.mark.parametrize(
    ("message", "is_refusal"),
    [
        ('admission webhook "pods.example.com" denied the request: no', True),
        ('Internal error occurred: failed calling webhook "pods.example.com": EOF', True),
        ("the object provided is unrecognized", False),
    ],
)
def test_refusal_of_a_webhook_is_told_from_a_bad_request(message: str, is_refusal: bool) -> None:
    assert is_from_webhook(message) == is_refusal


def test_refused_route_blames_the_route() -> None:
    assert explain_api_error("IngressRoute", "", kind_missing=True).condition == "RouteReady"
    assert (
        "its CRD is not installed"
        in explain_api_error("IngressRoute", "", kind_missing=True).message
    )
    assert name_taken("Secret", "a-auth").condition == "Admitted"

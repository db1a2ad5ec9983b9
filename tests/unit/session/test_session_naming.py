import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_session
from vdi.session import naming
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import build_reservation, has_label, refuse_hostname

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
KEY = b"k" * 32
names = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?){0,4}", fullmatch=True
)


def label(
    name: str, user: str = "alice@example.com", namespace: str = "vdi-sessions", key: bytes = KEY
) -> str:
    return naming.host_label(namespace=namespace, session_name=name, user=user, key=key)


def test_plain_name_is_used_as_it_is() -> None:
    assert naming.pod_name("alice-desktop") == "alice-desktop"
    assert naming.secret_name("alice-desktop") == "alice-desktop-auth"


@pytest.mark.parametrize(
    "name", ["a" * 59, "a.b", "1alice", "x" * 253, "9", "a-" + "b" * 200 + ".c"]
)
def test_long_name_gets_a_readable_prefix_and_a_hash(name: str) -> None:
    base = naming.derive_base(name)
    assert base != name
    assert len(base) <= naming.BASE_LIMIT
    assert LABEL.fullmatch(base)


@given(names)
def test_every_derived_name_is_a_label(name: str) -> None:
    for derived in (naming.service_name(name), naming.secret_name(name), label(name)):
        assert LABEL.fullmatch(derived), derived


@given(names, names)
def test_two_sessions_never_share_a_name(one: str, other: str) -> None:
    assert (naming.derive_base(one) == naming.derive_base(other)) == (one == other)


@given(names)
def test_session_named_like_a_derived_name_gets_another(name: str) -> None:
    derived = naming.derive_base(name)
    assert derived == name or naming.derive_base(derived) != derived


emails = st.from_regex(r"[A-Za-z0-9._+-]{1,80}@[a-z]{1,20}\.[a-z]{2,5}", fullmatch=True)


def test_host_is_the_name_and_a_hash_that_stays_as_it_is() -> None:
    """A change of this label gives every desktop another address."""
    assert label("alice-desktop") == "alice-desktop-3t22nuhc"
    assert label("alice.desktop").startswith("alice-desktop-")
    assert len(label("a" * 253)) == naming.LABEL_LIMIT


@given(st.one_of(names, st.from_regex(r"xn--[-a-z0-9]{0,20}[a-z0-9]", fullmatch=True)), emails)
def test_host_is_never_an_encoded_name_and_always_looks_keyed(name: str, user: str) -> None:
    made = label(name, user)
    assert "--" not in made
    assert re.search(naming.KEYED_LABEL, made)
    assert LABEL.fullmatch(made)


@given(names, names, emails, emails)
def test_two_users_never_share_a_host(one: str, other: str, alice: str, mallory: str) -> None:
    assert (label(one, alice) == label(other, mallory)) == ((one, alice) == (other, mallory))
    assert label(one, alice) != label(one, alice, namespace="elsewhere")
    assert label(one, alice) != label(one, alice, key=b"l" * 32)


SETTINGS = ClusterSettings()
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


def test_reservation_outlives_the_session_and_names_the_user() -> None:
    made = build_reservation("vdi-sessions", "desk", "alice@example.com")
    assert made["metadata"] == {
        "name": "vdi-host-desk",
        "namespace": "vdi-sessions",
        "labels": {"app.kubernetes.io/managed-by": "vdi-operator", "vdi.kasm.io/host": "desk"},
    }
    assert made["data"] == {"user": "alice@example.com"}


@given(labels, labels)
def test_no_hostname_that_is_allowed_is_ever_a_keyed_label(mine: str, theirs: str) -> None:
    keyed = label(theirs)
    assert refuse_hostname(a_session(hostname=keyed), SETTINGS)
    assert refuse_hostname(a_session(mine), SETTINGS) is None
    if refuse_hostname(a_session(hostname=mine), SETTINGS) is None:
        assert mine != keyed


def test_session_without_an_address_has_no_label() -> None:
    assert not has_label(a_session(), "alice-desktop")

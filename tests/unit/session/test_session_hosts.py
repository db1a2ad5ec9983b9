"""Which hostnames are refused, the record of one, and that no choice leads to another person's label."""

from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_session
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import build_reservation, has_label, host_label, refuse_hostname

SETTINGS = ClusterSettings()
names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


def test_reservation_outlives_the_session_and_names_the_user() -> None:
    made = build_reservation("vdi-sessions", "desk", "alice@example.com")
    assert made["metadata"] == {
        "name": "vdi-host-desk",
        "namespace": "vdi-sessions",
        "labels": {"app.kubernetes.io/managed-by": "vdi-operator", "vdi.kasm.io/host": "desk"},
    }
    assert made["data"] == {"user": "alice@example.com"}


@given(names, names)
def test_no_hostname_that_is_allowed_is_ever_a_keyed_label(mine: str, theirs: str) -> None:
    keyed = host_label(namespace="vdi-sessions", session_name=theirs, user="alice@example.com", key=b"k" * 32)
    assert refuse_hostname(a_session(hostname=keyed), SETTINGS)
    assert refuse_hostname(a_session(mine), SETTINGS) is None
    if refuse_hostname(a_session(hostname=mine), SETTINGS) is None:
        assert mine != keyed


def test_session_without_an_address_has_no_label() -> None:
    assert not has_label(a_session(), "alice-desktop")

"""What is said of a home: whose it is, its size, the desktops that have it, its last use."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support.builders import a_session
from vdi.cluster.units import parse_time
from vdi.session.homes import HomeClaim, HomeSummary, home_names, is_use_due, summarize_homes, why_not_deleted

OF_TEMPLATE, OF_USER, OWN = home_names(a_session())
NOTES = {"vdi.kasm.io/user": "alice@example.com", "vdi.kasm.io/template": "ubuntu-desktop"}
CREATED, NOW = "2026-11-20T08:00:00Z", parse_time("2026-11-20T09:00:00Z")


def claim(name: str, *, notes: dict[str, str] = NOTES, owned: bool = False, capacity: str = "") -> HomeClaim:
    owner = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "name": "alice-desktop", "uid": "u"}
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "namespace": "vdi-sessions",
                "uid": f"uid-{name}",
                "creationTimestamp": CREATED,
                "annotations": notes,
                "ownerReferences": [owner] if owned else [],
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local-path",
                "resources": {"requests": {"storage": "10Gi"}},
            },
            "status": {"phase": "Bound", "capacity": {"storage": capacity} if capacity else {}},
        },
        HomeClaim,
    )


def summary(made: HomeClaim, **status: Any) -> HomeSummary:
    (home,) = summarize_homes([made], [a_session(status=status)])
    return home


def test_scope_is_read_from_the_claim() -> None:
    assert (summary(claim(OF_TEMPLATE)).scope, summary(claim(OF_TEMPLATE)).template) == (
        "UserAndTemplate",
        "ubuntu-desktop",
    )
    of_user = summary(claim(OF_USER, notes={"vdi.kasm.io/user": "alice@example.com"}))
    assert (of_user.scope, of_user.template, of_user.user) == ("User", "", "alice@example.com")
    assert summary(claim(OWN, owned=True)).scope == "Session"


def test_size_is_that_of_the_volume_and_before_it_exists_what_is_requested() -> None:
    assert summary(claim(OF_TEMPLATE)).size == "10Gi"
    assert summary(claim(OF_TEMPLATE, capacity="20Gi")).size == "20Gi"


def test_a_home_is_used_by_a_session_with_a_pod_and_last_used_otherwise() -> None:
    made = claim(OF_TEMPLATE, notes=NOTES | {"vdi.kasm.io/last-used": "2026-11-20T09:00:00Z"})
    runs = summary(made, homeClaim=OF_TEMPLATE, podName="alice-desktop")
    assert (runs.used_by, runs.sessions, runs.last_used) == (("alice-desktop",), ("alice-desktop",), "")
    rests = summary(made, homeClaim=OF_TEMPLATE)
    assert (rests.used_by, rests.sessions, rests.last_used) == ((), ("alice-desktop",), "2026-11-20T09:00:00Z")


@pytest.mark.parametrize(
    ("noted", "shown", "due"),
    [
        ("2026-11-20T08:50:01Z", "2026-11-20T08:50:01Z", False),
        ("2026-11-20T08:50:00Z", "2026-11-20T08:50:00Z", True),
        ("2026-11-20T09:00:01Z", "2026-11-20T09:00:01Z", True),  # ahead of the clock
        ("yesterday", CREATED, True),
        ("0001-01-01T00:00:00+14:00", CREATED, True),
    ],
)
def test_a_use_is_noted_again_after_ten_minutes(noted: str, shown: str, due: bool) -> None:
    made = claim(OF_TEMPLATE, notes=NOTES | {"vdi.kasm.io/last-used": noted})
    assert summary(made).last_used == shown
    assert is_use_due(made.metadata, NOW) is due


def test_a_new_home_was_used_when_it_was_created() -> None:
    made = claim(OF_TEMPLATE)
    assert summary(made).last_used == CREATED
    assert not is_use_due(made.metadata, parse_time(CREATED) + timedelta(minutes=9))
    assert is_use_due(made.metadata, parse_time(CREATED) + timedelta(minutes=10))


def test_a_home_with_a_session_is_not_deleted() -> None:
    home = summary(claim(OF_TEMPLATE))
    other = a_session(user="bob@example.com")
    assert why_not_deleted(home, [other]) is None
    assert why_not_deleted(home, [a_session("named", status={"homeClaim": OF_USER})]) is None
    why = why_not_deleted(home, [a_session("new"), a_session("first", status={"homeClaim": OF_TEMPLATE})])
    assert why == f"The home {OF_TEMPLATE!r} belongs to the sessions first, new. End them first."


def test_a_home_that_is_being_filled_is_deleted() -> None:
    filled = summary(claim(OF_TEMPLATE, notes=NOTES | {"vdi.kasm.io/copying": "vdi home import"}))
    assert why_not_deleted(filled, []) is None


def test_homes_of_one_name_in_two_namespaces_are_two() -> None:
    here, there = claim(OF_USER), claim(OF_USER)
    there.metadata.namespace = "lab"
    sessions = [a_session("lab-cad", namespace="lab", status={"homeClaim": OF_USER})]
    homes = summarize_homes([here, there], sessions)
    assert [(home.namespace, home.sessions) for home in homes] == [("lab", ("lab-cad",)), ("vdi-sessions", ())]
    assert why_not_deleted(homes[1], sessions) is None
    assert why_not_deleted(homes[0], sessions)

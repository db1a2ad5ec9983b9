"""The home of a session by scope and existing claims, and the list of homes."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_claim, a_session, a_template
from vdi.api.template import AccessMode, HomeScope, TemplatePersistence
from vdi.cluster.units import parse_time
from vdi.session import naming
from vdi.session.children import build_home
from vdi.session.homes import (
    NO_HOMES,
    Home,
    HomeClaim,
    HomeSummary,
    home_names,
    is_use_due,
    may_use,
    own_claim,
    resolve_home,
    retained_claim,
    summarize_homes,
    why_not_deleted,
)
from vdi.session.naming import Identity

names = st.from_regex(
    r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?){0,2}", fullmatch=True
)
local_parts = st.sampled_from(["a", "alice", "alice-cad", "home", "x" * 90]) | st.from_regex(
    r"[A-Za-z0-9._+-]{1,30}", fullmatch=True
)
users = st.builds(
    "{}@{}".format, local_parts, st.sampled_from(["example.com", "example.org", "Example.com"])
)
OF_TEMPLATE, OF_USER, OWN = home_names(a_session())


def home(scope: str, *present: str, **session: Any) -> Home:
    found = resolve_home(
        a_session(persistence=session),
        a_template(persistence={"scope": scope}),
        {name: a_claim() for name in present},
    )
    assert found
    return found


@pytest.mark.parametrize(
    ("scope", "present", "claim"),
    [
        ("UserAndTemplate", (), OF_TEMPLATE),
        ("UserAndTemplate", (OF_USER,), OF_TEMPLATE),
        ("User", (), OF_USER),
        ("User", (OF_USER,), OF_USER),
        ("User", (OF_TEMPLATE,), OF_TEMPLATE),
        ("Session", (OF_TEMPLATE, OF_USER), OWN),
        ("ScopeOfALaterVersion", (), OF_TEMPLATE),
    ],
)
def test_scope_decides_where_a_new_home_is_made(
    scope: str, present: tuple[str, ...], claim: str
) -> None:
    assert home(scope, *present).claim == claim


@pytest.mark.parametrize("scope", list(HomeScope))
def test_a_session_may_always_have_a_home_of_its_own(scope: HomeScope) -> None:
    found = home(scope, retain=False)
    assert (found.claim, found.retain) == (OWN, False)


def test_the_home_of_a_user_names_no_template() -> None:
    built = build_home(identity=Identity.of(a_session()), home=home("User"))
    assert built["metadata"]["annotations"] == {"vdi.kasm.io/user": "alice@example.com"}
    assert built["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_access_mode_applies_to_new_claims_only() -> None:
    template = a_template(persistence={"accessMode": "ReadWriteMany"})
    new = resolve_home(a_session(), template, NO_HOMES)
    assert new and (new.access_mode, new.shared) == (AccessMode.READ_WRITE_MANY, False)
    assert build_home(identity=Identity.of(a_session()), home=new)["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]
    once = resolve_home(a_session(), template, {OF_TEMPLATE: a_claim()})
    assert once and not once.shared, "its claim is ReadWriteOnce"
    claim = a_claim()
    claim.spec.access_modes = ("ReadWriteMany",)
    many = resolve_home(a_session(), a_template(), {OF_TEMPLATE: claim})
    assert many and many.shared


def test_unknown_access_mode_means_one_desktop_at_a_time() -> None:
    read = msgspec.convert({"accessMode": "ReadWriteOncePod"}, TemplatePersistence)
    assert read.access_mode is AccessMode.READ_WRITE_ONCE


def test_what_is_deleted_with_a_session_and_what_outlives_it() -> None:
    def claims(status: str = "", **persistence: Any) -> tuple[str | None, str | None]:
        session = a_session(persistence=persistence, status={"homeClaim": status} if status else {})
        return retained_claim(session), own_claim(session)

    assert claims() == (OF_TEMPLATE, None), "no operator has named it"
    assert claims(retain=False) == (None, OWN)
    assert claims(enabled=False) == (None, None)
    assert claims(OF_USER) == (OF_USER, None)
    assert claims(OWN) == (None, OWN), "scope Session"


def test_session_may_use_its_home_or_a_possible_one() -> None:
    assert may_use(a_session(), OF_USER) and may_use(a_session(), OF_TEMPLATE)
    named = a_session(status={"homeClaim": OF_USER})
    assert may_use(named, OF_USER) and not may_use(named, OF_TEMPLATE)
    assert not may_use(a_session(user="bob@example.com"), OF_USER)


def test_names_of_homes_stay_as_they_are() -> None:
    """A change of one of these names takes people's files away from them."""
    claim = naming.home_claim_name(
        session_name="s", user="alice@example.com", template="cad", retain=True
    )
    assert claim == "home-alice-cad-7sm2vbl3pgql"
    assert naming.user_home_claim_name("alice@example.com") == "home-alice-7qcryou77eog"
    assert OWN == "alice-desktop-home"


@given(users, users, names, names, names)
def test_no_claim_is_the_home_of_two_people(
    one: str, other: str, template: str, second: str, session: str
) -> None:
    def claims(user: str, *templates: str) -> set[str]:
        of_templates = {
            naming.home_claim_name(session_name=session, user=user, template=name, retain=True)
            for name in templates
        }
        return {naming.user_home_claim_name(user), *of_templates}

    mine, theirs = claims(one, template, second), claims(other, template, second)
    assert len(mine) == (2 if template == second else 3)
    assert (mine == theirs) if one == other else not mine & theirs
    own = naming.home_claim_name(session_name=session, user=one, template=template, retain=False)
    assert own not in mine | theirs
    assert all(len(claim) <= naming.LABEL_LIMIT for claim in mine)


NOTES = {"vdi.kasm.io/user": "alice@example.com", "vdi.kasm.io/template": "ubuntu-desktop"}
CREATED, NOW = "2026-11-20T08:00:00Z", parse_time("2026-11-20T09:00:00Z")


def claim(
    name: str, *, notes: dict[str, str] = NOTES, owned: bool = False, capacity: str = ""
) -> HomeClaim:
    owner = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "name": "alice-desktop",
        "uid": "u",
    }
    metadata: dict[str, Any] = {"name": name, "namespace": "vdi-sessions", "uid": f"uid-{name}"}
    metadata |= {
        "creationTimestamp": CREATED,
        "annotations": notes,
        "ownerReferences": [owner] if owned else [],
    }
    spec = {"resources": {"requests": {"storage": "10Gi"}}}
    status = {"phase": "Bound", "capacity": {"storage": capacity} if capacity else {}}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, HomeClaim)


def summary(made: HomeClaim, **status: Any) -> HomeSummary:
    (home,) = summarize_homes([made], [a_session(status=status)])
    return home


def test_scope_is_read_from_the_claim() -> None:
    of_template = summary(claim(OF_TEMPLATE))
    assert (of_template.scope, of_template.template) == ("UserAndTemplate", "ubuntu-desktop")
    of_user = summary(claim(OF_USER, notes={"vdi.kasm.io/user": "alice@example.com"}))
    assert (of_user.scope, of_user.template, of_user.user) == ("User", "", "alice@example.com")
    assert summary(claim(OWN, owned=True)).scope == "Session"


def test_size_is_that_of_the_volume_else_the_request() -> None:
    assert summary(claim(OF_TEMPLATE)).size == "10Gi"
    assert summary(claim(OF_TEMPLATE, capacity="20Gi")).size == "20Gi"


def test_home_is_in_use_only_while_its_session_has_a_pod() -> None:
    made = claim(OF_TEMPLATE, notes=NOTES | {"vdi.kasm.io/last-used": "2026-11-20T09:00:00Z"})
    runs = summary(made, homeClaim=OF_TEMPLATE, podName="alice-desktop")
    assert (runs.used_by, runs.sessions, runs.last_used) == (
        ("alice-desktop",),
        ("alice-desktop",),
        "",
    )
    rests = summary(made, homeClaim=OF_TEMPLATE)
    assert (rests.used_by, rests.sessions, rests.last_used) == (
        (),
        ("alice-desktop",),
        "2026-11-20T09:00:00Z",
    )


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
    why = why_not_deleted(
        home, [a_session("new"), a_session("first", status={"homeClaim": OF_TEMPLATE})]
    )
    assert why == f"The home {OF_TEMPLATE!r} belongs to the sessions first, new. End them first."


def test_a_home_that_is_being_filled_is_deleted() -> None:
    filled = summary(claim(OF_TEMPLATE, notes=NOTES | {"vdi.kasm.io/copying": "vdi home import"}))
    assert why_not_deleted(filled, []) is None


def test_homes_of_one_name_in_two_namespaces_are_two() -> None:
    here, there = claim(OF_USER), claim(OF_USER)
    there.metadata.namespace = "lab"
    sessions = [a_session("lab-cad", namespace="lab", status={"homeClaim": OF_USER})]
    homes = summarize_homes([here, there], sessions)
    assert [(home.namespace, home.sessions) for home in homes] == [
        ("lab", ("lab-cad",)),
        ("vdi-sessions", ()),
    ]
    assert why_not_deleted(homes[1], sessions) is None
    assert why_not_deleted(homes[0], sessions)

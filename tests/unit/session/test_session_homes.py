"""Which claim is the home of a session, by the scope of its template and by what exists."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_claim, a_session, a_template
from vdi.api.template import AccessMode, HomeScope, TemplatePersistence
from vdi.session import naming
from vdi.session.children import build_home
from vdi.session.homes import NO_HOMES, Home, home_names, may_use, own_claim, resolve_home, retained_claim
from vdi.session.naming import Identity

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?){0,2}", fullmatch=True)
local_parts = st.sampled_from(["a", "alice", "alice-cad", "home", "x" * 90]) | st.from_regex(
    r"[A-Za-z0-9._+-]{1,30}", fullmatch=True
)
users = st.builds("{}@{}".format, local_parts, st.sampled_from(["example.com", "example.org", "Example.com"]))
OF_TEMPLATE, OF_USER, OWN = home_names(a_session())


def home(scope: str, *present: str, **session: Any) -> Home:
    found = resolve_home(
        a_session(persistence=session), a_template(persistence={"scope": scope}), {name: a_claim() for name in present}
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
def test_scope_decides_where_a_new_home_is_made(scope: str, present: tuple[str, ...], claim: str) -> None:
    assert home(scope, *present).claim == claim


@pytest.mark.parametrize("scope", list(HomeScope))
def test_a_session_may_always_have_a_home_of_its_own(scope: HomeScope) -> None:
    found = home(scope, retain=False)
    assert (found.claim, found.retain) == (OWN, False)


def test_the_home_of_a_user_names_no_template() -> None:
    built = build_home(identity=Identity.of(a_session()), home=home("User"))
    assert built["metadata"]["annotations"] == {"vdi.kasm.io/user": "alice@example.com"}
    assert built["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_access_mode_is_for_a_new_claim_and_what_exists_decides_who_may_use_it() -> None:
    template = a_template(persistence={"accessMode": "ReadWriteMany"})
    new = resolve_home(a_session(), template, NO_HOMES)
    assert new and (new.access_mode, new.shared) == (AccessMode.READ_WRITE_MANY, False)
    assert build_home(identity=Identity.of(a_session()), home=new)["spec"]["accessModes"] == ["ReadWriteMany"]
    once = resolve_home(a_session(), template, {OF_TEMPLATE: a_claim()})
    assert once and not once.shared, "its claim is ReadWriteOnce"
    claim = a_claim()
    claim.spec.access_modes = ("ReadWriteMany",)
    many = resolve_home(a_session(), a_template(), {OF_TEMPLATE: claim})
    assert many and many.shared


def test_an_access_mode_of_a_later_version_is_one_desktop_at_a_time() -> None:
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


def test_a_session_may_use_the_claim_that_it_names_or_that_may_become_its_home() -> None:
    assert may_use(a_session(), OF_USER) and may_use(a_session(), OF_TEMPLATE)
    named = a_session(status={"homeClaim": OF_USER})
    assert may_use(named, OF_USER) and not may_use(named, OF_TEMPLATE)
    assert not may_use(a_session(user="bob@example.com"), OF_USER)


def test_names_of_homes_stay_as_they_are() -> None:
    """A change of one of these names takes people's files away from them."""
    claim = naming.home_claim_name(session_name="s", user="alice@example.com", template="cad", retain=True)
    assert claim == "home-alice-cad-7sm2vbl3pgql"
    assert naming.user_home_claim_name("alice@example.com") == "home-alice-7qcryou77eog"
    assert OWN == "alice-desktop-home"


@given(users, users, names, names, names)
def test_no_claim_is_the_home_of_two_people(one: str, other: str, template: str, second: str, session: str) -> None:
    def claims(user: str, *templates: str) -> set[str]:
        of_templates = {
            naming.home_claim_name(session_name=session, user=user, template=name, retain=True) for name in templates
        }
        return {naming.user_home_claim_name(user), *of_templates}

    mine, theirs = claims(one, template, second), claims(other, template, second)
    assert len(mine) == (2 if template == second else 3)
    assert (mine == theirs) if one == other else not mine & theirs
    own = naming.home_claim_name(session_name=session, user=one, template=template, retain=False)
    assert own not in mine | theirs
    assert all(len(claim) <= naming.LABEL_LIMIT for claim in mine)

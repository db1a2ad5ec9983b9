"""Who is what in a session, and what that allows."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from support.builders import a_session, a_template
from vdi.api.session import Role, VDISession
from vdi.cluster.units import format_time
from vdi.gateway.rights import (
    TOKEN_ID,
    Action,
    User,
    access_ends,
    keeps_access,
    knows_of,
    may_use,
    normal_groups,
    refusal,
    role_in,
)
from vdi.session.naming import DRIVER
from vdi.session.users import normal_user, same_user

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALICE, BOB, EVE = (f"{name}@example.com" for name in ("alice", "bob", "eve"))


def shared(role: str = "viewer", expires: str | None = None, user: str = BOB) -> VDISession:
    return a_session(
        access=[{"user": user, "role": role, **({"expires": expires} if expires else {})}]
    )


def test_owner_guest_and_stranger() -> None:
    session = shared("collaborator")
    assert [role_in(session, user, NOW) for user in (ALICE, BOB, EVE)] == [
        Role.OWNER,
        Role.COLLABORATOR,
        None,
    ]


def test_addresses_ignore_the_case_of_ascii_letters_only() -> None:
    assert role_in(shared(user="Bob@Example.COM"), "BOB@example.com", NOW) is Role.VIEWER
    kelvin = "\u212aim@example.com"
    assert kelvin.lower() == "kim@example.com"  # what Python's own folding would do
    assert not same_user(kelvin, "kim@example.com")


@given(st.emails(), st.emails())
def test_normal_users_are_the_same_exactly_when_they_are_equal(one: str, other: str) -> None:
    assert same_user(one, other) == (normal_user(one) == normal_user(other))
    assert normal_user(normal_user(one)) == normal_user(one)
    assert same_user(one, one.upper() if one.isascii() else one)


@pytest.mark.parametrize(
    ("expires", "role"),
    [
        (format_time(NOW + timedelta(seconds=1)), Role.VIEWER),
        (format_time(NOW), None),
        ("2026-11-20T13:00:00+02:00", None),
        ("2026-11-20T13:00:00+00:30", Role.VIEWER),
        ("some day", None),
    ],
)
def test_a_share_ends_at_its_time(expires: str, role: Role | None) -> None:
    assert role_in(shared(expires=expires), BOB, NOW) is role


def test_when_a_share_ends_is_reported() -> None:
    assert access_ends(shared(expires="2026-11-21T00:00:00Z"), BOB) == datetime(
        2026, 11, 21, tzinfo=UTC
    )
    assert access_ends(shared(), BOB) is None


@pytest.mark.parametrize("action", Action)
def test_who_may_do_what(action: Action) -> None:
    may = {
        "owner": refusal(User(ALICE), action, shared(), NOW) is None,
        "collaborator": refusal(User(BOB), action, shared("collaborator"), NOW) is None,
        "viewer": refusal(User(BOB), action, shared("viewer"), NOW) is None,
        "admin": refusal(User(EVE, admin=True), action, shared(), NOW) is None,
        "stranger": refusal(User(EVE), action, shared(), NOW) is None,
    }
    assert may == {
        "owner": action not in ("plan-end", "message", "request-access"),
        "collaborator": action in ("see", "open", "browse", "resume", "drive"),
        "viewer": action in ("see", "open", "request-access"),
        "admin": action not in ("open", "browse", "drive", "share", "record", "answer-access"),
        "stranger": False,
    }


@pytest.mark.parametrize("action", Action)
def test_a_token_only_reads_while_a_person_is_in_control(action: Action) -> None:
    """Whoever has it, and whatever action is added."""
    token = f"{TOKEN_ID}a-token"
    for state, code in (
        ("", ""),
        ("Human", "HumanInControl"),
        ("Parked", "Parked"),
        ("Other", "HumanInControl"),
    ):
        session = a_session()
        note = (
            {DRIVER: json.dumps({"state": state, "user": BOB, "reason": "captcha"})}
            if state
            else {}
        )
        session = structs.replace(
            session, metadata=structs.replace(session.metadata, annotations=note)
        )
        for person in (User(ALICE, login_id="a-login"), User(EVE, admin=True, login_id="a-login")):
            of_person = refusal(person, action, session, NOW)
            of_token = refusal(replace(person, login_id=token), action, session, NOW)
            if of_person or action is Action.SEE:
                assert of_token == of_person
            elif action is Action.ANSWER_ACCESS:
                assert of_token and of_token[0] == "Forbidden"
            else:
                assert (of_token[0] if of_token else "") == code
        assert keeps_access(session, ALICE, Role.OWNER, "a-login", NOW)
        assert keeps_access(session, ALICE, Role.OWNER, token, NOW) is (not state)
        assert not keeps_access(session, ALICE, Role.VIEWER, "a-login", NOW)


def test_a_refusal_names_what_is_allowed_and_whom_to_ask() -> None:
    code, words = refusal(User(BOB), Action.SUSPEND, shared("viewer"), NOW) or ("", "")
    assert code == "Forbidden"
    assert "viewer" in words and "may not suspend" in words
    assert "open, request-access, see" in words and f"Ask {ALICE}" in words


def test_a_stranger_learns_nothing_of_a_session() -> None:
    session = shared()
    assert not knows_of(session, User(EVE), NOW)
    code, words = refusal(User(EVE), Action.OPEN, session, NOW) or ("", "")
    assert code == "NotFound" and ALICE not in words


def test_a_template_for_everybody_for_users_and_for_groups() -> None:
    someone = User(EVE, groups=frozenset({"staff"}))
    assert may_use(a_template(), someone)
    assert not may_use(a_template(access={"users": [ALICE], "groups": ["artists"]}), someone)
    assert may_use(a_template(access={"users": ["EVE@example.com"]}), someone)
    assert may_use(a_template(access={"groups": ["artists", "staff"]}), someone)
    assert may_use(a_template(access={"users": [ALICE]}), User(EVE, admin=True))


def test_a_group_in_another_case_is_the_same_group() -> None:
    template = a_template(access={"groups": ["Domain Users"]})
    assert may_use(template, User(ALICE, groups=normal_groups(["DOMAIN users"])))
    assert not may_use(template, User(ALICE, groups=normal_groups(["domain"])))

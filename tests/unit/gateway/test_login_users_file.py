"""The users' Secret: what is read, what is refused in which words, and that a change leaves the
others alone.
"""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from support.passwords import HASHER, users_file
from vdi.gateway.login.local_users import LocalUser, UserFileError, change_user, read_users
from vdi.session.users import check_address

HASH = HASHER.hash("correct horse battery")
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
ENTRIES = st.builds(
    LocalUser,
    password=st.just(HASH),
    name=NAMES,
    groups=st.lists(NAMES).map(tuple),
    admin=st.booleans(),
)
USERS = st.from_regex(r"[a-z0-9.+-]{1,10}@[a-z0-9]{1,10}\.example", fullmatch=True)


@given(st.dictionaries(USERS, ENTRIES, max_size=5))
def test_what_is_written_is_read(users: dict[str, LocalUser]) -> None:
    assert read_users(users_file(users)) == (users, [])


@given(st.dictionaries(USERS, ENTRIES, max_size=5), USERS, st.none() | ENTRIES)
def test_a_change_leaves_the_others_alone(
    users: dict[str, LocalUser], user: str, entry: LocalUser | None
) -> None:
    expected = {name: one for name, one in users.items() if name != user} | (
        {user: entry} if entry else {}
    )
    assert read_users(change_user(users_file(users), user, entry))[0] == expected


def test_a_change_keeps_bad_entries() -> None:
    text = f"bob@example.com: {{password: plain}}\nAlice@Example.com: {{password: '{HASH}'}}\n"
    changed = yaml.safe_load(
        change_user(text, "alice@example.com", LocalUser(password=HASH, admin=True))
    )
    assert changed == {
        "bob@example.com": {"password": "plain"},
        "alice@example.com": {"password": HASH, "admin": True},
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("alice@example.com: {}", "password"),
        ("alice@example.com:", "password"),
        ("alice@example.com: {password: hunter2}", "argon2id"),
        ("alice@example.com: {password: $2b$12$abcdefghijklmnopqrstuv}", "argon2id"),
        (
            f"alice@example.com: {{password: '{HASH}', role: admin}}",
            "allowed: password, name, groups and admin",
        ),
        (f"alice@example.com: {{password: '{HASH}', admin: 'no'}}", "admin"),
        (f"alice@example.com: {{password: '{HASH}', groups: admins}}", "groups"),
        (f"alice: {{password: '{HASH}'}}", "e-mail"),
        (f"42: {{password: '{HASH}'}}", "e-mail"),
        (f"a@b.c: {{password: '{HASH}'}}\nA@b.c: {{password: '{HASH}'}}", "twice"),
    ],
)
def test_a_bad_entry_is_named_without_its_password(entry: str, words: str) -> None:
    users, problems = read_users(entry)
    assert len(problems) == 1
    assert words in problems[0]
    assert not any(secret in problems[0] for secret in ("hunter2", HASH, "$2b$"))
    assert len(users) == (1 if "twice" in words else 0)


@pytest.mark.parametrize("text", ["a: [", "- a", "text", "!!python/object:os.system {}"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserFileError, match=r"users\.yaml"):
        read_users(text)


@pytest.mark.parametrize("text", ["", "\n", "{}", "# nobody yet"])
def test_no_users_are_no_error(text: str) -> None:
    assert read_users(text) == ({}, [])


def test_a_user_is_shown_without_the_hash() -> None:
    assert HASH not in repr(LocalUser(password=HASH, name="Alice"))


@pytest.mark.parametrize(
    "text", ["", "a", "a@b", "@b.c", "a@", "a b@c.d", "a@b@c.d", "x" * 251 + "@b.c"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an e-mail address"):
        check_address(text)


def test_an_address_has_one_spelling() -> None:
    assert check_address("  Alice@Example.COM\n") == "alice@example.com"

"""What people may have at once and in a month."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_session, a_template
from vdi.gateway.limits import Limit, Limits, LimitsError, gpus_of, read_limits, refusal
from vdi.gateway.users import User

ALICE = User("alice@example.com", groups=frozenset({"students", "artists"}))


def test_each_number_comes_from_the_user_then_the_most_generous_group_then_everybody() -> None:
    text = """
    default: {sessions: 3, gpus: 1, hoursPerMonth: 100}
    groups:
      students: {sessions: 1, hoursPerMonth: 40}
      artists: {hoursPerMonth: 60}
      staff: {sessions: 99}
    users:
      Alice@Example.com: {gpus: 8}
    """
    limits = read_limits(text, "limits.yaml")
    assert limits.of(ALICE) == Limit(sessions=1, gpus=8, hours=60)
    assert limits.of(User("bob@example.com")) == Limit(sessions=3, gpus=1, hours=100)


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_no_limits_limit_no_one(text: str) -> None:
    limit = read_limits(text, "f").of(ALICE)
    assert not limit.limits_anything
    assert refusal(limit, ALICE, ("a", 64), [("b", 64)] * 50, 1e6) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default: {session: 3}", "session"),
        ("defaults: {}", "defaults"),
        ("default: {sessions: many}", "default"),
        ("users: {a@b.c: {gpus: -1}}", "users.a@b.c.gpus: -1 is not allowed"),
        ("default: {hoursPerMonth: .inf}", "default.hours"),
        ("- 1", "allowed are default"),
        ("a: [", "limits.yaml"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(LimitsError) as error:
        read_limits(text, "limits.yaml")
    assert "limits.yaml" in str(error.value)
    assert words in str(error.value)


def test_refusals_name_the_limit_and_what_is_held() -> None:
    held = [("one", 1), ("two", 2)]
    said = refusal(Limit(sessions=2), ALICE, ("new", 1), held, 0) or ""
    assert "2 desktops at once" in said
    assert "one, two" in said
    said = refusal(Limit(gpus=4), ALICE, ("new", 2), held, 0) or ""
    assert "4 GPUs" in said
    assert "use 3" in said
    said = refusal(Limit(hours=10), ALICE, ("new", 0), [], 10.04) or ""
    assert "10 hours" in said
    assert "10.0" in said
    assert "no desktops" in (refusal(Limit(sessions=0), ALICE, ("new", 0), [], 0) or "")


def test_a_session_that_is_resumed_does_not_count_twice() -> None:
    assert refusal(Limit(sessions=1, gpus=1), ALICE, ("mine", 1), [("mine", 1)], 0) is None


def test_a_desktop_without_gpus_is_no_matter_of_gpus() -> None:
    assert refusal(Limit(gpus=1), ALICE, ("cpu", 0), [("a", 1)], 0) is None


@given(st.integers(0, 5), st.integers(0, 8), st.lists(st.integers(0, 3), max_size=6), st.integers(0, 4))
def test_who_is_let_in_is_within_the_limits(sessions: int, gpus: int, held: list[int], desired: int) -> None:
    others = [(f"s{number}", one) for number, one in enumerate(held)]
    allowed = refusal(Limit(sessions=sessions, gpus=gpus), ALICE, ("new", desired), others, 0) is None
    assert allowed == (len(held) + 1 <= sessions and (not desired or sum(held) + desired <= gpus))


def test_gpus_are_counted_as_the_operator_counts_them() -> None:
    assert gpus_of(a_session(), a_template()) == 1
    assert gpus_of(a_session(resources={"gpu": 3}), a_template()) == 3
    assert gpus_of(a_session(resources={"gpu": 3}), a_template(resources={"defaultGPU": 0})) == 0
    assert gpus_of(a_session(), a_template(resources={"defaultGPU": 2})) == 2
    assert gpus_of(a_session(), None) == 1


def test_limits_are_values() -> None:
    assert Limits() == read_limits("", "f")

"""Limits of users: the file, whose numbers count, and the refusals."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.builders import a_session, a_template
from vdi.gateway.limits import (
    Limit,
    Limits,
    LimitsError,
    MonthUse,
    home_refusal,
    read_limits,
    refusal,
)
from vdi.gateway.rights import User
from vdi.session.effective import gpus_of
from vdi.session.homes import resolve_home

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
NONE = MonthUse(0, 0, DECEMBER)
ALICE = User("alice@example.com", groups=frozenset({"students", "artists"}))


def test_limits_come_from_user_then_best_group_then_default() -> None:
    text = """
    default: {sessions: 3, gpus: 1, hoursPerMonth: 100}
    groups:
      students: {sessions: 1, hoursPerMonth: 40, homeStorage: 90Gi}
      Artists: {hoursPerMonth: 60, homeStorage: 0.1Ti}
      staff: {sessions: 99}
    users:
      Alice@Example.com: {gpus: 8}
    """
    limits = read_limits(text, "limits.yaml")
    assert limits.of(ALICE) == Limit(sessions=1, gpus=8, hours=60, home_storage="0.1Ti")
    assert limits.of(User("bob@example.com")) == Limit(sessions=3, gpus=1, hours=100)


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_no_limits_limit_no_one(text: str) -> None:
    limit = read_limits(text, "f").of(ALICE)
    assert not limit.limits_anything and Limits() == read_limits(text, "f")
    assert refusal(limit, ALICE, ("a", 64), [("b", 64)] * 50, MonthUse(1e6, 1e6, DECEMBER)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default: {session: 3}", "session"),
        ("defaults: {}", "defaults"),
        ("default: {sessions: many}", "default"),
        ("users: {a@b.c: {gpus: -1}}", "users.a@b.c.gpus: -1 is not allowed"),
        ("default: {hoursPerMonth: .inf}", "default.hoursPerMonth: inf is not allowed"),
        (
            "groups: {g: {gpuHoursPerMonth: -2}}",
            "groups.g.gpuHoursPerMonth: -2.0 is not allowed; allowed: 0 or more",
        ),
        ("default: {homeStorage: 5 GB}", "default.homeStorage: '5 GB' is not a quantity"),
        ("default: {homeStorage: -5Gi}", "default.homeStorage: -5Gi is not allowed"),
        ("groups: {staff: {gpus: 1}, Staff: {gpus: 2}}", "groups: a name is given twice"),
        ("users: {a@b.c: {gpus: 1}, A@b.c: {gpus: 2}}", "users: a name is given twice"),
        ("- 1", "allowed: default"),
        ("a: [", "limits.yaml"),
    ],
)
def test_an_unusable_file_is_refused_by_field(text: str, words: str) -> None:
    with pytest.raises(LimitsError) as error:
        read_limits(text, "limits.yaml")
    assert "limits.yaml" in str(error.value) and words in str(error.value)


def test_refusals_name_the_limit_and_what_is_held() -> None:
    held = [("one", 1), ("two", 2)]
    said = refusal(Limit(sessions=2), ALICE, ("new", 1), held, NONE) or ""
    assert "2 desktops running" in said and "one, two" in said
    said = refusal(Limit(gpus=4), ALICE, ("new", 2), held, NONE) or ""
    assert "4 GPUs" in said and "use 3" in said
    said = refusal(Limit(hours=10), ALICE, ("new", 0), [], MonthUse(10.04, 0, DECEMBER)) or ""
    assert "10 hours" in said and "10.0" in said
    assert "restarts on 2026-12-01 at 00:00 UTC" in said
    assert "no desktops" in (refusal(Limit(sessions=0), ALICE, ("new", 0), [], NONE) or "")


def test_a_resumed_session_does_not_count_twice() -> None:
    assert refusal(Limit(sessions=1, gpus=1), ALICE, ("mine", 1), [("mine", 1)], NONE) is None


@given(
    st.integers(0, 5), st.integers(0, 8), st.lists(st.integers(0, 3), max_size=6), st.integers(0, 4)
)
@example(
    sessions=2, gpus=1, held=[2], desired=0
)  # a desktop without GPUs passes a GPU limit that is exceeded
def test_no_run_exceeds_the_limits(sessions: int, gpus: int, held: list[int], desired: int) -> None:
    others = [(f"s{number}", one) for number, one in enumerate(held)]
    allowed = (
        refusal(Limit(sessions=sessions, gpus=gpus), ALICE, ("new", desired), others, NONE) is None
    )
    assert allowed == (len(held) + 1 <= sessions and (not desired or sum(held) + desired <= gpus))


def test_gpus_are_counted_as_the_operator_counts_them() -> None:
    assert gpus_of(a_session(), a_template()) == gpus_of(a_session(), None) == 1
    assert gpus_of(a_session(resources={"gpu": 3}), a_template()) == 3
    assert gpus_of(a_session(resources={"gpu": 3}), a_template(resources={"defaultGPU": 0})) == 0
    assert gpus_of(a_session(), a_template(resources={"defaultGPU": 2})) == 2


def test_gpu_hours_are_refused_with_limit_and_use() -> None:
    used = MonthUse(500, 100.25, DECEMBER)
    said = refusal(Limit(gpu_hours=100), ALICE, ("new", 1), [], used) or ""
    assert said.startswith(
        "Your desktops may use 100 GPU hours per calendar month and have used 100.2."
    )
    assert "restarts on 2026-12-01 at 00:00 UTC" in said and "without a GPU still start" in said
    assert refusal(Limit(gpu_hours=100), ALICE, ("new", 0), [], used) is None
    assert refusal(Limit(gpu_hours=100.5), ALICE, ("new", 1), [], used) is None


def test_a_new_home_is_refused_with_the_existing_ones() -> None:
    home = resolve_home(a_session(), a_template(persistence={"size": "10Gi"}), {})
    assert home is not None
    limit = Limit(home_storage="100Gi")
    assert home_refusal(limit, home, {"home-a": 90 * 2**30}) is None
    said = home_refusal(limit, home, {"home-b": 50 * 2**30, "home-a": 45 * 2**30}) or ""
    assert said.startswith(
        "Your homes may take up 100 GiB in total and take up 95 GiB (home-a 45 GiB, home-b 50 GiB)."
        " This desktop would add a home of 10 GiB. Delete a home"
    )
    assert home_refusal(Limit(), home, {"home-a": 2**60}) is None

"""When a run begins, is warned of, and ends."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import CREATED, a_pod, a_session, a_template
from vdi.cluster.units import format_time, parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.lifetime import (
    expires_at,
    is_capped,
    run_annotations,
    run_length,
    started_at,
    warned_at,
)
from vdi.session.naming import RUN_STARTED

START = parse_time(CREATED)
EARLIER = "2026-11-20T07:00:00Z"
SETTINGS = ClusterSettings()
seconds = st.integers(min_value=1, max_value=4_000_000)


def test_run_begins_with_its_pod_or_where_the_pod_says_so() -> None:
    assert started_at(a_session(), None) is None
    assert started_at(a_session(), a_pod()) == START
    assert started_at(a_session(), a_pod(annotations={RUN_STARTED: EARLIER})) == parse_time(EARLIER)
    assert started_at(a_session(), a_pod(annotations={RUN_STARTED: "soon"})) == START


def test_status_keeps_the_run_between_two_pods() -> None:
    between = a_session(status={"startTime": EARLIER})
    assert started_at(between, None) == parse_time(EARLIER)
    carried = run_annotations(between, started_at(between, None))
    assert started_at(between, a_pod(annotations=carried)) == parse_time(EARLIER)


def test_pod_carries_what_ties_it_to_its_run_and_nothing_empty() -> None:
    assert run_annotations(a_session(), None) == {}
    failed = a_session(status={"failures": {"count": 1, "time": EARLIER}})
    assert run_annotations(failed, None) == {"vdi.kasm.io/last-failure": EARLIER}


@pytest.mark.parametrize(("most", "expected"), [(None, 3), ("2h", 2), ("5h", 5)])
def test_the_cluster_caps_the_run_where_the_template_does_not(
    most: str | None, expected: int
) -> None:
    session = a_session(timeout="999h")
    template = a_template(lifecycle={"maxTimeout": most} if most else {})
    settings = ClusterSettings(max_timeout="3h")
    assert run_length(session, template, settings) == timedelta(hours=expected)
    assert is_capped(session, template, settings)
    assert expires_at(session, template, a_pod(), settings) == START + timedelta(hours=expected)
    assert run_length(a_session(timeout="1h"), template, settings) == timedelta(hours=1)


def test_missing_template_ends_no_run_earlier() -> None:
    assert run_length(
        a_session(timeout="9h"), None, ClusterSettings(max_timeout="3h")
    ) == timedelta(hours=9)


def test_nothing_ends_that_does_not_run_or_cannot_be_read() -> None:
    for session, pod in ((a_session(), None), (a_session(timeout="soon"), a_pod())):
        assert expires_at(session, a_template(), pod, SETTINGS) is None
        assert warned_at(session, a_template(), pod, SETTINGS) is None


@given(length=seconds, most=st.none() | seconds)
def test_warning_comes_in_the_second_half_of_the_run(length: int, most: int | None) -> None:
    session = a_session(timeout=f"{length}s")
    template = a_template(lifecycle={"maxTimeout": f"{most}s"} if most else {})
    end = expires_at(session, template, a_pod(), SETTINGS)
    warned = warned_at(session, template, a_pod(), SETTINGS)
    assert end and warned
    assert end == START + timedelta(seconds=min(length, most or length))
    assert START + (end - START) / 2 <= warned < end
    assert end - warned <= timedelta(minutes=5)


@given(length=seconds, replaced_after=seconds)
def test_end_is_the_same_whichever_pod_of_the_run_is_asked(
    length: int, replaced_after: int
) -> None:
    """Exact after any number of replacements and restarts of the operator."""
    session = a_session(timeout=f"{length}s")
    between = a_session(timeout=f"{length}s", status={"startTime": format_time(START)})
    made = format_time(START + timedelta(seconds=replaced_after))
    pod = a_pod(
        creationTimestamp=made, annotations=run_annotations(between, started_at(between, None))
    )
    assert (
        expires_at(session, None, a_pod(), SETTINGS)
        == expires_at(between, None, None, SETTINGS)
        == expires_at(between, None, pod, SETTINGS)
    )

"""Actions on a session: the patch that each sends, or the sentence that refuses it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_session, a_template
from vdi.api.session import MAX_GUESTS, GuestRole, VDISession
from vdi.api.template import LargestSize
from vdi.cluster.units import format_time
from vdi.session.actions import (
    Extend,
    PatchAction,
    Refusal,
    Resize,
    Restart,
    Resume,
    Schedule,
    SetSchedule,
    Share,
    Suspend,
    Unshare,
    decide,
    find_home_to_delete,
    lengthen,
)
from vdi.session.cluster_settings import ClusterSettings

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOB, EVE = "bob@example.com", "eve@example.com"
VIEWER, COLLABORATOR = GuestRole.VIEWER, GuestRole.COLLABORATOR
EIGHT_THIRTY = Schedule(start="08:30", time_zone="Europe/Berlin")
SUSPENDED = {"suspended": True}
TWO_HOURS_AGO: dict[str, Any] = {"status": {"startTime": "2026-11-20T10:00:00Z"}}
TWO_ARE_FREE: dict[str, Any] = {
    "resources": {"gpu": 3},
    "status": {"queue": {"position": 2, "availableGpu": 2}},
}
GUESTS: dict[str, Any] = {
    "access": [{"user": "Bob@example.com", "role": "viewer"}, {"user": EVE, "role": "viewer"}]
}

BOB_FOR_AN_HOUR = {"user": BOB, "role": "collaborator", "expires": "2026-11-20T13:00:00Z"}


def refused(session: VDISession, request: PatchAction, **template: Any) -> Refusal:
    found = decide(session, a_template(**template), request, NOW)
    assert isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(
    ("session", "request_", "change"),
    [
        ({}, Suspend(), {"spec": {"suspended": True}}),
        (SUSPENDED, Suspend(), {}),
        (SUSPENDED, Resume(), {"spec": {"suspended": False}}),
        ({}, Resume(), {}),
        ({}, Restart(), {"metadata": {"annotations": {"vdi.kasm.io/restartedAt": "2026-11-20T12:00:00Z"}}}),
        (TWO_HOURS_AGO, Extend("3h"), {"spec": {"timeout": "3h"}}),
        ({}, Resize("4Gi"), {"spec": {"resources": {"memory": "4Gi", "gpu": 1}}}),
        ({}, Resize(cpu="2"), {"spec": {"resources": {"memory": "4Gi", "gpu": 1, "cpu": "2"}}}),
        ({"resources": {"memory": "2Gi"}}, Resize("2Gi"), {}),
        (TWO_ARE_FREE, Resize(gpu=2), {"spec": {"resources": {"memory": "4Gi", "gpu": 2}}}),
        ({}, SetSchedule(EIGHT_THIRTY), {"spec": {"schedule": {"start": "08:30", "timeZone": "Europe/Berlin"}}}),
        ({"schedule": msgspec.to_builtins(EIGHT_THIRTY)}, SetSchedule(None), {"spec": {"schedule": None}}),
        ({"schedule": msgspec.to_builtins(EIGHT_THIRTY)}, SetSchedule(EIGHT_THIRTY), {}),
        (GUESTS, Unshare(BOB), {"spec": {"access": [{"user": EVE}]}}),
        (
            GUESTS,
            Share("BOB@example.com ", COLLABORATOR, NOW + HOUR),
            {"spec": {"access": [{"user": EVE}, BOB_FOR_AN_HOUR]}},
        ),
        (
            {"access": [{"user": EVE, "expires": format_time(NOW)}, {"user": "x@y.zz", "expires": "some day"}]},
            Share(BOB, VIEWER),
            {"spec": {"access": [{"user": BOB, "role": "viewer"}]}},
        ),
    ],
)  # fmt: skip
def test_patch_changes_only_what_was_requested(
    session: dict[str, Any], request_: PatchAction, change: dict[str, Any]
) -> None:
    before = a_session(**session)
    patch = decide(before, a_template(resources={"maxGPU": 4}), request_, NOW)
    assert not isinstance(patch, Refusal)
    if change:
        metadata = patch.pop("metadata")
        assert metadata.pop("uid") == before.metadata.uid
        # Nothing that another request has set is lost.
        if isinstance(request_, Resize | Share | Unshare):
            assert metadata.pop("resourceVersion") == before.metadata.resource_version
        patch |= {"metadata": metadata} if metadata else {}
    assert msgspec.json.decode(msgspec.json.encode(patch)) == change


@pytest.mark.parametrize(
    ("session", "request_", "code", "message"),
    [
        (SUSPENDED, Restart(), "Conflict", "The desktop 'alice-desktop' is suspended, so there is nothing to restart."),
        ({}, Extend("soon"), "Invalid", "timeout: 'soon' is not a duration"),
        ({}, Extend("0h"), "Invalid", "timeout: '0h' is not a duration"),
        (TWO_HOURS_AGO, Extend("2h"), "Invalid", "2h is too short, because this run has already lasted 2h; allowed:"),
        ({}, Extend("5h"), "OverLimit", "timeout: 5h is more than 4h, the maximum for template 'ubuntu-desktop'."),
        ({}, Share("bob", VIEWER), "Invalid", "user: 'bob' is not an e-mail address; allowed: addresses such as"),
        ({}, Share("<b>@x", VIEWER), "Invalid", "addresses such as"),
        ({}, Share("ALICE@example.com", VIEWER), "Invalid", "alice@example.com owns this desktop"),
        ({}, Share(BOB, VIEWER, NOW), "Invalid", "expires: 2026-11-20T12:00:00Z is in the past"),
        (GUESTS, Unshare("Dan@x.yz"), "NotFound", f"with dan@x.yz. It is shared with Bob@example.com, {EVE}."),
        ({}, Unshare(BOB), "NotFound", "It is shared with no one."),
        (TWO_ARE_FREE, Resize(gpu=3), "Conflict", "fewer GPUs (3)"),
        (TWO_ARE_FREE | {"status": {}}, Resize(gpu=2), "Conflict", "fewer GPUs (2)"),
        (TWO_ARE_FREE | {"resources": {}}, Resize(gpu=2), "Conflict", "fewer GPUs (2)"),
    ],
)  # fmt: skip
def test_refusal_names_what_is_allowed(
    session: dict[str, Any], request_: PatchAction, code: str, message: str
) -> None:
    template = {"lifecycle": {"maxTimeout": "4h"}, "resources": {"defaultGPU": 1, "maxGPU": 4}}
    refusal = refused(a_session(**session), request_, **template)
    assert refusal.code == code
    assert message in refusal.message


@pytest.mark.parametrize(
    ("size", "allowed"),
    [
        (Resize("64Gi"), "at most 24005Mi"),
        (Resize(cpu="17"), "at most 16000m"),
        (Resize("23Gi", "16"), None),
    ],
)
def test_size_above_the_largest_node_is_refused(size: Resize, allowed: str | None) -> None:
    template = a_template(resources={"maxMemory": "1Ti", "maxCPU": "64", "defaultGPU": 0})
    template.status.largest = LargestSize("24005Mi", "16000m")
    found = decide(a_session(), template, size, NOW)
    assert (found.allowed if isinstance(found, Refusal) else None) == allowed
    assert (
        not isinstance(found, Refusal)
        or "of the largest node that can run template" in found.message
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"time_zone": "Mars/Olympus"},
            "timeZone: 'Mars/Olympus' is not allowed; allowed: a known time zone",
        ),
        ({"time_zone": "x" * 60_000}, "timeZone: '" + "x" * 100 + "' is not allowed"),
        (
            {"start": "8:30"},
            "start: '8:30' is not allowed; allowed: a time of day from 00:00 to 23:59",
        ),
        ({"start": "x" * 60_000}, "start: '" + "x" * 100 + "' is not allowed"),
        (
            {"end": "08:30"},
            "end: '08:30' is not allowed; allowed: not start, nor the 5 minutes before it",
        ),
        ({"start": "00:02", "end": "23:58"}, "end: '23:58' is not allowed"),
        ({"days": ()}, "days: '' is not allowed; allowed: one or more of MON, TUE"),
        ({"days": ("Monday",)}, "days: 'Monday' is not allowed"),
    ],
)
def test_unusable_schedule_is_refused_by_field(fields: dict[str, Any], message: str) -> None:
    refusal = refused(a_session(), SetSchedule(msgspec.structs.replace(EIGHT_THIRTY, **fields)))
    assert message in refusal.message
    assert (refusal.code, refusal.field) == ("Invalid", message.partition(":")[0])


@pytest.mark.parametrize(
    "request_", [Suspend(), Resume(), Restart(), Extend("9h"), Share(BOB, VIEWER), Unshare(BOB)]
)
def test_an_ending_session_cannot_be_changed(request_: PatchAction) -> None:
    session = a_session(deleting=True, **GUESTS)
    assert (
        refused(session, request_).message
        == "The desktop 'alice-desktop' is ending and can no longer be changed."
    )


def test_the_cluster_maximum_counts_without_the_template_s() -> None:
    settings = ClusterSettings(max_timeout="24h")
    decided = decide(a_session(), a_template(), Extend("24h"), NOW, settings)
    assert not isinstance(decided, Refusal) and decided["spec"] == {"timeout": "24h"}
    refusal = decide(a_session(), a_template(), Extend("25h"), NOW, settings)
    assert isinstance(refusal, Refusal) and refusal.allowed == "at most 24h"
    assert decide(a_session(), None, Extend("25h"), NOW, settings), (
        "the template is replaced: no desktop ends by it"
    )


def test_a_longer_run_is_counted_from_what_the_template_allows() -> None:
    assert lengthen(a_session(timeout="8h"), a_template(), 2 * HOUR) == "10h"
    assert (
        lengthen(a_session(timeout="8h"), a_template(lifecycle={"maxTimeout": "4h"}), HOUR) == "5h"
    )


def test_view_only_is_refused_where_nothing_enforces_it() -> None:
    """The images that cannot: test_session_image.py."""
    refusal = refused(a_session(), Share(BOB, VIEWER), protocol="Web")
    assert (refusal.code, refusal.field, refusal.allowed) == (
        "ViewOnlyUnavailable",
        "role",
        "collaborator",
    )
    assert "the image of this desktop serves its own page (protocol Web)" in refusal.message
    assert not isinstance(
        decide(a_session(), a_template(protocol="Web"), Share(BOB, COLLABORATOR), NOW), Refusal
    )
    assert isinstance(decide(a_session(), None, Share(BOB, VIEWER), NOW), Refusal), (
        "the template was deleted"
    )


def test_guests_are_limited_and_a_role_still_changes() -> None:
    full = a_session(access=[{"user": f"g{number}@example.com"} for number in range(MAX_GUESTS)])
    assert "at most 64 users" in refused(full, Share(BOB, VIEWER)).message
    patch = decide(full, a_template(), Share("g5@example.com", COLLABORATOR), NOW)
    assert not isinstance(patch, Refusal) and len(patch["spec"]["access"]) == MAX_GUESTS


edits = st.one_of(
    st.builds(
        Share,
        st.sampled_from([BOB, EVE, "Eve@Example.com"]),
        st.sampled_from(GuestRole),
        st.just(None),
    ),
    st.builds(Unshare, st.sampled_from([BOB, EVE])),
)


@given(st.lists(edits))
def test_no_guest_is_listed_twice_and_the_last_edit_counts(requests: list[Share | Unshare]) -> None:
    session, last = a_session(), dict[str, str]()
    for request in requests:
        patch = decide(session, a_template(), request, NOW)
        if not isinstance(patch, Refusal):
            session = a_session(access=msgspec.to_builtins(patch["spec"]["access"]))
        if isinstance(request, Share):
            last[request.user.lower()] = request.role.value
        else:
            last.pop(request.user, None)
    assert {access.user: access.role for access in session.spec.access} == last
    assert len(session.spec.access) == len(last)


NO_HOME = {"type": "HomeBound", "status": "True", "reason": "NoHome"}


@pytest.mark.parametrize(
    ("session", "other", "found"),
    [
        ({"status": {"homeClaim": "home-x"}}, None, "home-x"),
        ({"persistence": {"enabled": False}}, None, None),
        ({"persistence": {"retain": False}}, None, None),
        ({"status": {"conditions": [NO_HOME]}}, None, None),
        ({"status": {"homeClaim": "home-x"}}, {"status": {"homeClaim": "home-y"}}, "home-x"),
        ({"status": {"homeClaim": "home-x"}}, {"status": {"homeClaim": "home-x"}}, Refusal),
        (
            {"status": {"homeClaim": "home-x"}},
            {"status": {"homeClaim": "home-x"}, "namespace": "lab"},
            "home-x",
        ),
    ],
)
def test_files_are_deleted_only_if_no_other_session_has_them(
    session: dict[str, Any], other: dict[str, Any] | None, found: Any
) -> None:
    mine = a_session(**session)
    others = [mine] + ([a_session("second", **other)] if other else [])
    claim = find_home_to_delete(mine, others)
    if found is Refusal:
        assert isinstance(claim, Refusal)
        assert (
            "'alice-desktop' and 'second' share their files, so nothing was deleted"
            in claim.message
        )
    else:
        assert claim == found

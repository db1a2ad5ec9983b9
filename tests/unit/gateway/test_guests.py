"""The list of guests, edited."""

from datetime import UTC, datetime, timedelta

import pytest

from support.builders import a_session
from vdi.api.session import Access, GuestRole
from vdi.cluster.units import format_time
from vdi.gateway.denied import ActionDenied
from vdi.gateway.guests import MOST, add_guest, remove_guest

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BOB, EVE = "bob@example.com", "eve@example.com"


def test_a_guest_is_added_at_the_end_and_replaces_their_own_entry() -> None:
    session = a_session(access=[{"user": "Bob@example.com", "role": "viewer"}, {"user": EVE, "role": "viewer"}])
    after = add_guest(session, BOB, GuestRole.COLLABORATOR, NOW + timedelta(hours=1), NOW)
    assert after == (Access(EVE, "viewer"), Access(BOB, "collaborator", "2026-11-20T13:00:00Z"))


def test_shares_that_are_over_are_dropped_on_the_way() -> None:
    old = {"user": EVE, "role": "viewer", "expires": format_time(NOW)}
    assert [one.user for one in add_guest(a_session(access=[old]), BOB, GuestRole.VIEWER, None, NOW)] == [BOB]


@pytest.mark.parametrize(
    ("user", "role", "expires", "words"),
    [
        ("bob", GuestRole.VIEWER, None, "addresses such as"),
        ("<b>@x", GuestRole.VIEWER, None, "addresses such as"),
        ("ALICE@example.com", GuestRole.VIEWER, None, "owns this desktop"),
        (BOB, GuestRole.VIEWER, NOW, "is in the past"),
    ],
)
def test_what_cannot_be_shared_is_refused(user: str, role: GuestRole, expires: datetime | None, words: str) -> None:
    with pytest.raises(ActionDenied, match=words) as refused:
        add_guest(a_session(), user, role, expires, NOW)
    assert refused.value.code == "Invalid"


def test_there_is_room_for_so_many() -> None:
    full = a_session(access=[{"user": f"g{number}@example.com", "role": "viewer"} for number in range(MOST)])
    with pytest.raises(ActionDenied, match="64 users"):
        add_guest(full, BOB, GuestRole.VIEWER, None, NOW)
    assert len(add_guest(full, "g5@example.com", GuestRole.COLLABORATOR, None, NOW)) == MOST


def test_a_guest_is_removed_in_whatever_spelling_and_only_if_there() -> None:
    session = a_session(access=[{"user": "Bob@example.com", "role": "viewer"}, {"user": EVE, "role": "viewer"}])
    assert [one.user for one in remove_guest(session, BOB)] == [EVE]
    with pytest.raises(
        ActionDenied, match=f"not shared with dan@example.com. It is shared with Bob@example.com, {EVE}"
    ):
        remove_guest(session, "Dan@example.com")

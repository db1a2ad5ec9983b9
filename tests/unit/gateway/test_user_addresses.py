"""An address of a person that looks like another one, or hides what it is, is taken nowhere."""

from datetime import UTC, datetime

import pytest

from support.builders import a_session, a_template
from unit.gateway.user_addresses import HIDDEN, ORDINARY, UNDECIDABLE
from vdi.api.session import GuestRole
from vdi.gateway.settings import read_settings
from vdi.session.actions import Refusal, Share, Unshare, decide
from vdi.session.users import check_address
from vdi.settings import SettingsError

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "address", [*HIDDEN.values(), *UNDECIDABLE.values()], ids=[*HIDDEN, *UNDECIDABLE]
)
def test_what_does_not_show_is_refused_and_named_escaped(address: str) -> None:
    with pytest.raises(ValueError, match="allowed: visible characters") as why:
        check_address(address)
    assert str(why.value).isascii()
    refusal = decide(a_session(), a_template(), Share(address, GuestRole.VIEWER), NOW)
    assert (
        isinstance(refusal, Refusal)
        and refusal.message.startswith("user: ")
        and refusal.message.isascii()
    )
    assert refusal.field == "user" and refusal.value.isascii()
    assert refusal.allowed.startswith("visible characters")
    with pytest.raises(SettingsError, match=r"VDI_ADMIN_USERS=.*; allowed: visible characters"):
        read_settings({"VDI_ADMIN_USERS": address})


@pytest.mark.parametrize("address", ORDINARY)
def test_addresses_that_people_have_are_taken(address: str) -> None:
    assert check_address(address) == address
    patch = decide(
        a_session(user="owner@example.com"), a_template(), Share(address, GuestRole.VIEWER), NOW
    )
    assert not isinstance(patch, Refusal) and patch["spec"]["access"][0]["user"] == address


def test_a_guest_from_before_can_be_removed() -> None:
    session = a_session(access=[{"user": HIDDEN["isolate"], "role": "viewer"}])
    patch = decide(session, a_template(), Unshare(HIDDEN["isolate"]), NOW)
    assert not isinstance(patch, Refusal) and patch["spec"] == {"access": ()}

"""An address without a desktop: its owner and its former guests read why, and no one else learns
that it was there.
"""

import msgspec
import pytest

from unit.gateway.edge_stage import GUEST, OWNER, STRANGER, EdgeStage, address, shared_with
from unit.gateway.gateway_stage import NOW, Browser, a_past
from vdi.gateway.store.history import EndReason
from vdi.session.homes import HomeClaim

NOT_HERE = "You have no desktop here"
ENDED_AT = "ended it at <time"


def has_ended(
    stage: EdgeStage, reason: EndReason | None = EndReason.USER, name: str = "alice-desktop"
) -> None:
    """The desktop is gone, and the history knows of it."""
    stage.drop(stage.session)
    row = a_past("uid-alice-desktop", user=OWNER, template="office")
    ended = NOW if reason else None
    stage.remember(msgspec.structs.replace(row, name=name, ended=ended, end_reason=reason))


def has_home(stage: EdgeStage, *, template: str = "office") -> None:
    notes = {"vdi.kasm.io/user": OWNER, "vdi.kasm.io/template": template}
    meta = {
        "name": "home-alice",
        "namespace": "vdi-sessions",
        "uid": "1",
        "resourceVersion": "1",
        "annotations": notes,
    }
    stage.world.homes.observe(msgspec.convert({"metadata": meta}, HomeClaim))


async def read(browser: Browser, label: str = "alice-desktop") -> str:
    answer = await browser.open(address(label))
    assert answer.status_code == 403
    return answer.text


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (EndReason.USER, "You ended it at <time"),
        (EndReason.ADMIN, "Ended by an administrator at <time"),
        (EndReason.IDLE, "Idle timeout at <time"),
        (EndReason.UNKNOWN, "</time>. Files"),
        (None, "It ended. Files"),
    ],
)
async def test_owners_read_how_their_desktop_ended(
    stage: EdgeStage, reason: EndReason | None, told: str
) -> None:
    has_ended(stage, reason)
    has_home(stage)
    page = await read(await stage.logged_in(OWNER))
    for words in (
        "This desktop has ended",
        told,
        "Files in your home folder are kept.",
        "/catalogue/office",
    ):
        assert words in page


async def test_files_without_a_home_were_deleted(stage: EdgeStage) -> None:
    has_ended(stage)
    has_home(stage, template="another")
    owner = await stage.logged_in(OWNER)
    assert "Its files were deleted." in await read(owner)


async def test_an_assigned_host_leads_to_the_session_of_its_name(stage: EdgeStage) -> None:
    has_ended(stage, name="Alice.desktop")
    owner = await stage.logged_in(OWNER)
    assert ENDED_AT in await read(owner, "alice-desktop-5tq2mzk4")
    for other in ("alice-5tq2mzk4", "alice-desktop-of-bob"):
        assert NOT_HERE in await read(owner, other)


async def test_strangers_do_not_learn_that_a_desktop_was_there(stage: EdgeStage) -> None:
    stranger = await stage.logged_in(STRANGER)
    present = await read(stranger)
    has_ended(stage)
    assert await read(stranger) == present
    assert NOT_HERE in present
    assert await read(stranger, "never-there") == present.replace("alice-desktop", "never-there")


async def test_an_administrator_reads_why_and_the_audit_has_it(stage: EdgeStage) -> None:
    admin = await stage.logged_in("root@example.com", admin=True)
    page = await read(admin)
    assert "Only alice@example.com, the owner of desktop" in page and "request access" in page
    refused = ("root@example.com", "session.open", "alice-desktop", "Forbidden")
    assert stage.acts[-1] == refused
    assert NOT_HERE in await read(admin, "never-there")
    await read(await stage.logged_in(STRANGER))
    assert [act for act in stage.acts if act[1] == "session.open"] == [refused]


async def test_a_past_session_says_nothing_of_one_that_exists(stage: EdgeStage) -> None:
    """The user's session of this name has another host by now."""
    stage.remember(a_past("uid-alice-desktop", user=OWNER, template="office"))
    assert NOT_HERE in await read(await stage.logged_in(OWNER), "uid-alice-desktop")


async def test_former_guests_read_that_the_share_is_over(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "viewer", "2026-11-20T13:00:00Z"))
    guest = await stage.logged_in(GUEST)
    stage.clock.wall = stage.clock.wall.replace(hour=14)
    assert "This desktop is no longer shared with you" in await read(guest)


async def test_a_guest_who_was_in_reads_that_the_share_is_over(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "collaborator"))
    guest = await stage.logged_in(GUEST)
    assert (await guest.open(address())).status_code == 200
    stage.change(spec={"access": []})
    assert "This desktop is no longer shared with you" in await read(guest)
    assert NOT_HERE in await read(await stage.logged_in(STRANGER))

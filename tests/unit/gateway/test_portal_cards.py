"""Cards of desktops: one action stands out, every card says where it stands, and what cannot be
undone is elsewhere.
"""

import json
import re
from typing import Any

import msgspec
import pytest

from unit.gateway.portal_stage import (
    ADMIN,
    BOB,
    PortalStage,
    a_session,
    a_template,
    running,
    text_of,
)
from vdi.session.naming import DRIVER

# A primary button: its class says nothing else.
_STANDS_OUT = re.compile(r'<(?:a class="button"|button type="submit" form="act")[^>]*>([^<]+)<')
ON_DESKTOP = {"url": "https://alice-desktop.vdi.localhost"}
PAGE = "/desktops/alice-desktop"
VIEWER = [{"user": BOB.email, "role": "viewer"}]
THIRD = {"position": 3, "reason": "GPUsBusy"}


def cards(page: str) -> list[str]:
    return page.split('<article class="card')[1:]


@pytest.mark.parametrize(
    ("status", "actions", "line"),
    [
        ({}, ["Follow progress"], "Just requested"),
        ({"phase": "Pending"}, ["Follow progress"], "Waiting"),
        ({"phase": "Pending", "message": "Full."}, ["Follow progress"], "Full."),
        (
            {"phase": "Pending", "queue": THIRD, "message": "Full."},
            ["Follow progress"],
            "Number 3 in line",
        ),
        (
            {"phase": "Pending", "queue": {"reason": "NoGPUs"}},
            ["Follow progress"],
            "No node can run it",
        ),
        ({"phase": "Creating"}, ["Follow progress"], "Starting"),
        ({"phase": "Creating"}, ["Follow progress"], "The desktop is being started."),
        (
            {"phase": "Running", "expiresAt": "2026-11-20T17:00:00Z"},
            ["Open"],
            "until 20 Nov 2026, 17:00 UTC",
        ),
        (
            {"phase": "Running", "failures": {"count": 2, "message": "m"}},
            ["Open"],
            "failed 2 times in a row",
        ),
        ({"phase": "Suspended"}, ["Resume"], "Suspended"),
        ({"phase": "Suspended"}, ["Resume"], "The desktop is stopped; its address is kept."),
        ({"phase": "Failed", "message": "No image."}, ["Try again"], "No image."),
        ({"phase": "Terminating"}, [], "Ending"),
    ],
)
async def test_a_card_says_its_state_and_one_action_stands_out(
    status: dict[str, Any], actions: list[str], line: str
) -> None:
    suspended = status.get("phase") == "Suspended"
    stage = PortalStage(a_template(), a_session(status=ON_DESKTOP | status, suspended=suspended))
    (card,) = cards(await stage.browser().html("/"))
    assert _STANDS_OUT.findall(card) == actions
    assert line in text_of(card) and ">Details<" in card


@pytest.mark.parametrize(
    ("reason", "title", "message"),
    [
        ("NotResponding", "Not responding", "NotResponding. Restart it: unsaved work is lost."),
        ("ImageNotFound", "Cannot start", "Its image cannot be loaded. Ask your administrator."),
    ],
)
async def test_a_failing_desktop_says_what_happened_and_what_to_do(
    reason: str, title: str, message: str
) -> None:
    at = "2026-11-20T11:54:00Z"
    pod = {
        "type": "PodReady",
        "status": "False",
        "reason": reason,
        "message": f"{reason}.",
        "lastTransitionTime": at,
    }
    status = {"phase": "Creating", "podName": "p", "message": f"{reason}.", "conditions": [pod]}
    stage = PortalStage(a_template(), a_session(status=ON_DESKTOP | status))
    for path in ("/", PAGE):
        page = await stage.browser().html(path)
        assert f"{title} {message}" in text_of(page)
        assert _STANDS_OUT.findall(page) == ["Restart"]
        assert 'class="badge failed"' in page and "<progress" not in page
        assert (
            'Since <time datetime="2026-11-20T11:54:00Z">' in page and "/admin/doctor" not in page
        )
        assert f"template ubuntu\n{title} since 2026-11-20T11:54:00Z: {reason}\n{reason}." in page
    assert 'href="/admin/doctor"' in (await stage.browser(ADMIN).html(PAGE)).partition("</nav>")[2]


async def test_files_that_do_not_outlive_a_desktop_are_announced() -> None:
    stage = PortalStage(a_template(persistence={"enabled": False}), running())
    said = "Files here are deleted when this desktop ends, is suspended or restarts."
    assert said in await stage.browser().text(PAGE)
    assert "has no home folder" in await stage.browser().html("/catalogue/ubuntu")
    stage.put(a_template(persistence={"scope": "Session"}))
    assert "deleted when this desktop ends." in await stage.browser().html(PAGE)
    stage.put(a_template())
    assert "Files here" not in await stage.browser().html(PAGE)


async def test_no_action_stands_out_for_a_viewer() -> None:
    rests = a_session("rests", status={"phase": "Suspended"}, suspended=True, access=VIEWER)
    (card,) = cards(await PortalStage(a_template(), rests).browser(BOB).html("/shared"))
    assert _STANDS_OUT.findall(card) == [] and ">Details<" in card


async def test_a_running_card_says_with_how_many_it_is_shared() -> None:
    stage = PortalStage(a_template(), running(access=VIEWER))
    assert "until 20 Nov 2026, 17:00 UTC · shared with 1 person" in await stage.browser().text("/")


@pytest.mark.parametrize(
    ("earliest", "words"),
    [
        (
            "2026-11-20T12:25:30Z",
            "by 12:25 UTC . That is 20 Nov 2026, 12:25 UTC , unless a desktop ends earlier",
        ),
        ("", "not enough suitable GPUs are free."),
    ],
)
async def test_a_waiting_desktop_says_when_capacity_is_expected(earliest: str, words: str) -> None:
    queue = {"position": 2, "reason": "GPUsBusy", "earliestSlot": earliest}
    stage = PortalStage(a_session(status={"phase": "Pending", "queue": queue, "message": "Full."}))
    for path in ("/", PAGE):
        page = await stage.browser().text(path)
        assert words in page
        assert ("That is" in page) == bool(earliest)


async def test_ending_is_away_from_opening_and_sharing_comes_first() -> None:
    stage = PortalStage(a_template(), running())
    assert ">End<" not in await stage.browser().html("/")
    page = await stage.browser().html(PAGE)
    words = (">Open<", ">Sharing<", ">About this desktop<", ">What happened<", ">End<")
    places = [page.index(word) for word in words]
    assert places == sorted(places)


async def test_desktops_that_need_attention_come_first() -> None:
    failed = a_session(
        "failed", created="2026-11-20T08:00:00Z", status={"phase": "Failed", "message": "No image."}
    )
    newest = a_session("newest", created="2026-11-20T11:00:00Z")
    stage = PortalStage(a_template(), failed, newest, running("older"))
    found = re.findall(
        r'<article class="card( attention)?" id="card-uid-(\w+)"', await stage.browser().html("/")
    )
    assert found == [(" attention", "failed"), ("", "newest"), ("", "older")]


async def test_card_has_the_request_of_an_agent_that_waits() -> None:
    desktop = running("alice-desktop")
    note = {"state": "Parked", "user": "alice@example.com", "reason": "Enter the <code>."}
    for state, is_shown in (("Parked", True), ("Human", False)):
        notes = {DRIVER: json.dumps(note | {"state": state})}
        metadata = msgspec.structs.replace(desktop.metadata, annotations=notes)
        stage = PortalStage(a_template(), msgspec.structs.replace(desktop, metadata=metadata))
        page = await stage.browser().html("/")
        assert ("asks for a person: Enter the &lt;code&gt;." in page) is is_shown
        assert ('card attention"' in page) is is_shown

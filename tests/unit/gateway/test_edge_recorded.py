"""A desktop that is shown only while it is recorded: no page, no connection and no table without
its recording.
"""

from collections.abc import AsyncIterator

import pytest

from support.builders import a_template
from support.waiting import eventually
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import (
    GUEST,
    HANDSHAKE,
    HOST,
    OWNER,
    EdgeStage,
    address,
    browser_events,
    shared_with,
)
from unit.gateway.gateway_stage import NAVIGATION
from vdi.api.session import RecordingStatus, Role, VDISession
from vdi.gateway.desktop.thumbnail import has_thumbnail
from vdi.gateway.edge import token_tables
from vdi.gateway.store.logins import GrantStore

WHY = "it is not recorded now: disk full."


@pytest.fixture
async def stage(desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EdgeStage]:
    monkeypatch.setattr(token_tables, "PAUSES", (0.01,))
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        stage.put(a_template("office", recording={"mode": "Always"}))
        recording(stage, "On")
        yield stage


def recording(stage: EdgeStage, state: str, mode: str = "Always", message: str = "") -> VDISession:
    status = {"recording": RecordingStatus(mode, state, message)}
    return stage.change(status=status, spec=shared_with(GUEST, "viewer"))


@pytest.mark.parametrize("user", [OWNER, GUEST])
async def test_no_one_sees_a_desktop_without_its_recording(stage: EdgeStage, user: str) -> None:
    browser = await stage.entered(user)
    recording(stage, "Failed", message="disk full")
    page = await stage.verify(HOST, "/?v=1", Cookie=browser.stolen(HOST), **NAVIGATION)
    assert (page.status_code, page.headers["location"]) == (302, address(path="/.vdi/wait?next=/"))
    plain = (
        "/api/status",
        "/assets/x.js",
        *(("/api/files/a", "/api/upload") if user == OWNER else ()),
    )
    for path, more in (("/api/websockets", HANDSHAKE), *((path, {}) for path in plain)):
        answer = await stage.verify(HOST, path, Cookie=browser.stolen(HOST), **more)
        assert (answer.status_code, WHY in answer.text) == (503, True), path


async def test_recording_that_ends_ends_every_picture(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    await stage.entered()
    await eventually(lambda: len(desktop.table) == 1)
    recording(stage, "Failed")
    await eventually(lambda: desktop.tables[-1:] == [{}])
    recording(stage, "On")
    await eventually(lambda: len(desktop.table) == 1)
    assert len(await GrantStore(stage.database).open()) == 1, (
        "access has not ended, only the picture"
    )


async def test_waiting_page_says_why_and_opens_with_the_recording(stage: EdgeStage) -> None:
    browser = await stage.entered()
    recording(stage, "Failed", message="disk full")
    page = (await browser.open(address())).text
    assert WHY in page
    assert "This desktop is recorded, picture and sound, as long as it runs." in page
    events = await browser_events(stage, browser, lambda: recording(stage, "On"), most=2)
    assert [event["stage"] for event in events] == ["denied", "opening"]


async def test_bar_says_that_the_desktop_is_recorded(stage: EdgeStage) -> None:
    for user in (OWNER, GUEST):
        browser = await stage.entered(user)
        state = (await browser.get(address(path="/.vdi/bar"))).json()
        assert (state["recorded"], "record" in state["actions"]) == (True, False)
    recording(stage, "Off", mode="OnDemand")
    state = (await (await stage.entered()).get(address(path="/.vdi/bar"))).json()
    assert (state["recorded"], "record" in state["actions"]) == (False, True)


async def test_no_small_picture_without_the_recording(stage: EdgeStage) -> None:
    template = stage.world.template("office")
    assert has_thumbnail(recording(stage, "On"), template, Role.OWNER)
    assert not has_thumbnail(recording(stage, "Failed"), template, Role.OWNER)

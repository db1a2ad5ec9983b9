"""The bar over a desktop: its state by role, who is watching, and the changes that it requests."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from support.builders import a_template
from support.clock import FakeClock
from unit.gateway.api_stream import events_of
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import (
    GUEST,
    OWNER,
    SETTINGS,
    STRANGER,
    EdgeStage,
    address,
    shared_with,
)
from unit.gateway.gateway_stage import Browser
from vdi.api.meta import Condition
from vdi.api.session import Role
from vdi.cluster.units import format_time
from vdi.gateway.edge.bar import Connection, describe_guests
from vdi.gateway.in_flight import PAGES
from vdi.gateway.rights import Actor, User
from vdi.gateway.store.logins import Grant
from vdi.session.conditions import PLANNED_END

BAR = address(path="/.vdi/bar")
OURS = {"Origin": address(path=""), "X-VDI-Bar": "1", "Accept": "*/*"}


@pytest.fixture
async def stage(desktop: FakeSelkies) -> AsyncIterator[EdgeStage]:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


async def entered(stage: EdgeStage, user: str = OWNER, **spec: Any) -> Browser:
    """A browser in the desktop, whose session has this spec."""
    start = {"start_time": "2026-11-20T11:59:00Z", "expires_at": "2026-11-20T19:59:00Z"}
    stage.change(spec=spec, status=start)
    return await stage.entered(user)


@pytest.mark.parametrize(
    ("user", "role", "owner", "view_only", "actions"),
    [
        (
            OWNER,
            "",
            "",
            False,
            "browse end extend open resize restart schedule share suspend unshare",
        ),
        (GUEST, "collaborator", OWNER, False, "browse open"),
        (GUEST, "viewer", OWNER, True, "open request-access"),
    ],
)
async def test_each_role_gets_its_own_bar(
    stage: EdgeStage, user: str, role: str, owner: str, view_only: bool, actions: str
) -> None:
    ends = format_time(stage.clock.now() + timedelta(hours=2))
    browser = await entered(stage, user, **(shared_with(GUEST, role, ends) if role else {}))
    answer = await browser.get(BAR)
    state = answer.json()
    assert (state["owner"], state["viewOnly"], state["actions"]) == (
        owner,
        view_only,
        actions.split(),
    )
    assert bool(state["accessEnds"]) is (state["watching"] is None) is (user == GUEST)
    assert bool(state["extensions"]) is (user == OWNER)
    assert (
        (await browser.get(address(path=state["script"])))
        .headers["cache-control"]
        .endswith("immutable")
    )
    assert answer.headers["x-vdi-gateway"] == "1"


@pytest.mark.parametrize(
    ("access", "user"),
    [
        ({}, STRANGER),
        (shared_with(GUEST, "presenter"), GUEST),
        (shared_with(GUEST, "viewer", "2026-11-20T11:00:00Z"), GUEST),
    ],
    ids=["stranger", "unknown role", "ended share"],
)
async def test_no_one_else_gets_a_bar(stage: EdgeStage, access: dict[str, Any], user: str) -> None:
    browser = await entered(stage, user, **access)
    assert (await browser.get(BAR)).status_code == 401
    for change in ("suspend", "restart", "resize", "extend"):
        assert (
            await browser.post(address(path=f"/.vdi/{change}"), headers=OURS)
        ).status_code == 401
    assert stage.acts == []


async def test_bar_ends_with_the_session(stage: EdgeStage) -> None:
    browser = await entered(stage)
    stage.drop(stage.session)
    assert (await browser.get(BAR)).status_code == 401


async def test_image_with_its_own_page_has_no_bar(stage: EdgeStage) -> None:
    browser = await entered(stage)
    stage.put(a_template("office", protocol="Web"))
    assert (await browser.get(BAR)).status_code == 404
    assert (await browser.post(address(path="/.vdi/suspend"), headers=OURS)).status_code == 404
    assert stage.acts == []


async def test_texts_of_administrators_are_over_the_desktop(stage: EdgeStage) -> None:
    browser = await entered(stage)
    assert (await browser.get(BAR)).json()["messages"] == []
    admin = User("root@example.com", admin=True)
    await stage.services.actions.set_banner(admin, "Maintenance at 18:00")
    await stage.services.actions.show_message(admin, "alice-desktop", "Please save.")
    end = Condition(PLANNED_END, "True", "EndPlanned", "It is suspended at 18:00 UTC.")
    stage.change(status={"conditions": (end,)})
    guest = await entered(stage, GUEST, **shared_with(GUEST, "viewer"))
    for reader in (browser, guest):
        texts = ["Maintenance at 18:00", "Please save.", "It is suspended at 18:00 UTC."]
        assert (await reader.get(BAR)).json()["messages"] == texts


async def test_owner_extends_restarts_and_suspends(stage: EdgeStage) -> None:
    browser = await entered(stage)
    length = (await browser.get(BAR)).json()["extensions"][0]["value"]
    for change in (f"extend?timeout={length}", "resize?memory=2Gi", "restart", "suspend"):
        answer = await browser.post(address(path=f"/.vdi/{change}"), headers=OURS)
        assert answer.status_code == 204, (change, answer.text)
    assert [(actor, action, outcome) for actor, action, _, outcome in stage.acts] == [
        (OWNER, f"session.{action}", "done")
        for action in ("extend", "resize", "restart", "suspend")
    ]
    refused = await browser.post(address(path="/.vdi/extend?timeout=x"), headers=OURS)
    assert (refused.status_code, refused.text.startswith("timeout")) == (422, True), refused.text


async def test_bar_offers_the_owner_more_memory(stage: EdgeStage) -> None:
    short = {"used": 3960000000, "limit": 4294967296, "isShort": True}
    stage.agent.memory = msgspec.json.encode(short)
    browser = await entered(stage)
    stage.put(a_template("office", resources={"maxMemory": "16Gi"}))
    words = "Your desktop uses 92 % of its memory. Give it 2 GiB more?"
    assert (await browser.get(BAR)).json()["memory"] == [words, "6Gi", "Give it 2 GiB more"]
    guest = await entered(stage, GUEST, **shared_with(GUEST, "collaborator"))
    assert (await guest.get(BAR)).json()["memory"] is None
    stage.agent.memory = msgspec.json.encode(short | {"isShort": False})
    assert (await browser.get(BAR)).json()["memory"] is None


async def test_bars_of_a_slow_desktop_ask_it_a_few_times(stage: EdgeStage) -> None:
    browser, slow, limits = await entered(stage), ExitStack(), stage.agent.limits
    stage.change(spec=shared_with(GUEST, "viewer"))
    with slow:
        for _ in range(PAGES.each):
            slow.enter_context(limits.enter(PAGES, stage.session.metadata.uid, "desk", "alice"))
        answer = await browser.get(BAR)
    assert (answer.status_code, answer.json()["watching"]) == (200, None), "it is not asked"
    assert (await browser.get(BAR)).json()["watching"] == []


@pytest.mark.parametrize("role", ["collaborator", "viewer"])
async def test_guest_changes_nothing(stage: EdgeStage, role: str) -> None:
    browser = await entered(stage, GUEST, **shared_with(GUEST, role))
    for change in ("suspend", "restart", "resize?memory=2Gi", "extend?timeout=99h"):
        answer = await browser.post(address(path=f"/.vdi/{change}"), headers=OURS)
        assert (answer.status_code, role in answer.text) == (403, True)
    assert {outcome for *_, outcome in stage.acts} == {"Forbidden"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OURS["Origin"]},
        {"X-VDI-Bar": "1"},
        {**OURS, "Origin": SETTINGS.portal_url},
        {**OURS, "Origin": address("bob-desktop", "")},
        {**OURS, "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_change_needs_own_origin_and_header(
    stage: EdgeStage, headers: dict[str, str]
) -> None:
    browser = await entered(stage)
    assert (await browser.post(address(path="/.vdi/suspend"), headers=headers)).status_code == 403
    assert (await browser.get(address(path="/.vdi/suspend"))).status_code in (404, 405)
    assert stage.acts == []


async def test_owner_sees_who_is_watching(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await entered(stage, GUEST, **shared_with(GUEST, "viewer"))
    owner = await entered(stage, **shared_with(GUEST, "viewer"))
    assert (await owner.get(BAR)).json()["watching"] == []
    desktop.sockets[web.WebSocketResponse()] = ("", "viewer")
    assert (await owner.get(BAR)).json()["watching"] == [f"{GUEST} (view only)"]
    stage.edge.tables.address = lambda _: "http://127.0.0.1:9"
    assert (await owner.get(BAR)).json()["watching"] is None
    desktop.sockets.clear()


async def test_owner_is_told_at_once_that_a_first_guest_watches(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    owner, host = await entered(stage), SETTINGS.host("alice-desktop")
    headers = {"Host": host, "Cookie": owner.stolen(host)}
    async with events_of(stage.public, "/.vdi/presence", headers) as events:
        assert await events.next() == ("presence", [])
        stage.change(spec=shared_with(GUEST, "viewer"))
        assert await events.next() == ("presence", []), "the bar asks for the new guest"
        await stage.entered(GUEST)
        desktop.sockets[web.WebSocketResponse()] = ("", "viewer")
        assert await events.next(seconds=2.0) == ("presence", [f"{GUEST} (view only)"])
    desktop.sockets.clear()


async def test_guests_are_not_told_who_watches(stage: EdgeStage) -> None:
    guest, host = (
        await entered(stage, GUEST, **shared_with(GUEST, "viewer")),
        SETTINGS.host("alice-desktop"),
    )
    headers = {"Host": host, "Cookie": guest.stolen(host)}
    async with events_of(stage.public, "/.vdi/presence", headers) as events:
        assert await events.next() == ("presence", None)
        stage.change(spec={"access": []})
        assert await events.next() == ("end", None)
    assert (await stage.browser().get(address(path="/.vdi/presence"))).status_code == 401


@pytest.mark.parametrize(
    ("guests", "connected", "described"),
    [
        ({"bob": Role.VIEWER}, [], []),
        ({"bob": Role.VIEWER}, ["viewer"], ["bob (view only)"]),
        ({"bob": Role.VIEWER, "carol": Role.VIEWER}, ["viewer"], ["1 of bob, carol (view only)"]),
        (
            {"bob": Role.VIEWER, "carol": Role.COLLABORATOR},
            ["controller"],
            ["carol (full control)"],
        ),
        ({"bob": Role.VIEWER, "carol": Role.COLLABORATOR}, ["owner"], []),
        ({}, ["viewer", "controller"], []),
    ],
)
def test_guests_are_described_by_their_connections(
    guests: dict[str, Role], connected: list[str], described: list[str]
) -> None:
    now = FakeClock().now()
    grants = [
        Grant(id=user, session_uid="1", user=user, role=role, login_id="", created=now, expires=now)
        for user, role in {"alice": Role.OWNER, **guests}.items()
    ]
    connections = [
        Connection("controller", 1),
        *(Connection(role) for role in connected if role != "owner"),
    ]
    assert [*describe_guests(grants, connections)] == described


@pytest.mark.parametrize(("role", "drives"), [("collaborator", True), ("viewer", False)])
async def test_bar_shows_who_drives_to_all_and_buttons_to_some(
    stage: EdgeStage, role: str, drives: bool
) -> None:
    browser = await entered(stage, GUEST, **shared_with(GUEST, role))
    assert (await browser.get(BAR)).json()["driver"] is None
    stage.put(a_template("office", agents={"enabled": True}))
    await stage.services.computer.switch(Actor(OWNER), "alice-desktop", human=True)
    state = (await browser.get(BAR)).json()
    assert state["driver"] == {"line": f"{OWNER} has taken over from the agent", "state": "Human"}
    assert ("drive" in state["actions"]) is drives
    answer = await browser.post(address(path="/.vdi/drive?human=false"), headers=OURS)
    assert answer.status_code == (204 if drives else 403)
    assert ((await browser.get(BAR)).json()["driver"] is None) is drives

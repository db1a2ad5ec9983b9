"""A role of a guest that this version does not know: the guest gets nothing, and no page fails for
anybody.
"""

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import update

from support.desktop_key import MASTER
from support.variants import first_of
from unit.gateway import portal_stage
from unit.gateway.api_stage import BOB, RUNNING, ApiStage
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import (
    GUEST,
    HANDSHAKE,
    OWNER,
    SETTINGS,
    EdgeStage,
    a_session,
    address,
    changed,
    publish,
    shared_with,
)
from unit.gateway.gateway_stage import NAVIGATION
from unit.gateway.portal_stage import PortalStage, running, text_of
from vdi.api.session import GuestRole, Role
from vdi.gateway.store.logins import GrantStore, grants
from vdi.session.credentials import grant_token

HOST = SETTINGS.host("alice-desktop")
EDGE_PAGES = ("/.vdi/transport", "/.vdi/wait", "/.vdi/open", "/.vdi/events", "/api/turn")


@pytest.fixture(params=first_of(["presenter", "owner", "Viewer", ""]))
def role(request: pytest.FixtureRequest) -> str:
    """A value that the CRD of this version refuses."""
    return str(request.param)


@pytest.fixture
async def stage(desktop: FakeSelkies) -> AsyncIterator[EdgeStage]:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


def test_guests_can_have_each_role_but_the_owners() -> None:
    assert {*Role} == {*GuestRole, Role.OWNER}


async def test_the_edge_lets_no_unknown_role_in(stage: EdgeStage, role: str) -> None:
    stage.add(changed(a_session(), spec=shared_with(GUEST, role)))
    guest = await stage.logged_in(GUEST)
    answer = await guest.open(address())
    assert (answer.status_code, "You have no desktop at" in answer.text) == (403, True)
    assert await GrantStore(stage.database).open() == []


@pytest.mark.parametrize("before", GuestRole)
async def test_the_edge_cuts_off_who_gets_an_unknown_role(
    stage: EdgeStage, desktop: FakeSelkies, before: GuestRole, role: str
) -> None:
    shared = stage.add(changed(a_session(), spec=shared_with(GUEST, before)))
    guest, owner = await stage.logged_in(GUEST), await stage.logged_in(OWNER)
    for browser in (guest, owner):
        assert (await browser.open(address())).status_code == 200
    theirs, (grant,) = guest.stolen(HOST), await GrantStore(stage.database).open(user=GUEST)
    publish(stage.world, changed(shared, spec=shared_with(GUEST, role)))
    for path in ("/", "/?v=1", "/api/status", "/api/files/", "/api/turn", "/api/sessions"):
        assert (await stage.verify(HOST, path, Cookie=theirs)).status_code == 401, path
    for path in ("/api/websockets", "/api/webrtc/signaling/"):
        assert (await stage.verify(HOST, path, Cookie=theirs, **HANDSHAKE)).status_code == 401, path
    assert (
        (await stage.verify(HOST, Cookie=theirs, **NAVIGATION))
        .headers["location"]
        .endswith("/.vdi/start?next=/")
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(stage.public), base_url=address(path="")
    ) as http:
        for path in EDGE_PAGES:
            answer = await http.get(path, headers={**NAVIGATION, "Cookie": theirs})
            where = answer.headers.get("location", "").partition("?")[0]
            assert (answer.status_code, where) in (
                (302, "/.vdi/start"),
                (302, "/.vdi/wait"),
                (401, ""),
            ), path
    assert (await guest.open(address())).status_code == 403
    await stage.edge.revoker.sweep()
    table = await stage.edge.tables.posted("uid-alice-desktop", 5)
    assert grant.id not in table
    assert grant_token(MASTER, grant.id) not in desktop.table
    assert len(table) == 1, "the owner stays"
    assert (await stage.verify(HOST, "/api/sessions", Cookie=owner.stolen(HOST))).status_code == 200


async def test_a_grant_of_an_unknown_role_is_no_way_in(stage: EdgeStage, role: str) -> None:
    """As a later version left it in the database before the gateway was rolled back."""
    stage.add(changed(a_session(), spec=shared_with(GUEST, role or "presenter")))
    owner = await stage.logged_in(OWNER)
    await owner.open(address())
    async with stage.database.begin() as connection:
        await connection.execute(update(grants).values(role="presenter", user=GUEST))
    await stage.edge.revoker.poll()
    await stage.edge.revoker.sweep()
    assert await stage.edge.tables.posted("uid-alice-desktop", 5) == frozenset()
    assert (await stage.verify(HOST, Cookie=owner.stolen(HOST))).status_code == 401


async def test_rest_shows_nothing_to_an_unknown_role(role: str) -> None:
    async with ApiStage() as stage:
        stage.session(status=RUNNING, access=[{"user": BOB.user, "role": role}])
        bob = await stage.program(BOB)
        assert (await bob.get("/api/v1/sessions")).json()["items"] == []
        assert (await bob.get("/api/v1/sessions/alice-desktop")).status_code == 404
        for action in ("resume", "suspend", "restart"):
            assert (
                await bob.post(f"/api/v1/sessions/alice-desktop/{action}")
            ).status_code == 404, action
        assert (await bob.get("/api/v1/sessions/alice-desktop/startup-scripts")).status_code == 404
        answer = await bob.post(
            "/api/v1/sessions/alice-desktop/share",
            json={"user": "eve@example.com", "role": "viewer"},
        )
        assert answer.status_code == 404
        assert (
            await bob.post("/api/v1/sessions/alice-desktop/probe", json={"state": "0" * 64})
        ).status_code == 404


async def test_the_portal_shows_nothing_to_an_unknown_role(role: str) -> None:
    stage = PortalStage(portal_stage.a_template(), running(access=[{"user": GUEST, "role": role}]))
    stage.agent.screens["alice-desktop"] = b"picture"
    bob = stage.browser(portal_stage.BOB)
    shared = await bob.get("/shared")
    assert (shared.status_code, "alice-desktop" in shared.text) == (200, False)
    for path in ("", "/thumbnail", "/open"):
        assert (await bob.get(f"/desktops/alice-desktop{path}")).status_code == 404, path
    assert stage.agent.asked == []
    page = await stage.browser().get("/desktops/alice-desktop")
    assert page.status_code == 200, "the owner's page lists the guest, whatever the role"
    assert GUEST in text_of(page.text)

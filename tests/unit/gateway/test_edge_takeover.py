"""Streams that an API token has opened end when a person takes over, and none is opened
meanwhile.
"""

import json
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from support.desktop_key import MASTER
from support.waiting import eventually
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import HANDSHAKE, HOST, OWNER, EdgeStage, address
from unit.gateway.gateway_stage import Browser, GatewayStage
from unit.gateway.test_edge_bar import BAR, OURS
from vdi.gateway.edge.headers import STATE_COOKIE
from vdi.gateway.edge.ticket_handoff import issue_ticket
from vdi.gateway.login.logins import Device, Identity, hash_of
from vdi.gateway.rights import User
from vdi.gateway.store.logins import GrantStore
from vdi.session.credentials import grant_token
from vdi.session.naming import DRIVER

HUMAN = {DRIVER: json.dumps({"state": "Human", "user": OWNER})}
PARKED = {DRIVER: json.dumps({"state": "Parked", "user": OWNER, "reason": "captcha"})}


@pytest.fixture
async def stage(desktop: FakeSelkies) -> AsyncIterator[EdgeStage]:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


async def program(stage: GatewayStage) -> User:
    """Who asks with an API token of the owner."""
    _, login = await stage.logins.begin(Identity(user=OWNER), Device())
    owner = await stage.logins.person_by_id(login.id)
    assert owner is not None
    secret, _ = await stage.logins.new_token(owner, "nightly", timedelta(days=1))
    user = await stage.logins.person_by_token(secret)
    assert user is not None
    return user


async def ticket_link(stage: EdgeStage, browser: Browser) -> str:
    """The link of a ticket, as a probe has it."""
    state = secrets.token_urlsafe(32)
    browser.cookies.set(STATE_COOKIE, state, domain=HOST, path="/")
    ticket = await issue_ticket(
        stage.context.shared, await program(stage), stage.session, hash_of(state)
    )
    return address(path=f"/.vdi/enter?ticket={ticket}")


async def streams(stage: EdgeStage, browser: Browser) -> bool:
    """Whether the edge lets a stream of this browser through."""
    answer = await stage.verify(HOST, "/api/websockets", Cookie=browser.stolen(HOST), **HANDSHAKE)
    return answer.status_code == 200


async def test_stream_of_a_token_ends_with_the_takeover(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    """The desktop cuts it; the owner's own stream stays, and the token comes back after *Give
    back*.
    """
    robot, owner = stage.browser(), await stage.entered()
    await robot.open(await ticket_link(stage, robot))
    assert await streams(stage, robot) and await streams(stage, owner)
    grants = {
        grant.login_id: grant_token(MASTER, grant.id)
        for grant in await GrantStore(stage.database).open()
    }
    assert desktop.table.keys() == set(grants.values()) and len(grants) == 2
    stage.change(metadata={"annotations": HUMAN})
    await eventually(
        lambda: desktop.table.keys() == {grants[owner.login_id]}, "the table without the token"
    )
    assert not await streams(stage, robot) and await streams(stage, owner)
    assert (await robot.get(BAR)).status_code == 401
    assert (await robot.post(address(path="/.vdi/suspend"), headers=OURS)).status_code == 401
    await stage.edge.revoker.sweep()
    assert stage.ended_grants == [login_id for login_id in grants if login_id != owner.login_id]
    stage.change(metadata={"annotations": {}})
    assert not await streams(stage, robot)
    again = stage.browser()
    await again.open(await ticket_link(stage, again))
    assert await streams(stage, again)


@pytest.mark.parametrize("note", [HUMAN, PARKED])
async def test_ticket_of_a_token_is_refused(stage: EdgeStage, note: dict[str, str]) -> None:
    """One from before the take-over, too."""
    robot = stage.browser()
    link = await ticket_link(stage, robot)
    stage.change(metadata={"annotations": note})
    answer = await robot.open(link)
    assert answer.status_code == 409 and "API tokens change and open nothing" in answer.text
    assert stage.ended_grants == [] and not await streams(stage, robot)
    assert await streams(stage, await stage.entered())


async def test_replica_whose_watch_is_late_lets_no_token_in(stage: EdgeStage) -> None:
    async with EdgeStage(selkies=lambda _: "http://127.0.0.1:9", **stage.shares) as replica:
        robot = replica.browser()
        link = await ticket_link(replica, robot)
        stage.change(metadata={"annotations": HUMAN, "resource_version": "900"})
        assert DRIVER not in replica.session.metadata.annotations
        assert (await robot.open(link)).status_code == 409


async def test_bar_of_a_token_does_not_consent(stage: EdgeStage) -> None:
    request = {
        "user": "root@example.com",
        "role": "viewer",
        "length": "30m",
        "expires": "2026-11-20T12:01:00Z",
    }
    stage.cluster.put(
        {
            **stage.cluster.objects["alice-desktop"],
            "spec": {"user": OWNER, "template": "office", "accessRequest": request},
        }
    )
    robot = stage.browser()
    await robot.open(await ticket_link(stage, robot))
    answer = address(path=f"/.vdi/answer-access?request={request['expires']}&allow=true")
    refused = await robot.post(answer, headers=OURS)
    assert refused.status_code == 403 and "Only people answer" in refused.text
    assert (await (await stage.entered()).post(answer, headers=OURS)).status_code == 204

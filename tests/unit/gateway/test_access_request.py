"""Help with consent: administrators see no desktop until its owner allows it, and no longer than
that.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from support.builders import a_session, a_template
from unit.gateway.api_stage import ALICE, BOB, ROOT, RUNNING, ApiStage
from unit.gateway.edge_stage import GUEST, EdgeStage, address, changed, shared_with
from unit.gateway.gateway_stage import NOW
from unit.gateway.portal_stage import ADMIN, PortalStage, text_of
from unit.gateway.portal_stage import running as running_desktop
from unit.gateway.test_edge_bar import BAR, OURS
from vdi.api.session import AccessRequest, GuestRole
from vdi.cluster.units import format_time
from vdi.gateway.rights import role_in
from vdi.session.actions import AnswerAccess, Refusal, RequestAccess, decide

ONE = "/api/v1/sessions/alice-desktop"
LAPSES = "2026-11-20T12:01:00Z"
REQUEST = AccessRequest(ROOT.user, "collaborator", "30m", LAPSES)


@pytest.fixture
async def stage() -> ApiStage:
    stage = ApiStage()
    stage.session(status=RUNNING, access=[{"user": BOB.user, "role": "collaborator"}])
    return stage


async def acts(stage: ApiStage) -> list[tuple[str, str, str, str]]:
    found = await stage.audit.entries(limit=50)
    return [
        (one.actor, one.action, one.outcome, one.detail.get("answer", "")) for one in found[::-1]
    ]


async def test_owner_allows_and_ends_it(stage: ApiStage) -> None:
    root, alice = await stage.program(ROOT), await stage.page()
    asked = await root.post(f"{ONE}/request-access", json={"role": "viewer", "length": "30m"})
    request = {"user": ROOT.user, "role": "viewer", "length": "30m", "expires": LAPSES}
    assert asked.json()["spec"]["accessRequest"] == request
    assert (await root.post(f"{ONE}/request-access", json={})).status_code == 409  # one at a time
    bob = await stage.program(BOB)
    assert "accessRequest" not in (await bob.get(ONE)).json()["spec"]
    allowed = await alice.post(f"{ONE}/answer-access", json={"request": LAPSES, "allow": True})
    guest = {"user": ROOT.user, "role": "viewer", "expires": "2026-11-20T12:30:00Z"}
    assert allowed.json()["spec"]["access"][1:] == [guest]
    assert "accessRequest" not in allowed.json()["spec"]
    assert (await alice.post(f"{ONE}/unshare", json={"user": ROOT.user})).is_success
    assert await acts(stage) == [
        (ROOT.user, "session.request-access", "done", ""),
        (ROOT.user, "session.request-access", "Conflict", ""),
        (ALICE.user, "session.answer-access", "done", "allowed"),
        (ALICE.user, "session.unshare", "done", ""),
    ]


async def test_without_consent_every_way_is_refused(stage: ApiStage) -> None:
    root = await stage.program(ROOT)
    bob = await stage.program(BOB)
    token = await stage.program(ALICE)
    token.event_hooks = {}  # pages are not in the API's document
    await root.post(f"{ONE}/request-access", json={"role": "viewer"})
    answer = {"request": LAPSES, "allow": True}
    for tried in (
        await token.post(f"{ONE}/answer-access", json=answer),
        await token.post(
            "/desktops/alice-desktop/answer-access", data={"request": LAPSES, "allow": "true"}
        ),
        await root.post(f"{ONE}/answer-access", json=answer),
        await bob.post(f"{ONE}/answer-access", json=answer),
        await bob.post(f"{ONE}/request-access", json={}),
        await root.post(f"{ONE}/share", json={"user": ROOT.user, "role": "viewer"}),
        await root.post(f"{ONE}/probe", json={"state": "0" * 64}),
    ):
        assert tried.status_code == 403, tried.text
    assert [one["user"] for one in (await root.get(ONE)).json()["spec"]["access"]] == [BOB.user]


@pytest.mark.parametrize(
    ("request_", "answer", "after"),
    [
        ({}, {"request": LAPSES, "allow": False}, 60),
        ({}, {"request": "2026-11-20T12:00:59Z", "allow": True}, 0),
        ({}, {"request": LAPSES, "allow": True}, 60),
        (None, {"request": LAPSES, "allow": True}, 0),
    ],
    ids=["refused late", "of another request", "allowed late", "not asked"],
)
async def test_answer_is_to_a_pending_request(
    stage: ApiStage, request_: dict[str, Any] | None, answer: dict[str, Any], after: int
) -> None:
    root, alice = await stage.program(ROOT), await stage.page()
    if request_ is not None:
        await root.post(f"{ONE}/request-access", json=request_)
    stage.clock.forward(seconds=after)
    assert (await alice.post(f"{ONE}/answer-access", json=answer)).status_code == 409
    assert [one["user"] for one in (await alice.get(ONE)).json()["spec"]["access"]] == [BOB.user]


async def test_lapse_and_end_leave_rows_once(stage: ApiStage) -> None:
    root, alice = await stage.program(ROOT), await stage.page()
    await root.post(f"{ONE}/request-access", json={"length": "1m"})
    await asyncio.gather(*(stage.actions.drop_expired_access() for _ in range(2)))  # two replicas
    stage.clock.forward(minutes=1)
    await asyncio.gather(*(stage.actions.drop_expired_access() for _ in range(2)))  # two replicas
    assert "accessRequest" not in (await alice.get(ONE)).json()["spec"]
    await root.post(f"{ONE}/request-access", json={"length": "1m"})
    await alice.post(
        f"{ONE}/answer-access", json={"request": "2026-11-20T12:02:00Z", "allow": True}
    )
    stage.clock.forward(minutes=1)
    session = stage.world.session("alice-desktop")
    # Whatever the sweep does.
    assert session and role_in(session, ROOT.user, stage.clock.now()) is None
    await asyncio.gather(*(stage.actions.drop_expired_access() for _ in range(2)))  # two replicas
    assert [one["user"] for one in (await alice.get(ONE)).json()["spec"]["access"]] == [BOB.user]
    assert [act for act in await acts(stage) if act[0] == "vdi-gateway"] == [
        ("vdi-gateway", "session.answer-access", "done", "lapsed"),
        ("vdi-gateway", "session.unshare", "done", ""),
    ]


@pytest.mark.parametrize("length", ["", "59s", "481m", "soon", "x" * 999])
def test_length_has_limits(length: str) -> None:
    refusal = decide(a_session(), None, RequestAccess(GuestRole.VIEWER, length), NOW, by=ROOT.user)
    assert isinstance(refusal, Refusal) and refusal.field == "length" and len(refusal.value) <= 100


def test_later_request_does_not_replace_what_the_owner_reads() -> None:
    """Both writes have the resource version that they decided on."""
    for request in (
        RequestAccess(GuestRole.COLLABORATOR, "8h"),
        AnswerAccess(LAPSES, allow=True),
    ):
        session = changed(
            a_session(),
            spec={} if isinstance(request, RequestAccess) else {"access_request": REQUEST},
        )
        patch = decide(session, None, request, NOW, by=ROOT.user)
        assert not isinstance(patch, Refusal)
        assert patch["metadata"]["resourceVersion"] == session.metadata.resource_version


@pytest.fixture
async def edge() -> AsyncIterator[EdgeStage]:
    async with EdgeStage() as stage:
        stage.change(spec={"access_request": REQUEST})
        yield stage


async def test_edge_lets_an_administrator_in_by_consent_only(edge: EdgeStage) -> None:
    root = await edge.entered(ROOT.user, admin=True)
    assert (await root.get(BAR)).status_code == 401
    answer = address(path=f"/.vdi/answer-access?request={LAPSES}&allow=true")
    assert (await root.post(answer, headers=OURS)).status_code == 401
    owner = await edge.entered()
    assert (await owner.get(BAR)).json()["request"]["user"] == ROOT.user
    assert (await owner.post(answer, headers=OURS)).status_code == 204
    state = (await owner.get(BAR)).json()
    assert (state["request"], state["guests"]) == (None, [ROOT.user])
    root = await edge.entered(ROOT.user, admin=True)
    seen = (await root.get(BAR)).json()
    assert (seen["viewOnly"], seen["request"], seen["guests"]) == (False, None, [])
    unshare = address(path=f"/.vdi/unshare?user={ROOT.user}")
    assert (await root.post(unshare, headers=OURS)).status_code == 403
    assert (await owner.post(unshare, headers=OURS)).status_code == 204
    assert (await root.get(BAR)).status_code == 401


async def test_viewer_asks_the_owner_for_control(edge: EdgeStage) -> None:
    edge.change(spec=shared_with(GUEST, "viewer") | {"access_request": None})
    viewer, owner = await edge.entered(GUEST), await edge.entered()
    asked = address(path="/.vdi/request-access?role=collaborator&length=60m")
    assert (await viewer.post(asked, headers=OURS)).status_code == 204
    assert (await viewer.get(BAR)).json()["actions"] == ["open"], "one request at a time"
    request = (await owner.get(BAR)).json()["request"]
    assert (request["user"], request["role"], request["length"]) == (GUEST, "collaborator", "1h")
    answer = address(path=f"/.vdi/answer-access?request={request['expires']}&allow=true")
    assert (await owner.post(answer, headers=OURS)).status_code == 204
    assert (await viewer.get(BAR)).status_code == 401, "the page enters again, with its new role"
    assert (await (await edge.entered(GUEST)).get(BAR)).json()["viewOnly"] is False


async def test_portal_asks_and_answers() -> None:
    stage, page = PortalStage(), "/desktops/alice-desktop"
    stage.put(a_template("ubuntu"), running_desktop("alice-desktop"))
    admin, owner = stage.browser(ADMIN), stage.browser()
    assert (
        "Ask for access" in (await admin.get(page)).text
        and "Ask for access" not in (await owner.get(page)).text
    )
    asked = await admin.post(f"{page}/request-access", at=page, role="viewer", length="30m")
    assert "done=request-access" in asked.headers["location"]
    shown = (await owner.get(page)).text
    assert "root@example.com asks for access: view only, for 30m" in text_of(shown)
    assert "asks for access" not in (await admin.get(page)).text
    refused = await owner.post(
        f"{page}/answer-access",
        at=page,
        request=format_time(NOW + timedelta(minutes=1)),
        allow="false",
    )
    assert "done=refuse-access" in refused.headers["location"]
    assert "asks for access" not in (await owner.get(page)).text
    session = stage.world.session("alice-desktop")
    assert session and role_in(session, ADMIN.email, NOW) is None

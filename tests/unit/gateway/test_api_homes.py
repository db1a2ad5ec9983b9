"""`/homes`: one's own, and no one else's."""

from collections.abc import AsyncIterator

import pytest

from unit.gateway.api_stage import ROOT, ApiStage
from unit.gateway.test_api_sessions import problem
from vdi.session.naming import home_claim_name, user_home_claim_name

ALICE, BOB = "alice@example.com", "bob@example.com"
MINE = home_claim_name(session_name="", user=ALICE, template="ubuntu", retain=True)
FREE = user_home_claim_name(ALICE)
THEIRS = user_home_claim_name(BOB)


@pytest.fixture
async def stage() -> AsyncIterator[ApiStage]:
    async with ApiStage() as stage:
        stage.home(MINE, ALICE, "ubuntu")
        stage.home(FREE, ALICE)
        stage.home(THEIRS, BOB)
        stage.session("first", status={"phase": "Running", "homeClaim": MINE, "podName": "first"})
        yield stage


async def test_my_homes_are_listed_with_size_and_desktop(stage: ApiStage) -> None:
    program = await stage.program()
    items = (await program.get("/api/v1/homes")).json()["items"]
    assert [(item["name"], item["scope"], item["size"], item.get("usedBy")) for item in items] == [
        (FREE, "User", "10Gi", None),
        (MINE, "UserAndTemplate", "10Gi", ["first"]),
    ]
    assert (await program.get(f"/api/v1/homes/{MINE}")).json()["template"] == "ubuntu"


async def test_a_home_of_another_person_is_not_there(stage: ApiStage) -> None:
    for who in (await stage.program(), await stage.program(ROOT)):
        problem(await who.get(f"/api/v1/homes/{THEIRS}"), 404, "not-found")
        problem(await who.delete(f"/api/v1/homes/{THEIRS}"), 404, "not-found")


async def test_a_home_is_deleted_when_no_session_has_it(stage: ApiStage) -> None:
    program = await stage.program()
    body = problem(await program.delete(f"/api/v1/homes/{MINE}"), 409, "conflict")
    assert "belongs to the session first. End it first." in body["detail"]
    assert (await program.delete(f"/api/v1/homes/{FREE}")).status_code == 204
    written = [
        (entry.action, entry.target, entry.outcome)
        for entry in await stage.services.audit.entries(limit=9)
    ]
    assert written == [("home.delete", FREE, "done")]

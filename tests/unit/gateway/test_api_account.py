"""`/me`, `/tokens` and `/logins`."""

import pytest

from unit.gateway.api_stage import BOB, ApiStage
from unit.gateway.test_api_sessions import problem


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


async def test_me(stage: ApiStage) -> None:
    stage.session(resources={"gpu": 1})
    stage.session("rests", suspended=True)
    me = (await (await stage.program()).get("/api/v1/me")).json()
    assert {name: me[name] for name in ("user", "name", "groups", "admin", "csrfToken")} == {
        "user": "alice@example.com",
        "name": "Alice",
        "groups": ["engineering"],
        "admin": False,
        "csrfToken": None,
    }
    assert (me["portal"], me["namespace"]) == ("https://portal.vdi.localhost", "vdi-sessions")
    assert me["use"]["sessions"] == {"used": 1, "limit": None}


async def test_a_token_is_made_used_and_revoked(stage: ApiStage) -> None:
    page = await stage.page()
    made = await page.post("/api/v1/tokens", json={"label": "ci", "days": 7})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret, about = made.json()["token"], made.json()["about"]
    assert (about["label"], about["expires"], about["current"]) == (
        "ci",
        "2026-11-27T12:00:00Z",
        False,
    )
    program = await stage.anybody(authorization=f"Bearer {secret}")
    assert (await program.get("/api/v1/me")).json()["user"] == "alice@example.com"
    listed = (await program.get("/api/v1/tokens")).json()["items"]
    assert [(each["label"], each["current"]) for each in listed] == [("ci", True)]
    assert secret not in (await page.get("/api/v1/tokens")).text
    stage.enter_grant(f"token:{about['id']}")
    assert (await page.delete(made.headers["location"])).status_code == 204
    problem(await program.get("/api/v1/me"), 401, "unauthenticated")
    problem(await page.delete(made.headers["location"]), 404, "not-found")
    assert stage.ended_grants == [f"token:{about['id']}"]
    done = [(entry.action, entry.outcome) for entry in await stage.services.audit.entries(limit=9)]
    assert done == [("token.revoke", "done"), ("token.create", "done")]


async def test_a_token_makes_no_other_and_ends_no_other(stage: ApiStage) -> None:
    program, page = await stage.program(), await stage.page()
    problem(await program.post("/api/v1/tokens", json={"label": "more"}), 403, "forbidden")
    other = (await page.post("/api/v1/tokens", json={"label": "other"})).headers["location"]
    problem(await program.delete(other), 403, "forbidden")
    assert (await page.delete(other)).status_code == 204


async def test_another_s_token_is_not_there(stage: ApiStage) -> None:
    made = await (await stage.page()).post("/api/v1/tokens", json={"label": "ci"})
    problem(await (await stage.page(BOB)).delete(made.headers["location"]), 404, "not-found")
    assert (await (await stage.page(BOB)).get("/api/v1/tokens")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({"label": ""}, "label", "text of length >= 1"),
        ({"label": "a\u202eb"}, "label", "1 to 60 letters, digits and symbols"),
        ({"label": "x", "days": 366}, "days", "a whole number from 1 to 365"),
    ],
)
async def test_a_token_s_fields_are_checked(
    stage: ApiStage, body: dict[str, object], field: str, allowed: str
) -> None:
    answer = problem(await (await stage.page()).post("/api/v1/tokens", json=body), 422, "invalid")
    assert [(error["field"], error["allowed"]) for error in answer["errors"]] == [(field, allowed)]


async def test_logins_are_listed_and_ended(stage: ApiStage) -> None:
    here, there, bob = await stage.page(), await stage.page(), await stage.page(BOB)
    listed = (await here.get("/api/v1/logins")).json()["items"]
    assert sorted(each["current"] for each in listed) == [False, True]
    (other,) = [each["id"] for each in listed if not each["current"]]
    problem(await bob.delete(f"/api/v1/logins/{other}"), 404, "not-found")
    stage.enter_grant(other)
    assert (await here.delete(f"/api/v1/logins/{other}")).status_code == 204
    problem(await there.get("/api/v1/me"), 401, "unauthenticated")
    assert stage.ended_grants == [other]
    assert (await here.get("/api/v1/me")).status_code == 200


async def test_logging_out_everywhere(stage: ApiStage) -> None:
    here, there, program = await stage.page(), await stage.page(), await stage.program()
    problem(await program.get("/api/v1/logins"), 403, "forbidden")
    problem(await program.delete("/api/v1/logins"), 403, "forbidden")
    assert (await here.delete("/api/v1/logins", params={"tokens": "true"})).status_code == 204
    for each in (here, there, program):
        problem(await each.get("/api/v1/me"), 401, "unauthenticated")

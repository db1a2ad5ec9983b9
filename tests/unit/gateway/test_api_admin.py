"""`/admin`, `/history`, `/usage` and `/export`: who sees whose, in which order, in which form."""

from datetime import timedelta
from typing import Any

import pytest

from unit.gateway.api_stage import BOB, ROOT, RUNNING, ApiStage
from unit.gateway.test_api_sessions import names, problem
from vdi.gateway.login.logins import SOURCE_OIDC, AnotherAccountError, Device, Identity
from vdi.kube.errors import Forbidden


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


async def had(stage: ApiStage, name: str, **spec: Any) -> None:
    """A session has run for an hour, and ended."""
    stage.session(name, status=RUNNING | {"templateRevision": "1"}, **spec)
    session = stage.world.session(name)
    assert session is not None
    session.metadata.deletion_timestamp = "2026-11-20T12:00:00Z"
    await stage.history.recorder.record_end(session)
    stage.cluster.drop(name)


async def test_everybody_s_sessions_by_user_template_and_phase(stage: ApiStage) -> None:
    stage.session("a", status=RUNNING)
    stage.session("b", user="bob@example.com", template="cad")
    stage.session("c", user="Bob@example.com", status={"phase": "Failed"})
    root = await stage.program(ROOT)

    async def found(**query: str) -> list[str]:
        return names(await root.get("/api/v1/admin/sessions", params=query))

    assert await found() == ["a", "b", "c"]
    assert await found(user="bob@example.com") == ["b", "c"]
    assert await found(template="cad") == ["b"]
    assert await found(phase="Pending") == ["b"]
    assert await found(phase="Running", user="bob@example.com") == []
    one = (await root.get("/api/v1/sessions/a")).json()
    assert (one["role"], names(await root.get("/api/v1/sessions"))) == ("administrator", [])


async def test_the_audit_comes_in_pages(stage: ApiStage) -> None:
    root = await stage.program(ROOT)
    for name in ("x", "y", "z"):
        stage.session(name)
        await root.post(f"/api/v1/sessions/{name}/suspend")
    first = (await root.get("/api/v1/admin/audit", params={"limit": 2})).json()
    second = (
        await root.get("/api/v1/admin/audit", params={"limit": 2, "cursor": first["next"]})
    ).json()
    assert [each["target"] for each in first["items"] + second["items"]] == ["z", "y", "x"]
    assert "next" not in second
    only = (await root.get("/api/v1/admin/audit", params={"target": "y"})).json()["items"]
    assert [each["target"] for each in only] == ["y"]
    for cursor in ("x", "9" * 30):
        problem(await root.get("/api/v1/admin/audit", params={"cursor": cursor}), 422, "invalid")


async def test_the_queue_is_in_its_order(stage: ApiStage) -> None:
    for name, position in (("later", 2), ("never", 0), ("next", 1)):
        stage.session(
            name, status={"phase": "Pending", "queue": {"position": position, "reason": "GPU"}}
        )
    stage.session("runs", status=RUNNING)
    assert names(await (await stage.program(ROOT)).get("/api/v1/admin/queue")) == [
        "next",
        "later",
        "never",
    ]


async def test_gpus_by_node_and_why_they_are_not_known(stage: ApiStage) -> None:
    stage.cluster.nodes = [
        {"metadata": {"name": "n1"}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}},
        {"metadata": {"name": "plain"}, "status": {"allocatable": {"cpu": "8"}}},
    ]
    root = await stage.program(ROOT)
    gpus = (await root.get("/api/v1/admin/gpus")).json()["items"]
    assert gpus == [{"name": "n1", "total": 8, "used": 0, "cordoned": False}]
    stage.cluster.refuses = Forbidden(403, "Forbidden", "nodes is forbidden")
    said = problem(await root.get("/api/v1/admin/gpus"), 503, "unavailable")["detail"]
    assert "may not read nodes" in said


async def test_the_doctor_has_not_looked_by_itself(stage: ApiStage) -> None:
    problem(await (await stage.program(ROOT)).get("/api/v1/admin/doctor"), 404, "not-found")


async def test_history_is_one_s_own(stage: ApiStage) -> None:
    await had(stage, "a")
    await had(stage, "b")
    await had(stage, "bobs", user="bob@example.com")
    alice, bob, root = await stage.program(), await stage.program(BOB), await stage.program(ROOT)
    mine = (await alice.get("/api/v1/history")).json()["items"]
    assert [each["name"] for each in mine] == ["b", "a"]
    assert mine[0]["runs"][0]["start"] == "2026-11-20T11:00:00Z"
    assert mine[0]["endReason"] == "deleted"
    path = f"/api/v1/history/{mine[0]['uid']}"
    assert (await alice.get(path)).json() == mine[0] == (await root.get(path)).json()
    problem(await bob.get(path), 404, "not-found")
    everybody = (
        await root.get("/api/v1/admin/history", params={"user": "bob@example.com"})
    ).json()["items"]
    assert [each["name"] for each in everybody] == ["bobs"]


async def test_usage_of_a_month(stage: ApiStage) -> None:
    await had(stage, "a")
    await had(stage, "bobs", user="bob@example.com")
    alice, root = await stage.program(), await stage.program(ROOT)
    report = (await alice.get("/api/v1/usage")).json()
    assert [(each["name"], each["hours"]) for each in report["users"]] == [
        ("alice@example.com", 1.0)
    ]
    assert report["month"] == "2026-11"
    assert (await alice.get("/api/v1/usage", params={"month": "2026-10"})).json()["users"] == []
    everybody = (await root.get("/api/v1/admin/usage")).json()["users"]
    assert [each["name"] for each in everybody] == ["alice@example.com", "bob@example.com"]
    used = {user["user"]: user["use"]["hoursPerMonth"]["used"] for user in await users(stage)}
    assert used == {"alice@example.com": 1.0, "bob@example.com": 1.0}
    body = problem(await alice.get("/api/v1/usage", params={"month": "2026-13"}), 422, "invalid")
    assert (
        body["errors"][0]["allowed"]
        == "A calendar month (UTC) such as 2026-11. Default: the current month"
    )


async def test_usage_is_by_template_too_and_as_a_file(stage: ApiStage) -> None:
    stage.template("cad", resources={"defaultGPU": 1})
    await had(stage, "a")
    await had(stage, "b", template="cad")
    alice = await stage.program()
    report = (await alice.get("/api/v1/usage")).json()
    assert {row["name"]: row["hours"] for row in report["templates"]} == {"ubuntu": 1.0, "cad": 1.0}
    query = {"what": "usage", "by": "template"}
    head, *rows = (await alice.get("/api/v1/export", params=query)).text.splitlines()
    assert head.startswith("template,month")
    assert sorted(row.split(",")[0] for row in rows) == ["cad", "ubuntu"]
    problem(await alice.get("/api/v1/export", params=query | {"by": "group"}), 422, "invalid")
    problem(await alice.get("/api/v1/export", params=query | {"what": "runs"}), 422, "invalid")


async def users(stage: ApiStage) -> list[Any]:
    root = await stage.program(ROOT)
    found: list[Any] = (await root.get("/api/v1/admin/users")).json()["items"]
    return found


async def test_an_export_has_one_s_own_rows(stage: ApiStage) -> None:
    await had(stage, "a")
    await had(stage, "bobs", user="bob@example.com")
    alice, root = await stage.program(), await stage.program(ROOT)
    mine = await alice.get("/api/v1/export", params={"what": "sessions"})
    assert mine.headers["content-disposition"] == 'attachment; filename="vdi-sessions.csv"'
    assert [line.split(",")[1] for line in mine.text.splitlines()] == ["name", "a"]
    lines = (
        await root.get("/api/v1/admin/export", params={"what": "runs", "format": "jsonl"})
    ).text.splitlines()
    assert [('"a"' in line, '"bobs"' in line) for line in lines] == [(True, False), (False, True)]
    later = (stage.clock.wall + timedelta(days=1)).isoformat()
    none = await alice.get("/api/v1/export", params={"what": "runs", "since": later})
    assert len(none.text.splitlines()) == 1
    usage = await root.get(
        "/api/v1/admin/export", params={"what": "usage", "user": "bob@example.com"}
    )
    assert [line.split(",")[0] for line in usage.text.splitlines()] == ["user", "bob@example.com"]
    problem(await alice.get("/api/v1/export", params={"what": "audit"}), 422, "invalid")
    problem(
        await alice.get("/api/v1/export", params={"what": "runs", "month": "2026-11"}),
        422,
        "invalid",
    )
    problem(
        await alice.get("/api/v1/export", params={"what": "usage", "since": later}), 422, "invalid"
    )


def account(subject: str) -> Identity:
    """An account of the identity provider with Carol's address."""
    return Identity(
        user="carol@example.com",
        source=SOURCE_OIDC,
        issuer="https://id.example.com",
        subject=subject,
    )


@pytest.mark.parametrize(
    ("path", "target", "status", "body"),
    [
        ("/users/release", "*", 200, '{"released":["carol@example.com"]}'),
        ("/users/Carol@example.com/release", "carol@example.com", 204, ""),
    ],
    ids=["all, after the provider was rebuilt", "one"],
)
async def test_a_released_address_is_free_for_another_account(
    stage: ApiStage, path: str, target: str, status: int, body: str
) -> None:
    """What the account before has open ends: it is no longer whose address this is."""
    address = f"/api/v1/admin{path}"
    carol = await stage.program(account("1"))
    root = await stage.program(ROOT)
    bob = await stage.program(BOB)
    with pytest.raises(AnotherAccountError):
        await stage.logins.begin(account("2"), Device())
    problem(await bob.post(address), 403, "forbidden")
    problem(await carol.post(address), 403, "forbidden")
    answer = await root.post(address)
    assert (answer.status_code, answer.text) == (status, body)
    assert (await carol.get("/api/v1/me")).status_code == 401
    assert (await bob.get("/api/v1/me")).status_code == 200, "local users stay"
    assert await stage.logins.of("carol@example.com") == []
    assert (await (await stage.program(account("2"))).get("/api/v1/me")).json()[
        "user"
    ] == "carol@example.com"
    (act,) = (await root.get("/api/v1/admin/audit", params={"action": "user.release"})).json()[
        "items"
    ]
    assert (act["actor"], act["target"], act["outcome"]) == ("root@example.com", target, "done")


async def test_only_an_address_that_an_account_has_is_released(stage: ApiStage) -> None:
    root = await stage.program(ROOT)
    problem(await root.post("/api/v1/admin/users/dave@example.com/release"), 404, "not-found")
    problem(await root.post("/api/v1/admin/users/nobody/release"), 422, "invalid")

"""The REST API's sessions and templates: what one sees, what one may do, and how it refuses."""

import json
from typing import Any

import httpx
import pytest

from unit.gateway.api_stage import BOB, ROOT, RUNNING, ApiStage, refused_field
from vdi.kube.errors import ConnectionFailed

Answer = dict[str, Any]


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


def names(answer: httpx.Response) -> list[str]:
    return [each["metadata"]["name"] for each in answer.json()["items"]]


def problem(answer: httpx.Response, status: int, code: str) -> Answer:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: Answer = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"/api/docs#problem-{code}"
    assert body["title"]
    assert body["detail"]
    return body


async def test_a_desktop_is_started_and_found_again(stage: ApiStage) -> None:
    alice = await stage.program()
    made = await alice.post(
        "/api/v1/sessions", json={"template": "ubuntu", "resources": {"memory": "2Gi"}}
    )
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/api/v1/sessions/alice-ubuntu"
    assert made.json()["role"] == "owner"
    assert made.json()["spec"]["user"] == "alice@example.com"
    assert stage.cluster.objects["alice-ubuntu"]["spec"]["resources"]["memory"] == "2Gi"
    assert (await alice.get(made.headers["location"])).json() == made.json()
    assert names(await alice.get("/api/v1/sessions")) == ["alice-ubuntu"]


async def test_a_viewer_is_refused_where_the_image_lacks_view_only(stage: ApiStage) -> None:
    stage.template(protocol="Web")
    stage.session("a")
    alice = await stage.program()
    path, bob = "/api/v1/sessions/a/share", {"user": "bob@example.com"}
    refused = await alice.post(path, json=bob | {"role": "viewer"})
    body = problem(refused, 409, "view-only-unavailable")
    assert "the image of this desktop serves its own page (protocol Web)" in body["detail"]
    assert (await alice.post(path, json=bob | {"role": "collaborator"})).status_code == 200


async def test_one_sees_one_s_own_and_what_is_shared_and_nothing_else(stage: ApiStage) -> None:
    stage.session("mine", user="bob@example.com")
    stage.session("seen", access=[{"user": "bob@example.com"}, {"user": "carol@example.com"}])
    stage.session("over", access=[{"user": "bob@example.com", "expires": "2026-11-20T11:59:59Z"}])
    stage.session("hidden")
    bob = await stage.program(BOB)
    assert names(await bob.get("/api/v1/sessions")) == ["mine", "seen"]
    assert names(await bob.get("/api/v1/sessions", params={"role": "viewer"})) == ["seen"]
    seen = (await bob.get("/api/v1/sessions/seen")).json()
    assert seen["role"] == "viewer"
    assert seen["spec"]["access"] == [{"user": "bob@example.com"}], (
        "a guest learns nothing of other guests"
    )
    for name in ("hidden", "over", "none"):
        said = problem(await bob.get(f"/api/v1/sessions/{name}"), 404, "not-found")["detail"]
        assert (
            said
            == f"You have no desktop {name!r}, and no desktop with this name is shared with you."
        )


async def test_a_long_list_comes_in_pages(stage: ApiStage) -> None:
    for number in range(5):
        stage.session(f"s{number}")
    alice = await stage.program()
    first = await alice.get("/api/v1/sessions", params={"limit": 2})
    assert names(first) == ["s0", "s1"]
    stage.cluster.drop("s2")
    second = await alice.get(
        "/api/v1/sessions", params={"limit": 2, "cursor": first.json()["next"]}
    )
    assert names(second) == ["s3", "s4"]
    assert "next" not in second.json()


@pytest.mark.parametrize("cursor", ["%", "nonsense", "e30", "bnVsbA"])
async def test_a_cursor_that_was_not_made_here_is_refused(stage: ApiStage, cursor: str) -> None:
    alice = await stage.program()
    body = problem(await alice.get("/api/v1/sessions", params={"cursor": cursor}), 422, "invalid")
    assert body["errors"] == [
        {"field": "cursor", "value": cursor, "allowed": "`next` of the previous page"}
    ]


async def test_actions_change_the_session(stage: ApiStage) -> None:
    stage.session(status=RUNNING)
    alice = await stage.program()

    async def do(action: str, **body: Any) -> Answer:
        answer = await alice.post(f"/api/v1/sessions/alice-desktop/{action}", json=body or None)
        assert answer.status_code == 200, answer.text
        done: Answer = answer.json()
        return done

    assert (await do("extend", timeout="10h"))["spec"]["timeout"] == "10h"
    assert (await do("resize", memory="2Gi", cpu="500m"))["spec"]["resources"] == {
        "memory": "2Gi",
        "cpu": "500m",
    }
    over = await alice.post("/api/v1/sessions/alice-desktop/resize", json={"memory": "500Gi"})
    assert problem(over, 409, "over-limit")["errors"][0]["field"] == "memory"
    assert (await do("suspend"))["spec"]["suspended"] is True
    assert "suspended" not in (await do("resume"))["spec"]
    await do("restart")
    assert (
        "vdi.kasm.io/restartedAt"
        in stage.cluster.objects["alice-desktop"]["metadata"]["annotations"]
    )
    ended = await alice.delete("/api/v1/sessions/alice-desktop")
    assert (ended.status_code, ended.content) == (204, b"")
    assert stage.cluster.objects == {}


@pytest.mark.parametrize("time", ["2026-11-20T12:00:00Z", "2026-11-21T12:00:01Z", "at noon"])
async def test_planned_end_lies_within_a_day(stage: ApiStage, time: str) -> None:
    stage.session(status=RUNNING)
    answer = await (await stage.program(ROOT)).post(
        "/api/v1/sessions/alice-desktop/plan-end",
        json={"end": {"time": time, "action": "Terminate"}},
    )
    assert answer.status_code == 422
    assert (
        f"time: {time!r} is not allowed; allowed: a time within the next 24h"
        in answer.json()["detail"]
    )


async def test_owner_cannot_cancel_an_administrator_s_plan(stage: ApiStage) -> None:
    stage.session(status=RUNNING, plannedEnd={"time": "2026-11-20T12:15:00Z", "action": "Suspend"})
    refused = await (await stage.program()).post(
        "/api/v1/sessions/alice-desktop/plan-end", json={"end": None}
    )
    assert refused.status_code == 403
    assert "plannedEnd" in stage.cluster.objects["alice-desktop"]["spec"]
    assert (
        await (await stage.program(ROOT)).post(
            "/api/v1/sessions/alice-desktop/plan-end", json={"end": None}
        )
    ).is_success
    assert not stage.cluster.objects["alice-desktop"]["spec"].get("plannedEnd")


async def test_sharing(stage: ApiStage) -> None:
    stage.session(status=RUNNING)
    alice, bob = await stage.program(), await stage.program(BOB)
    path, whom = "/api/v1/sessions/alice-desktop", {"user": "bob@example.com"}
    until = {"role": "viewer", "expires": "2026-11-20T14:00:00+01:00"}
    shared = await alice.post(f"{path}/share", json=whom | until)
    (guest,) = shared.json()["spec"]["access"]
    assert (guest["user"], guest["expires"]) == ("bob@example.com", "2026-11-20T13:00:00Z")
    assert guest.get("role", "viewer") == "viewer"
    assert names(await bob.get("/api/v1/sessions")) == ["alice-desktop"]
    problem(await bob.post("/api/v1/sessions/alice-desktop/suspend"), 403, "forbidden")
    problem(await bob.post(f"{path}/share", json=whom | {"role": "collaborator"}), 403, "forbidden")
    assert "access" not in (await alice.post(f"{path}/unshare", json=whom)).json()["spec"]
    assert names(await bob.get("/api/v1/sessions")) == []
    problem(await alice.post(f"{path}/unshare", json=whom), 404, "not-found")


async def test_templates_are_the_usable_ones_without_their_insides(stage: ApiStage) -> None:
    secret = {"env": [{"name": "LICENSE", "value": "s3cret"}], "description": "Draw."}
    stage.template("cad", **secret, access={"groups": ["engineering"], "users": []})
    alice, bob, root = await stage.program(), await stage.program(BOB), await stage.program(ROOT)
    assert names(await alice.get("/api/v1/templates")) == ["cad", "ubuntu"]
    cad = await alice.get("/api/v1/templates/cad")
    assert cad.json()["spec"]["description"] == "Draw."
    assert "s3cret" not in cad.text
    assert "engineering" not in cad.text
    assert names(await bob.get("/api/v1/templates")) == ["ubuntu"]
    said = problem(await bob.get("/api/v1/templates/cad"), 404, "not-found")["detail"]
    assert said == "There is no template 'cad' that you can use. Available: ubuntu."
    whole = (await root.get("/api/v1/admin/templates")).json()["items"][0]
    assert whole["spec"]["env"] == [{"name": "LICENSE", "value": "s3cret"}]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {},
            {
                "field": "template",
                "allowed": "Name of a template, one of `GET /templates` (required)",
            },
        ),
        ([], {"field": "body", "value": [], "allowed": "an object"}),
        (
            {"template": "ubuntu", "timeout": "4 hours"},
            {
                "field": "timeout",
                "value": "4 hours",
                "allowed": "Length of the run, such as 4h. Default: 8h",
            },
        ),
        (
            {"template": "ubuntu", "resources": {"gpu": "two"}},
            {"field": "resources.gpu", "value": "two", "allowed": "a whole number"},
        ),
        (
            {"template": "ubuntu", "resources": {"gpu": 0}},
            {"field": "resources.gpu", "value": 0, "allowed": "a whole number >= 1"},
        ),
        (
            {"template": "ubuntu", "resources": {"gpus": 1}},
            {
                "field": "resources.gpus",
                "value": 1,
                "allowed": "a field of this request: gpu, memory, cpu, ephemeralStorage",
            },
        ),
        (
            {"template": "ubuntu", "resources": {"ephemeralStorage": "lots"}},
            {
                "field": "resources.ephemeralStorage",
                "value": "lots",
                "allowed": "an amount of at least 1Mi, such as 4Gi or 512Mi",
            },
        ),
    ],
)
async def test_a_body_is_refused_by_field_value_and_what_is_allowed(
    stage: ApiStage, body: Any, error: Answer
) -> None:
    alice = await stage.program()
    assert problem(await alice.post("/api/v1/sessions", json=body), 422, "invalid")["errors"] == [
        error
    ]
    assert stage.cluster.objects == {}


async def test_refused_name_reads_as_a_sentence(stage: ApiStage) -> None:
    body = {"template": "ubuntu", "name": "Ft X"}
    answer = await (await stage.program()).post("/api/v1/sessions", json=body)
    refused = problem(answer, 422, "invalid")
    assert refused["detail"].startswith('name: "Ft X" is not allowed. Name: lower-case letters,')


async def test_local_disk_is_requested_up_to_the_template_s_maximum(stage: ApiStage) -> None:
    stage.template(
        resources={"defaultGPU": 0, "defaultEphemeralStorage": "5Gi", "maxEphemeralStorage": "20Gi"}
    )
    alice = await stage.program()
    body = {"template": "ubuntu", "resources": {"ephemeralStorage": "20Gi"}}
    made = await alice.post("/api/v1/sessions", json=body)
    assert (made.status_code, made.json()["spec"]["resources"]["ephemeralStorage"]) == (201, "20Gi")

    body = {
        "template": "ubuntu",
        "name": "b",
        "resources": {"ephemeralStorage": "30Gi", "memory": "64Gi"},
    }
    refused = problem(await alice.post("/api/v1/sessions", json=body), 409, "over-limit")
    assert refused["errors"] == [
        {"field": "resources.memory", "value": "64Gi", "allowed": "at most 4Gi"},
        {"field": "resources.ephemeralStorage", "value": "30Gi", "allowed": "at most 20Gi"},
    ]


async def test_what_the_cluster_refuses_is_reported_by_field_too(stage: ApiStage) -> None:
    alice = await stage.program()
    stage.cluster.refuses = refused_field("spec.idleTimeout", "the API server's own sentence")
    body = problem(
        await alice.post("/api/v1/sessions", json={"template": "ubuntu", "idleTimeout": "0s"}),
        422,
        "invalid",
    )
    allowed = "a duration above zero in hours, minutes and seconds, such as 8h, 30m or 1h30m"
    assert body["errors"] == [
        {"field": "idleTimeout", "value": "0s", "allowed": f"{allowed}; at most 32 characters"}
    ]


async def test_a_role_and_a_time_are_checked(stage: ApiStage) -> None:
    stage.session()
    alice = await stage.program()
    path, bob = "/api/v1/sessions/alice-desktop/share", {"user": "bob@example.com"}
    for role in ("owner", None, 3):
        body = problem(await alice.post(path, json=bob | {"role": role}), 422, "invalid")
        allowed = "one of collaborator, viewer"
        assert body["errors"] == [{"field": "role", "value": role, "allowed": allowed}]
        assert body["detail"] == f"role: {json.dumps(role)} is not {allowed}."
    body = problem(
        await alice.post(path, json=bob | {"role": "viewer", "expires": "2026-11-20T14:00:00"}),
        422,
        "invalid",
    )
    assert body["errors"][0]["allowed"] == "a time such as 2026-12-24T18:00:00Z"
    for length, allowed in (("0h", "30m, 8h, 1h30m"), ("soon", "such as 8h")):
        answer = await alice.post(path, json=bob | {"role": "viewer", "length": length})
        body = problem(answer, 422, "invalid")
        assert body["errors"][0]["field"] == "length" and allowed in body["errors"][0]["allowed"]
    both = bob | {"role": "viewer", "length": "8h", "expires": "2026-11-20T14:00:00Z"}
    assert "not both" in problem(await alice.post(path, json=both), 422, "invalid")["detail"]
    shared = await alice.post(path, json=bob | {"role": "viewer", "length": "8h"})
    assert shared.json()["spec"]["access"][0]["expires"] == "2026-11-20T20:00:00Z"


async def test_a_cluster_that_does_not_answer_is_said(stage: ApiStage) -> None:
    alice = await stage.program()
    stage.cluster.refuses = ConnectionFailed("https://10.0.0.1", "POST", "refused")
    said = problem(
        await alice.post("/api/v1/sessions", json={"template": "ubuntu"}), 503, "unavailable"
    )["detail"]
    assert "10.0.0.1" not in said

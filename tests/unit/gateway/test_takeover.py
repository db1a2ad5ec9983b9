"""While a person has taken over, or is asked to, API tokens only read: on each way into the
gateway.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from unit.gateway.api_stage import ALICE, ROOT, RUNNING, ApiStage
from unit.gateway.attack_stage import Way
from unit.gateway.gateway_stage import PORTAL, GatewayStage
from unit.gateway.probe_agent import FIGURES, STATE, Agent, agent
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.api.mcp import TOOLS
from vdi.gateway.rights import Action, Actor
from vdi.kube.errors import ApiError
from vdi.session.naming import DRIVER

ONE = "/api/v1/sessions/alice-desktop"
# No token ever does these.
FOR_PEOPLE = ("answerAccess", "driveSession")
CODES = {"Human": "human-in-control", "Parked": "parked"}
# A valid body of each operation on a session that is not a GET, and the one GET that asks its
# agent.
BODIES: dict[str, Any] = {
    "actInSession": {"action": "screenshot"},
    "answerAccess": {"request": "2026-11-20T12:01:00Z", "allow": True},
    "beginProbe": {"state": STATE},
    "driveSession": {"human": False},
    "endSession": None,
    "extendSession": {"timeout": "10h"},
    "finishProbe": {"figures": FIGURES},
    "listStartupScripts": None,
    "planEnd": {"end": None},
    "recordSession": {"on": False},
    "requestAccess": {"role": "viewer"},
    "requestHuman": {"reason": "captcha"},
    "resizeSession": {"memory": "2Gi"},
    "runInSession": {"command": "true"},
    "restartSession": None,
    "resumeSession": None,
    "scheduleSession": {"schedule": {"start": "09:00", "end": "17:00", "timeZone": "UTC"}},
    "shareSession": {"user": "eve@example.com", "role": "viewer"},
    "suspendSession": None,
    "unshareSession": {"user": "eve@example.com"},
}
ARGUMENTS: dict[str, Any] = {
    "template": "ubuntu",
    "name": "alice-desktop",
    "desktop": "alice-desktop",
    **dict.fromkeys(("x", "y", "to_x", "to_y"), 1),
    "scroll_direction": "up",
    "text": "a",
    "command": "id",
    "reason": "captcha",
    "duration": 1,
}


@pytest.fixture
async def stage() -> AsyncIterator[ApiStage]:
    async with ApiStage() as stage:
        stage.template(agents={"enabled": True, "run": True})
        stage.session(status=RUNNING, access=[{"user": "bob@example.com", "role": "collaborator"}])
        yield stage


@pytest.fixture
async def desktop(stage: ApiStage) -> AsyncIterator[Agent]:
    async with agent(stage) as desktop:
        desktop.body = {"result": "ok"}
        yield desktop


async def take(stage: GatewayStage, state: str = "Human") -> None:
    """Alice takes over, or her agent asks for a person."""
    computer, by = stage.services.computer, Actor("alice@example.com")
    if state == "Human":
        await computer.switch(by, "alice-desktop", human=True)
    else:
        await computer.request_human(by, "alice-desktop", "captcha")


@pytest.mark.parametrize("state", CODES)
async def test_no_operation_of_a_token_changes_the_desktop(
    stage: ApiStage, desktop: Agent, state: str
) -> None:
    programs = [await stage.program(ALICE), await stage.program(ROOT)]
    await take(stage, state)
    before = stage.cluster.objects["alice-desktop"]
    acting = [
        operation
        for operation in OPERATIONS
        if operation.path.startswith("/sessions/{name}") and operation.name != "getSession"
    ]
    assert {operation.name for operation in acting} == BODIES.keys()
    for operation in acting:
        path = Way(operation.method, f"/api/v1{operation.path}").filled(name="alice-desktop")
        body = BODIES[operation.name]
        answers = [
            await program.request(
                operation.method, path, **({} if body is None else {"json": body})
            )
            for program in programs
        ]
        # What alice's own login may do is refused for the take-over; what her role forbids stays
        # forbidden.
        codes = {answer.json()["code"] for answer in answers}
        assert all(answer.status_code in (403, 404, 409) for answer in answers), operation.name
        assert CODES[state] in codes or operation.name in FOR_PEOPLE, operation.name
    assert stage.cluster.objects["alice-desktop"] == before
    assert desktop.asked == []
    assert (await programs[0].get(ONE)).status_code == 200
    # People keep their rights.
    assert (await (await stage.page()).post(f"{ONE}/suspend")).status_code == 200


@pytest.mark.parametrize("tool", sorted(TOOLS.keys() - {"wait"}))
async def test_no_tool_changes_the_desktop(stage: ApiStage, desktop: Agent, tool: str) -> None:
    program = await stage.program()
    await take(stage)
    suspended = {"suspended": True} if tool == "start_desktop" else {}
    if suspended:
        found = stage.cluster.objects["alice-desktop"]
        stage.cluster.put({**found, "spec": {**found["spec"], **suspended}})
    before = stage.cluster.objects["alice-desktop"]
    names = TOOLS[tool].arguments.split()
    arguments = {name: ARGUMENTS[name] for name in names if name in ARGUMENTS}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }
    result = (await program.post("/mcp", json=body)).json()["result"]
    reads = tool.startswith("list_")
    assert result.get("isError", False) is not reads, result
    assert reads or "alice@example.com has taken over" in result["content"][0]["text"]
    assert stage.cluster.objects["alice-desktop"] == before
    assert desktop.asked == []


async def test_no_form_of_the_portal_takes_a_token(stage: ApiStage, desktop: Agent) -> None:
    program = await stage.program()
    program.event_hooks = {}  # pages are not in the API's document
    await take(stage)
    before, page = stage.cluster.objects["alice-desktop"], "/desktops/alice-desktop"
    form = {
        "human": "false",
        "on": "true",
        "timeout": "10h",
        "memory": "2Gi",
        "user": "eve@example.com",
    }
    form |= {
        "role": "viewer",
        "length": "1h",
        "request": "2026-11-20T12:01:00Z",
        "allow": "true",
        "remove": "yes",
    }
    for action in set(Action) - {Action.SEE, Action.OPEN, Action.BROWSE}:
        answer = await program.post(f"{page}/{action}", data=form)
        # The portal has no form for a planned end of one desktop.
        assert (
            answer.status_code == 422
            if action == Action.PLAN_END
            else 403 <= answer.status_code <= 409
        )
        assert stage.cluster.objects["alice-desktop"] == before
    files = await program.get(f"{page}/files")
    assert files.status_code == 409 and "has taken over" in files.text
    assert (await program.get(f"{page}/files/content?path=x")).status_code == 409
    assert (await program.post(f"{page}/files?path=x", content=b"x")).status_code == 409
    # The page itself shows how much memory is used.
    assert {path for path, _, _ in desktop.asked} <= {"/memory"}


@pytest.mark.parametrize("broken", [False, True])
async def test_replica_whose_watch_is_late_refuses_too(stage: ApiStage, broken: bool) -> None:
    """The API server has what another replica has just written; without its answer, no token
    acts.
    """
    program, replica = await stage.program(), GatewayStage(**stage.shares)
    replica.put(*stage.world.templates.values())
    stage.session(status=RUNNING)  # now in both caches
    stage.cluster.caches.remove(replica.world)
    await take(stage)
    stage.shared._entries.clear()  # type: ignore[union-attr]
    seen = replica.world.session("alice-desktop")
    assert seen and DRIVER not in seen.metadata.annotations
    if broken:
        stage.cluster.broken = ApiError(500, "InternalError", "etcd is gone")
    headers = {"authorization": program.headers["authorization"]}
    async with httpx.AsyncClient(
        transport=replica.transport(), base_url=PORTAL, headers=headers
    ) as there:
        for method, path, body in (
            ("DELETE", ONE, None),
            ("POST", f"{ONE}/suspend", None),
            ("POST", f"{ONE}/probe", {"state": STATE}),
            ("GET", f"{ONE}/startup-scripts", None),
        ):
            answer = await there.request(method, path, json=body)
            assert answer.status_code == (503 if broken else 409), answer.text
            assert broken or answer.json()["code"] == "human-in-control"
        files = await there.get("/desktops/alice-desktop/files")
        assert files.status_code == (503 if broken else 409)

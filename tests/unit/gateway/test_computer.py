"""Programs that drive desktops: actions, who drives, and what a token of one session may do."""

import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from unit.gateway.api_stage import ALICE, BOB, ROOT, RUNNING, ApiStage
from unit.gateway.attack_stage import Way, ways_of
from unit.gateway.gateway_stage import a_past
from unit.gateway.history_stage import at
from unit.gateway.probe_agent import Agent, agent
from unit.gateway.test_api_sessions import problem
from vdi.cluster.units import format_time
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.denied import ActionDenied
from vdi.gateway.in_flight import ACTION_ANSWER_BYTES, ACTIONS, USER_ANSWERS_BYTES
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.rights import Actor, Driver
from vdi.gateway.store.audit import audit
from vdi.gateway.store.history import RunRow, load, runs, save
from vdi.gateway.store.logins import LoginStore
from vdi.kube.errors import ApiError
from vdi.session.naming import DRIVER

ONE = "/api/v1/sessions/alice-desktop/computer"
SHOT = {"action": "screenshot"}
CAROL = Identity(user="carol@example.com")
SHARES = [
    {"user": "bob@example.com", "role": "collaborator"},
    {"user": "carol@example.com", "role": "viewer"},
]


def png(width: int = 1280, height: int = 720) -> dict[str, str]:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4)
    return {"data": base64.b64encode(head + b"rest").decode()}


@pytest.fixture
def stage() -> ApiStage:
    stage = ApiStage()
    stage.template(agents={"enabled": True})
    stage.session(status=RUNNING, access=SHARES)
    return stage


@pytest.fixture
async def desktop(stage: ApiStage) -> AsyncIterator[Agent]:
    async with agent(stage) as desktop:
        desktop.body = {"result": "ok"}
        yield desktop


async def scoped(
    stage: ApiStage, label: str = "nightly", session: str = "alice-desktop"
) -> httpx.AsyncClient:
    """A program with a token of one session."""
    made = await (await stage.page()).post(
        "/api/v1/tokens", json={"label": label, "session": session}
    )
    assert made.json()["about"]["session"] == session
    return await stage.anybody(authorization=f"Bearer {made.json()['token']}")


async def switch(
    stage: ApiStage, who: str = "alice@example.com", *, human: bool, login_id: str = ""
) -> str:
    """The outcome of taking over or giving back."""
    try:
        await stage.services.computer.switch(
            Actor(who, login_id=login_id), "alice-desktop", human=human
        )
    except ActionDenied as denied:
        return denied.code
    return "done"


async def audited(stage: ApiStage) -> list[tuple[str, str, str, dict[str, str]]]:
    await stage.audit.write_soon()
    rows = [row for row in stage.rows.rows(audit) if row.action.startswith("computer.")]
    return [(row.actor, row.action, row.outcome, msgspec.json.decode(row.detail)) for row in rows]


async def test_a_picture_comes_back_and_its_hash_is_audited(
    stage: ApiStage, desktop: Agent
) -> None:
    desktop.body = png()
    answer = (await (await scoped(stage)).post(ONE, json=SHOT)).json()
    assert answer == {"png": png()["data"], "text": None}
    assert desktop.asked == [("/computer-use", desktop.bearer, SHOT)]
    ((actor, action, outcome, detail),) = await audited(stage)
    assert (actor, action, outcome) == ("alice@example.com", "computer.screenshot", "done")
    assert (detail["token"], len(detail["sha256"])) == ("nightly", 64)
    assert [entry.action for entry in await stage.audit.entries(limit=9)] == ["token.create"]
    assert [
        entry.action for entry in await stage.audit.entries(limit=9, target="alice-desktop")
    ] == [action]


async def test_a_near_end_is_in_the_headers(stage: ApiStage, desktop: Agent) -> None:
    program = await stage.program()
    assert "vdi-ends-at" not in (await program.post(ONE, json=SHOT)).headers
    end = format_time(stage.clock.now() + timedelta(minutes=10))
    stage.session(status={**RUNNING, "expiresAt": end})
    headers = (await program.post(ONE, json=SHOT)).headers
    assert (headers["vdi-ends-at"], headers["vdi-ends-reason"]) == (end, "Expiring")


@pytest.mark.parametrize("record", [False, True])
async def test_typed_text_is_audited_only_if_the_template_says_so(
    stage: ApiStage, desktop: Agent, record: bool
) -> None:
    stage.template(agents={"enabled": True, "recordText": record})
    body = {"action": "type", "text": "se\u202ecret"}
    assert (await (await stage.program()).post(ONE, json=body)).is_success
    ((_, _, _, detail),) = await audited(stage)
    expected = {"token": "test", "characters": "7"}
    assert detail == expected | ({"text": "se\\u202ecret"} if record else {})


async def test_an_action_is_sent_as_often_as_it_repeats(stage: ApiStage, desktop: Agent) -> None:
    body = {"action": "key", "text": "Tab"}
    assert (await (await stage.program()).post(ONE, json={**body, "repeat": 3})).is_success
    assert [sent for _, _, sent in desktop.asked] == [body] * 3
    assert [detail["repeat"] for *_, detail in await audited(stage)] == ["3"]


@pytest.mark.parametrize(("who", "status"), [(ALICE, 200), (BOB, 200), (CAROL, 403), (ROOT, 404)])
async def test_only_owner_and_collaborator_drive(
    stage: ApiStage, desktop: Agent, who: Identity, status: int
) -> None:
    program = await stage.program(who)
    assert (await program.post(ONE, json=SHOT)).status_code == status
    outcome = {200: "done", 403: "Forbidden", 404: "NotFound"}[status]
    assert await switch(stage, who.user, human=True) == outcome
    assert len(desktop.asked) == (status == 200)
    assert {row[2] for row in await audited(stage)} == {outcome} - {"NotFound"}


@pytest.mark.parametrize(
    "body",
    [
        {"action": "rm"},
        {"action": "left_click", "coordinate": [-1, 0]},
        {"action": "left_click", "coordinate": [0, 16385]},
        {"action": "left_click", "coordinate": [1, 2, 3]},
        {"action": "left_click", "coordinate": [1, 2], "shell": "x"},
        {"action": "type", "text": "x" * 4001},
        {"action": "type"},
        {"action": "zoom", "region": [0, 0, 1]},
        {"action": "scroll", "scroll_direction": "down"},
        {"action": "wait", "duration": 61},
        {"action": "wait", "duration": 31, "repeat": 2},
        {"action": "key", "text": "a", "repeat": 51},
        {"action": "key", "text": "cmd+w"},
        {"action": "key", "text": "Control_L+c"},
        {"action": "key", "text": "ctrl++"},
        {"action": "hold_key", "text": "Nokey+q", "duration": 1},
        {"action": "left_click", "coordinate": [1, 2], "text": "Nokey+shift"},
    ],
)
async def test_invalid_action_never_reaches_the_desktop(
    stage: ApiStage, desktop: Agent, body: dict[str, Any]
) -> None:
    problem(await (await stage.program()).post(ONE, json=body), 422, "invalid")
    with pytest.raises(ActionDenied, match="not valid"):
        await stage.services.computer.act(Actor("alice@example.com"), "alice-desktop", body)
    assert desktop.asked == []


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        ({"action": "key", "text": "cmd+w"}, "text", "text: 'cmd' is no modifier; allowed: ctrl, "),
        ({"action": "left_click_drag"}, "body", "left_click_drag requires coordinate."),
    ],
)
async def test_rule_of_an_action_says_what_is_allowed(
    stage: ApiStage, body: dict[str, Any], field: str, detail: str
) -> None:
    answer = problem(await (await stage.program()).post(ONE, json=body), 422, "invalid")
    assert answer["detail"].startswith(detail)
    assert answer["errors"][0]["field"] == field


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
async def test_large_body_is_refused_before_it_is_parsed(
    stage: ApiStage, desktop: Agent, size: int
) -> None:
    answer = await (await stage.program()).post(ONE, json={"action": "type", "text": "x" * size})
    problem(answer, 413, "too-large")
    assert desktop.asked == []


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            200,
            {"data": base64.b64encode(b"GIF89a").decode()},
            "unavailable",
            "did not return a PNG",
        ),
        (200, png(4097, 1), "unavailable", "at most 4096 pixels"),
        (200, png(0, 9), "unavailable", "did not return a PNG"),
        (200, {"data": "%%%"}, "unavailable", "valid response"),
        (200, {"data": png()["data"] + '", "x": "'}, "unavailable", "valid response"),
        (200, {"data": ["<script>"]}, "unavailable", "valid response"),
        (200, {"data": "A" * (4 << 20)}, "conflict", "too large"),
        (200, "<html>", "unavailable", "valid response"),
        (
            400,
            {"error": "\x1b[31mno <b>key</b>" + "x" * 9999},
            "invalid",
            "\\u001b[31mno <b>key</b>xxx",
        ),
        (409, {"reason": "HumanInControl", "seconds": 4.2}, "human-in-control", "Try again in 5 s"),
        (409, {"seconds": 1e300}, "unavailable", "valid response"),
        (404, {}, "conflict", "started without agents"),
        (503, {}, "unavailable", "503"),
    ],
)
async def test_a_desktop_that_lies_is_bounded(
    stage: ApiStage, desktop: Agent, status: int, body: Any, code: str, words: str
) -> None:
    desktop.status, desktop.body = status, body
    answer = await (await stage.program()).post(ONE, json=SHOT)
    assert (answer.json()["code"], words in answer.json()["detail"]) == (code, True), answer.text
    assert len(answer.text) < 2000


async def test_a_picture_that_is_too_large_is_refused(stage: ApiStage, desktop: Agent) -> None:
    desktop.body = {"data": "A" * ACTION_ANSWER_BYTES}
    answer = await (await stage.program()).post(ONE, json=SHOT)
    assert "too large" in problem(answer, 409, "conflict")["detail"]


async def test_a_compressed_picture_is_not_unpacked(stage: ApiStage, desktop: Agent) -> None:
    desktop.body = gzip.compress(msgspec.json.encode(png()))
    desktop.headers = {"Content-Encoding": "gzip", "Content-Length": str(len(desktop.body))}
    problem(await (await stage.program()).post(ONE, json=SHOT), 503, "unavailable")


async def test_a_desktop_has_one_action_under_way(stage: ApiStage, desktop: Agent) -> None:
    """Counted until the client has read the answer, which a client of this transport does at
    once.
    """
    program, uid = await stage.program(), stage.cluster.objects["alice-desktop"]["metadata"]["uid"]
    assert stage.agent.real
    limits = stage.agent.real.limits
    with limits.enter(ACTIONS, uid, "alice-desktop", ALICE.user):
        refused = await program.post(ONE, json=SHOT)
        assert (
            problem(refused, 429, "too-many-requests")["detail"]
            == "The desktop 'alice-desktop' has not answered another action yet. Try again in 1 s."
        )
        assert refused.headers["retry-after"] == "1"
    assert desktop.asked == []
    for body in (SHOT, SHOT | {"repeat": 3}):
        assert (await program.post(ONE, json=body)).is_success
    assert len(limits) == 0


async def test_pictures_wait_for_those_that_clients_have_not_read(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.in_flight._BYTES_SECONDS", 0.0)
    program, agent = await stage.program(), stage.agent.real
    assert agent
    desktop.body = {
        "data": base64.b64encode(base64.b64decode(png()["data"]) + bytes(1 << 20)).decode()
    }
    async with AsyncExitStack() as unread:
        await agent.answers.reserve(unread, "alice@example.com", USER_ANSWERS_BYTES)
        refused = await program.post(ONE, json=SHOT)
        assert "on their way to clients" in problem(refused, 503, "unavailable")["detail"]
        assert refused.headers["retry-after"] == "5"
        desktop.body = {"result": "ok"}
        assert (await program.post(ONE, json={"action": "key", "text": "a"})).is_success
    desktop.body = png()
    assert (await program.post(ONE, json=SHOT)).is_success
    assert len(agent.answers) == len(agent.limits) == 0


async def test_template_without_agents_has_no_programs(stage: ApiStage, desktop: Agent) -> None:
    for agents in (None, {"enabled": False, "run": True}):
        stage.template(agents=agents)
        problem(await (await stage.program()).post(ONE, json=SHOT), 409, "conflict")
    assert desktop.asked == []


async def test_agent_sees_no_desktop_that_must_be_recorded_and_is_not(
    stage: ApiStage, desktop: Agent
) -> None:
    program = await stage.program()
    stage.session(status=RUNNING | {"recording": {"mode": "Always", "state": "Failed"}})
    assert (
        "not recorded now" in problem(await program.post(ONE, json=SHOT), 409, "conflict")["detail"]
    )
    assert desktop.asked == []
    stage.session(status=RUNNING | {"recording": {"mode": "Always", "state": "On"}})
    assert (await program.post(ONE, json=SHOT)).is_success


async def test_one_actor_drives_until_another_may(stage: ApiStage, desktop: Agent) -> None:
    first, second = await scoped(stage), await scoped(stage, "other")
    assert (await first.post(ONE, json=SHOT)).is_success
    refused = problem(await second.post(ONE, json=SHOT), 409, "conflict")
    line = "An agent drives this desktop, started by alice@example.com's token nightly"
    assert refused["detail"] == f"{line}. Try again in 30 s."
    stage.clock.forward(seconds=31)
    assert (await second.post(ONE, json=SHOT)).is_success


@pytest.mark.parametrize("lost", ["nothing", "shared state", "annotation", "its text"])
async def test_a_person_takes_over_and_gives_back(
    stage: ApiStage, desktop: Agent, lost: str
) -> None:
    """The shared state goes with a restart; a replica's watch may not have brought the annotation
    yet.
    """
    program, who = await scoped(stage), "bob@example.com"
    assert await switch(stage, who, human=True) == "done"
    if lost in ("shared state", "its text"):
        stage.context.shared._entries.clear()  # type: ignore[union-attr]
    if lost == "annotation":
        stage.session(status=RUNNING, access=SHARES)
    if lost == "its text":
        found, who = stage.cluster.objects["alice-desktop"], "Someone"
        stage.cluster.put(
            {
                **found,
                "metadata": {**found["metadata"], "annotations": {DRIVER: '{"state": "Nobody"}'}},
            }
        )
    refused = problem(await program.post(ONE, json=SHOT), 409, "human-in-control")
    assert refused["detail"].startswith(f"{who} has taken over from the agent.")
    assert await switch(stage, human=False, login_id="token:of-alice") == "Forbidden", (
        "only people give back"
    )
    assert desktop.asked == []
    assert await switch(stage, human=False) == "done"
    assert DRIVER not in stage.cluster.objects["alice-desktop"]["metadata"].get("annotations", {})
    assert (await program.post(ONE, json=SHOT)).is_success


async def test_giving_back_that_is_not_written_changes_nothing(
    stage: ApiStage, desktop: Agent
) -> None:
    assert await switch(stage, human=True) == "done"
    stage.cluster.refuses = ApiError(500, "InternalError", "etcd is gone")
    assert await switch(stage, human=False) == "Unavailable"
    problem(await (await scoped(stage)).post(ONE, json=SHOT), 409, "human-in-control")


async def test_taking_over_in_the_middle_keeps_the_picture(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person does after *Take over* may be a password."""
    program, desktop.body, real = await scoped(stage), png(), stage.agent.ask

    async def take_over_meanwhile(*args: Any, **options: Any) -> Any:
        await stage.services.computer.switch(
            Actor("alice@example.com"), "alice-desktop", human=True
        )
        return await real(*args, **options)

    monkeypatch.setattr(stage.agent, "ask", take_over_meanwhile)
    problem(await program.post(ONE, json=SHOT), 409, "human-in-control")


@pytest.mark.parametrize("repeat", [1, 5])
async def test_revoked_token_gets_nothing_more(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch, repeat: int
) -> None:
    program, desktop.body, real = await scoped(stage), png(), stage.agent.ask

    async def revoke_meanwhile(*args: Any, **options: Any) -> Any:
        await stage.logins.end_tokens("alice@example.com")
        return await real(*args, **options)

    monkeypatch.setattr(stage.agent, "ask", revoke_meanwhile)
    problem(await program.post(ONE, json=SHOT | {"repeat": repeat}), 403, "forbidden")
    assert len(desktop.asked) == 1
    problem(await program.post(ONE, json=SHOT), 401, "unauthenticated")


async def test_token_is_read_once_for_a_quick_action(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica may have revoked it: after a quarter of a second it is read again."""
    program, read = await scoped(stage), []
    by_id = LoginStore.by_id

    async def note(store: LoginStore, kind: Any, number: str) -> Any:
        read.append(number)
        return await by_id(store, kind, number)

    monkeypatch.setattr(LoginStore, "by_id", note)
    assert (await program.post(ONE, json=SHOT)).is_success
    assert read == []
    monkeypatch.setattr("vdi.gateway.login.logins._READ_SECONDS", 0.0)
    assert (await program.post(ONE, json=SHOT)).is_success
    assert len(read) == 1


async def test_request_for_a_person_parks_the_agent(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    computer, by = stage.services.computer, Actor("alice@example.com", "nightly")
    monkeypatch.setattr(computer.notices, "send", sent.append)
    await computer.request_human(by, "alice-desktop", "A captcha\x1b]0;x\x07 " + "y" * 999)
    assert [(notice.kind, notice.user) for notice in sent] == [
        ("session.human_requested", "alice@example.com")
    ]
    assert "asks for a person: A captcha\\u001b]0;x\\u0007 yyy" in sent[0].message
    assert len(sent[0].message) < 400
    for again in (
        computer.act(by, "alice-desktop", SHOT),
        computer.request_human(by, "alice-desktop", "Hello?"),
    ):
        with pytest.raises(ActionDenied) as refused:
            await again
        assert refused.value.code == "Parked"
    await computer.switch(Actor("alice@example.com"), "alice-desktop", human=False)
    await computer.act(by, "alice-desktop", SHOT)
    assert [row[1:3] for row in await audited(stage)] == [
        ("computer.request_human", "done"),
        ("computer.screenshot", "Parked"),
        ("computer.give_back", "done"),
        ("computer.screenshot", "done"),
    ]


async def test_refused_actions_leave_two_rows_a_minute(stage: ApiStage, desktop: Agent) -> None:
    """The take-over that refused them is there at once, their number a minute later."""
    program, other = await scoped(stage), await scoped(stage, "other")
    assert await switch(stage, human=True) == "done"
    for number in range(50):
        await program.post(ONE, json={"action": "key", "text": "a"} if number % 2 else SHOT)
    await other.post(ONE, json=SHOT)
    refused = ("alice@example.com", "computer.screenshot", "HumanInControl")
    assert [row[:3] for row in (await audited(stage))[1:]] == [refused, refused]
    stage.clock.forward(seconds=61)
    await stage.audit.write_refused()
    ((*who, detail),) = (await audited(stage))[3:]
    assert who == ["alice@example.com", "computer.key", "HumanInControl"]
    what = "computer.key alice-desktop, computer.screenshot alice-desktop"
    assert detail == {"token": "nightly", "count": "49", "what": what}


async def test_action_that_may_have_been_done_has_its_own_row(
    stage: ApiStage, desktop: Agent
) -> None:
    """Whatever the desktop answers."""
    program, desktop.body = await scoped(stage), {"data": "A" * (9 << 20)}
    for _ in range(3):
        problem(await program.post(ONE, json={"action": "type", "text": "abc"}), 409, "conflict")
    assert [(row[2], row[3]["characters"]) for row in await audited(stage)] == [
        ("Conflict", "3")
    ] * 3


async def test_action_that_was_done_in_part_has_its_own_row(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a minute ends its repetitions: what reached the desktop is not lost in a count
    of refusals.
    """
    monkeypatch.setattr("vdi.gateway.desktop.computer.MAX_ACTIONS", 3)
    program = await scoped(stage)
    for _ in range(2):
        # The count of refusals goes on for a minute, that of actions begins again.
        stage.clock.forward(seconds=30)
        for _ in range(3):
            problem(await program.post(ONE, json=SHOT | {"repeat": 4}), 429, "too-many-requests")
    assert len(desktop.asked) == 6
    assert [row[3].get("repeat") for row in await audited(stage)] == ["4"] * 3


async def test_action_counts_as_a_request_of_its_token_until_it_is_over(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, ask = stage.services.token_requests, stage.services.computer._ask
    under_way: list[int] = []

    async def count_and_ask(*args: Any, **options: Any) -> Any:
        under_way.append(len(requests))
        return await ask(*args, **options)

    monkeypatch.setattr(stage.services.computer, "_ask", count_and_ask)
    program = await scoped(stage)
    assert (await program.post(ONE, json=SHOT | {"repeat": 2})).is_success
    assert (under_way, len(requests)) == ([1, 1], 0)


async def test_agents_notify_an_owner_only_so_often(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted over all desktops, tokens and guests: a desktop still waits and says so, without a
    notice.
    """
    sent: list[Any] = []
    computer = stage.services.computer
    monkeypatch.setattr("vdi.gateway.desktop.computer.MAX_HUMAN_REQUESTS", 3)
    monkeypatch.setattr(computer.notices, "send", sent.append)
    for number in range(5):
        stage.session(f"alice-{number}", status=RUNNING, access=SHARES)
        by = Actor(("alice@example.com", "bob@example.com")[number % 2], f"token {number}")
        await computer.request_human(by, f"alice-{number}", "Hello?")
        assert (
            "Parked" in stage.cluster.objects[f"alice-{number}"]["metadata"]["annotations"][DRIVER]
        )
    assert len(sent) == 3
    stage.clock.forward(seconds=3601)
    await computer.request_human(Actor("alice@example.com"), "alice-desktop", "Hello?")
    assert len(sent) == 4


async def test_actions_of_a_session_have_a_rate(
    stage: ApiStage, desktop: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.computer.MAX_ACTIONS", 9)
    program = await scoped(stage)
    problem(
        await program.post(ONE, json={"action": "key", "text": "a", "repeat": 10}),
        429,
        "too-many-requests",
    )
    assert len(desktop.asked) == 9
    stage.clock.forward(seconds=60)
    assert (await program.post(ONE, json=SHOT)).is_success


async def test_minutes_of_agents_are_those_of_the_present_run(
    stage: ApiStage, desktop: Agent
) -> None:
    uid, program = stage.cluster.objects["alice-desktop"]["metadata"]["uid"], await scoped(stage)
    begun = [RunRow(uid=uid, start=at(0), ended=at(9)), RunRow(uid=uid, start=at(10))]
    stage.remember(a_past(uid), *begun)
    for seconds in (0, 59, 2, 3600):
        stage.clock.forward(seconds=seconds)
        assert (await program.post(ONE, json=SHOT)).is_success
    desktop.status = 503
    stage.clock.forward(seconds=3600)
    assert not (await program.post(ONE, json=SHOT)).is_success
    async with stage.context.database.begin() as connection:  # the recorder's next state of the run
        record = (await load(connection, [uid]))[uid]
        await save(
            stage.context.database, connection, [record.session], [replace(begun[1], pod="another")]
        )
    assert [(row.pod, row.agent_minutes) for row in stage.rows.rows(runs)] == [
        ("", 0),
        ("another", 3),
    ]


async def test_commands_run_only_where_the_template_says_so(
    stage: ApiStage, desktop: Agent
) -> None:
    computer, by = stage.services.computer, Actor("alice@example.com")
    with pytest.raises(ActionDenied, match=r"spec\.agents\.run"):
        await computer.run(by, "alice-desktop", "id", 5)
    assert desktop.asked == []
    stage.template(agents={"enabled": True, "run": True})
    desktop.body = {"exitCode": None, "output": "a\n\x1b[2J"}
    ran = await computer.run(by, "alice-desktop", "id", 5)
    assert (ran.exit_code, ran.output, ran.left_out) == (None, "a\n\\u001b[2J", 0)
    assert (await audited(stage))[-1][3] == {"characters": "2"}


async def test_token_of_one_session_does_nothing_else(stage: ApiStage, desktop: Agent) -> None:
    """Every operation of the API, and every route of the portal's host that asks who it is; /mcp
    has its own test.
    """
    program = await scoped(stage)
    for operation in OPERATIONS:
        if not operation.drives:
            path = Way(operation.method, f"/api/v1{operation.path}").filled(name="alice-desktop")
            problem(await program.request(operation.method, path, json={}), 403, "forbidden")
    drives = {operation.name for operation in OPERATIONS if operation.drives}
    assert drives == {"actInSession", "runInSession", "requestHuman"}
    stranger = await stage.anybody()
    program.event_hooks = stranger.event_hooks = {}  # pages are not in the API's document
    ways = {
        way
        for part in stage.gateway.components
        for route in part.portal_routes()
        for way in ways_of(route)
    }
    for way in sorted(ways, key=lambda way: (way.path, way.method)):
        if way.path == "/mcp" or way.path.startswith("/api/") or way.method not in ("GET", "POST"):
            continue
        path = way.filled(name="alice-desktop")
        answer = await program.request(way.method, path)
        without = await stranger.request(way.method, path)
        leads_to_login = answer.headers.get("location", "").startswith("/login")
        assert leads_to_login or answer.status_code in (403, without.status_code), way
        assert without.status_code == 200 or "alice-desktop" not in answer.text, way


async def test_token_of_one_session_ends_with_it(stage: ApiStage, desktop: Agent) -> None:
    program = await scoped(stage)
    stage.session("other", status=RUNNING)
    problem(await program.post(ONE.replace("alice-desktop", "other"), json=SHOT), 404, "not-found")
    stage.cluster.drop("alice-desktop")
    problem(await program.post(ONE, json=SHOT), 401, "unauthenticated")
    stage.session(status=RUNNING)  # another one of the same name
    problem(await program.post(ONE, json=SHOT), 401, "unauthenticated")
    assert (await (await stage.page()).get("/api/v1/tokens")).json()["items"] == []


async def test_token_is_only_made_for_a_session_that_its_user_drives(stage: ApiStage) -> None:
    for who, status, code in ((CAROL, 403, "forbidden"), (ROOT, 404, "not-found")):
        made = (await stage.page(who)).post(
            "/api/v1/tokens", json={"label": "x", "session": "alice-desktop"}
        )
        problem(await made, status, code)
    assert await stage.logins.tokens("carol@example.com") == []


async def test_token_stops_with_the_share_of_its_user(stage: ApiStage, desktop: Agent) -> None:
    _, login = await stage.logins.begin(BOB, Device())
    bob = await stage.logins.person_by_id(login.id)
    assert bob is not None
    secret, _ = await stage.logins.new_token(bob, "x", timedelta(days=1), "alice-desktop")
    program = await stage.anybody(authorization=f"Bearer {secret}")
    assert (await program.post(ONE, json=SHOT)).is_success
    stage.session(status=RUNNING)
    problem(await program.post(ONE, json=SHOT), 404, "not-found")


def test_line_names_who_drives() -> None:
    assert (
        Driver("Agent", "alice@example.com").line
        == "An agent drives this desktop, started by alice@example.com"
    )


async def test_portal_shows_who_drives_and_takes_over(stage: ApiStage, desktop: Agent) -> None:
    assert (await (await scoped(stage)).post(ONE, json=SHOT)).is_success
    alice, viewer = stage.new_browser(ALICE), stage.new_browser(CAROL)
    page, where = (await alice.get("/desktops/alice-desktop")).text, "/desktops/alice-desktop/drive"
    line = "An agent drives this desktop, started by alice@example.com&#39;s token nightly."
    assert line in page and "Take over" in page
    watched = (await viewer.get("/desktops/alice-desktop")).text
    assert line in watched and "Take over" not in watched
    assert (await viewer.submit(where, watched, human="true")).status_code == 403
    taken = await alice.submit(where, page, human="true")
    assert (taken.status_code, "done=take-over" in taken.headers["location"]) == (303, True)
    page = (await alice.get("/desktops/alice-desktop")).text
    assert "alice@example.com has taken over from the agent." in page and "Give back" in page
    assert (await alice.submit(where, page, human="false")).status_code == 303
    stage.clock.forward(seconds=31)
    await stage.services.computer.request_human(
        Actor(ALICE.user), "alice-desktop", "<b>captcha</b>"
    )
    assert (
        "asks for a person: &lt;b&gt;captcha&lt;/b&gt;."
        in (await alice.get("/desktops/alice-desktop")).text
    )


async def test_account_page_makes_tokens_of_one_desktop(stage: ApiStage) -> None:
    alice = stage.new_browser(ALICE)
    page = (await alice.get("/account")).text
    assert "drive alice-desktop, nothing else" in page
    assert "nothing else" not in (await stage.new_browser(CAROL).get("/account")).text
    form = {"label": "nightly", "days": "30"}
    assert (await alice.submit("/account/tokens", page, **form, session="other")).status_code == 422
    made = await alice.submit("/account/tokens", page, **form, session="alice-desktop")
    assert "drives alice-desktop" in made.text

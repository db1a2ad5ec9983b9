"""`/mcp`: the official client over loopback, and requests that no client sends."""

import asyncio
import base64
import gc
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import httpx
import httpx2
import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent

from support.waiting import PATIENCE
from unit.gateway.api_stage import ALICE, BOB, RUNNING, ApiStage
from unit.gateway.gateway_stage import PORTAL
from vdi.api.session import VDISession
from vdi.gateway.api import mcp
from vdi.gateway.api.mcp import MODERN, TOOLS, VERSIONS
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.desktop.agent import DesktopAgent
from vdi.gateway.in_flight import WAITING_CALL_BYTES
from vdi.gateway.login.logins import Device, Identity
from vdi.http_client import Response

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1280).to_bytes(4) + (720).to_bytes(4) + b"\x08\x02\0\0\0"
QUEUED = {
    "phase": "Pending",
    "message": "Waiting.",
    "queue": {"position": 3, "reason": "GPUsBusy", "earliestSlot": "2026-11-20T14:00:00Z"},
}
HOST = {"host": "portal.vdi.localhost"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class FakeDesktop:
    """The agents of all desktops: what they were asked to do, and what they answer."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.refuses: tuple[int, object] | None = None

    async def ask(
        self, session: VDISession, method: str, path: str, *, json: Mapping[str, Any], **_: Any
    ) -> Response:
        self.done.append(dict(json))
        if self.refuses:
            return Response(self.refuses[0], msgspec.json.encode(self.refuses[1]))
        answer: dict[str, Any] = {"result": "ok"}
        if path == "/run":
            answer = {"exitCode": 3, "output": "no such file\n"}
        elif json["action"] == "screenshot":
            answer = {"data": base64.b64encode(PNG).decode()}
        return Response(200, msgspec.json.encode(answer))


@pytest.fixture
def desktop() -> FakeDesktop:
    return FakeDesktop()


@pytest.fixture
def stage(desktop: FakeDesktop) -> ApiStage:
    stage = ApiStage()
    stage.agent.real = cast(DesktopAgent, desktop)
    stage.template(
        "office",
        displayName="Office",
        description="Letters.",
        agents={"enabled": True, "run": True},
    )
    return stage


async def token_of(stage: ApiStage, who: Identity = ALICE) -> str:
    return str((await stage.program(who)).headers["authorization"])


async def post(stage: ApiStage, body: object, token: str = "", **headers: str) -> httpx.Response:
    """One message, with these headers beside those of a client."""
    given = (
        HOST
        | {"authorization": token or await token_of(stage), "content-type": "application/json"}
        | headers
    )
    async with httpx.AsyncClient(transport=stage.transport(), base_url=PORTAL) as http:
        return await http.post(
            "/mcp", content=msgspec.json.encode(body), headers={k: v for k, v in given.items() if v}
        )


async def use(
    stage: ApiStage, tool: str, who: Identity = ALICE, token: str = "", **arguments: Any
) -> tuple[bool, str]:
    """Whether a tool had an error, and its text."""
    body = PING | {"method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    answer = await post(stage, body, token or await token_of(stage, who))
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    return result.get("isError", False), result["content"][0].get("text", "")


@asynccontextmanager
async def serving(stage: ApiStage) -> AsyncIterator[str]:
    """URL of the gateway on a port of this machine."""
    server = _Server(_uvicorn_config(stage.public))
    with listen(("127.0.0.1", 0), "VDI_PUBLIC_ADDR") as where:
        task = asyncio.create_task(server.serve([where]))
        try:
            yield f"http://127.0.0.1:{where.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, PATIENCE)


@asynccontextmanager
async def client_of(stage: ApiStage, mode: str = "auto") -> AsyncIterator[Client]:
    """The official client."""
    headers = HOST | {"authorization": await token_of(stage)}
    async with (
        serving(stage) as url,
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_official_client_drives_a_desktop(
    stage: ApiStage, desktop: FakeDesktop, mode: str
) -> None:
    stage.cluster.then = [QUEUED, RUNNING]
    async with client_of(stage, mode) as client:
        assert client.protocol_version == (MODERN if mode == "auto" else VERSIONS[0])
        assert (client.instructions or "").startswith(mcp.INSTRUCTIONS)
        assert [tool.name for tool in (await client.list_tools()).tools] == list(TOOLS)
        assert text_of(await client.call_tool("list_templates", {})) == "office: Office Letters."
        started = await client.call_tool("start_desktop", {"template": "office", "name": "nightly"})
        assert text_of(started) == "The desktop 'nightly' is ready."
        picture = (await client.call_tool("screenshot", {"desktop": "nightly"})).content[0]
        assert isinstance(picture, ImageContent)
        assert (picture.mime_type, base64.b64decode(picture.data)) == ("image/png", PNG)
        typed = await client.call_tool("type", {"desktop": "nightly", "text": "ls\n"})
        assert (typed.is_error, text_of(typed)) == (False, "Done.")
        ended = await client.call_tool("end_desktop", {"desktop": "nightly"})
        assert text_of(ended) == "The desktop 'nightly' is ending."
    assert desktop.done == [{"action": "screenshot"}, {"action": "type", "text": "ls\n"}]
    assert stage.cluster.objects == {}
    assert [act[1] for act in stage.acts] == [
        "session.start",
        "computer.screenshot",
        "computer.type",
        "session.end",
    ]


POINT = {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("tool", "arguments", "action"),
    [
        ("click", POINT, {"action": "left_click", "coordinate": [1, 2]}),
        ("click", POINT | {"kind": "double"}, {"action": "double_click", "coordinate": [1, 2]}),
        ("move", POINT, {"action": "mouse_move", "coordinate": [1, 2]}),
        (
            "drag",
            POINT | {"to_x": 3, "to_y": 4},
            {"action": "left_click_drag", "start_coordinate": [1, 2], "coordinate": [3, 4]},
        ),
        (
            "scroll",
            POINT | {"scroll_direction": "down"},
            {
                "action": "scroll",
                "coordinate": [1, 2],
                "scroll_direction": "down",
                "scroll_amount": 5,
            },
        ),
        ("key", {"text": "ctrl+s"}, {"action": "key", "text": "ctrl+s"}),
        ("run_command", {"command": "ls", "timeout": 3}, {"command": "ls", "seconds": 3}),
    ],
)
async def test_tool_is_an_action(
    stage: ApiStage,
    desktop: FakeDesktop,
    tool: str,
    arguments: dict[str, Any],
    action: dict[str, Any],
) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    failed, text = await use(stage, tool, desktop="nightly", **arguments)
    assert (failed, text) == (
        False,
        "Exit code 3.\nno such file\n" if tool == "run_command" else "Done.",
    )
    assert msgspec.json.decode(msgspec.json.encode(desktop.done)) == [action]


async def test_start_says_why_it_waits_and_goes_on(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "CALL_SECONDS", 0.0)
    arguments: dict[str, Any] = {"template": "office", "name": "nightly"}
    assert (await use(stage, "start_desktop", **arguments))[1].endswith("to go on waiting.")
    stage.session("nightly", template="office", status=QUEUED)
    failed, text = await use(stage, "start_desktop", **arguments)
    assert not failed and "Number 3 in line" in text and "not enough suitable GPUs are free" in text
    monkeypatch.setattr(mcp, "CALL_SECONDS", PATIENCE)
    waits = asyncio.create_task(use(stage, "start_desktop", **arguments))
    stage.session("nightly", template="office", status=RUNNING)
    assert await waits == (False, "The desktop 'nightly' is ready.")


async def test_start_resumes_a_suspended_desktop(stage: ApiStage) -> None:
    stage.session("nightly", template="office", suspended=True, status={"phase": "Suspended"})
    stage.cluster.then = [RUNNING]
    resumed = await use(stage, "start_desktop", template="office", name="nightly")
    assert resumed == (False, "The desktop 'nightly' is ready.")


@pytest.mark.parametrize(
    ("template", "there", "words"),
    [
        ("ubuntu", None, "is not one of: office"),
        ("office", {"user": BOB.user}, "is not available"),
        ("office", {"template": "ubuntu"}, "You already have the desktop 'nightly'"),
        ("office", {"status": {"phase": "Failed", "message": "No image."}}, "is not ready"),
    ],
)
async def test_start_is_refused_in_words(
    stage: ApiStage, template: str, there: Any, words: str
) -> None:
    if there:
        stage.session("nightly", **{"template": "office", "status": RUNNING} | there)
    failed, text = await use(stage, "start_desktop", template=template, name="nightly")
    assert failed and words in text


async def test_refusal_is_a_result_for_the_model(stage: ApiStage, desktop: FakeDesktop) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    desktop.refuses = (409, {"reason": "HumanInControl", "seconds": 4.2})
    failed, text = await use(stage, "click", desktop="nightly", x=1, y=1)
    assert failed and "Try again in 5 s." in text


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("click", {"desktop": "nightly", "x": -1, "y": 1}, "x: -1 is not a whole number from 0"),
        *(
            (
                "run_command",
                {"desktop": "nightly", "command": "ls", "timeout": seconds},
                f"timeout: {seconds} is not a whole number from 1 to 45.",
            )
            for seconds in (0, 46)
        ),
        ("click", {"desktop": "nightly", "x": 1, "y": 1, "kind": "up"}, "kind: "),
        ("click", {"desktop": "nightly", "x": 1}, "y: allowed: Pixels from the top edge"),
        ("type", {"desktop": "nightly", "text": "x" * 4001}, "text: "),
        ("type", {"desktop": "nightly", "text": "x", "action": "left_click"}, "action: "),
        ("screenshot", {"desktop": "../secrets"}, "You have no desktop"),
    ],
)
async def test_bad_argument_reaches_no_desktop(
    stage: ApiStage, desktop: FakeDesktop, tool: str, arguments: dict[str, Any], words: str
) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    failed, text = await use(stage, tool, **arguments)
    assert failed and words in text
    assert desktop.done == []


async def test_desktops_are_listed_with_what_the_token_may_do(stage: ApiStage) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    expired = {"user": BOB.user, "role": "viewer", "expires": "2020-01-01T00:00:00Z"}
    viewer = {"user": BOB.user, "role": "viewer"}
    stage.session("seen", template="office", status=RUNNING, access=[viewer])
    stage.session("once", template="office", status=RUNNING, access=[expired])
    _, mine = await use(stage, "list_desktops")
    assert "nightly: Running, template office, you may drive it" in mine.splitlines()
    _, shared = await use(stage, "list_desktops", BOB)
    (line,) = shared.splitlines()
    assert line == "seen: Running, template office, you may not drive it"


async def test_results_announce_the_end(stage: ApiStage, desktop: FakeDesktop) -> None:
    status = {**RUNNING, "expiresAt": "2026-11-20T12:10:00Z"}
    stage.session("nightly", template="office", status=status)
    arguments = {"name": "screenshot", "arguments": {"desktop": "nightly"}}
    answer = await post(stage, PING | {"method": "tools/call", "params": arguments})
    picture, text = answer.json()["result"]["content"]
    assert picture["type"] == "image"
    assert text["text"] == "This desktop stops at 12:10 UTC: its time limit is reached."
    assert (await use(stage, "wait", duration=0)) == (False, "Done.")


async def test_output_that_was_cut_says_so(stage: ApiStage, desktop: FakeDesktop) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    desktop.refuses = (200, {"exitCode": 0, "output": "end\n", "leftOut": 84_000})
    ran = await use(stage, "run_command", desktop="nightly", command="seq 1 99999")
    assert ran == (False, "Exit code 0.\n[84000 bytes left out]\nend\n")


async def test_wait_works_while_a_person_has_taken_over(
    stage: ApiStage, desktop: FakeDesktop
) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    asked = await use(stage, "request_human", desktop="nightly", reason="Log in, please.")
    assert asked == (
        False,
        "A person has been asked. Your actions are refused until they give the desktop back.",
    )
    failed, text = await use(stage, "screenshot", desktop="nightly")
    assert failed and "asks for a person: Log in, please." in text
    assert await use(stage, "wait", duration=0) == (False, "Done.")
    assert desktop.done == []


async def test_waiting_calls_are_few_and_keep_nothing_of_their_request(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of `wait` with 60 KB of lists in `_meta`, which are 2 MB in memory, and 27 KB of
    headers.
    """
    tokens = [await token_of(stage) for _ in range(6)]
    params = {"name": "wait", "arguments": {"duration": 45}, "_meta": {"x": [[]] * 20_000}}
    body = msgspec.json.encode(PING | {"method": "tools/call", "params": params})
    end, waiting = asyncio.Event(), stage.services.waiting

    async def wait(_: float) -> None:
        reached.release()
        await end.wait()

    monkeypatch.setattr(mcp, "sleep", wait)
    reached = asyncio.Semaphore(0)
    async with asyncio.timeout(PATIENCE), serving(stage) as url:
        port = int(url.rpartition(":")[2])

        async def call(token: str) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = {
                **HOST,
                "authorization": token,
                "content-type": "application/json",
                "content-length": len(body),
            }
            head |= {f"x-{number}": "y" * 300 for number in range(90)}
            lines = ["POST /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
            writers.append(writer)
            return reader

        async def text(reader: asyncio.StreamReader) -> str:
            await reader.readuntil(b"\r\n\r\n")
            return (await reader.readuntil(b"}]")).decode()

        writers: list[asyncio.StreamWriter] = []
        readers = [await call(tokens[0])]
        await reached.acquire()
        gc.collect()
        tracemalloc.start()
        try:
            for token in [*tokens[:1] * 3, *tokens[1:5] * 4]:
                readers.append(await call(token))
                await reached.acquire()
            gc.collect()
            assert len(waiting) == len(readers) == 20
            assert tracemalloc.get_traced_memory()[0] < 19 * WAITING_CALL_BYTES
        finally:
            tracemalloc.stop()
        assert "This token already has 4 calls that wait" in await text(await call(tokens[0]))
        assert "alice@example.com already has 20 calls that wait" in await text(
            await call(tokens[5])
        )
        end.set()
        assert all(["Done." in await text(reader) for reader in readers])
        for writer in writers:
            writer.close()
    assert len(waiting) == 0


async def test_viewer_and_stranger_cannot_drive(stage: ApiStage, desktop: FakeDesktop) -> None:
    viewer = {"user": BOB.user, "role": "viewer"}
    stage.session("nightly", template="office", status=RUNNING, access=[viewer])
    stage.session("other", template="office", status=RUNNING)
    for name, words in (("nightly", "As viewer of"), ("other", "You have no desktop")):
        for tool in ("screenshot", "end_desktop"):
            failed, text = await use(stage, tool, BOB, desktop=name)
            assert failed and words in text
    assert desktop.done == []
    assert sorted(stage.cluster.objects) == ["nightly", "other"]


async def test_token_of_one_session_only_acts_in_it(stage: ApiStage) -> None:
    for name in ("nightly", "other"):
        stage.session(name, template="office", status=RUNNING)
    person = await stage.logins.person_by_cookie((await stage.logins.begin(ALICE, Device()))[0])
    assert person
    token, _ = await stage.logins.new_token(person, "bot", timedelta(days=1), "nightly")
    bearer = f"Bearer {token}"
    assert await use(stage, "screenshot", token=bearer, desktop="nightly") == (False, "")
    refused = await use(stage, "screenshot", token=bearer, desktop="other")
    assert refused == (True, "This API token is for the desktop 'nightly' only.")
    for tool in ("list_templates", "start_desktop", "end_desktop"):
        body = PING | {"method": "tools/call", "params": {"name": tool, "arguments": {}}}
        said = (await post(stage, body, bearer)).json()["error"]["message"]
        assert f"{tool!r} is not a tool of an API token for the desktop 'nightly'" in said
    listed = await use(stage, "list_desktops", token=bearer)
    assert listed == (False, "nightly: Running, template office, you may drive it")
    begun = await post(stage, PING | {"method": "initialize"}, bearer)
    assert "Your desktop is 'nightly', and no other." in begun.json()["result"]["instructions"]
    for run in (True, False):
        stage.template("office", agents={"enabled": True, "run": run})
        listed = (await post(stage, PING | {"method": "tools/list"}, bearer)).json()["result"]
        left_out = {"list_templates", "start_desktop", "end_desktop"}
        left_out |= set() if run else {"run_command"}
        assert {tool["name"] for tool in listed["tools"]} == TOOLS.keys() - left_out
    assert sorted(stage.cluster.objects) == ["nightly", "other"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (PING, {}, 200),
        (PING, {"origin": PORTAL}, 200),
        (PING, {"mcp-protocol-version": VERSIONS[0]}, 200),
        ({"jsonrpc": "2.0", "method": "notifications/initialized"}, {}, 202),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 202),
        (PING, {"mcp-protocol-version": "2027-01-01"}, 400),
        (PING, {"authorization": "Bearer vdi_nothing"}, 401),
        (PING, {"authorization": "Basic YWxpY2U6eA=="}, 401),
        (PING, {"origin": "https://alice-desktop.vdi.localhost"}, 403),
        (PING, {"origin": "null"}, 403),
        (PING, {"content-type": "text/plain"}, 415),
        ([PING], {}, 422),
        ({**PING, "jsonrpc": "1.0"}, {}, 422),
        ({**PING, "id": None}, {}, 422),
        ({**PING, "params": {"text": "x" * 70_000}}, {}, 413),
    ],
)
async def test_message_is_admitted_or_refused(
    stage: ApiStage, body: object, headers: dict[str, str], status: int
) -> None:
    answer = await post(stage, body, **headers)
    assert answer.status_code == status, answer.text
    assert (answer.content == b"") is (status == 202)
    assert ("www-authenticate" in answer.headers) is (status == 401)


async def test_cookie_of_a_login_is_not_enough(stage: ApiStage) -> None:
    page = await stage.page()
    page.event_hooks = {}  # the OpenAPI document does not have /mcp
    answer = await page.post("/mcp", json=PING)
    assert (answer.status_code, answer.headers["www-authenticate"].startswith("Bearer")) == (
        401,
        True,
    )


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_only_posts_are_served(stage: ApiStage, method: str) -> None:
    async with httpx.AsyncClient(transport=stage.transport(), base_url=PORTAL) as http:
        answer = await http.request(
            method, "/mcp", headers={"authorization": await token_of(stage)}
        )
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("method", "params", "code", "words"),
    [
        ("resources/list", {}, -32601, "not a method"),
        ("tools/call", {"name": "rm"}, -32602, "allowed: list_desktops, list_templates"),
    ],
)
async def test_unknown_name_is_an_error(
    stage: ApiStage, method: str, params: object, code: int, words: str
) -> None:
    answer = (await post(stage, {**PING, "method": method, "params": params})).json()
    assert (answer["error"]["code"], words in answer["error"]["message"]) == (code, True)


@pytest.mark.parametrize(
    ("asked", "answered"), [*((version, version) for version in VERSIONS), ("1.0", VERSIONS[0])]
)
async def test_version_is_negotiated(stage: ApiStage, asked: str, answered: str) -> None:
    answer = await post(
        stage, {**PING, "method": "initialize", "params": {"protocolVersion": asked}}
    )
    assert answer.json()["result"]["protocolVersion"] == answered


META = "io.modelcontextprotocol/"


async def post_modern(
    stage: ApiStage,
    method: str,
    meta: Mapping[str, Any] | None = None,
    name: str = "",
    **headers: str,
) -> httpx.Response:
    """A request of the modern era, with these headers in place of the right ones."""
    capabilities: dict[str, Any] = {"elicitation": {"form": {}}, "extensions": {}}
    about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": capabilities}
    params = {"_meta": about if meta is None else meta, "name": name, "arguments": {}}
    right = {"mcp-protocol-version": MODERN, "mcp-method": method, "mcp-name": name}
    given = right | {header.replace("_", "-"): value for header, value in headers.items()}
    return await post(stage, {**PING, "method": method, "params": params}, **given)


async def test_modern_results_say_what_they_are(stage: ApiStage) -> None:
    found = (await post_modern(stage, "server/discover")).json()["result"]
    assert (found["supportedVersions"], found["capabilities"]) == ([MODERN], {"tools": {}})
    listed = (await post_modern(stage, "tools/list")).json()["result"]
    assert [tool["name"] for tool in listed["tools"]] == list(TOOLS)
    coded = f"=?base64?{base64.b64encode(b'list_desktops').decode()}?="
    called = await post_modern(stage, "tools/call", name="list_desktops", mcp_name=coded)
    for result in (found, listed, called.json()["result"]):
        assert result["resultType"] == "complete"
        assert result["_meta"][f"{META}serverInfo"]["name"] == "vdi"
    for result in (found, listed):
        assert (result["ttlMs"], result["cacheScope"]) == (60_000, "private")


@pytest.mark.parametrize("method", ["initialize", "ping", "resources/list"])
async def test_modern_unknown_method_is_404(stage: ApiStage, method: str) -> None:
    answer = await post_modern(stage, method)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp_method": "tools/list"},
        {"mcp_method": ""},
        {"mcp_name": "list_desktops"},
        {"mcp_name": ""},
        {"mcp_name": "=?base64?!?="},
        {"mcp_name": "=?base64?/w==?="},
        {"mcp_protocol_version": VERSIONS[0]},
        {"mcp_protocol_version": ""},
    ],
)
async def test_headers_unlike_the_body_reach_no_tool(
    stage: ApiStage, headers: dict[str, str]
) -> None:
    stage.session("nightly", template="office", status=RUNNING)
    answer = await post_modern(stage, "tools/call", None, "end_desktop", **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


async def test_header_that_is_there_twice_is_refused(stage: ApiStage) -> None:
    about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
    body = {**PING, "method": "tools/list", "params": {"_meta": about}}
    headers = [
        *HOST.items(),
        ("authorization", await token_of(stage)),
        ("content-type", "application/json"),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/list"),
        ("mcp-method", "tools/call"),
    ]
    async with httpx.AsyncClient(transport=stage.transport(), base_url=PORTAL) as http:
        answer = await http.post("/mcp", content=msgspec.json.encode(body), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


async def test_modern_request_without_its_meta_or_of_another_version(stage: ApiStage) -> None:
    half: list[dict[str, Any]] = [
        {},
        {f"{META}protocolVersion": MODERN},
        {f"{META}clientCapabilities": {}},
        {f"{META}protocolVersion": "2" * 65, f"{META}clientCapabilities": {}},
    ]
    for meta in half[:3]:
        answer = await post_modern(stage, "tools/list", meta)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
    assert (await post_modern(stage, "tools/list", half[3])).status_code == 422, "a long version"
    later: dict[str, Any] = {
        f"{META}protocolVersion": "2027-01-01",
        f"{META}clientCapabilities": {},
    }
    answer = await post_modern(stage, "tools/list", later, mcp_protocol_version="2027-01-01")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, -32022)
    assert error["data"] == {"supported": [MODERN], "requested": "2027-01-01"}


def test_hints_tell_what_a_tool_may_change() -> None:
    hints = {name: tool.describe(name)["annotations"] for name, tool in TOOLS.items()}
    assert hints["screenshot"] == {"readOnlyHint": True, "destructiveHint": False}
    assert hints["move"] == {"readOnlyHint": False, "destructiveHint": False}
    assert hints["run_command"] == {"readOnlyHint": False, "destructiveHint": True}
    assert TOOLS["run_command"].describe("run_command")["title"] == "Run command"


def test_each_tool_and_argument_is_described() -> None:
    for name, tool in TOOLS.items():
        schema = tool.describe(name)["inputSchema"]
        Draft202012Validator.check_schema(schema)
        assert (schema["type"], schema["additionalProperties"]) == ("object", False)
        for argument, rules in schema["properties"].items():
            assert rules["description"].endswith("."), (name, argument)
            assert rules["type"] in ("string", "integer"), (name, argument)

"""`vdi.client` against the gateway on a port of this machine, by threads and by asyncio."""

import asyncio
import inspect
import re
import runpy
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from support.docs_blocks import ROOT
from unit.gateway.api_stage import RUNNING, ApiStage
from unit.gateway.test_mcp import PNG, QUEUED, FakeDesktop, serving, token_of
from unit.gateway.test_takeover import take
from vdi.client import (
    AsyncDesktop,
    Desktop,
    Forbidden,
    HumanInControl,
    NotFound,
    NotReady,
    Queued,
    Refused,
    Unauthorized,
    Unreachable,
    VdiError,
)
from vdi.gateway.desktop.agent import DesktopAgent

ONE = "alice-desktop"
[BLOCK] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/agents.md").read_text(), re.DOTALL)


@dataclass
class Stage:
    gateway: ApiStage
    agent: FakeDesktop
    kind: Any = Desktop

    async def do(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """The result of a method, in a thread or awaited."""
        if self.kind is Desktop:
            return await asyncio.to_thread(function, *arguments, **options)
        result = function(*arguments, **options)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=[Desktop, AsyncDesktop])
async def stage(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    async with ApiStage() as gateway:
        agent = FakeDesktop()
        gateway.agent.real = cast(DesktopAgent, agent)
        gateway.template(agents={"enabled": True, "run": True})
        gateway.session(status=RUNNING)
        async with serving(gateway) as url:
            # A name that most resolvers do not know.
            portal = url.replace("127.0.0.1", "portal.vdi.localhost")
            monkeypatch.setenv("VDI_SERVER", portal)
            monkeypatch.setenv("VDI_TOKEN", (await token_of(gateway)).split()[1])
            yield Stage(gateway, agent, request.param)


@pytest.fixture
async def desktop(stage: Stage) -> AsyncIterator[Any]:
    desktop = stage.kind.connect(ONE)
    yield desktop
    await stage.do(desktop.close)


@pytest.mark.parametrize(
    ("method", "arguments", "action"),
    [
        ("click", (1, 2, "right"), {"action": "right_click", "coordinate": (1, 2)}),
        ("double_click", (1, 2), {"action": "double_click", "coordinate": (1, 2)}),
        ("move", (1, 2), {"action": "mouse_move", "coordinate": (1, 2)}),
        (
            "drag",
            ((1, 2), (3, 4)),
            {"action": "left_click_drag", "start_coordinate": (1, 2), "coordinate": (3, 4)},
        ),
        (
            "scroll",
            ("down", 3, (1, 2)),
            {
                "action": "scroll",
                "coordinate": (1, 2),
                "scroll_direction": "down",
                "scroll_amount": 3,
            },
        ),
        ("type", ("abc",), {"action": "type", "text": "abc"}),
        ("key", ("ctrl+s",), {"action": "key", "text": "ctrl+s"}),
    ],
)
async def test_method_is_an_action(
    stage: Stage, desktop: Any, method: str, arguments: tuple[Any, ...], action: dict[str, Any]
) -> None:
    await stage.do(getattr(desktop, method), *arguments)
    assert stage.agent.done == [action]


async def test_screenshot_and_command_have_results(stage: Stage, desktop: Any) -> None:
    assert await stage.do(desktop.screenshot) == PNG
    ran = await stage.do(desktop.commands.run, "ls", timeout=3)
    assert (ran.exit_code, ran.output, ran.left_out) == (3, "no such file\n", 0)
    assert stage.agent.done[-1] == {"command": "ls", "seconds": 3}


async def test_recording_begins_and_ends(stage: Stage, desktop: Any) -> None:
    stage.agent.refuses = 200, {"mode": "OnDemand", "state": "Recording"}
    await stage.do(desktop.recording.start)
    await stage.do(desktop.recording.stop)
    assert [sent["on"] for sent in stage.agent.done] == [True, False]


async def test_invalid_field_is_named(stage: Stage, desktop: Any) -> None:
    with pytest.raises(Refused) as refused:
        await stage.do(desktop.click, -1, 2)
    assert (refused.value.code, refused.value.status) == ("invalid", 422)
    assert refused.value.fields[0]["field"].startswith("coordinate")


async def test_a_person_in_control_is_an_error_of_its_own(stage: Stage, desktop: Any) -> None:
    await take(stage.gateway)
    with pytest.raises(HumanInControl, match="has taken over") as refused:
        await stage.do(desktop.screenshot)
    assert refused.value.code == "human-in-control"
    with pytest.raises(HumanInControl, match="has taken over"):
        await stage.do(desktop.commands.run, "ls")


async def test_requested_person_parks_the_program(stage: Stage, desktop: Any) -> None:
    await stage.do(desktop.request_human, "captcha")
    with pytest.raises(HumanInControl, match="captcha") as refused:
        await stage.do(desktop.click, 1, 2)
    assert refused.value.code == "parked"


async def test_refusals_have_types(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = stage.kind.connect("no/where")
    with pytest.raises(NotFound):
        await stage.do(missing.info)
    await stage.do(missing.close)
    page = await stage.gateway.page()
    made = (await page.post("/api/v1/tokens", json={"label": "one", "session": ONE})).json()
    scoped = stage.kind.connect(ONE, token=made["token"])
    assert await stage.do(scoped.screenshot) == PNG
    with pytest.raises(Forbidden):
        await stage.do(scoped.info)
    await stage.do(scoped.close)
    with pytest.raises(Unauthorized):
        await stage.do(stage.kind.list, token="vdi_no")
    with pytest.raises(Unreachable):
        await stage.do(stage.kind.list, server="http://127.0.0.1:1")
    for server in ("", "http://portal.vdi.example.com", "ftp://localhost", "https://"):
        monkeypatch.setenv("VDI_SERVER", server)
        with pytest.raises(VdiError, match="VDI_SERVER"):
            stage.kind.connect(ONE)


async def test_started_desktop_ends_with_its_block(stage: Stage) -> None:
    stage.gateway.template("office", agents={"enabled": True, "run": True})

    stage.gateway.cluster.then = [RUNNING]

    async def as_async() -> None:
        async with await AsyncDesktop.start("office") as desktop:
            await desktop.type("hello")

    if stage.kind is Desktop:
        await asyncio.to_thread(exec, BLOCK, {})
    else:
        await as_async()
    assert {"action": "type", "text": "hello"} in stage.agent.done
    assert list(stage.gateway.cluster.objects) == [ONE]


async def test_place_in_the_queue_is_in_the_error(stage: Stage) -> None:
    stage.gateway.session("full", status=QUEUED)
    waiting = stage.kind.connect("full")
    with pytest.raises(Queued, match="Waiting") as queued:
        await stage.do(waiting.wait, 0)
    error = queued.value
    assert (error.name, error.position, error.reason) == ("full", 3, "GPUsBusy")
    assert error.expected == datetime(2026, 11, 20, 14, tzinfo=UTC)
    stage.gateway.session("full", status={"phase": "Failed", "message": "No image."})
    with pytest.raises(NotReady, match="No image"):
        await stage.do(waiting.wait)
    await stage.do(waiting.close)
    assert [found.name for found in await stage.do(stage.kind.list)] == [ONE, "full"]


def example(name: str) -> Any:
    return runpy.run_path(str(ROOT / f"docs/examples/agents/{name}.py"))


async def test_example_of_anthropic_drives_a_desktop(stage: Stage) -> None:
    turns: list[list[Any]] = [
        [{"type": "tool_use", "id": "1", "name": "screenshot", "input": {}}],
        [
            {"type": "tool_use", "id": "2", "name": "left_click", "input": {"coordinate": [1, -2]}},
            {"type": "tool_use", "id": "3", "name": "key", "input": {"text": "q"}},
        ],
        [{"type": "text", "text": "Done."}],
    ]
    with Desktop.connect(ONE) as desktop:
        messages = await asyncio.to_thread(
            example("anthropic_loop")["run"], desktop, "Press q.", lambda _: turns.pop(0)
        )
    picture, (refused, skipped) = messages[2]["content"][0], messages[4]["content"]
    assert picture["content"][0]["type"] == "image"
    assert "coordinate" in refused["content"]
    assert skipped["is_error"]
    assert stage.agent.done == [{"action": "screenshot"}]


async def test_example_of_openai_drives_a_desktop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [
        {"type": "click", "button": "wheel", "x": 1, "y": 2},
        {"type": "scroll", "x": 1, "y": 2, "scroll_x": 0, "scroll_y": 250},
        {"type": "keypress", "keys": ["CTRL", "S"]},
        {"type": "screenshot"},
    ]
    call = {"type": "computer_call", "call_id": "c", "actions": actions}
    turns = [{"id": "1", "output": [call]}, {"id": "2", "output": []}]
    asked: list[Any] = []

    def ask(items: list[Any], previous: str | None) -> Any:
        asked.append((items, previous))
        return turns.pop(0)

    with Desktop.connect(ONE) as desktop:
        await asyncio.to_thread(example("openai_loop")["run"], desktop, "Save.", ask)
    [output], previous = asked[1]
    assert (output["call_id"], previous) == ("c", "1")
    assert output["output"]["image_url"].startswith("data:image/png;base64,")
    assert [done.get("text") or done["action"] for done in stage.agent.done] == [
        "middle_click",
        "scroll",
        "ctrl+s",
        "screenshot",
    ]

"""A software agent at real desktops, through vdi-agent: it clicks, types and runs commands, and
people come first.
"""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from e2e.desktops import ask_agent, call_agent, run_in, start, started
from e2e.streaming_desktops import streamed
from e2e.test_desktop_secrets import assert_nothing_to_learn
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

_LISTENING = "grep -c ':251C 00000000:0000 0A' /proc/net/tcp || true"  # 127.0.0.1:9500
_SERVER = (
    "curl -s -o /dev/null -w '%{http_code}' -d '{\"action\":\"screenshot\"}'"
    " http://127.0.0.1:9500/computer-use"
)
_MOVE = {"action": "mouse_move"}
_NOTHING = {"command": "true", "seconds": 5}
_TERMINAL = {"command": "xfce4-terminal >/dev/null 2>&1 &", "seconds": 10}


def act(world: World, name: str, action: str, **words: Any) -> dict[str, Any]:
    """The answer to an action that succeeds."""
    status, text = call_agent(world, name, "/computer-use", {"action": action, **words})
    assert status == 200, text
    answer: dict[str, Any] = json.loads(text)
    return answer


@pytest.fixture(
    scope="module",
    params=[pytest.param(display, marks=pytest.mark.long) for display in ("X11", "Wayland")],
)
def driven(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a session that agents may drive."""
    name = f"driven-{request.param.lower()}"
    spec: dict[str, Any] = {
        "agents": {"enabled": True, "run": True},
        "streaming": {"display": request.param},
    }
    with streamed(world, **{name: spec}):
        yield name


def test_an_agent_clicks_types_and_sees(world: World, driven: str) -> None:
    before = ask_agent(world, driven)["idleSeconds"]
    picture = Image.open(io.BytesIO(base64.b64decode(act(world, driven, "screenshot")["data"])))
    assert (picture.format, picture.size) == ("PNG", (1920, 1080))

    assert call_agent(world, driven, "/run", _TERMINAL) == (200, '{"exitCode": 0, "output": ""}')
    wait_until("a shell", lambda: run_in(world, driven, "pgrep -x bash || true"))
    act(world, driven, "left_click", coordinate=[960, 540])
    assert act(world, driven, "cursor_position") == {"text": "X=960,Y=540"}

    def types() -> bool:  # the window comes after the shell, and what is typed before it is lost
        act(world, driven, "left_click", coordinate=[960, 540])
        act(world, driven, "type", text="touch /tmp/typed-ä\n")
        return "typed-ä" in run_in(world, driven, "sleep 1; ls /tmp")

    wait_until("the text", types)
    assert ask_agent(world, driven)["idleSeconds"] > before, "an agent is no person"


def test_a_persons_input_pauses_the_agent(world: World, driven: str) -> None:
    with world.browser(driven) as browser:
        browser.open()
        spots = iter(range(300, 900, 10))

        def is_paused() -> bool:
            browser.page.mouse.move(next(spots), 300)
            status, text = call_agent(
                world, driven, "/computer-use", {**_MOVE, "coordinate": [10, 10]}
            )
            return status == 409 and json.loads(text)["reason"] == "HumanInControl"

        wait_until("the agent is paused", is_paused)
        assert act(world, driven, "cursor_position") != {"text": "X=10,Y=10"}
        assert "data" in act(world, driven, "screenshot"), "it may look"

        def goes_on() -> bool:
            return (
                call_agent(world, driven, "/computer-use", {**_MOVE, "coordinate": [20, 20]})[0]
                == 200
            )

        wait_until("the agent goes on", goes_on, 20)
        assert act(world, driven, "cursor_position") == {"text": "X=20,Y=20"}


def test_programs_of_the_user_cannot_use_the_server(world: World, driven: str) -> None:
    assert run_in(world, driven, _SERVER) == "401"
    assert (
        run_in(
            world,
            driven,
            "grep -l SELKIES_COMPUTER_USE_TOKEN /proc/[0-9]*/environ 2>/dev/null || true",
        )
        == ""
    )
    assert_nothing_to_learn(world, driven)


@pytest.mark.ci
def test_nothing_listens_without_agents(sessions: World) -> None:
    start(sessions, "olga", "small")
    assert run_in(sessions, "olga", _LISTENING).strip() == "0"
    assert call_agent(sessions, "olga", "/computer-use", {"action": "screenshot"})[0] == 404
    assert call_agent(sessions, "olga", "/run", _NOTHING)[0] == 404


@pytest.mark.ci
def test_commands_need_their_own_permission(sessions: World) -> None:
    with started(sessions, "oskar", agents={"enabled": True}):
        assert run_in(sessions, "oskar", _LISTENING).strip() == "1"
        assert "data" in act(sessions, "oskar", "screenshot")
        assert call_agent(sessions, "oskar", "/run", _NOTHING)[0] == 404

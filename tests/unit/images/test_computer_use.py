"""Software agents at a desktop: what vdi-agent passes on to Selkies, when a person comes first, and
commands.
"""

import base64
import io
import json
import random
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from support.waiting import PATIENCE
from support.web_server import serve_handler
from unit.images.image_scripts import LIBRARY, load_library, port_of, serve_agent
from unit.images.test_agent import ask

NOISE_SECONDS = 240.0
CLICK = '{"action": "right_click", "coordinate": [10, 20]}'


class Desktop:
    """pixelflux' server, which answers as it is told, and the agent's `Computer` before it."""

    def __init__(self, agent: Any, server: str, home: Path) -> None:
        self.agent, self.server, self.home, self.port = agent, server, home, port_of(agent)
        self.answer: tuple[int, bytes] = (200, b'{"result":"ok"}')
        self.asked: list[tuple[str, str | None, Any]] = []
        self.last_input = (0.5, False)

    def allow(self, fields: str, server: str | None = None) -> Any:
        env = {
            "VDI_AGENTS": fields,
            "SELKIES_COMPUTER_USE_BIND": server or self.server,
            "HOME": str(self.home),
        }
        env |= {"SELKIES_COMPUTER_USE_TOKEN": "hidden", "PATH": "/usr/bin:/bin"}
        computer = load_library("computer_use").Computer(env, lambda: self.last_input)
        computer._screen_size = lambda: (800, 600)
        self.agent.services = self.agent.services._replace(computer=computer)
        return computer

    def post(self, path: str, body: str, seconds: float = PATIENCE) -> tuple[int, str]:
        return ask(self.port, "POST", path, body=body, seconds=seconds)


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    class Pixelflux(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.asked.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(made.answer[0])
            self.end_headers()
            self.wfile.write(made.answer[1])

        def log_message(self, *_: object) -> None:
            pass

    with serve_handler(Pixelflux) as server, serve_agent() as agent:
        made = Desktop(agent, f"127.0.0.1:{server.server_port}", tmp_path)
        made.allow("enabled,run")
        yield made


def test_an_action_is_passed_on_with_selkies_token(desktop: Desktop) -> None:
    assert desktop.post("/computer-use", CLICK) == (200, '{"result":"ok"}')
    assert desktop.asked == [("/computer-use", "Bearer hidden", json.loads(CLICK))]
    assert ask(desktop.port, "POST", "/computer-use", token="hidden", body=CLICK)[0] == 401
    assert len(desktop.asked) == 1


@pytest.mark.parametrize(
    ("fields", "found"),
    [("", [404, 404]), ("run", [404, 404]), ("enabled", [200, 404]), ("enabled,run", [200, 200])],
)
def test_agents_may_do_what_the_template_allows(
    desktop: Desktop, fields: str, found: list[int]
) -> None:
    desktop.allow(fields)
    bodies = {"/computer-use": CLICK, "/run": '{"command": "true", "seconds": 5}'}
    assert [desktop.post(path, body)[0] for path, body in bodies.items()] == found


@pytest.mark.parametrize(
    ("action", "last_input", "status"),
    [
        ("left_click", (0.5, True), 409),
        ("key", (4.9, True), 409),
        ("an action of a later version", (0.5, True), 409),
        ("left_click", (5.0, True), 200),
        ("left_click", (0.5, False), 200),
        *(
            (passive, (0.5, True), 200)
            for passive in ("screenshot", "cursor_position", "zoom", "wait")
        ),
    ],
)
def test_a_persons_input_pauses_that_of_agents(
    desktop: Desktop, action: str, last_input: tuple[float, bool], status: int
) -> None:
    desktop.last_input = last_input
    found, body = desktop.post("/computer-use", json.dumps({"action": action, "text": "a"}))
    assert (found, len(desktop.asked)) == (status, int(status == 200))
    if status == 409:
        assert json.loads(body) == {
            "reason": "HumanInControl",
            "seconds": round(5.0 - last_input[0], 1),
        }


@pytest.mark.parametrize(
    ("text", "is_key"),
    [
        *(("a", True), ("ctrl+Return", True), ("ctrl + plus", True), ("PageUp", True)),
        *(("super", True), ("Nokey", False), ("ctrl+Nokey", False), ("ctrl++", False)),
    ],
)
def test_unknown_key_is_refused_whole(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch, text: str, is_key: bool
) -> None:
    xkb = SimpleNamespace(xkb_keysym_from_name=lambda name, _: name in (b"Return", b"plus"))
    monkeypatch.setattr("computer_use.ctypes.CDLL", lambda _: xkb)
    status, body = desktop.post("/computer-use", json.dumps({"action": "key", "text": text}))
    assert (status, len(desktop.asked)) == ((200, 1) if is_key else (400, 0))
    assert is_key or "is no key; allowed: one character, or" in json.loads(body)["error"]
    held = {"action": "hold_key", "text": text, "duration": 0.1}
    assert desktop.post("/computer-use", json.dumps(held))[0] == (
        200 if is_key and "+" not in text else 400
    )


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ({"action": "left_click", "coordinate": [799, 599]}, 200),
        ({"action": "left_click", "coordinate": [800, 0]}, 400),
        ({"action": "left_click_drag", "start_coordinate": [0, 600], "coordinate": [1, 1]}, 400),
        ({"action": "zoom", "region": [0, 0, 800, 600]}, 200),
        ({"action": "zoom", "region": [0, 0, 801, 600]}, 400),
        ({"action": "mouse_move", "coordinate": ["x", 0]}, 400),
    ],
)
def test_point_outside_the_screen_is_refused(
    desktop: Desktop, action: dict[str, Any], status: int
) -> None:
    found, body = desktop.post("/computer-use", json.dumps(action))
    assert (found, bool(desktop.asked)) == (status, status == 200)
    if 800 in action.get("coordinate", ()):
        allowed = "allowed: x from 0 to 799, y from 0 to 599"
        assert json.loads(body)["error"] == f"coordinate: [800, 0] is outside the screen; {allowed}"


def test_screen_of_wayland_is_that_of_a_screenshot(desktop: Desktop) -> None:
    computer = desktop.allow("enabled")
    del computer._screen_size
    computer.env["WAYLAND_DISPLAY"] = "wayland-1"
    picture = io.BytesIO()
    Image.new("RGB", (640, 480)).save(picture, "PNG")
    shot = {"data": base64.b64encode(picture.getvalue()).decode()}
    desktop.answer = (200, json.dumps(shot).encode())
    for x, status in ((639, 200), (640, 400)):
        body = {"action": "mouse_move", "coordinate": [x, 0]}
        assert desktop.post("/computer-use", json.dumps(body))[0] == status


@pytest.mark.parametrize(
    ("comes_after", "status", "parts"),
    [(9, 200, 3), (2, 200, 3), (1, 409, 1), (0, 409, 0)],
    ids=str,
)
def test_a_click_is_short_and_leaves_no_button_down(
    desktop: Desktop, comes_after: int, status: int, parts: int
) -> None:
    computer = desktop.allow("enabled")
    computer.last_input = lambda: (0.1, len(desktop.asked) >= comes_after)
    body = {"action": "left_click", "coordinate": [10, 20]}
    assert desktop.post("/computer-use", json.dumps(body))[0] == status
    whole = [
        body | {"action": "mouse_move"},
        {"action": "left_mouse_down"},
        {"action": "left_mouse_up"},
    ]
    assert [action for *_, action in desktop.asked] == whole[:parts]
    desktop.asked.clear()
    computer.last_input = lambda: (0.1, False)
    assert desktop.post("/computer-use", json.dumps(body | {"text": "ctrl"}))[0] == 200
    assert [action for *_, action in desktop.asked] == [body | {"text": "ctrl"}], (
        "with a key it is pixelflux' own"
    )


@pytest.mark.parametrize(
    ("comes_after", "status", "typed"), [(9, 200, "é" * 120), (2, 409, "é" * 100)]
)
def test_a_person_interrupts_a_long_text(
    desktop: Desktop, comes_after: int, status: int, typed: str
) -> None:
    computer = desktop.allow("enabled")
    computer.last_input = lambda: (0.1, len(desktop.asked) >= comes_after)
    assert (
        desktop.post("/computer-use", json.dumps({"action": "type", "text": "é" * 120}))[0]
        == status
    )
    assert "".join(action["text"] for _, _, action in desktop.asked) == typed


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ((200, b'{"error": "Unknown action: fly"}'), 400, "Unknown action: fly"),
        ((400, b'{"error": "Invalid JSON"}'), 400, "Invalid JSON"),
        ((401, b'{"error": "unauthorized"}'), 503, "answered the action with 401"),
        ((200, b"<html>"), 503, "can't be asked to act"),
        ((200, b"[]"), 503, "can't be asked to act"),
        ((200, b'{"data": "' + b"a" * (64 << 20) + b'"}'), 503, "with 200 and 67108865 bytes"),
        ((200, b'{"data": "' + b"%" * (5 << 20) + b'"}'), 503, "the picture is too large"),
        ((200, b'{"data": "' + b"aaaa" * (2 << 20) + b'"}'), 503, "the picture is too large"),
        ((200, b'{"data": ["' + b"a" * (5 << 20) + b'"]}'), 503, "the picture is too large"),
    ],
)
def test_an_answer_of_selkies_is_not_trusted(
    desktop: Desktop, answer: tuple[int, bytes], status: int, words: str
) -> None:
    desktop.answer = answer
    found, said = desktop.post("/computer-use", CLICK)
    assert (found, words in said) == (status, True), said
    assert found == 503 or json.loads(said) == {"error": words}


@pytest.mark.timeout(NOISE_SECONDS + 60)
@pytest.mark.parametrize("size", [(1920, 1080), pytest.param((4096, 2304), marks=pytest.mark.long)])
def test_a_screen_of_noise_keeps_its_size_and_loses_colours(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: tuple[int, int]
) -> None:
    # Of the desktop's image is only the interpreter's path.
    program = tmp_path / "reduce-colours"
    program.write_text(f"#!{sys.executable} -BI\n{(LIBRARY / 'reduce-colours').read_text()}")
    program.chmod(0o755)
    monkeypatch.setattr("computer_use.REDUCE", str(program))
    # It is niced, and has 9 million pixels: other tests can take the CPU for longer than it may last.
    monkeypatch.setattr("computer_use.REDUCE_SECONDS", NOISE_SECONDS)
    noise = io.BytesIO()
    picture = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))
    picture.save(noise, "PNG", compress_level=0)
    desktop.answer = (
        200,
        json.dumps({"data": base64.b64encode(noise.getvalue()).decode()}).encode(),
    )
    status, body = desktop.post("/computer-use", '{"action": "screenshot"}', NOISE_SECONDS)
    assert status == 200 and len(body) <= 4 << 20
    with Image.open(io.BytesIO(base64.b64decode(json.loads(body)["data"]))) as reduced:
        assert (reduced.format, reduced.size) == ("PNG", size)


def test_a_server_that_is_gone_is_said_in_words(desktop: Desktop) -> None:
    desktop.allow("enabled", server="127.0.0.1:1")
    status, said = desktop.post("/computer-use", CLICK)
    assert (status, "Selkies can't be asked to act" in said) == (503, True)


@pytest.mark.parametrize(
    "body", ["", "[]", '{"action": 3}', "x", json.dumps({"action": "type", "text": "a" * 65_536})]
)
def test_a_body_that_is_no_action_is_refused(desktop: Desktop, body: str) -> None:
    assert desktop.post("/computer-use", body)[0] == 400
    assert desktop.asked == []


@pytest.mark.parametrize(("fields", "idle"), [("enabled", 300.0), ("enabled,countsAsUse", 7.0)])
def test_actions_count_as_use_where_the_template_says_so(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch, fields: str, idle: float
) -> None:
    computer = desktop.allow(fields)
    desktop.last_input, now = (300.0, True), [1000.0]
    monkeypatch.setattr("computer_use.time.monotonic", lambda: now[0])
    assert computer.idle() == 300.0, "no one has acted yet"
    for action in ("screenshot", "left_click"):
        computer.act(json.dumps({"action": action}).encode())
        now[0] += 7.0
    assert computer.idle() == idle


def test_screenshots_and_commands_are_work(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    computer, now = desktop.allow("enabled,run"), [1000.0]
    monkeypatch.setattr("computer_use.time.monotonic", lambda: now[0])
    assert computer.work_seconds() is None
    computer.act(b'{"action": "screenshot"}')
    now[0] += 7.0
    assert computer.work_seconds() == 7.0
    computer.run(b'{"command": "true", "seconds": 5}')
    assert computer.work_seconds() == 0.0


@pytest.mark.parametrize(
    ("command", "seconds", "code", "output"),
    [
        ("echo out; echo err >&2; pwd; exit 3", 20, 3, "out\nerr\n{home}\n"),
        ("env | grep -c -e SELKIES -e VDI_", 20, 1, "0\n"),
        ("echo begun; sleep 60", 1, None, "begun\n"),
        ("sleep 2 & echo left behind", 20, 0, "left behind\n"),
        ("kill -TERM $$", 20, 143, ""),
        ("head -c 20000 /dev/zero | tr '\\0' a; printf b", 20, 0, "a" * 15_999 + "b"),
    ],
    ids=["status", "no secrets", "killed at its time", "left behind", "signal", "last output"],
)
def test_commands_run_as_the_user(
    desktop: Desktop, command: str, seconds: int, code: int | None, output: str
) -> None:
    status, body = desktop.post("/run", json.dumps({"command": command, "seconds": seconds}))
    assert status == 200
    assert json.loads(body) == {
        "exitCode": code,
        "output": output.replace("{home}", str(desktop.home)),
        "leftOut": 4001 if "20000" in command else 0,
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "command: None is not allowed"),
        ("[]", "command: None is not allowed"),
        ('{"command": "true"}', "seconds: None is not allowed; it is a number from 1 to 600"),
        ('{"command": "true", "seconds": 601}', "seconds: 601 is not allowed"),
        ('{"command": "true", "seconds": true}', "seconds: True is not allowed"),
        ('{"command": "\\u0000", "seconds": 5}', "embedded null byte"),
    ],
)
def test_a_command_that_cannot_run_is_refused_in_words(
    desktop: Desktop, body: str, words: str
) -> None:
    status, said = desktop.post("/run", body)
    assert (status, words in said) == (400, True), said

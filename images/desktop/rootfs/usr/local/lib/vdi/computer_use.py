"""Software agents at the desktop: their mouse and keyboard, pictures of the screen, and commands.
For vdi-agent.

pixelflux' server in Selkies carries the actions out: it listens on loopback and requires a token
that only Selkies and vdi-agent have. People come first: while a person uses mouse or keyboard, and
a moment longer, agents make no input.
"""

import base64
import ctypes
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from x11 import UnknownError, connect, screen_size

HUMAN_SECONDS = 5.0
WITHOUT_INPUT = ("screenshot", "cursor_position", "zoom", "wait")
ACTION_SECONDS = 110.0
"""More than pixelflux waits at most, which is 100 s."""
MAX_ACTION, MAX_OUTPUT = 64 << 10, 16_000
MAX_ANSWER, MAX_PICTURE = 64 << 20, 4 << 20
"""Of Selkies: a screen of 4096x2304 full of noise. And of ours, which is as much as the gateway takes."""
REDUCE, REDUCE_SECONDS = str(Path(__file__).resolve().parent / "reduce-colours"), 15.0
LONGEST_RUN = 600
LATE_OUTPUT_SECONDS = 0.5
TYPED_AT_ONCE = 50
"""Characters, about a second: what pixelflux types no one can interrupt."""
# fmt: off
PIXELFLUX_KEYS = frozenset({
    "enter", "esc", "pageup", "pagedown", "capslock", "numlock", "scrolllock", "printscreen", "sysrq",
    "ctrl", "lctrl", "rctrl", "leftctrl", "rightctrl", "shift", "lshift", "rshift", "leftshift", "rightshift",
    "alt", "lalt", "ralt", "leftalt", "rightalt", "super", "lsuper", "rsuper", "leftsuper", "rightsuper",
    "meta", "leftmeta", "rightmeta", "windows", "leftwindows", "rightwindows", "compose",
    *(f"kp{digit}" for digit in range(10)), "kp_dot", "kp_slash", "kp_asterisk", "kp_minus", "kp_plus",
})
"""Names of keys that pixelflux 2.2.1 has beside those of X."""
# fmt: on
_ANY_CASE = 1
"""XKB_KEYSYM_CASE_INSENSITIVE"""


class Computer:
    """What agents may do here, as VDI_AGENTS says: the names of the template's fields `agents` that
    are true.

    Args:
        last_input: seconds since the last input of people, and whether there has been one; raises UnknownError.
    """

    def __init__(
        self, env: Mapping[str, str], last_input: Callable[[], tuple[float, bool]]
    ) -> None:
        fields = env.get("VDI_AGENTS", "").split(",")
        self.paths: tuple[str, ...] = ()
        if "enabled" in fields:
            self.paths = ("/computer-use", "/run") if "run" in fields else ("/computer-use",)
        self.counts_as_use = "countsAsUse" in fields
        self.address = env.get("SELKIES_COMPUTER_USE_BIND", "")
        self.headers = {"Authorization": f"Bearer {env.get('SELKIES_COMPUTER_USE_TOKEN', '')}"}
        unused = ("SELKIES_", "KUBERNETES_", "VDI_")
        self.env = {name: value for name, value in env.items() if not name.startswith(unused)}
        self.last_input = last_input
        self.acted: float | None = None
        self.worked: float | None = None

    def idle(self) -> float:
        """Seconds since the last input that counts as use. Raises UnknownError."""
        seconds, _ = self.last_input()
        if self.acted is None or not self.counts_as_use:
            return seconds
        return min(seconds, time.monotonic() - self.acted)

    def work_seconds(self) -> float | None:
        """Seconds since the last action, a screenshot also, or command of an agent; None: there has
        been none.
        """
        return None if self.worked is None else time.monotonic() - self.worked

    def act(self, body: bytes) -> tuple[int, bytes]:
        """Status and JSON for one action, in pixelflux' shape. Raises TypeError, ValueError,
        UnknownError.
        """
        action = json.loads(body)
        if not isinstance(action, dict) or not isinstance(action.get("action"), str):
            raise TypeError(
                'an action is an object such as {"action": "left_click", "coordinate": [10, 20]}'
            )
        self._check(action)
        self.worked = time.monotonic()
        if action["action"] in WITHOUT_INPUT:
            return 200, self._ask(action)
        answer = b""
        for part in split(action):
            seconds, is_human = self.last_input()
            # Not between the two ends of a click: the button would stay down.
            if is_human and seconds < HUMAN_SECONDS and part["action"] != "left_mouse_up":
                left = round(HUMAN_SECONDS - seconds, 1)
                return 409, json.dumps({"reason": "HumanInControl", "seconds": left}).encode()
            answer = self._ask(part)
            self.acted = time.monotonic()
        return 200, answer

    def _check(self, action: Mapping[str, Any]) -> None:
        """Refuse keys and points that are not there: pixelflux reports success for what it leaves
        out of a key, and for the nearest point. Raises TypeError, ValueError, UnknownError.
        """
        if action["action"] in ("key", "hold_key"):
            text = str(action.get("text", ""))
            # pixelflux holds one key.
            check_key((text if action["action"] == "hold_key" else text.rpartition("+")[2]).strip())
        if any(action.get(field) for field in ("coordinate", "start_coordinate", "region")):
            check_points(action, *self._screen_size())

    def _screen_size(self) -> tuple[int, int]:
        if self.env.get("WAYLAND_DISPLAY"):
            _, found = self._request({"action": "screenshot"})
            head = base64.b64decode(str(found.get("data"))[:32])  # a PNG's, with its size
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        try:
            connection, setup = connect(self.env["DISPLAY"], Path(self.env["XAUTHORITY"]))
            with connection:
                return screen_size(connection, setup.root)
        except OSError as error:
            raise UnknownError(f"the X server can't be asked: {error}") from error

    def _ask(self, action: Mapping[str, Any]) -> bytes:
        body, found = self._request(action)
        return body if len(body) <= MAX_PICTURE else reduce_colours(found.get("data"))

    def _request(self, action: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        connection = http.client.HTTPConnection(self.address, timeout=ACTION_SECONDS)
        try:
            connection.request("POST", "/computer-use", json.dumps(action), self.headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER + 1)
            if len(body) > MAX_ANSWER or answer.status not in (200, 400):
                raise UnknownError(
                    f"Selkies answered the action with {answer.status} and {len(body)} bytes"
                )
            found = json.loads(body)
            error = found.get("error")
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise UnknownError(f"Selkies can't be asked to act: {error!r}") from error
        finally:
            connection.close()
        if error is not None:
            raise ValueError(str(error)[:500])
        return body, found

    def run(self, body: bytes) -> tuple[int, bytes]:
        """Status and JSON for one command. Raises TypeError, ValueError, UnknownError."""
        command, seconds = read_command(body)
        self.worked = time.monotonic()
        # As all that a person starts (vdi-desktop): picture and keys stay fast while it computes.
        words = ["nice", "-n", "10", "sh", "-c", command]
        try:
            process = subprocess.Popen(
                words,
                env=self.env,
                cwd=self.env["HOME"],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise UnknownError(f"the command can't be started: {error}") from error
        output, left_out = b"", 0

        def drain() -> None:
            nonlocal output, left_out
            with process.stdout as pipe:
                while chunk := pipe.read1(1 << 16):
                    whole = output + chunk
                    output = whole[-MAX_OUTPUT:]
                    left_out += len(whole) - len(output)

        # Programs that the command leaves behind may keep the pipe: it is read, and not closed
        # before they end.
        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
            code = code if code >= 0 else 128 - code  # as a shell reports a signal
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        reader.join(LATE_OUTPUT_SECONDS)
        self.acted = self.worked = time.monotonic()
        result = {
            "exitCode": code,
            "output": output.decode(errors="replace"),
            "leftOut": left_out,
        }
        return 200, json.dumps(result).encode()


def read_command(body: bytes) -> tuple[str, float]:
    """The command, and the seconds that it may take. Raises TypeError, ValueError."""
    data = json.loads(body)
    if not isinstance(data, dict):
        data = {}
    command, seconds = data.get("command"), data.get("seconds")
    if not isinstance(command, str):
        raise TypeError(f"command: {command!r} is not allowed; it is a text")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 1 <= seconds <= LONGEST_RUN:
        raise ValueError(
            f"seconds: {seconds!r} is not allowed; it is a number from 1 to {LONGEST_RUN}"
        )
    return command, seconds


def check_key(name: str) -> None:
    """Raises ValueError for what is no key."""
    if len(name) == 1 or name.lower() in PIXELFLUX_KEYS:
        return
    try:
        find = ctypes.CDLL("libxkbcommon.so.0").xkb_keysym_from_name
    except OSError:  # of an image without it nothing is known
        return
    if not name.isprintable() or not find(name.encode(errors="replace"), _ANY_CASE):
        allowed = "one character, or an X key name such as Return, Page_Down, F5 or plus"
        raise ValueError(f"text: {name[:20]!r} is no key; allowed: {allowed}")


def check_points(action: Mapping[str, Any], width: int, height: int) -> None:
    """Raises TypeError, ValueError for a point outside the screen."""
    for field in ("coordinate", "start_coordinate", "region"):
        # A region ends behind its last pixel.
        most = (width, height) if field == "region" else (width - 1, height - 1)
        for place, value in enumerate(action.get(field) or ()):
            if not 0 <= value <= most[place % 2]:
                allowed = f"x from 0 to {most[0]}, y from 0 to {most[1]}"
                raise ValueError(
                    f"{field}: {action[field]} is outside the screen; allowed: {allowed}"
                )


def reduce_colours(picture: Any) -> bytes:
    """The answer with a smaller PNG in place of this one. Raises UnknownError."""
    try:
        png = base64.b64decode(picture, validate=True)
        # Pillow only in a process of its own: this one has secrets.
        env = {"PATH": os.defpath}
        done = subprocess.run(
            [REDUCE], input=png, env=env, capture_output=True, timeout=REDUCE_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise UnknownError(
            f"the picture is too large, and cannot be made smaller: {reason}"
        ) from error
    except (OSError, TypeError, ValueError, subprocess.TimeoutExpired) as error:
        raise UnknownError(
            f"the picture is too large, and cannot be made smaller: {error}"
        ) from error
    return json.dumps({"data": base64.b64encode(done.stdout).decode()}).encode()


def split(action: dict[str, Any]) -> list[dict[str, Any]]:
    """The action; of a long text to type one for each part, and of a click its parts: pixelflux'
    own sleeps 50 ms.
    """
    text = action.get("text")
    if action["action"] == "left_click" and not text and "coordinate" in action:
        move = {**action, "action": "mouse_move"}
        return [move, {"action": "left_mouse_down"}, {"action": "left_mouse_up"}]
    if action["action"] != "type" or not isinstance(text, str):
        return [action]
    return [
        {**action, "text": text[at : at + TYPED_AT_ONCE]}
        for at in range(0, len(text) or 1, TYPED_AT_ONCE)
    ]

"""Desktops whose template says what the stream may carry, and what is seen of it inside of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from e2e.desktops import live_pod_of, start, status_of, template
from e2e.streaming_page import PROBE
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

_SWITCHES = ("audio", "microphone", "printing", "gamepad", "secondScreen", "resize")
_WAYS = ("clipboard", "fileTransfer")
EVERYTHING: dict[str, Any] = {
    "streaming": {
        "transport": "WebSocket",
        **dict.fromkeys(_SWITCHES, True),
        **dict.fromkeys(_WAYS, "Both"),
    },
    "keyboard": {"layout": "de"},
}
NOTHING: dict[str, Any] = {
    "streaming": {
        "transport": "WebSocket",
        **dict.fromkeys(_SWITCHES, False),
        **dict.fromkeys(_WAYS, "None"),
    }
}

# What the session's programs have, and a program that kubectl starts beside them has not.
_SESSION = """
export XDG_RUNTIME_DIR=/tmp/.vdi XAUTHORITY=/tmp/.vdi/Xauthority PULSE_SERVER=unix:/tmp/.vdi/pulse/native
export DISPLAY=:$(ls /tmp/.X11-unix | tr -dc 0-9)
"""


@dataclass(frozen=True)
class Streamed:
    """A running desktop."""

    world: World
    name: str
    url: str

    def run(self, script: str) -> str:
        """The output of a script in the session, also if it fails. Its background processes must
        not hold it.
        """
        pod = live_pod_of(self.world, self.name)["metadata"]["name"]
        return self.world.kubectl("exec", pod, "--", "sh", "-c", _SESSION + script, check=False)

    def size(self) -> str:
        """Width and height of its screen as xrandr says them, for example 1280 x 720."""
        return self.run("xrandr").partition("current ")[2].partition(",")[0]

    @contextmanager
    def opened(self, *args: str, size: tuple[int, int] = (1280, 720)) -> Iterator[DesktopBrowser]:
        """Its owner's browser with its picture, allowed what a person would allow, and clicked
        into.
        """
        owner = self.world.login(f"{self.name}@example.com")
        with DesktopBrowser(self.url, owner, width=size[0], height=size[1], args=args) as browser:
            browser.page.add_init_script(PROBE)
            browser.page.context.grant_permissions(
                ["clipboard-read", "clipboard-write", "microphone"]
            )
            browser.open()
            browser.page.mouse.click(size[0] // 2, size[1] // 2)
            yield browser

    @contextmanager
    def playing(self, frequency: float) -> Iterator[None]:
        """The desktop plays a tone meanwhile."""
        tone = f"""python3 -c '
import array, math, sys
wave = [int(9000 * math.sin(2 * math.pi * {frequency} * i / 48000)) for i in range(48000)]
sys.stdout.buffer.write(array.array("h", wave).tobytes() * 60)
'"""
        self.run(
            f"({tone} | pacat --format=s16le --rate=48000 --channels=1) >/dev/null 2>&1 & echo $!"
            " >/tmp/playing"
        )
        try:
            wait_until("the desktop plays", lambda: "pacat" in self.run("pactl list sink-inputs"))
            yield
        finally:
            self.run("pkill pacat; rm /tmp/playing")

    def recorded(self, source: str, rate: int = 24_000, seconds: float = 2.0) -> bytes:
        """A recording of a source: 16-bit mono samples; empty if there is no such source."""
        script = (
            f"timeout {seconds} parec --format=s16le --rate={rate} --channels=1 -d {source}"
            " >/tmp/recorded 2>/dev/null"
        )
        return bytes.fromhex(
            self.run(f"{script}; od -An -v -tx1 /tmp/recorded | tr -d ' \\n'").strip()
        )

    def clipboard(self) -> str:
        """The text in the desktop's clipboard."""
        return self.run("timeout 5 xclip -o -selection clipboard 2>/dev/null")

    def copy(self, text: str) -> None:
        """Put a text into the desktop's clipboard, as an application does."""
        self.run(f"printf %s '{text}' | xclip -i -selection clipboard >/dev/null 2>&1")


@contextmanager
def streamed(world: World, **specs: dict[str, Any]) -> Iterator[dict[str, Streamed]]:
    """Desktops of these names, each of a template of its own that says this; all start side by
    side.
    """
    with ExitStack() as stack:
        for name, spec in specs.items():
            stack.enter_context(template(world, name, **spec))
            stack.callback(
                world.kubectl, "delete", "vdi", name, "--ignore-not-found", "--timeout=60s"
            )
            start(world, name, name, wait=False)
        for name in specs:
            world.kubectl("wait", f"vdi/{name}", "--for=condition=Ready", "--timeout=120s")
        yield {name: Streamed(world, name, status_of(world, name)["url"]) for name in specs}

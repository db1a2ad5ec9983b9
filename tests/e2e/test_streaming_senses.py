"""Channels of a template between a person and a desktop besides the picture: sound, microphone,
keys of a layout, the window's size, a second screen. Each is proven in a real browser where it is
on; where it is off, also against the protocol spoken by hand, with messages that are proven to work
where it is on.
"""

import base64
import math
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, Locator

from e2e.streaming_desktops import EVERYTHING, NOTHING, Streamed, streamed
from e2e.streaming_page import Raw, heard, hears, raw, share_of, write_tone
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import HAS_PICTURE, DesktopBrowser

pytestmark = pytest.mark.timeout(120)

# Kind of the protocol's binary message that has sound in it.
AUDIO_FRAME = 1
MICROPHONE_FRAME, MICROPHONE_RATE = b"\x02", 24_000
# How long nothing must come where nothing may; where it may, it comes in a tenth of it.
QUIET_MILLISECONDS = 3_000

# A script that says where a window begins. The image has no tool for it, but Selkies brings a
# library.
LEFT_EDGE = """/opt/selkies/bin/python3 -c "
from selkies.Xlib.display import Display
from sys import argv
display = Display()
root = display.screen().root
for one in root.get_full_property(display.intern_atom('_NET_CLIENT_LIST'), 0).value:
    window = display.create_resource_object('window', one)
    if window.get_wm_name() == argv[1]:
        print(root.translate_coords(window, 0, 0).x)
" """

# What keys of a German keyboard say, and where they are on it.
GERMAN = (
    ("ä", "Quote"),
    ("ö", "Semicolon"),
    ("ü", "BracketLeft"),
    ("ß", "Minus"),
    ("z", "KeyY"),
    ("y", "KeyZ"),
)
# What Selkies' Input Interposer, which our image lacks, does for a game: it reads events as of
# /dev/input/js0.
_PAD = """
import os, socket, struct
pad = socket.socket(socket.AF_UNIX)
pad.connect(os.environ['XDG_RUNTIME_DIR'] + '/selkies_js0.sock')
name = pad.recv(65536).split(b'\\0')[0].decode()
pad.send(bytes([8]))  # sizeof(long)
print('listens to', name, flush=True)
while event := pad.recv(8, socket.MSG_WAITALL):
    _, value, kind, number = struct.unpack('=IhBB', event)
    if value and kind < 0x80:  # else it is the state at the start
        print('button' if kind == 1 else 'axis', number, value, flush=True)
"""


@pytest.fixture(scope="module")
def desktops(world: World) -> Iterator[dict[str, Streamed]]:
    with streamed(world, everything=EVERYTHING, nothing=NOTHING) as made:
        yield made


@pytest.fixture
def on(desktops: dict[str, Streamed]) -> Streamed:
    return desktops["everything"]


@pytest.fixture
def off(desktops: dict[str, Streamed]) -> Streamed:
    return desktops["nothing"]


def test_desktop_audio_is_heard_in_the_browser(on: Streamed) -> None:
    with on.opened() as browser:
        assert heard(browser) == 0
        for frequency in (440, 880):
            with on.playing(frequency):
                hears(browser, frequency)


def test_disabled_audio_sends_nothing(on: Streamed, off: Streamed) -> None:
    with on.opened() as browser, on.playing(440):
        browser.page.goto("about:blank")
        with raw(browser, on.url) as wire:
            wire.send("START_AUDIO")
            wait_until("sound on the wire", lambda: wire.frames(AUDIO_FRAME) > 5)
    with off.opened() as browser, off.playing(440):
        assert share_of(440, off.recorded("output.monitor"), MICROPHONE_RATE) > 0.5, (
            "the desktop itself plays nothing"
        )
        browser.page.wait_for_timeout(QUIET_MILLISECONDS)
        assert heard(browser) == 0
        browser.page.goto("about:blank")
        with raw(browser, off.url) as wire:
            wire.send("START_AUDIO")
            wire.reported("AUDIO_DISABLED")
            browser.page.wait_for_timeout(QUIET_MILLISECONDS)
            assert wire.frames(AUDIO_FRAME) == 0


def test_microphone_is_heard_in_the_desktop(on: Streamed, tmp_path: Path) -> None:
    write_tone(said := tmp_path / "said.wav", 600)
    args = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={said}",
    )
    with on.opened(*args) as browser:
        assert "SelkiesVirtualMic" not in on.run("pactl list short sources")
        switch = (
            "() => postMessage({type: 'pipelineControl', pipeline: 'microphone', enabled: true},"
            " location.origin)"
        )
        browser.page.evaluate(switch)  # what the button of the side menu does
        wait_until(
            "a microphone in the desktop",
            lambda: "SelkiesVirtualMic" in on.run("pactl list short sources"),
        )
        wait_until(
            "600 Hz in it",
            lambda: share_of(600, on.recorded("SelkiesVirtualMic"), MICROPHONE_RATE) > 0.5,
        )


def test_disabled_microphone_sends_nothing(on: Streamed, off: Streamed) -> None:
    with on.opened() as browser:
        browser.page.goto("about:blank")
        with raw(browser, on.url) as wire:
            speak(wire)
            wait_until(
                "a microphone in the desktop",
                lambda: "SelkiesVirtualMic" in on.run("pactl list short sources"),
            )
    with off.opened() as browser:
        browser.page.goto("about:blank")
        with raw(browser, off.url) as wire:
            speak(wire)
            wire.reported("MICROPHONE_DISABLED")
            assert "SelkiesVirtualMic" not in off.run("pactl list short sources")


def speak(wire: Raw) -> None:
    tone = array("h", [int(20_000 * math.sin(i / 8)) for i in range(2_400)]).tobytes()
    wire.send_bytes(*[MICROPHONE_FRAME + tone] * 5)


def test_the_desktop_follows_the_windows_size(on: Streamed) -> None:
    with on.opened() as browser:
        wait_until("the first size", lambda: on.size() == "1280 x 720")
        browser.page.set_viewport_size({"width": 1000, "height": 600})
        wait_until("the second size", lambda: on.size() == "1000 x 600")
        wait_until("a picture of that size", lambda: picture_size(browser) == [1000, 600])
        browser.page.goto("about:blank")
        with raw(browser, on.url) as wire:
            wire.send("r,800x640")
            wait_until("the size asked for by hand", lambda: on.size() == "800 x 640")


def picture_size(browser: DesktopBrowser) -> list[int]:
    found: list[int] = browser.page.evaluate(
        "() => { const video = document.querySelector('video'); return [video.videoWidth,"
        " video.videoHeight]; }"
    )
    return found


def test_fixed_desktop_size_ignores_the_window(off: Streamed) -> None:
    with off.opened() as browser:
        size = off.size()
        assert re.fullmatch(r"\d+ x \d+", size)
        assert size not in ("1280 x 720", "1000 x 600", "800 x 640")
        browser.page.set_viewport_size({"width": 1000, "height": 600})
        browser.page.wait_for_timeout(QUIET_MILLISECONDS)
        assert off.size() == size
        browser.page.goto("about:blank")
        with raw(browser, off.url, size=(640, 480)) as wire:
            wire.send(
                "r,800x640",
                'SETTINGS,{"manual_resolution": true, "manual_width": 640, "manual_height": 480}',
            )
            browser.page.wait_for_timeout(QUIET_MILLISECONDS)
            assert off.size() == size


def test_keyboard_layout_reaches_the_desktop(on: Streamed) -> None:
    assert "layout:     de" in on.run("setxkbmap -query")
    with on.opened() as browser:
        before = browser.picture()
        browser.open_terminal()
        browser.wait_for_change(before, pixels=20_000)
        browser.type("cat >/tmp/typed\n")
        keyboard = browser.page.context.new_cdp_session(browser.page)
        for key, code in GERMAN:
            press(keyboard, key, code)
        browser.page.keyboard.press("Enter")
        wait_until("all of it in a file", lambda: on.run("cat /tmp/typed").strip() == "äöüßzy")
        browser.page.keyboard.press("Control+d")


def test_a_gamepads_buttons_reach_the_desktop(on: Streamed, off: Streamed) -> None:
    with on.opened() as browser, raw(browser, on.url) as wire, pad_in(on, wire):
        wire.send("js,b,1,3,1")  # the second player's, which no one gave the owner
        wire.send("js,b,0,0,1")
        wait_until("a button", lambda: "button 0 1" in on.run("cat /tmp/pad"))
        assert "button 3" not in on.run("cat /tmp/pad")
    with off.opened() as browser, raw(browser, off.url) as wire, pad_in(off, wire):
        wire.send("js,b,0,0,1")
        browser.page.wait_for_timeout(QUIET_MILLISECONDS)
        assert "button" not in off.run("cat /tmp/pad")


@contextmanager
def pad_in(desktop: Streamed, wire: Raw) -> Iterator[None]:
    """The browser has plugged in a gamepad, and somebody in the desktop listens to it and writes to
    /tmp/pad.
    """
    wire.send(f"js,c,0,{base64.b64encode(b'A pad').decode()},4,17")
    desktop.run(f"cat >/tmp/pad.py <<'END'\n{_PAD}\nEND\npython3 /tmp/pad.py >/tmp/pad 2>&1 &")
    try:
        wait_until("somebody listens", lambda: "listens to" in desktop.run("cat /tmp/pad"))
        yield
    finally:
        desktop.run("pkill -f /tmp/pad.py")


def press(keyboard: CDPSession, key: str, code: str) -> None:
    """As a keyboard of another layout says it: Playwright's own knows the American one alone."""
    for kind, text in (("keyDown", key), ("keyUp", "")):
        keyboard.send(
            "Input.dispatchKeyEvent", {"type": kind, "key": key, "code": code, "text": text}
        )


def test_second_screen_works_only_where_enabled(on: Streamed, off: Streamed) -> None:
    with on.opened() as browser:
        screen_settings(browser).get_by_title("Add a second screen").click()
        with browser.page.expect_popup() as opened:
            browser.page.locator(".screen-placement-arrow.right").click()
        second = opened.value
        wait_until("two monitors", lambda: "Monitors: 2" in on.run("xrandr --listmonitors"))
        second.wait_for_function(HAS_PICTURE, timeout=20_000)
        wait_until(
            "our window manager is back", lambda: on.run("ps -o ppid= -C xfwm4").split() == ["1"]
        )
        second.mouse.click(640, 360)
        on.run(
            "xfce4-terminal --disable-server --title elsewhere --dynamic-title-mode none >/dev/null"
            " 2>&1 &"
        )
        wait_until(
            "a window opens where the pointer is", lambda: left_edge(on, "elsewhere") >= 1280
        )
        second.close()
        wait_until("one monitor", lambda: "Monitors: 1" in on.run("xrandr --listmonitors"))
        wait_until("its windows come along", lambda: 0 <= left_edge(on, "elsewhere") < 1280)
        on.run("pkill xfce4-terminal")
    with off.opened() as browser, raw(browser, off.url, "display2") as wire:
        assert screen_settings(browser).get_by_title("Add a second screen").count() == 0
        wire.reported("KILL Second screens are disabled")
        wire.reported("closed 1008")
        assert "Monitors: 1" in off.run("xrandr --listmonitors")


def left_edge(desktop: Streamed, title: str) -> int:
    """The left edge of the window with this title over both screens, in pixels; -1 while there is
    none.
    """
    said = desktop.run(LEFT_EDGE + title).strip()
    return int(said) if said.isdigit() else -1


def screen_settings(browser: DesktopBrowser) -> Locator:
    """The screen settings of Selkies' side menu, opened as a person does."""
    browser.page.keyboard.press("Control+Shift+M")
    browser.page.get_by_role("toolbar").get_by_role("button", name="Advanced").click()
    browser.page.get_by_role("button", name="Screen Settings").click()
    settings = browser.page.locator("#screen-settings-content")
    settings.wait_for()
    return settings

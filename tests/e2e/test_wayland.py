"""A desktop on Wayland, in a real Chromium: a whole one on labwc, and one application on Selkies'
own compositor. Typed into, clicked, its clipboard both ways, sized, watched by a second person,
idle and warned.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.desktops import ask_agent, condition, log_of, pod_of, run_in, started, wait_for_notice
from e2e.streaming_desktops import streamed
from e2e.test_graphics import graphics_of
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
IDLE_TIMEOUT = 40
WHOLE, ALONE = "wanda", "wilma"
AS_AN_APPLICATION = (
    "export XDG_RUNTIME_DIR=/tmp/.vdi; export WAYLAND_DISPLAY=$( [ -e /tmp/.vdi/labwc ] && head -1"
    " /tmp/.vdi/labwc || echo wayland-1 ); "
)
# What a terminal sends when it gets the keyboard's focus is a command for the shell in it.
NOTE_FOCUS = """printf '%s\\n' '"\\e[I": "touch /tmp/focused\\C-m"' >~/.inputrc"""
TERMINAL = ["sh", "-c", f"{NOTE_FOCUS}; exec xfce4-terminal --disable-server"]
DESKTOPS = pytest.mark.parametrize("name", [WHOLE, ALONE])


@pytest.fixture(scope="module")
def desktops(world: World) -> Iterator[World]:
    wayland: dict[str, Any] = {"streaming": {"display": "Wayland"}}
    with streamed(world, **{WHOLE: wayland, ALONE: {**wayland, "app": {"command": TERMINAL}}}):
        yield world


def open_terminal(browser: DesktopBrowser, world: World, name: str) -> None:
    """Click into it."""
    browser.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    browser.open()
    if name == WHOLE and not shells(world, name):
        run_in(world, name, NOTE_FOCUS)
        browser.open_terminal()
    wait_until("a shell", lambda: shells(world, name))
    browser.page.mouse.click(640, 300)


def wait_for_focus(world: World, name: str) -> None:
    """A shell runs before its window is there. Asked for reports of the focus (1004), a terminal
    begins with one.
    """
    terminal = f"/proc/{shells(world, name)[0]}/fd/0"
    run_in(world, name, f"rm -f /tmp/focused; printf '\\033[?1004h' >{terminal}")
    wait_until("the focus", lambda: run_in(world, name, "ls /tmp/focused 2>/dev/null || true"))
    run_in(world, name, f"printf '\\033[?1004l' >{terminal}")


def shells(world: World, name: str) -> list[str]:
    return run_in(world, name, "pgrep -x bash || true").split()


@DESKTOPS
def test_keys_mouse_and_clipboard_work(desktops: World, name: str) -> None:
    with desktops.browser(name) as browser:
        open_terminal(browser, desktops, name)
        wait_for_focus(desktops, name)
        browser.type("echo typed-äöü€ >/tmp/typed\n")
        wait_until(
            "the text",
            lambda: "typed-äöü€" in run_in(desktops, name, "cat /tmp/typed 2>/dev/null || true"),
        )

        browser.page.evaluate("text => navigator.clipboard.writeText(text)", "from the browser: ä€")
        browser.page.keyboard.press("Control+V")
        paste = AS_AN_APPLICATION + "timeout 5 wl-paste --no-newline || true"
        wait_until(
            "the browser's text", lambda: run_in(desktops, name, paste) == "from the browser: ä€"
        )
        run_in(
            desktops,
            name,
            AS_AN_APPLICATION + "printf 'from the desktop: ä€' | wl-copy >/dev/null 2>&1",
        )
        read = "() => navigator.clipboard.readText()"
        wait_until(
            "the desktop's text", lambda: browser.page.evaluate(read) == "from the desktop: ä€"
        )


@DESKTOPS
def test_desktop_follows_the_window_and_is_shared(desktops: World, name: str) -> None:
    with desktops.browser(name) as browser:
        open_terminal(browser, desktops, name)
        browser.page.set_viewport_size({"width": 1000, "height": 600})
        size = "stty size </proc/$(pgrep -x bash | head -1)/fd/0"
        if name == ALONE:  # it fills the screen: its columns and rows say how large that is
            wait_until("fewer columns", lambda: int(run_in(desktops, name, size).split()[1]) < 150)
        else:
            xrandr = "DISPLAY=$(tail -1 /tmp/.vdi/labwc) xrandr"
            wait_until("the size", lambda: "current 1000 x 600" in run_in(desktops, name, xrandr))
        desktops.vdi("session", "share", name, "guest@example.com")
        with browser.beside(desktops.login("guest@example.com")) as guest:
            guest.open()
            assert ask_agent(desktops, name)["viewers"] == 2


@DESKTOPS
def test_idle_time_counts_from_the_last_input(desktops: World, name: str) -> None:
    with desktops.browser(name) as browser:
        open_terminal(browser, desktops, name)
        wait_until("nothing for 10 s", lambda: ask_agent(desktops, name)["idleSeconds"] > 10)
        browser.page.mouse.move(500, 400)
        assert ask_agent(desktops, name)["idleSeconds"] < 5
        wait_until("nothing for 5 s", lambda: ask_agent(desktops, name)["idleSeconds"] > 5)
        browser.type("x")
        assert ask_agent(desktops, name)["idleSeconds"] < 5


def test_the_status_names_the_display(desktops: World) -> None:
    graphics = graphics_of(desktops, WHOLE)
    assert (graphics["display"], graphics["renderer"], graphics["reason"]) == (
        "Wayland",
        "Software",
        "NoGPU",
    )
    assert "Display:   Wayland" in desktops.vdi("session", "show", WHOLE)
    log = log_of(desktops, WHOLE)
    assert "display: Wayland (as set)" in log and "labwc answers" in log
    assert "expect <action" not in log, (
        "labwc's complaint about a window rule with an attribute that it does not know"
    )


def test_input_clears_the_notice(sessions: World) -> None:
    with (
        started(
            sessions,
            "willi",
            streaming={"display": "Wayland"},
            lifecycle={"idleTimeout": f"{IDLE_TIMEOUT}s"},
        ),
        sessions.browser("willi") as browser,
    ):
        browser.open()
        wait_for_notice(browser, shown=True, seconds=IDLE_TIMEOUT)
        wait_until("the warning", lambda: condition(sessions, "willi", "Idle"))
        browser.type("x")
        wait_for_notice(browser, shown=False, seconds=10)
        wait_until(
            "the warning is taken back", lambda: condition(sessions, "willi", "Idle") is None
        )
        assert pod_of(sessions, "willi")


def test_auto_without_a_gpu_logs_the_choice_of_x11(sessions: World) -> None:
    with started(sessions, "walter", streaming={"display": "Auto"}):
        assert graphics_of(sessions, "walter")["display"] == "X11"
        assert "display: X11 (auto: the pod has no GPU)" in log_of(sessions, "walter")

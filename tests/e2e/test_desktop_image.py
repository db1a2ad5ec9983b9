"""Promises of the desktop image, in a pod: one application, a keyboard, clear refusals, a light
desktop.
"""

import pytest

from e2e.desktops import message_of, reach, run_in, start, started, wait_for_panel
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def test_unknown_settings_are_quoted_in_the_status(sessions: World) -> None:
    with started(
        sessions, "wally", wait=False, env=[{"name": "VDI_KEYBOARD_LAYOUT", "value": "xx"}]
    ):
        said = "XKB knows no layout 'xx'"
        wait_until(
            "the status quotes the refusal", lambda: said in message_of(sessions, "wally"), 120
        )


def test_only_opengl_programs_load_opengl(sessions: World) -> None:
    """Mesa and LLVM are 16 MiB of each program that has them. The X server has them for the
    desktop's applications.
    """
    start(sessions, "mesa", "small")
    wait_for_panel(sessions, "mesa")
    names = "for maps in $(grep -ls libLLVM /proc/[0-9]*/maps); do cat ${maps%maps}comm; done"
    assert set(run_in(sessions, "mesa", names).split()) == {"Xvfb"}


@pytest.mark.long
def test_user_programs_have_lower_cpu_priority(sessions: World) -> None:
    start(sessions, "nina", "small")
    wait_for_panel(sessions, "nina")

    def nice(program: str) -> set[str]:
        """Of all its threads."""
        return set(run_in(sessions, "nina", f"ps -L -o ni= -p $(pgrep -o -f {program})").split())

    expected = {program: {"10"} for program in ("xfce4-panel", "xfdesktop")}
    expected |= {program: {"0"} for program in ("run-selkies", "Xvfb", "xfwm4", "pulseaudio")}
    assert {program: nice(program) for program in expected} == expected


@pytest.mark.long
def test_single_application_is_restarted_and_uses_its_layout(sessions: World) -> None:
    app = {"command": ["xfce4-terminal", "--title", "alone"]}
    with started(sessions, "sina", app=app, keyboard={"layout": "de"}):
        assert "layout:     de" in run_in(
            sessions, "sina", "XAUTHORITY=/tmp/.vdi/Xauthority DISPLAY=:0 setxkbmap -query"
        )
        with sessions.browser("sina") as browser:
            browser.open()
            first = browser.picture()
            browser.type("echo 'yz@[äß' > ~/typed.txt\n")
            browser.wait_for_change(first, pixels=200)
            typed = "cat ~/typed.txt 2>/dev/null || true"
            wait_until("the line is typed", lambda: run_in(sessions, "sina", typed) == "yz@[äß\n")
        assert "xfce4-panel" not in run_in(sessions, "sina", "ps -e -o comm")
        before = run_in(sessions, "sina", "pgrep -x xfce4-terminal").split()
        run_in(sessions, "sina", "kill $(pgrep -x xfce4-terminal)")
        again = "pgrep -x xfce4-terminal || true"
        wait_until(
            "it comes back", lambda: run_in(sessions, "sina", again).split() not in ([], before)
        )
        reach(sessions, "sina", "Running")

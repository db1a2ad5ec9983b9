"""From the pod's variables to a running desktop."""

import ctypes
import os
import shutil
import signal
from pathlib import Path

from display import WAYLAND
from process_secrets import forbid_inspection

from launcher.applications import BROWSER, read_application
from launcher.desktop import Desktop
from launcher.environment import decide_display
from launcher.home import prepare_home
from launcher.runtime import RUNTIME, prepare_runtime
from launcher.startup_scripts import find_scripts
from launcher.stream_settings import stream_environment
from launcher.tokens import take_secrets
from launcher.x11_screen import MAX_SCREEN, XKB_RULES, read_keyboard, read_max_screen

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Run the desktop until it is asked to end."""
    forbid_inspection()
    # What applications orphan is collected here.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    env = dict(os.environ)
    hidden = take_secrets(env)
    stream = stream_environment(env)
    app = read_application(stream.get("VDI_APP") or _default_application())
    layout = stream.get("VDI_KEYBOARD_LAYOUT", "")
    variant = stream.get("VDI_KEYBOARD_VARIANT", "")
    keyboard = read_keyboard(layout, variant, XKB_RULES.read_text() if layout else "")
    screen = read_max_screen(stream.get("VDI_MAX_SCREEN") or MAX_SCREEN)
    home = Path(os.environ.get("HOME", "/home/user"))
    prepare_home(home, Path("/etc/skel"))
    os.chdir(home)
    prepare_runtime()
    on_wayland = decide_display(stream.get("SELKIES_WAYLAND", ""), RUNTIME) == WAYLAND
    stream["SELKIES_WAYLAND"] = "true" if on_wayland else "false"
    if on_wayland and layout:
        stream |= {"XKB_DEFAULT_LAYOUT": layout, "XKB_DEFAULT_VARIANT": variant}
    scripts = find_scripts(stream.get("VDI_STARTUP_SCRIPT", ""), home)
    desktop = Desktop(
        stream, app=app, keyboard=keyboard, screen=screen, hidden=hidden, scripts=scripts
    )

    def stop(*_: object) -> None:
        desktop.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        desktop.start()
        desktop.watch()
    finally:
        desktop.end()


def _default_application() -> str:
    return "" if shutil.which("xfce4-panel") else BROWSER

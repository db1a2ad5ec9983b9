"""The pictures of a real desktop, in light and dark: Firefox with this project's documentation.

They are taken on the node of `make demo`. Without it, the pictures that are there stay as they are.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from vdi.cli.cluster import progress_of
from vdi.demo import run
from vdi.demo.browser import DesktopBrowser, NoPictureError
from vdi.demo.run import ready_user
from vdi.devcluster.layout import layout_of
from vdi.devcluster.processes import find_supervisor

CLUSTER = os.environ.get("VDI_E2E_CLUSTER", "demo")
SCALE = 2
SITE = Path(__file__).parents[2] / "build" / "docs"
_SIZE = (800, 500)
_THEMES = {"light": "Orchis-Light-Compact", "dark": "Orchis-Dark-Compact"}
_WINDOW_PIXELS = 300_000
# In the middle of the picture: an empty page has one, a wallpaper and text have many.
_COLOURS_OF_CONTENT = 40
_SECONDS = 60.0
_PAUSE_MILLISECONDS = 1000
_PALETTE = 256
# That of the desktop's programs.
_ENVIRONMENT = (
    "export $(tr '\\0' '\\n' < /proc/$(pgrep -o 'xfce4-panel|firefox-esr')/environ | "
    "grep -E '^(DISPLAY|XAUTHORITY|DBUS_SESSION_BUS_ADDRESS|XDG_[A-Z_]+)='); "
)
_SET_LOOK = (
    "xfconf-query -c xsettings -p /Net/ThemeName -s {theme}; xfconf-query -c xfwm4 -p"
    " /general/theme -s {theme}; "
    # As the portal of the scene.
    "xfconf-query -c xfce4-panel -p /plugins/plugin-10/digital-time-format -s 'Fri 20 Nov  12:02'; "
    "rm -rf ~/.mozilla ~/.config/mozilla; "
)
_START_FIREFOX = (
    "(setsid firefox-esr --width 1180 --height 780 file:///home/user/Documents/vdi/use/index.html"
    " >/dev/null 2>&1 &)"
)


class _SharpBrowser(DesktopBrowser):
    """A browser on a screen with SCALE pixels for each pixel of a page."""

    def _open_window(self) -> None:
        width, height = self._size
        context = self._browser.new_context(
            ignore_https_errors=True,  # as in any window of the demo
            viewport={"width": width, "height": height},
            device_scale_factor=SCALE,
        )
        context.set_default_timeout(60_000)
        self.page = context.new_page()


def take_all(folder: Path) -> None:
    """Take `desktop-light.png` and `desktop-dark.png`, if the node is there."""
    demo = find_demo("the desktop")
    if demo is None:
        return
    site = subprocess.run(["tar", "-C", SITE, "-c", "."], check=True, capture_output=True).stdout
    for scheme, theme in _THEMES.items():
        kubectl(demo, "delete", "vdi", run.SESSION, "--ignore-not-found", "--timeout=60s")
        with progress_of(CLUSTER) as progress:
            url = run.start_session(demo, progress=progress)
        in_desktop(demo, "mkdir -p ~/Documents/vdi && tar -C ~/Documents/vdi -x", site)
        in_desktop(demo, _SET_LOOK.format(theme=theme))
        picture = take(demo, url)
        picture.quantize(_PALETTE, kmeans=1).save(folder / f"desktop-{scheme}.png", optimize=True)


def find_demo(what: str) -> run.Demo | None:
    """The demo of that node. Without one, says that the pictures of `what` stay as they are."""
    layout = layout_of(CLUSTER)
    settings = layout.load()
    if settings is None or find_supervisor(layout) is None:
        sys.stdout.write(
            f"The pictures of {what} stay as they are: no cluster {CLUSTER!r} runs. "
            f"`vdi demo up --name {CLUSTER}` starts one.\n"
        )
        return None
    login = ready_user(
        layout.kubeconfig, layout.root, run.portal_url(settings.websecure_port), run.USER
    )
    return run.Demo(layout.kubeconfig, layout.root / "tools", login)


def take(demo: run.Demo, url: str) -> Image.Image:
    """The desktop with Firefox, when the page is drawn. Raises NoPictureError."""
    with _SharpBrowser(url, demo.login, width=_SIZE[0], height=_SIZE[1]) as browser:
        browser.log_in()
        browser.open()
        # On nothing that would show a tooltip or an address.
        browser.page.mouse.move(_SIZE[0] - 20, 20)
        wallpaper = wait_until_drawn(browser)
        in_desktop(demo, _START_FIREFOX)
        browser.wait_for_change(wallpaper, pixels=_WINDOW_PIXELS, timeout_s=_SECONDS)
        return wait_until_drawn(browser)


def wait_until_drawn(browser: DesktopBrowser) -> Image.Image:
    """The picture, once its middle is not empty and nothing moves. Raises NoPictureError."""
    deadline, last, picture = time.monotonic() + _SECONDS, None, browser.picture()
    while picture != last or colours_in_the_middle(picture) < _COLOURS_OF_CONTENT:
        if time.monotonic() > deadline:
            raise NoPictureError(
                f"the desktop drew nothing, or did not come to rest, within {_SECONDS:.0f} s"
            )
        browser.page.wait_for_timeout(_PAUSE_MILLISECONDS)
        last, picture = picture, browser.picture()
    return picture


def colours_in_the_middle(picture: Image.Image) -> int:
    """The number of colours where the page has its text."""
    width, height = picture.size
    middle = picture.crop((width // 3, height // 2, width * 2 // 3, height * 2 // 3))
    return len(middle.getcolors(middle.width * middle.height) or [])


def kubectl(demo: run.Demo, *words: str, data: bytes = b"") -> str:
    """Its output. Raises CalledProcessError."""
    environment = {**os.environ, "KUBECONFIG": str(demo.kubeconfig)}
    command = [str(demo.tools / "kubectl"), "-n", run.NAMESPACE, *words]
    return subprocess.run(
        command, check=True, input=data, env=environment, stdout=subprocess.PIPE
    ).stdout.decode()


def in_desktop(demo: run.Demo, script: str, data: bytes = b"", session: str = run.SESSION) -> None:
    """Run a script among the desktop's programs. Raises CalledProcessError."""
    kubectl(demo, "exec", "-i", session, "--", "bash", "-c", _ENVIRONMENT + script, data=data)

"""A headless browser on a desktop: logs in at the portal, opens a session, waits for its picture,
types.

Used by the demo, the end-to-end tests and the benchmark of the first picture. Only pixels count,
not what the page says of itself: a page that shows "Waiting for stream..." has a video element,
too, but nothing is drawn into it.
"""

from __future__ import annotations

import ctypes
import io
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page, Response

# Chromium without windows: a smaller package, which starts in a quarter of the time with a fifth of
# the CPU time.
_HEADLESS_PACKAGE = "chromium-headless-shell"
CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    _HEADLESS_PACKAGE,
)

CHROMIUM_ARGS = (
    "--no-sandbox",  # the demo and the tests may run as root, where Chromium's sandbox refuses to start
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP *.vdi.localhost 127.0.0.1",
)

# A function for the page: whether a picture is drawn in it. Selkies draws into <video
# id="videoStream"> (WebSocket) or <video id="stream"> (WebRTC); before the video plays, into
# <canvas id="videoCanvas">, where the first picture of a still desktop stays. A frame counts as a
# picture when its pixels differ: an element without a stream, and a black screen, have one colour.
# The grid is fine enough for a prompt.
HAS_PICTURE = """() => {
  const grid = document.createElement('canvas');
  grid.width = 160; grid.height = 90;
  const context = grid.getContext('2d', {willReadFrequently: true});
  for (const drawn of document.querySelectorAll('video, #videoCanvas, #videoWorkerCanvas')) {
    if (!(drawn.videoWidth ?? drawn.width) || drawn.readyState < 2) continue;
    context.clearRect(0, 0, 160, 90);
    context.drawImage(drawn, 0, 0, 160, 90);
    const pixels = context.getImageData(0, 0, 160, 90).data;
    const colours = new Set();
    for (let i = 0; i < pixels.length; i += 4)
      colours.add((pixels[i] >> 4) << 8 | (pixels[i + 1] >> 4) << 4 | pixels[i + 2] >> 4);
    if (colours.size > 4) return true;
  }
  return false;
}"""

# Library of the Node inside Playwright's wheel, and Debian's package of it, which Debian 12's
# Chromium does not bring.
_DRIVER_LIBRARY, _DRIVER_PACKAGE = "libatomic.so.1", "libatomic1"

_TERMINAL_FROM_LEFT, _TERMINAL_FROM_BOTTOM = 194, 18
# Colours of the terminal's icon; the wallpaper has fewer than ten in so small a place.
_ICON_COLOURS, _PANEL_SECONDS = 30, 20.0
_KEY_MILLISECONDS = 20
# For actions of Playwright itself: start the browser, click, take a screenshot.
_ACTION_SECONDS = 30.0
# Difference of brightness, of 255, that an encoder may cause.
_NOISE = 24
# Multiplied by `timeout_factor`: on a slow machine a screenshot takes that long, and the page could
# not draw.
_LOOK_AGAIN_MILLISECONDS, _PICTURE_POLL_MILLISECONDS = 200, 50
# Chromium's error for a response with an error status and no page.
_NO_PAGE = "ERR_HTTP_RESPONSE_CODE_FAILURE"
# Messages of the console, and refused requests, in the error for a missing picture.
_LAST_MESSAGES = 12


@dataclass(frozen=True)
class Login:
    """A user with a password at the portal."""

    # The portal's URL, without a slash at its end.
    portal: str
    user: str
    password: str = field(repr=False)


class NoPictureError(Exception):
    """Raised when no picture came in time; the message says what the page shows instead."""


def changed_pixels(before: Image.Image, after: Image.Image) -> int:
    """Number of pixels that differ by more than an encoder's noise."""
    from PIL import ImageChops

    difference = (
        ImageChops.difference(before, after)
        .convert("L")
        .point(lambda value: 255 if value > _NOISE else 0)
    )
    return difference.histogram()[255]


def find_chromium() -> Path | None:
    """Return the machine's own Chromium or Chrome, if there is one."""
    for name in CHROMIUM_NAMES:
        if path := shutil.which(name):
            return Path(path)
    return None


def missing_packages() -> list[str]:
    """Debian's packages that a DesktopBrowser needs and this machine lacks."""
    missing = [] if find_chromium() else [_HEADLESS_PACKAGE]
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        missing.append(_DRIVER_PACKAGE)
    return missing


class DesktopBrowser:
    """One headless browser with one page on one desktop; a context manager.

    `url` is the address for `open`, and may be set later. `login` is the user of this browser; None
    for a desktop that asks for no login. `args` are added to Chromium's arguments; of two with one
    name, the last counts. `timeout_factor` multiplies every time limit, for a slow machine.
    """

    def __init__(
        self,
        url: str,
        login: Login | None,
        *,
        width: int = 1280,
        height: int = 720,
        args: Sequence[str] = (),
        timeout_factor: float = 1.0,
    ) -> None:
        self.url, self._login, self._args = url, login, [*CHROMIUM_ARGS, *args]
        self._size, self._timeout_factor = (width, height), timeout_factor
        self.messages: list[str] = []

    def __enter__(self) -> DesktopBrowser:
        from playwright.sync_api import sync_playwright  # installed with the extra `demo` only

        executable = find_chromium()
        if executable is None:
            raise NoPictureError(
                f"no browser found: none of {', '.join(CHROMIUM_NAMES)} is on the PATH"
            )
        try:
            self._playwright = sync_playwright().start()
        except Exception as error:  # Playwright has no class for a driver that ends while it starts
            raise NoPictureError(
                f"Playwright, which controls the browser, did not start: {error}"
            ) from error
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=executable,
                args=self._args,
                timeout=_ACTION_SECONDS * self._timeout_factor * 1000,
            )
            self._open_window()
        except BaseException:
            self._playwright.stop()
            raise
        return self

    def _open_window(self) -> None:
        context = self._browser.new_context(
            ignore_https_errors=True,  # the embedded cluster's certificate authority is not in the trust store
            viewport={"width": self._size[0], "height": self._size[1]},
        )
        context.set_default_timeout(_ACTION_SECONDS * self._timeout_factor * 1000)
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("response", self._note_refusal)

    def _note_refusal(self, response: Response) -> None:
        if response.status >= 400:
            if response.headers.get("x-vdi-gateway"):
                by = "the gateway"
            else:
                by = "Traefik or the desktop"
            path = response.url.partition("?")[0]
            self.messages.append(
                f"{time.strftime('%H:%M:%S')} {by} responded with {response.status} for {path}"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from playwright.sync_api import Error

        try:
            self._browser.close()
        except Error as ended:
            raise NoPictureError(
                f"the browser, or Playwright, which controls it, ended by itself: {ended}"
            ) from error
        finally:
            self._playwright.stop()

    @contextmanager
    def beside(self, login: Login | None) -> Iterator[DesktopBrowser]:
        """Another user's browser on the same desktop: it shares the program, but no cookie."""
        width, height = self._size
        other = DesktopBrowser(
            self.url, login, width=width, height=height, timeout_factor=self._timeout_factor
        )
        other._browser = self._browser
        other._open_window()
        try:
            yield other
        finally:
            other.page.context.close()

    @property
    def has_login(self) -> bool:
        return self._login is not None

    def log_in(self, *, timeout_s: float = 30.0) -> None:
        """Log in at the portal, before any desktop is opened. Raises NoPictureError."""
        if self._login is None:
            raise ValueError("this browser has no login to use")
        seconds = timeout_s * self._timeout_factor
        self.page.goto(f"{self._login.portal}/login", timeout=seconds * 1000)
        self._fill_in(seconds)

    def open(self, *, timeout_s: float = 60.0) -> None:
        """Go to the desktop, log in if asked to, and wait until a picture is drawn. Raises
        NoPictureError.
        """
        seconds = timeout_s * self._timeout_factor
        response = self._go(seconds)
        if response is None or 400 <= response.status < 500:
            raise NoPictureError(
                f"{self.url} responded with {response.status if response else 'nothing'}, not a"
                " desktop"
            )
        if self._asked_to_log_in():
            self._fill_in(seconds)
        self.wait_for_picture(timeout_s=timeout_s)

    def _go(self, seconds: float) -> Response | None:
        """Go to the desktop, and again while the response is an error without a page, as a person
        would.
        """
        from playwright.sync_api import Error

        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.page.goto(self.url, timeout=seconds * 1000)
            except Error as error:
                if _NO_PAGE not in error.message or time.monotonic() > deadline:
                    failure = error.message.partition("\n")[0]
                    raise NoPictureError(f"{failure}; seen: {self._last_messages()}") from error
            self.page.wait_for_timeout(_LOOK_AGAIN_MILLISECONDS * self._timeout_factor)

    def wait_for_picture(self, *, timeout_s: float = 60.0) -> None:
        """Wait until a picture is drawn, whatever page comes before it. Raises NoPictureError."""
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        seconds = timeout_s * self._timeout_factor
        polling = _PICTURE_POLL_MILLISECONDS * self._timeout_factor
        try:
            self.page.wait_for_function(HAS_PICTURE, timeout=seconds * 1000, polling=polling)
        except PlaywrightTimeout as error:
            raise NoPictureError(
                f"no picture from {self.url} in {seconds:.0f} s; the page {self._page_name()} shows"
                f" {self._shown()!r}; its console: {self._last_messages()}"
            ) from error

    def _last_messages(self) -> str:
        return "; ".join(self.messages[-_LAST_MESSAGES:])

    def _asked_to_log_in(self) -> bool:
        return self._login is not None and self._page_name() == f"{self._login.portal}/login"

    def _fill_in(self, seconds: float) -> None:
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        assert self._login is not None  # noqa: S101 - its page is open
        self.page.fill("#user", self._login.user)
        self.page.fill("#password", self._login.password)
        self.page.click("form[action='/login'] button[type=submit]")
        try:
            self.page.wait_for_url(lambda _: not self._asked_to_log_in(), timeout=seconds * 1000)
        except PlaywrightTimeout as error:
            raise NoPictureError(
                f"{self._login.user} could not log in at {self._login.portal}; the page shows"
                f" {self._shown()!r}"
            ) from error

    def _page_name(self) -> str:
        """The page's address without query and fragment, which may contain secrets."""
        return self.page.url.partition("#")[0].partition("?")[0]

    def _shown(self) -> str:
        return " ".join(self.page.inner_text("body").split())[:200]

    def open_terminal(self) -> None:
        """Click the terminal in the panel at the bottom (images/desktop, xfce4-panel.xml), once it
        is drawn there.

        The panel starts when the desktop is ready: a quick browser shows the wallpaper alone for a
        moment. Raises NoPictureError.
        """
        x, y = _TERMINAL_FROM_LEFT, self._size[1] - _TERMINAL_FROM_BOTTOM
        seconds = _PANEL_SECONDS * self._timeout_factor
        deadline = time.monotonic() + seconds
        while (
            len(self.picture().crop((x - 12, y - 12, x + 12, y + 12)).getcolors(24 * 24) or [])
            < _ICON_COLOURS
        ):
            if time.monotonic() > deadline:
                raise NoPictureError(
                    f"the panel of {self.url} shows no terminal after {seconds:.0f} s"
                )
            self.page.wait_for_timeout(_LOOK_AGAIN_MILLISECONDS * self._timeout_factor)
        self.page.mouse.click(x, y)

    def type(self, text: str) -> None:
        """Type on the desktop's keyboard, as fast as a fast person: Selkies sends each key by
        itself.
        """
        self.page.keyboard.type(text, delay=_KEY_MILLISECONDS)

    def wait_for_change(
        self, before: Image.Image, *, pixels: int, timeout_s: float = 30.0
    ) -> Image.Image:
        """Wait until at least `pixels` pixels differ clearly from `before`, then until the picture
        is at rest.

        Returns the picture. Raises NoPictureError with what was seen instead.
        """
        seconds = timeout_s * self._timeout_factor
        deadline = time.monotonic() + seconds
        last, changed = self.picture(), 0
        while time.monotonic() < deadline:
            self.page.wait_for_timeout(_LOOK_AGAIN_MILLISECONDS * self._timeout_factor)
            now = self.picture()
            changed = changed_pixels(before, now)
            if changed >= pixels and changed_pixels(last, now) < pixels // 20:
                return now
            last = now
        raise NoPictureError(
            f"the picture did not change as expected: {changed} pixels in {seconds:.0f} s, not"
            f" {pixels}"
        )

    def picture(self) -> Image.Image:
        """Return what the browser's window shows now."""
        from PIL import Image

        # The page fades in.
        self.page.wait_for_function("() => !document.getElementById('vdi-cover')")
        return Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")

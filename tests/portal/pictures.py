"""The pictures of README and documentation, each in light and dark: `make pictures`.

They show the portal with the scene, at the scene's time.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from playwright.sync_api import Browser

from portal import desktop_picture, gallery_pictures, scene
from portal.portal_browser import chromium, visitor
from portal.portal_pages import serve_others
from portal.portal_server import Server, serve

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
DOMAIN = "vdi.example.com"
SCALE = 2
_WIDTH, _PHONE_WIDTH = 1180, 390
_MOST_MILLISECONDS = 60_000
# Enough for text and flat areas.
_COLOURS = 128
_COLOURS_WITH_SCREENS = 256
# As the agent's program makes them.
_THUMBNAIL_SIZE, _THUMBNAIL_QUALITY = (320, 180), 75


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One page of the portal."""

    path: str
    user: str
    # Selector of what is the last in the picture.
    until: str = "main"
    # Pixels below it.
    margin: int = 14
    width: int = _WIDTH
    # Of the window: a page that centres its content needs a small one.
    height: int = 1600
    # Whether it shows thumbnails, which need more colours.
    screens: bool = False


SHOTS = {
    "portal-desktops": Shot(path="/", user="alice", until="#card-uid-alice-ubuntu", screens=True),
    "portal-desktops-phone": Shot(
        path="/", user="alice", until="#card-uid-alice-maps", width=_PHONE_WIDTH, screens=True
    ),
    "portal-catalogue": Shot(path="/catalogue", user="alice", until=".cards"),
    "portal-start": Shot(path="/catalogue/blender", user="carol", until="main form"),
    "portal-desktop": Shot(path="/desktops/alice-ubuntu", user="alice", until="main .card"),
    "portal-waiting": Shot(
        path="/of/wait-queued", user="alice", until="html", margin=0, width=720, height=660
    ),
    "portal-history": Shot(path="/history", user="alice", until="tbody tr:nth-child(6)", margin=0),
    "portal-usage": Shot(path="/history/usage?of=everyone", user="grace", until=".columns"),
    "portal-admin": Shot(path="/admin", user="grace", until="#nodes"),
    "portal-doctor": Shot(path="/admin/doctor", user="grace", until="article"),
    "portal-login": Shot(
        path="/of/login", user="alice", until="html", margin=0, width=720, height=580
    ),
    "portal-account": Shot(path="/of/account", user="alice", until="main form.card"),
}


def main(arguments: list[str]) -> int:
    """Take all pictures."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m portal.pictures FOLDER\n")
        return 2
    folder = Path(arguments[0])
    desktop_picture.take_all(folder)
    gallery_pictures.take_all(folder)
    with portal() as server, chromium(f"MAP *.{DOMAIN} 127.0.0.1:{server.port}") as browser:
        for scheme in SCHEMES:
            put_thumbnails(server, folder / f"desktop-{scheme}.png")
            for name, shot in SHOTS.items():
                path = folder / f"{name}-{scheme}.png"
                save(take(browser, server, shot, scheme), path, shot)
                sys.stdout.write(f"{path}: {path.stat().st_size // 1000} kB\n")
    return 0


@contextmanager
def portal() -> Iterator[Server]:
    """The portal with the scene, at the scene's time."""
    with (
        tempfile.TemporaryDirectory() as place,
        serve(Path(place), limits=scene.LIMITS, now=scene.START, domain=DOMAIN) as server,
    ):
        server.do(lambda: scene.furnish(server.stage))
        yield server


def put_thumbnails(server: Server, screen: Path) -> None:
    """Let the desktop of the scene whose picture is taken show this one."""
    data = io.BytesIO()
    small = Image.open(screen).convert("RGB").resize(_THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    small.save(data, "JPEG", quality=_THUMBNAIL_QUALITY)
    server.do(lambda: server.stage.agent.screens.update({"alice-ubuntu": data.getvalue()}))


def take(browser: Browser, server: Server, shot: Shot, scheme: Scheme) -> Image.Image:
    """The page, down to what is the last in the picture, when all of it has been drawn."""
    with visitor(
        browser,
        server,
        scene.USERS[shot.user],
        size=(shot.width, shot.height),
        scheme=scheme,
        device_scale_factor=SCALE,
    ) as guest:
        guest.context.set_default_timeout(_MOST_MILLISECONDS)
        guest.page.clock.set_fixed_time(scene.START)
        if shot.path.startswith("/of/"):
            serve_others(guest.page, server)
        guest.go(shot.path)
        for closed in guest.page.locator("article details:not([open])").all():
            closed.locator("summary").click()
        guest.page.evaluate("document.fonts.ready")
        if shot.screens and server.stage.agent.screens:
            guest.page.locator("#card-uid-alice-ubuntu .screen img").wait_for(state="visible")
        last = guest.page.locator(shot.until).last.bounding_box()
        if last is None:
            raise LookupError(f"{shot.path} shows no {shot.until}")
        height = min(last["y"] + last["height"] + shot.margin, shot.height)
        data = guest.page.screenshot(
            animations="disabled", clip={"x": 0, "y": 0, "width": shot.width, "height": height}
        )
        return Image.open(io.BytesIO(data)).convert("RGB")


def save(picture: Image.Image, path: Path, shot: Shot) -> None:
    """Write a PNG with a palette: text stays sharp, at a third of the size."""
    colours = _COLOURS_WITH_SCREENS if shot.screens else _COLOURS
    picture.quantize(colours, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The pictures of docs/portal.md: `python -m portal.pictures FOLDER` from tests/, on a Friday at noon."""

import io
import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from portal.portal_browser import chromium, visitor
from portal.portal_server import Server, serve
from portal.portal_world import LIMITS, START, furnish
from unit.gateway.portal_stage import ADMIN, ALICE

PAGES = (
    ("desktops", "/", ALICE, ("light", "dark", "phone")),
    ("catalogue", "/catalogue", ALICE, ("light", "phone")),
    ("start", "/catalogue/ubuntu-desktop", ALICE, ("light",)),
    ("desktop", "/desktops/alice-ubuntu", ALICE, ("light", "dark", "phone")),
    ("history", "/history", ALICE, ("light",)),
    ("admin", "/admin", ADMIN, ("light", "dark", "phone")),
    ("admin-sessions", "/admin/sessions", ADMIN, ("light",)),
    ("admin-limits", "/admin/limits", ADMIN, ("light",)),
    ("admin-doctor", "/admin/doctor", ADMIN, ("light",)),
    ("admin-audit", "/admin/audit", ADMIN, ("light",)),
)
KINDS: dict[str, tuple[tuple[int, int], Literal["light", "dark"]]] = {
    "light": ((1180, 760), "light"),
    "dark": ((1180, 760), "dark"),
    "phone": ((390, 844), "light"),
}
DOMAIN = "vdi.example.com"
COLOURS = 128
"""Enough for pages without photographs, at a third of the size."""


def take(browser: Browser, server: Server, folder: Path) -> None:
    """Each page in its kinds."""
    for name, path, person, kinds in PAGES:
        for kind in kinds:
            size, scheme = KINDS[kind]
            with visitor(browser, server, person, size=size, scheme=scheme) as guest:
                guest.page.clock.install(time=START)
                guest.go(path)
                guest.page.wait_for_load_state("load")
                picture = Image.open(io.BytesIO(guest.page.screenshot())).convert("RGB")
                picture.quantize(COLOURS, dither=Image.Dither.NONE).save(
                    folder / f"portal-{name}-{kind}.png", optimize=True
                )


def main(arguments: list[str]) -> int:
    """Take them all."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m portal.pictures FOLDER\n")
        return 2
    with tempfile.TemporaryDirectory() as place, serve(Path(place), limits=LIMITS, now=START, domain=DOMAIN) as server:
        server.do(lambda: furnish(server.stage, crowd=60))
        with chromium(f"MAP *.{DOMAIN} 127.0.0.1:{server.port}") as browser:
            take(browser, server, Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

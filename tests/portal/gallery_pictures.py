"""The pictures of the gallery's templates: each with programs of its image, as docs/gallery.md
shows them.

They are taken on the node of `make demo`, of the templates that it has; the others stay as they
are.
"""

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from PIL import Image, ImageChops, ImageFilter

from portal.desktop_picture import SITE, find_demo, in_desktop, kubectl, wait_until_drawn
from vdi.demo import run
from vdi.demo.browser import DesktopBrowser, NoPictureError, changed_pixels

_SIZE = (1280, 800)
_SECONDS = 120.0
_COLOURS = 128
# Pixels of edges that a window with content adds at least: an empty one has 6,000, one with text
# 25,000.
_DETAILS = 10_000
# Of 255 steps of brightness between neighbours.
_EDGE = 96
# A cursor blinks in fewer.
_AT_REST_PIXELS = 100
_LOOKS_AT_REST = 3
_PAUSE_MILLISECONDS = 1000
_NOTEBOOK_FILE = "primes.ipynb"
_PRIMES = textwrap.dedent('''\
    """Prime numbers by the sieve of Eratosthenes."""


    def primes(limit: int) -> list[int]:
        """All primes below `limit`."""
        is_prime = [False, False] + [True] * (limit - 2)
        for number in range(2, int(limit**0.5) + 1):
            if is_prime[number]:
                for multiple in range(number * number, limit, number):
                    is_prime[multiple] = False
        return [number for number in range(limit) if is_prime[number]]
    ''')
_TEST = textwrap.dedent("""\
    from primes import primes


    def test_primes_below_twenty() -> None:
        assert primes(20) == [2, 3, 5, 7, 11, 13, 17, 19]


    def test_there_are_168_below_a_thousand() -> None:
        assert len(primes(1000)) == 168
    """)
_REPORT = textwrap.dedent("""\
    <html><body><h1>Desktops of the first quarter</h1>
    <p>Every desktop had its picture within four seconds. Most of the waiting was for GPUs, on Monday mornings: a
    schedule starts those desktops before people come.</p>
    <h2>Starts by template</h2>
    <table border="1" cellpadding="4" width="70%">
    <tr><th align="left">Template</th><th>January</th><th>February</th><th>March</th></tr>
    <tr><td>Office</td><td>1 204</td><td>1 187</td><td>1 310</td></tr>
    <tr><td>Developer</td><td>866</td><td>902</td><td>915</td></tr>
    <tr><td>Graphics</td><td>143</td><td>151</td><td>168</td></tr>
    </table>
    <h2>Next steps</h2>
    <ul><li>Two more nodes with a GPU</li><li>A pool for the template Office</li></ul>
    </body></html>
    """)
_LAKES = json.dumps(
    {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"name": name},
                "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
            }
            for name, corners in {
                "north": (
                    (8.1, 47.6),
                    (8.5, 47.9),
                    (9.1, 47.8),
                    (9.3, 47.5),
                    (8.8, 47.3),
                    (8.3, 47.3),
                ),
                "south": ((8.2, 46.9), (8.6, 47.1), (9.0, 47.0), (9.2, 46.7), (8.7, 46.5)),
                "east": ((9.6, 47.4), (10.1, 47.5), (10.3, 47.1), (9.9, 46.8), (9.5, 47.0)),
            }.items()
        ],
    }
)
_CELLS = (
    "import numpy as np\nimport matplotlib.pyplot as plt",
    (
        "limit = 10_000\nis_prime = np.ones(limit, dtype=bool)\nis_prime[:2] = False\nfor number in"
        " range(2, int(limit**0.5) + 1):\n    is_prime[number * number :: number] ="
        " False\nnp.flatnonzero(is_prime)[:12]"
    ),
    (
        "numbers = np.arange(2, limit)\nplt.figure(figsize=(8, 3))\n"
        "plt.plot(numbers, is_prime[2:].cumsum(), label='primes up to n')\n"
        "plt.plot(numbers, numbers / np.log(numbers), label='n / ln n')\nplt.legend();"
    ),
)
_CODE: Mapping[str, Any] = {
    "cell_type": "code",
    "execution_count": None,
    "metadata": {},
    "outputs": [],
}
_PRIMES_NOTEBOOK = json.dumps(
    {
        "cells": [
            {**_CODE, "id": f"cell-{number}", "source": source}
            for number, source in enumerate(_CELLS)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
)
_SITE_ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Scene:
    """The content of a desktop: files of its home, by their names below it, and commands, each
    after the one before it is drawn.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    # Whether the home has this project's documentation too.
    with_docs: bool = False


_NOTEBOOK = Scene(files={_NOTEBOOK_FILE: _PRIMES_NOTEBOOK})
SCENES = {
    "kiosk": Scene(
        with_docs=True,
        commands=(
            (
                "(setsid python3 -m http.server --bind 127.0.0.1 --directory ~/docs 8000 &); "
                f"until curl -s -o /dev/null {_SITE_ADDRESS}; do sleep 0.2; done; "
                f"firefox-esr {_SITE_ADDRESS}/use/index.html"
            ),
        ),
    ),
    "developer": Scene(
        files={"primes/primes.py": _PRIMES, "primes/test_primes.py": _TEST},
        commands=(
            (
                "cd ~/primes && git init -q -b main && git -c user.name=you -c"
                " user.email=you@example.com add . && geany primes.py test_primes.py"
            ),
            (
                "cd ~/primes && xfce4-terminal --geometry 96x14-20-60 -x bash -c 'pytest -v; exec"
                " bash'"
            ),
        ),
    ),
    "office": Scene(
        files={"report.html": _REPORT},
        commands=(
            (
                "cd ~ && soffice --headless --convert-to odt:writer8 --infilter='HTML (StarWriter)'"
                " report.html && soffice --writer report.odt"
            ),
        ),
    ),
    "graphics": Scene(commands=("blender",)),
    "science": Scene(files={"lakes.geojson": _LAKES}, commands=("qgis --nologo ~/lakes.geojson",)),
    "notebook": _NOTEBOOK,
}


def main(arguments: list[str]) -> int:
    """Take the pictures of the templates that are named, or of all."""
    if not arguments or set(arguments[1:]) - set(SCENES):
        sys.stderr.write(
            f"usage: python -m portal.gallery_pictures FOLDER [NAME...], of {' '.join(SCENES)}\n"
        )
        return 2
    take_all(Path(arguments[0]), arguments[1:] or list(SCENES))
    return 0


def take_all(folder: Path, names: Sequence[str] = tuple(SCENES)) -> None:
    """Take `gallery-NAME.png` of each, if the node is there and has the template."""
    demo = find_demo("the gallery")
    if demo is None:
        return
    for name in names:
        if not kubectl(demo, "get", "vditemplate", name, "--ignore-not-found", "-o", "name"):
            sys.stdout.write(
                f"The picture of {name} stays as it is: the cluster has no template of this name.\n"
            )
            continue
        path = folder / f"gallery-{name}.png"
        picture = take(demo, name)
        picture.quantize(_COLOURS, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
        sys.stdout.write(f"{path}: {path.stat().st_size // 1000} kB\n")


def take(demo: run.Demo, name: str) -> Image.Image:
    """The desktop of a new session of that template, with its scene. Raises NoPictureError."""
    session, scene = f"gallery-{name}", SCENES[name]
    create = ("session", "create", session, "--user", run.USER, "--template", name, "--wait")
    subprocess.run(
        [sys.executable, "-m", "vdi", *create],
        check=True,
        env={**os.environ, "KUBECONFIG": str(demo.kubeconfig)},
    )
    try:
        kubectl(
            demo, "exec", "-i", session, "--", "tar", "-C", "/home/user", "-x", data=packed(scene)
        )
        url = json.loads(kubectl(demo, "get", "vdi", session, "-o", "json"))["status"]["url"]
        with DesktopBrowser(url, demo.login, width=_SIZE[0], height=_SIZE[1]) as browser:
            browser.log_in()
            return (
                show_page(demo, browser)
                if scene is _NOTEBOOK
                else show_desktop(demo, session, scene, browser)
            )
    finally:
        kubectl(demo, "delete", "vdi", session, "--timeout=60s")


def show_desktop(
    demo: run.Demo, session: str, scene: Scene, browser: DesktopBrowser
) -> Image.Image:
    """The desktop, once each command has drawn its window."""
    browser.open()
    browser.page.mouse.move(_SIZE[0] - 20, 20)  # on nothing that would show a tooltip
    picture = wait_until_drawn(browser)
    for command in scene.commands:
        in_desktop(
            demo, f"(setsid bash -c {shlex.quote(command)} >/tmp/scene.log 2>&1 &)", session=session
        )
        picture = wait_for_content(browser, picture)
    return picture


def wait_for_content(browser: DesktopBrowser, before: Image.Image) -> Image.Image:
    """The picture, once a window that was not there before has content and nothing moves. Raises
    NoPictureError.

    A program that is slow to start shows a frame with an empty area first, and that is at rest too.
    """
    deadline, last, looks = time.monotonic() + _SECONDS, browser.picture(), 0
    while looks < _LOOKS_AT_REST or new_details(before, last) < _DETAILS:
        if time.monotonic() > deadline:
            raise NoPictureError(
                f"within {_SECONDS:.0f} s the window drew {new_details(before, last)} pixels of"
                f" edges, not {_DETAILS}, and was at rest {looks} times, not {_LOOKS_AT_REST}"
            )
        browser.page.wait_for_timeout(_PAUSE_MILLISECONDS)
        picture = browser.picture()
        looks = looks + 1 if changed_pixels(last, picture) < _AT_REST_PIXELS else 0
        last = picture
    return last


def new_details(before: Image.Image, after: Image.Image) -> int:
    """Pixels of edges, as text and icons have them, where the picture has changed."""
    changed = (
        ImageChops.difference(before, after)
        .convert("L")
        .point(lambda value: 255 if value > _EDGE // 4 else 0)
    )
    edges = after.convert("L").filter(ImageFilter.FIND_EDGES)
    return sum(ImageChops.darker(edges, changed).histogram()[_EDGE:])


def show_page(demo: run.Demo, browser: DesktopBrowser) -> Image.Image:
    """A notebook that has run, in JupyterLab."""
    kubectl(
        demo, "exec", "gallery-notebook", "--", "jupyter", "execute", "--inplace", _NOTEBOOK_FILE
    )
    browser.page.goto(browser.url)
    browser.page.goto(urljoin(browser.url, f"/lab/tree/{_NOTEBOOK_FILE}"))
    browser.page.locator(".jp-OutputArea-output img").wait_for(state="visible")
    browser.page.get_by_text("| Idle").wait_for()
    return browser.picture()


def packed(scene: Scene) -> bytes:
    """The scene's files, and this project's documentation where it shows that, as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in scene.files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.gid = len(data), 1000, 1000
            tar.addfile(entry, io.BytesIO(data))
        if scene.with_docs:
            tar.add(SITE, "docs")
    return archive.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

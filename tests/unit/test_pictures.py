"""The pictures of README and documentation: every one that is named is there in both schemes, and no other."""

import re

from tools.docs_site import PICTURE_SCALE, ROOT, markdown_pages, png_width

PICTURES = ROOT / "docs" / "pictures"
LARGEST_BYTES = 2_500_000
_NAMED = re.compile(r"pictures/([\w-]+)-(light|dark)\.png")
_GALLERY = re.compile(r"pictures/(gallery-\w+\.png)")
"""A desktop of the gallery has a look of its own, whatever scheme the browser asks for."""


def named() -> set[str]:
    """The pictures that pages name, without their scheme."""
    return {name for page in markdown_pages() for name, _ in _NAMED.findall(page.read_text())}


def test_every_picture_that_a_page_names_is_there_in_light_and_dark_and_no_other() -> None:
    assert named()
    gallery = {name for page in markdown_pages() for name in _GALLERY.findall(page.read_text())}
    both = {f"{name}-{scheme}.png" for name in named() for scheme in ("light", "dark")}
    assert {path.name for path in PICTURES.iterdir()} == both | gallery


def test_readme_shows_both_schemes_and_pages_name_the_light_one() -> None:
    for page in markdown_pages():
        schemes = {scheme for _, scheme in _NAMED.findall(page.read_text())}
        assert schemes in ([{"light", "dark"}] if page.name == "README.md" else [set(), {"light"}]), page


def test_both_schemes_show_the_same_at_twice_the_size() -> None:
    for name in named():
        light, dark = (png_width(PICTURES / f"{name}-{scheme}.png") for scheme in ("light", "dark"))
        assert light == dark and light % PICTURE_SCALE == 0, name


def test_all_pictures_together_are_small() -> None:
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < LARGEST_BYTES

"""The icons that a template can name: files of `portal/icons/`, read once, put into pages as markup of our own."""

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from markupsafe import Markup

_FOLDER = Path(__file__).parent.parent / "portal" / "icons"
_SHAPES = re.compile(r"<svg [^>]*>(.*)</svg>\s*", re.DOTALL)
DEFAULT_ICON = "desktop"


@cache
def icons() -> Mapping[str, Markup]:
    """The shapes of each icon, in a square of 24, by the icon's name."""
    return {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.svg"))}


def _read(path: Path) -> Markup:
    found = _SHAPES.fullmatch(path.read_text())
    if found is None:
        raise ValueError(f"{path}: allowed: one <svg> element")
    return Markup(found[1])  # noqa: S704 -- a file of ours


def shown_icon(icon: str, origins: Collection[str]) -> str:
    """What is shown for a template's `icon`: itself, or `DEFAULT_ICON` for none and for one that is not allowed.

    `origins`: from where pictures may be loaded, as in `https://icons.example.com`.
    """
    return DEFAULT_ICON if not icon or icon_problem(icon, origins) else icon


def icon_problem(icon: str, origins: Collection[str]) -> str:
    """Why an icon is not shown, as a sentence; empty where it is shown, and for no icon."""
    if not icon or icon in icons() or icon.startswith("data:image/"):
        return ""
    if not icon.startswith("https://"):
        return f"icon: {icon[:60]!r}: allowed: {', '.join(icons())}, and a URL with data:image/ or https://."
    if any(icon.startswith(f"{origin}/") for origin in origins):
        return ""
    return f"icon: {icon[:60]!r}: the origins in gateway.portal.iconOrigins are {', '.join(origins) or 'empty'}."


def is_picture(icon: str) -> bool:
    """Whether a shown icon is a picture with an address, not the name of one of ours."""
    return icon.startswith(("data:image/", "https://"))


def shapes(icon: str) -> Markup:
    """The shapes of one of our icons, for a page. Raises KeyError for a name that is not there."""
    return icons()[icon]

"""Static files of the pages, brand.css and the icons of templates: read once, served at addresses
that change with them.
"""

import gzip
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vdi.gateway.brand import Brand, stylesheet

_FOLDERS = tuple(
    Path(__file__).parent.parent / package / "static" for package in ("portal", "edge")
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_BRIEFLY = "public, max-age=300"
BRAND = "brand.css"
_SHAPES = re.compile(r"<svg [^>]*>(.*)</svg>\s*", re.DOTALL)
DEFAULT_ICON = "desktop"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, ready to be sent."""

    body: bytes
    packed: bytes
    media_type: str
    digest: str


@cache
def assets(brand: Brand) -> dict[str, Asset]:
    """All files by their name below `static/`, and the brand's stylesheet."""
    files = {
        path.relative_to(folder).as_posix(): pack(path.read_bytes(), _TYPES[path.suffix])
        for folder in _FOLDERS
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES
    }
    return files | {BRAND: pack(stylesheet(brand).encode(), _TYPES[".css"])}


def pack(body: bytes, media_type: str) -> Asset:
    """The body, compressed too."""
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(body, gzip.compress(body, mtime=0), media_type, digest)


def asset_url(brand: Brand, prefix: str, name: str) -> str:
    """The address of a file; it changes with the file. Raises KeyError for an unknown name."""
    return f"{prefix}/{name}?v={assets(brand)[name].digest}"


def asset_routes(brand: Brand, prefix: str) -> list[Route]:
    """`/static` on the portal's host; `/.vdi/static` on a desktop's, where the edge has the
    routes.
    """
    return [Route(f"{prefix}/{{name:path}}", partial(serve_asset, brand), methods=["GET"])]


async def serve_asset(brand: Brand, request: Request) -> Response:
    """Serves a file of `static/`; caches keep it for ever under an address with its digest, else
    for minutes.
    """
    asset = assets(brand).get(request.path_params["name"])
    if asset is None:
        return PlainTextResponse("This file does not exist.", 404)
    known = request.query_params.get("v") == asset.digest
    return send_asset(asset, request, _FOR_EVER if known else _BRIEFLY)


def send_asset(asset: Asset, request: Request, caching: str) -> Response:
    """The response with the asset, compressed where the client takes it; 304 if the client has
    it.
    """
    headers = {
        "Cache-Control": caching,
        "ETag": f'"{asset.digest}"',
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    body = asset.body
    if "gzip" in request.headers.get("accept-encoding", "") and len(asset.packed) < len(body):
        body, headers["Content-Encoding"] = asset.packed, "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)


_ICON_FOLDER = Path(__file__).parent.parent / "portal" / "icons"


@cache
def icons() -> Mapping[str, Markup]:
    """The shapes of each icon, in a square of 24, by the icon's name."""
    return {path.stem: _read_icon(path) for path in sorted(_ICON_FOLDER.glob("*.svg"))}


def _read_icon(path: Path) -> Markup:
    shapes = _SHAPES.fullmatch(path.read_text())
    if shapes is None:
        raise ValueError(f"{path}: allowed: one <svg> element")
    return Markup(shapes[1])  # noqa: S704 -- a file of ours


def shown_icon(icon: str, origins: Collection[str]) -> str:
    """The icon to show for a template's `icon`: itself, or `DEFAULT_ICON` if it is empty or not
    allowed.

    `origins`: hosts that pictures may be loaded from, as in `https://icons.example.com`.
    """
    if not icon or icon_problem(icon, origins):
        return DEFAULT_ICON
    return icon


def icon_problem(icon: str, origins: Collection[str]) -> str:
    """The reason why an icon is not shown, as a sentence; empty if it is shown, and for an empty
    `icon`.
    """
    if not icon or icon in icons() or icon.startswith("data:image/"):
        return ""
    if not icon.startswith("https://"):
        return (
            f"icon: {icon[:60]!r}: allowed: {', '.join(icons())}, and a URL with data:image/ or"
            " https://."
        )
    if any(icon.startswith(f"{origin}/") for origin in origins):
        return ""
    return (
        f"icon: {icon[:60]!r}: the origins in gateway.portal.iconOrigins are"
        f" {', '.join(origins) or 'empty'}."
    )


def is_picture(icon: str) -> bool:
    """Whether a shown icon is a picture with an address, not the name of one of ours."""
    return icon.startswith(("data:image/", "https://"))


def icon_shapes(icon: str) -> Markup:
    """The shapes of one of our icons, for a page. Raises KeyError for a name that is not there."""
    return icons()[icon]

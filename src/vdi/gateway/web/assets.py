"""The files of `portal/static/`: read once, served under addresses that change with them."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent.parent / "portal" / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_BRIEFLY = "public, max-age=300"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, ready to be sent."""

    body: bytes
    packed: bytes
    media_type: str
    digest: str


@cache
def assets() -> dict[str, Asset]:
    """All files by their name below `static/`."""
    return {
        path.relative_to(_FOLDER).as_posix(): _load(path)
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }


def _load(path: Path) -> Asset:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return Asset(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], digest)


def asset_url(prefix: str, name: str) -> str:
    """The address of a file; it changes with the file. Raises KeyError for a name that is not there."""
    return f"{prefix}/{name}?v={assets()[name].digest}"


def asset_routes(prefix: str) -> list[Route]:
    """`/static` on the portal's host; `/.vdi/static` on a desktop's, where the edge has the routes."""
    return [Route(f"{prefix}/{{name:path}}", serve_asset, methods=["GET"])]


async def serve_asset(request: Request) -> Response:
    """One file of `static/`."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        return PlainTextResponse("There is no such file.", 404)
    known = request.query_params.get("v") == asset.digest
    headers = {
        "Cache-Control": _FOR_EVER if known else _BRIEFLY,
        "ETag": f'"{asset.digest}"',
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    body = asset.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = asset.packed, "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)

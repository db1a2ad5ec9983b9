"""Scripts and style of the edge's own pages, on every desktop's host under addresses that change with them."""

import gzip
import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from vdi.gateway.edge.headers import MARK

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    "wait.js": "text/javascript; charset=utf-8",
    "wait.css": "text/css; charset=utf-8",
    "transport.js": "text/javascript; charset=utf-8",
}
PATHS = tuple(f"/.vdi/{name}" for name in _TYPES)


async def serve_asset(request: Request) -> Response:
    """The file of one of `PATHS`."""

    name = request.url.path.rpartition("/")[2]
    body, packed, digest = _asset(name)
    known = request.query_params.get("v") == digest
    headers = {
        MARK: "1",
        "Cache-Control": "public, max-age=31536000, immutable" if known else "no-store",
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = packed
    return Response(body, headers=headers, media_type=_TYPES[name])


def asset_address(name: str) -> str:
    """Where a page finds it. Raises OSError for a name that is not there."""
    return f"/.vdi/{name}?v={_asset(name)[2]}"


@cache
def inline_script(name: str) -> str:
    """A script for a page to have in itself. Raises OSError for a name that is not there."""
    return (_FOLDER / name).read_text()


@cache
def _asset(name: str) -> tuple[bytes, bytes, str]:
    body = (_FOLDER / name).read_bytes()
    return body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:16]

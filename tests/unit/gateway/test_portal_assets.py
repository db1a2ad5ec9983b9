"""Files of the pages: kept for ever under an address that changes with them, packed, and nothing
else is served.
"""

import gzip
import re
from pathlib import Path

import pytest
from starlette.requests import Request

import vdi.gateway.portal as portal_room
from unit.gateway.portal_stage import PortalStage
from vdi.gateway.brand import Brand
from vdi.gateway.settings import Settings
from vdi.gateway.web.assets import asset_url, assets
from vdi.gateway.web.render import TEMPLATE_FOLDERS, Renderer

STATIC = Path(portal_room.__file__).parent / "static"


def request_for(host: str) -> Request:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }
    return Request(scope)


async def test_every_file_that_a_page_names_is_there_and_kept_for_ever() -> None:
    stage = PortalStage()
    browser = stage.browser()
    found = re.findall(r'(?:src|href)="(/static/[^"]+)"', await browser.html("/"))
    assert len(found) == 8
    for path in found:
        answer = await browser.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = await browser.get(path, **{"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_an_address_of_an_older_version_is_not_kept() -> None:
    answer = await PortalStage().browser().get("/static/portal.css?v=0123456789abcdef")
    assert answer.headers["cache-control"] == "public, max-age=300"


async def test_files_are_packed_for_who_can_unpack_them() -> None:
    browser = PortalStage().browser()
    plain = await browser.get("/static/portal.css", **{"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == (STATIC / "portal.css").read_bytes()
    packed = assets(Brand())["portal.css"].packed
    assert gzip.decompress(packed) == plain.content
    answer = await browser.get("/static/portal.css", **{"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.content) == ("gzip", plain.content)


@pytest.mark.parametrize(
    "name", ["nothing.css", "../part.py", "%2e%2e/part.py", "vendor/README.md", "vendor", ""]
)
async def test_nothing_else_is_served(name: str) -> None:
    assert (await PortalStage().browser().get(f"/static/{name}")).status_code == 404


def test_pages_of_a_desktops_host_take_their_files_from_there() -> None:
    renderer = Renderer(Settings())
    for host, prefix in (
        ("portal.vdi.localhost", "/static/"),
        ("portal.vdi.localhost:8443", "/static/"),
        ("PORTAL.vdi.localhost", "/static/"),
        ("alice.vdi.localhost:8443", "/.vdi/static/"),
    ):
        page = renderer.fill(request_for(host), "error.html", title="t", sentence="s")
        assert f'href="{prefix}portal.css?v=' in page
        assert (
            '<a class="button second" href="https://portal.vdi.localhost/">My desktops</a>' in page
        )


def test_names_of_templates_are_unique_across_the_rooms() -> None:
    names = [path.name for folder in TEMPLATE_FOLDERS for path in folder.glob("*.html")]
    assert len(names) == len(set(names)) > 20


def test_pages_load_nothing_from_elsewhere() -> None:
    for path in STATIC.glob("*.*"):
        found = set(re.findall(r"https?://[^\s\"')]+", path.read_text()))
        assert found <= {"http://www.w3.org/2000/svg"}


def test_the_stylesheet_and_the_pages_name_the_same_font_address() -> None:
    (named,) = re.findall(r'url\("([^"]+)"\)', (STATIC / "portal.css").read_text())
    assert asset_url(Brand(), "/static", "fonts/inter.woff2") == f"/static/{named}"


async def test_a_font_is_served_as_it_is() -> None:
    answer = (
        await PortalStage()
        .browser()
        .get("/static/fonts/inter.woff2", **{"Accept-Encoding": "gzip"})
    )
    assert answer.headers["content-type"] == "font/woff2"
    assert answer.content == (STATIC / "fonts" / "inter.woff2").read_bytes()
    assert len(answer.content) < 40_000

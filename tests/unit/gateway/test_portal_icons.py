"""Icons of templates: by name from the files that the portal has, as data, and from elsewhere only
where allowed.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vdi.gateway.portal
from unit.gateway.portal_stage import ADMIN, PortalStage, a_template, running
from vdi.gateway.settings import Settings, read_settings
from vdi.gateway.web.assets import icon_problem, icon_shapes, icons, shown_icon
from vdi.settings import SettingsError

FOLDER = Path(vdi.gateway.portal.__file__).parent / "icons"
ROOT = Path(__file__).parents[3]
ORIGIN = "https://icons.example.com"


def test_each_icon_is_shapes_and_nothing_else() -> None:
    for path in FOLDER.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root.attrib["viewBox"] == "0 0 24 24"
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert names <= {
            "svg",
            "path",
            "rect",
            "circle",
            "ellipse",
            "line",
            "polyline",
            "polygon",
        }, path.name
        assert not re.search(r"\b(style|class|on\w+|href)=", path.read_text()), path.name


def test_the_icons_have_a_licence_and_are_named_in_the_docs() -> None:
    assert "ISC License" in (FOLDER / "LICENSE").read_text()
    listed = re.findall(r"^\| `([a-z]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(filter(None, listed)) == [*icons()]
    of_docs = (ROOT / "docs" / "portal.md").read_text()
    assert ", ".join(f"`{name}`" for name in icons()) in " ".join(of_docs.split())


@pytest.mark.parametrize(
    ("icon", "origins", "shown", "problem"),
    [
        ("", (), "desktop", ""),
        ("map", (), "map", ""),
        ("data:image/png;base64,AA==", (), "data:image/png;base64,AA==", ""),
        ("https://icons.example.com/a.svg", (ORIGIN,), "https://icons.example.com/a.svg", ""),
        (
            "https://icons.example.com/a.svg",
            (),
            "desktop",
            "the origins in gateway.portal.iconOrigins are empty.",
        ),
        (
            "https://icons.example.com.evil.org/a",
            (ORIGIN,),
            "desktop",
            f"gateway.portal.iconOrigins are {ORIGIN}.",
        ),
        (
            "https://icons.example.com@evil.org/a",
            (ORIGIN,),
            "desktop",
            f"gateway.portal.iconOrigins are {ORIGIN}.",
        ),
        ("https://[", (ORIGIN,), "desktop", "icon: 'https://['"),
        ("maps", (), "desktop", "icon: 'maps': allowed: ai, app,"),
        ("data:text/html,x", (), "desktop", "icon: 'data:text/html,x': allowed: ai,"),
        ("DATA:image/png,x", (), "desktop", "icon: 'DATA:image/png,x': allowed: ai,"),
        (" data:image/png,x", (), "desktop", "icon: ' data:image/png,x': allowed: ai,"),
        ("//evil.example.com", (ORIGIN,), "desktop", "icon: '//evil.example.com': allowed: ai,"),
    ],
)
def test_what_is_shown_for_an_icon_and_why_not(
    icon: str, origins: tuple[str, ...], shown: str, problem: str
) -> None:
    assert shown_icon(icon, origins) == shown
    assert problem in icon_problem(icon, origins)
    assert bool(problem) == bool(icon_problem(icon, origins))


async def test_icons_by_name_are_inline_and_the_default_is_desktop() -> None:
    stage = PortalStage(
        a_template("qgis", icon="map"), a_template("plain"), running(template="qgis")
    )
    for path in ("/", "/catalogue", "/catalogue/qgis", "/desktops/alice-desktop"):
        assert icon_shapes("map") in await stage.browser().html(path)
    assert icon_shapes("desktop") in await stage.browser().html("/catalogue")


async def test_pictures_load_from_allowed_origins_only() -> None:
    for origins, count, policy in (
        ((), 0, "img-src 'self' data:;"),
        ((ORIGIN,), 1, f"img-src 'self' data: {ORIGIN};"),
    ):
        stage = PortalStage(settings=Settings(icon_origins=origins))
        stage.put(a_template(icon=f"{ORIGIN}/x.svg"))
        page = await stage.browser().get("/catalogue")
        assert page.text.count(f'<img src="{ORIGIN}/x.svg"') == count
        assert policy in page.headers["content-security-policy"]


async def test_administrators_read_why_an_icon_is_not_shown() -> None:
    stage = PortalStage(a_template(icon="maps"))
    assert "icon: &#39;maps&#39;: allowed: ai, app," in await stage.browser(ADMIN).html(
        "/admin/templates"
    )


@pytest.mark.parametrize(
    "value", ["http://a.example", "https://a.example/x", "https://*", "https://a;script-src *", "*"]
)
def test_an_origin_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"VDI_ICON_ORIGINS.*allowed: https://HOST"):
        read_settings({"VDI_ICON_ORIGINS": value})


def test_origins_are_separated_by_commas() -> None:
    found = read_settings(
        {"VDI_ICON_ORIGINS": "https://a.example, https://b.example:8443"}
    ).icon_origins
    assert found == ("https://a.example", "https://b.example:8443")

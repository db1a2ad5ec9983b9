"""Name, logo, colour and texts of an installation: on every page, readable in any colour; terms
before each login.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.csrf import csrf_of
from unit.gateway.gateway_stage import PASSWORD
from unit.gateway.login_stage import SETTINGS, LoginStage
from unit.gateway.portal_stage import PNG, PortalStage, a_template
from vdi.gateway.brand import Brand, contrast, stylesheet
from vdi.gateway.settings import Settings, read_settings
from vdi.gateway.web.credentials import TERMS_COOKIE
from vdi.settings import SettingsError

BRAND = Brand(
    name="Example Desks",
    logo=PNG,
    accent="#ffcc00",
    banner="For staff.\nAll use is logged.",
    support_url="mailto:it@a.b",
)
TEXT = "Be good.\n<b>Be quick.</b>"


def colours(css: str) -> dict[str, tuple[Any, Any]]:
    def parse(text: str) -> tuple[float, ...]:
        return tuple(int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))

    found = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    return {name: (parse(light), parse(dark)) for name, light, dark in found}


@given(st.integers(0, 0xFFFFFF))
def test_every_colour_can_be_read(number: int) -> None:
    made = colours(stylesheet(Brand(accent=f"#{number:06X}")))
    assert sorted(made) == ["accent", "accent-hover", "accent-strong", "accent-wash"]
    for name in ("accent-strong", "accent-hover"):
        assert min(contrast(colour, (1, 1, 1)) for colour in made[name]) >= 4.5
    light, dark = made["accent"]
    assert contrast(light, (0xEE / 255, 0xF0 / 255, 0xF4 / 255)) >= 4.5
    assert contrast(dark, (0x1C / 255, 0x22 / 255, 0x2B / 255)) >= 4.5


def test_a_colour_that_can_be_read_is_kept() -> None:
    assert "--accent-strong: light-dark(#2f5bd0, #2f5bd0);" in stylesheet(Brand(accent="#2f5bd0"))
    assert stylesheet(Brand()) == ""


def test_the_grounds_are_those_of_the_stylesheet() -> None:
    css = (Path(__file__).parents[3] / "src/vdi/gateway/portal/static/portal.css").read_text()
    for line in ("--sunken: light-dark(#eef0f4, ", "--raised: light-dark(#ffffff, #1c222b);"):
        assert line in css


async def test_a_brand_is_on_every_page_and_its_colour_in_a_file() -> None:
    stage = PortalStage(settings=Settings(brand=BRAND))
    stage.put(a_template())
    browser = stage.browser()
    for path in ("/", "/catalogue", "/catalogue/nothing"):
        page = (await browser.get(path)).text
        assert "· Example Desks</title>" in page
        assert f'<img class="mark" src="{PNG}" alt=""><span>Example Desks</span>' in page
        assert f'<link rel="icon" href="{PNG}">' in page
        assert '<a href="mailto:it@a.b">Help and support</a>' in page
    found = re.search(r'href="(/static/brand\.css\?v=[0-9a-f]+)"', page)
    assert found
    answer = await browser.get(found[1])
    assert answer.text == stylesheet(BRAND)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_without_a_brand_pages_are_as_they_come() -> None:
    page = (await PortalStage().browser().get("/")).text
    assert "· VDI</title>" in page
    assert "brand.css" not in page and "<footer" not in page


def with_brand(**brand: str) -> LoginStage:
    return LoginStage(Settings(admin_groups=SETTINGS.admin_groups, brand=Brand(**brand)))


async def test_the_banner_is_above_the_login_form() -> None:
    async with with_brand(banner=TEXT) as stage:
        page = (await stage.browser().get("/login")).text
    assert page.index("Be good.\n&lt;b&gt;Be quick.&lt;/b&gt;") < page.index('name="password"')


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("mailto:it@a.b", '<a href="mailto:it@a.b">Ask for help</a>'),
        ("", "Ask the person who gave you this address."),
    ],
)
async def test_login_page_says_whom_to_ask_for_a_password(address: str, advice: str) -> None:
    async with with_brand(support_url=address) as stage:
        assert advice in (await stage.browser().get("/login")).text


async def test_terms_are_accepted_before_each_login() -> None:
    async with with_brand(terms=TEXT) as stage:
        browser = stage.browser()
        asked = await browser.get("/login?next=/x")
        assert "Be good.\n&lt;b&gt;Be quick.&lt;/b&gt;" in asked.text
        assert 'name="password"' not in asked.text
        accepted = await browser.submit("/login/terms", csrf=csrf_of(asked.text), next="/x")
        assert (accepted.status_code, accepted.headers["location"]) == (303, "/login?next=/x")
        assert 'name="password"' in (await browser.get("/login?next=/x")).text
        assert (await browser.log_in(next="/x")).headers["location"] == "/x"
        assert TERMS_COOKIE not in browser.cookies


async def test_a_login_without_accepted_terms_is_none() -> None:
    async with with_brand(terms=TEXT) as stage:
        browser = stage.browser()
        token = csrf_of((await browser.get("/login")).text)
        for cookie in ("", "of-other-terms"):
            browser.cookies.set(TERMS_COOKIE, cookie)
            answer = await browser.submit(
                "/login", csrf=token, user="alice@example.com", password=PASSWORD, next="/x"
            )
            assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/x")
        assert stage.acts == []
        for path in ("/login/oidc?next=/x", "/login/oidc/back?state=s&code=c"):
            assert (await browser.get(path)).status_code in (303, 404)


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("VDI_BRAND_NAME", "x" * 65, "a name of at most 64 characters"),
        (
            "VDI_BRAND_LOGO",
            "https://example.com/a.png",
            "a data:image/ URL of at most 16384 characters",
        ),
        ("VDI_BRAND_LOGO", "data:image/png;" + "x" * 16384, "a data:image/ URL"),
        ("VDI_BRAND_ACCENT", "red", "a colour such as #2f5bd0"),
        ("VDI_BRAND_SUPPORT_URL", "javascript:alert(1)", "an https:// or mailto: URL"),
    ],
)
def test_what_is_no_brand_is_refused(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}.*{re.escape(allowed)}"):
        read_settings({variable: value})


def test_a_brand_is_read_from_the_environment() -> None:
    assert read_settings({}).brand == Brand()
    assert read_settings({"VDI_BRAND_NAME": "A", "VDI_BRAND_TERMS": "Be\ngood."}).brand == Brand(
        "A", terms="Be\ngood."
    )

"""What is refused to whom: pages without a login, forms that no page of ours has sent, addresses
that are not ours.
"""

from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.csrf import csrf_of
from unit.gateway.gateway_stage import PASSWORD, PORTAL, Browser
from unit.gateway.login_stage import SETTINGS, LoginStage
from vdi.gateway.login.pages import safe_next
from vdi.gateway.settings import Settings
from vdi.gateway.web import credentials
from vdi.gateway.web.middleware import content_security_policy


@pytest.fixture
async def stage() -> AsyncIterator[LoginStage]:
    async with LoginStage() as stage:
        yield stage


@pytest.fixture
async def alice(stage: LoginStage) -> Browser:
    browser = stage.browser()
    await browser.log_in()
    return browser


async def token_of(browser: Browser) -> str:
    token: str = (await browser.get("/api/v1/me")).json()["csrf"]
    return token


async def test_a_page_leads_to_the_login_and_back(stage: LoginStage) -> None:
    answer = await stage.browser().get("/account?x=1&y=%2F")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/login?next=/account%3Fx%3D1%26y%3D%252F",
    )
    assert (await stage.browser().get("/")).headers["location"] == "/login"


async def test_what_is_no_page_is_reported_401(stage: LoginStage) -> None:
    for browser, path in (
        (stage.browser(), "/api/v1/me"),
        (stage.browser(Accept="text/event-stream"), "/"),
        (stage.browser(Accept="*/*"), "/"),
    ):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"].startswith("Bearer")) == (
            401,
            True,
        )


async def test_htmx_goes_to_the_login_from_the_page_it_is_on(stage: LoginStage) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": f"{PORTAL}/history?page=2"}
    answer = await stage.browser().get("/", headers=headers)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (
        401,
        "/login?next=/history%3Fpage%3D2",
    )


async def test_a_form_of_ours_is_taken(alice: Browser) -> None:
    token = await token_of(alice)
    for headers in ({"Origin": PORTAL}, {"Sec-Fetch-Site": "same-origin"}):
        assert (
            await alice.post("/change", data={"csrf": token}, headers=headers)
        ).status_code == 200
        assert (
            await alice.post("/change", headers=headers | {"X-CSRF-Token": token})
        ).status_code == 200
    assert await token_of(alice) != token, "each page has another"


ORIGINS = (
    "https://evil.example",
    "https://alice-desktop.vdi.localhost",
    "https://portal.vdi.localhost.evil.example",
)
ELSEWHERE: list[dict[str, str]] = [
    {},
    *(
        {"Origin": origin}
        for origin in (*ORIGINS, "http://portal.vdi.localhost", f"{PORTAL}:444", "null")
    ),
    *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "none")),
    {"Sec-Fetch-Site": "same-site", "Origin": PORTAL},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]


async def test_a_form_from_elsewhere_is_refused_even_with_the_token(alice: Browser) -> None:
    for headers in ELSEWHERE:
        answer = await alice.post("/change", data={"csrf": await token_of(alice)}, headers=headers)
        assert answer.status_code == 403, headers


async def test_a_form_without_its_token_is_refused(stage: LoginStage, alice: Browser) -> None:
    other = stage.browser()
    await other.log_in("root")
    token = await token_of(alice)
    for wrong in (
        "",
        "x",
        await token_of(other),
        token[:-2],
        token + "AA",
        "ä",
        credentials.make_csrf_token(""),
    ):
        answer = await alice.post("/change", data={"csrf": wrong}, headers={"Origin": PORTAL})
        assert answer.status_code == 403, wrong
    as_json = await alice.post("/change", json={"csrf": token}, headers={"Origin": PORTAL})
    assert as_json.status_code == 403


async def test_no_other_page_logs_a_browser_in(stage: LoginStage) -> None:
    browser = stage.browser()
    right = csrf_of((await browser.get("/login")).text)
    fields = {"user": "alice@example.com", "password": PASSWORD}
    for token, origin in (("", PORTAL), (right, "https://evil.example")):
        answer = await browser.post(
            "/login", data=fields | {"csrf": token}, headers={"Origin": origin}
        )
        assert answer.status_code == 403, origin
        assert "__Host-vdi-login" not in browser.copy_cookies()


OURS = Settings(domain="vdi.example.com", url_port=8443)
OURS_URL = "https://portal.vdi.example.com:8443"
OWN_PAGES = ("/", "/desktops/x?y=1#z", "/enter?host=a&state=b&next=/", f"{OURS_URL}/history")


@pytest.mark.parametrize("good", [*OWN_PAGES, "https://alice-desktop.vdi.example.com:8443/"])
def test_own_pages_are_gone_to(good: str) -> None:
    assert safe_next(good, OURS) == good


@pytest.mark.parametrize(
    "bad",
    [
        *("", None, "/" + "x" * 3000, "/\u2028", "javascript:alert(1)", "data:text/html,x"),
        *(f"{lead}evil.example" for lead in ("//", "///", "/\\", "\\\\", " //", "/\t/", "/\n/")),
        *(f"{lead}evil.example" for lead in ("https://", "https:", "https:/", f"{OURS_URL}@")),
        *(f"https://evil.example{mark}.vdi.example.com:8443/" for mark in "/?#"),
        *(
            f"https://{name}vdi.example.com:8443/"
            for name in ("", "a.b.", "evil", "evil.example@portal.")
        ),
        *(
            f"https://portal.vdi.example.com{port}/"
            for port in ("", ":9", ":x", ".evil.example:8443")
        ),
        *("https://vdi.example.com.evil.example:8443/", OURS_URL.replace("https", "http")),
    ],
)
def test_foreign_pages_are_not(bad: str | None) -> None:
    assert safe_next(bad, OURS) == "/"


@given(st.text(alphabet="/\\@:.?#%\t\n ax-", max_size=30) | st.text(max_size=30))
@example("/.//evil.example")
@example("/..//evil.example")
def test_no_text_leads_away(text: str) -> None:
    there = urlsplit(urljoin(f"{OURS.portal_url}/login", safe_next(text, OURS).replace("\\", "/")))
    assert there.scheme == "https"
    assert (there.hostname or "").endswith(".vdi.example.com")


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_csrf_token_fits_its_own_secret_alone(secret: str, other: str) -> None:
    secret, other = (
        secret.encode("utf-8", "replace").decode(),
        other.encode("utf-8", "replace").decode(),
    )
    token = credentials.make_csrf_token(secret)
    assert credentials.matches_csrf_token(secret, token)
    assert credentials.matches_csrf_token(other, token) == (other == secret)


def test_the_policy_names_the_port_of_desktops() -> None:
    assert "form-action 'self' https://*.vdi.example.com:8443;" in content_security_policy(OURS)
    assert "form-action 'self' https://*.vdi.localhost;" in content_security_policy(SETTINGS)

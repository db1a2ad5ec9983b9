"""My account: browsers, signing out everywhere, API tokens; and the command line's way to one."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from support.csrf import csrf_of
from support.waiting import hold_calls
from unit.gateway.gateway_stage import PORTAL, Browser
from unit.gateway.login_stage import LoginStage
from vdi.gateway.login.logins import browser as named
from vdi.gateway.login.oidc import challenge_of
from vdi.gateway.login.token_endpoints import loopback
from vdi.gateway.store.logins import LoginStore

VERIFIER = "v" * 43
LOOPBACK = "http://127.0.0.1:40123/back"


@pytest.fixture
async def stage() -> AsyncIterator[LoginStage]:
    async with LoginStage() as stage:
        yield stage


@pytest.fixture
async def alice(stage: LoginStage) -> Browser:
    browser = stage.browser(
        **{"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"}
    )
    await browser.log_in()
    return browser


async def make_token(browser: Browser, label: str = "script", days: str = "30") -> str:
    page = (await browser.get("/account")).text
    answer = await browser.submit("/account/tokens", page, label=label, days=days)
    assert answer.status_code == 200, answer.text
    found = re.search(r'<pre id="new-token">(vdi_[A-Za-z0-9_-]{43})</pre>', answer.text)
    assert found is not None
    # The whole configuration of an MCP client.
    copied = html.unescape(answer.text).split('data-copy="{')[1].split("\n}")[0]
    client = json.loads(f"{{{copied}\n}}")["mcpServers"]["desktops"]
    assert client["url"].endswith("/mcp")
    assert client["headers"] == {"Authorization": f"Bearer {found[1]}"}
    return found[1]


async def status_with(stage: LoginStage, token: str, path: str = "/api/v1/me") -> int:
    return (await stage.browser(Authorization=f"Bearer {token}").get(path)).status_code


async def test_an_api_token_is_shown_once_and_speaks_for_its_maker(
    stage: LoginStage, alice: Browser
) -> None:
    token = await make_token(alice)
    me = (await stage.browser(Authorization=f"Bearer {token}").get("/api/v1/me")).json()
    assert (me["user"], me["groups"], me["admin"]) == ("alice@example.com", ["engineering"], False)
    page = (await alice.get("/account")).text
    assert token not in page and "script" in page
    assert ("alice@example.com", "token.create", "alice@example.com", "done") in stage.acts


async def test_an_api_token_ends_on_its_day_and_when_revoked(
    stage: LoginStage, alice: Browser
) -> None:
    token = await make_token(alice, days="1")
    stage.clock.forward(seconds=1)
    other = await make_token(alice, days="7")
    page = (await alice.get("/account")).text
    ids = re.findall(r"/account/tokens/([^/]+)/revoke", page)
    assert len(ids) == 2
    await alice.submit(f"/account/tokens/{ids[0]}/revoke", page)
    assert [await status_with(stage, one) for one in (token, other)] == [200, 401]
    assert {"login_id": f"token:{ids[0]}"} in stage.grants.ended
    stage.clock.forward(days=1)
    assert await status_with(stage, token) == 401


async def test_a_token_makes_neither_tokens_nor_logins(stage: LoginStage, alice: Browser) -> None:
    token = await make_token(alice)
    program = stage.browser(Authorization=f"Bearer {token}")
    for path in (
        "/account/tokens",
        "/account/logout-everywhere",
        "/account/logins/x/end",
        "/cli/authorize",
    ):
        assert (await program.post(path, data={"label": "x", "days": "30"})).status_code == 403, (
            path
        )
    assert await status_with(stage, token, "/account") == 403


async def test_a_bad_token_never_falls_back_to_the_cookie(alice: Browser) -> None:
    for value in ("Bearer vdi_wrong", "Bearer ", "Basic YTpi", "Bearer " + "x" * 5000):
        assert (
            await alice.get("/api/v1/me", headers={"Authorization": value})
        ).status_code == 401, value
    assert (await alice.get("/api/v1/me")).status_code == 200


@pytest.mark.parametrize(
    ("label", "days"), [("", "30"), ("x" * 61, "30"), ("a\x07b", "30"), ("x", "31"), ("x", "-1")]
)
async def test_a_token_with_odd_requests_is_refused_in_words(
    alice: Browser, label: str, days: str
) -> None:
    answer = await alice.submit(
        "/account/tokens", (await alice.get("/account")).text, label=label, days=days
    )
    assert (answer.status_code, "allowed:" in answer.text) == (422, True)


async def test_tokens_made_at_once_are_counted(
    stage: LoginStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.login.logins.MOST_TOKENS", 5)
    page = (await alice.get("/account")).text
    answers = await asyncio.gather(
        *(alice.submit("/account/tokens", page, label="x", days="30") for _ in range(12))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [422] * 7
    assert len(await stage.logins.tokens("alice@example.com")) == 5


async def test_i_see_my_browsers_and_sign_one_out(stage: LoginStage, alice: Browser) -> None:
    other = stage.browser(
        "198.51.100.9", **{"User-Agent": "Mozilla/5.0 (Windows NT 10.0) Chrome/150.0 Safari/537.36"}
    )
    await other.log_in()
    login_id = (await other.get("/api/v1/me")).json()["login_id"]
    page = (await alice.get("/account")).text
    for words in ("Firefox on Linux", "Chrome on Windows", "198.51.100.9"):
        assert words in page
    answer = await alice.submit(f"/account/logins/{login_id}/end", page)
    assert answer.status_code == 303
    assert (await other.get("/api/v1/me")).status_code == 401
    assert (await alice.get("/api/v1/me")).status_code == 200
    assert stage.grants.ended == [{"login_id": login_id}]


@pytest.mark.parametrize("with_tokens", [False, True])
async def test_signing_out_everywhere(stage: LoginStage, alice: Browser, with_tokens: bool) -> None:
    other, root = stage.browser(), stage.browser()
    await other.log_in()
    await root.log_in("root")
    token = await make_token(alice)
    ids = {login.id for login in await stage.logins.of("alice@example.com")}
    if with_tokens:
        ids |= {f"token:{made.id}" for made in await stage.logins.tokens("alice@example.com")}
    requested = {"tokens": "yes"} if with_tokens else {}
    answer = await alice.submit(
        "/account/logout-everywhere", (await alice.get("/account")).text, **requested
    )
    assert answer.status_code == 200
    (ended,) = stage.grants.ended
    assert (ended["user"], set(ended["over"])) == ("alice@example.com", ids)
    for browser in (alice, other):
        assert (await browser.get("/api/v1/me")).status_code == 401
    assert (await root.get("/api/v1/me")).status_code == 200
    assert await status_with(stage, token) == (401 if with_tokens else 200)


async def test_a_removed_user_s_tokens_end(stage: LoginStage, alice: Browser) -> None:
    token = await make_token(alice)
    stage.set_users()
    await stage.login.follow()
    assert await status_with(stage, token) == 401


async def test_signing_out_everywhere_is_not_outrun_by_a_new_token(
    stage: LoginStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (await alice.get("/account")).text
    adding, go_on = hold_calls(monkeypatch, LoginStore, "add_token")
    making = asyncio.create_task(alice.submit("/account/tokens", page, label="script", days="30"))
    await adding.wait()
    await stage.login.services.sign_out.end_everything("alice@example.com", tokens=True)
    go_on.set()
    answer = await making
    assert (answer.status_code, "vdi_" in answer.text) == (403, False)
    assert await stage.logins.tokens("alice@example.com") == []


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.0 Safari/605.1.15",
            "Safari on macOS",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0) Chrome/150.0.0.0 Safari/537.36 Edg/150.0",
            "Edge on Windows",
        ),
        ("curl/8.5.0", "curl"),
        ("", "unknown"),
        ("x" * 100, "x" * 60),
    ],
)
def test_browsers_have_names(agent: str, words: str) -> None:
    assert named(agent) == words


# --- the command line ---


def question(**more: str) -> dict[str, str]:
    return {
        "redirect_uri": LOOPBACK,
        "state": "s1",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
        "client": "vdi on laptop",
    } | more


PROOF = {"code_verifier": VERIFIER, "redirect_uri": LOOPBACK}


async def agreed(browser: Browser, **more: str) -> str:
    """The code that the command gets."""
    page = await browser.get("/cli/authorize", params=question(**more))
    assert (page.status_code, "vdi on laptop" in page.text) == (200, True)
    answer = await browser.submit("/cli/authorize", page.text, **question(**more))
    assert answer.status_code == 200
    there = answer.headers["refresh"].removeprefix("0; url=")
    assert there.startswith(f"{LOOPBACK}?")
    query = parse_qs(urlsplit(there).query)
    assert query["state"] == ["s1"]
    return query["code"][0]


async def test_the_command_line_gets_a_token_through_the_browser(
    stage: LoginStage, alice: Browser
) -> None:
    command, proof = stage.browser(), PROOF | {"code": await agreed(alice)}
    answer = (await command.post("/cli/token", data=proof)).json()
    assert (answer["user"], answer["expires"]) == ("alice@example.com", "2026-12-20T12:00:00Z")
    assert await status_with(stage, answer["token"]) == 200
    again = await command.post("/cli/token", data=proof)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


async def test_vdi_login_respects_the_limit_of_tokens(
    stage: LoginStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.login.logins.MOST_TOKENS", 1)
    await make_token(alice)
    answer = await stage.browser().post("/cli/token", data=PROOF | {"code": await agreed(alice)})
    assert (answer.status_code, answer.json()["error"]) == (400, "access_denied")
    assert "You already have 1 API tokens." in answer.json()["error_description"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code_verifier", "w" * 43),
        ("code_verifier", "short"),
        ("redirect_uri", "http://127.0.0.1:1/back"),
        ("code", "x"),
    ],
)
async def test_a_stolen_code_is_worth_nothing(
    stage: LoginStage, alice: Browser, field: str, value: str
) -> None:
    proof = PROOF | {"code": await agreed(alice)} | {field: value}
    answer = await stage.browser().post("/cli/token", data=proof)
    assert (answer.status_code, set(answer.json())) == (400, {"error", "error_description"})


async def test_a_code_ends_with_its_time_and_with_its_login(
    stage: LoginStage, alice: Browser
) -> None:
    command, proof = stage.browser(), PROOF | {"code": await agreed(alice)}
    stage.clock.forward(seconds=301)
    assert (await command.post("/cli/token", data=proof)).status_code == 400
    proof = PROOF | {"code": await agreed(alice)}
    await alice.submit("/logout", (await alice.get("/account")).text)
    answer = await command.post("/cli/token", data=proof)
    assert "login that confirmed" in answer.json()["error_description"]


async def test_without_a_loopback_address_the_code_is_shown(
    stage: LoginStage, alice: Browser
) -> None:
    asked = question(redirect_uri="")
    page = (await alice.get("/cli/authorize", params=asked)).text
    answer = await alice.submit("/cli/authorize", page, **asked)
    assert "refresh" not in answer.headers
    found = re.search(r'<pre id="code">([^<]+)</pre>', answer.text)
    assert found is not None
    done = await stage.browser().post(
        "/cli/token", data={"code": found[1], "code_verifier": VERIFIER}
    )
    assert done.status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("redirect_uri", "http://evil.example:1/"),
        ("code_challenge", "short"),
        ("code_challenge", ""),
        ("code_challenge_method", "plain"),
        ("code_challenge_method", ""),
        ("client", "x" * 61),
        ("client", "a\nb"),
        ("state", "a b"),
    ],
)
async def test_odd_questions_are_refused(alice: Browser, field: str, value: str) -> None:
    answer = await alice.get("/cli/authorize", params=question(**{field: value}))
    assert answer.status_code == 400
    assert field in answer.text and "allowed" in answer.text
    page = (await alice.get("/account")).text
    assert (
        await alice.submit("/cli/authorize", page, **question(**{field: value}))
    ).status_code == 400


async def test_the_question_waits_for_the_login(stage: LoginStage) -> None:
    browser = stage.browser()
    asked = await browser.get("/cli/authorize", params=question())
    assert asked.status_code == 303
    page = (await browser.get(asked.headers["location"])).text
    hidden = re.search(r'name="next" value="([^"]+)"', page)
    assert hidden is not None
    answer = await browser.log_in(next=hidden[1].replace("&amp;", "&"))
    assert (await browser.get(answer.headers["location"])).status_code == 200
    assert answer.headers["location"].startswith("/cli/authorize?redirect_uri=http")
    assert csrf_of(page)
    assert PORTAL not in answer.headers["location"]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1/", "http://127.0.0.1:65535", "http://[::1]:8000/back"]
)
def test_loopback_is_taken_by_number_and_port(uri: str) -> None:
    assert loopback(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *(f"http://127.0.0.1{rest}" for rest in ("/", ":0/", ":65536/", ":1/?x", ":1/#x", ":1/\n")),
        *(
            f"http://127.0.0.1{rest}"
            for rest in (":1@evil.example/", ".evil.example:1/", ":1\\@evil.example")
        ),
        *("https://127.0.0.1:1/", "http://localhost:1/", "http://127.0.0.2:1/"),
    ],
)
def test_what_is_no_loopback_address_is_refused(uri: str) -> None:
    assert not loopback(uri)

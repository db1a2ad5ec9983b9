"""What is believed of an identity provider. A real one is in tests/cluster; here is one that lies
as a test asks.
"""

import asyncio
import hashlib
import hmac
import html
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import RSAKey

from support.clock import FakeClock
from support.hostile_server import DEEP, TYPICAL, Answer, serve_answer
from unit.gateway.gateway_stage import Browser
from unit.gateway.login_stage import SETTINGS, LoginStage
from vdi.gateway.login import oidc
from vdi.gateway.login.logins import SOURCE_OIDC, AnotherAccountError, Device, Identity
from vdi.gateway.login.oidc import (
    ClaimsError,
    OIDCProvider,
    ProviderDownError,
    RefusedError,
    check_claims,
    groups_in,
    identity_from,
)
from vdi.gateway.login.throttle import PER_USER, WINDOW, Bound, Throttle
from vdi.gateway.settings import OIDCSettings, Settings
from vdi.gateway.shared_state import MemorySharedState
from vdi.gateway.store.audit import audit
from vdi.http_client import HttpClient, open_client_for_any_host

ISSUER, BACK = "https://id.example.com/realms/vdi", "/login/oidc/back"
CONFIG = OIDCSettings(issuer=ISSUER, client_id="vdi", client_secret="se:cret/ä", name="Example ID")
WITH_OIDC = Settings(
    oidc=CONFIG, admin_users=frozenset({"boss@example.com"}), admin_groups=frozenset({"admins"})
)
ACCOUNT = Identity(user="alice@example.com", source=SOURCE_OIDC, issuer=ISSUER, subject="1")
KEY = RSAKey.generate_key(2048, parameters={"kid": "k1", "use": "sig", "alg": "RS256"})
OTHER_KEY = RSAKey.generate_key(2048, parameters={"kid": "k1"})


HEAD = b'{"alg":"RS256","kid":"k1"}'


def signed(head: bytes, body: bytes) -> str:
    """A token by hand: the library refuses to sign what is no claims, or cannot be written as
    UTF-8.
    """
    text = f"{oidc._base64url(head)}.{oidc._base64url(body)}"
    assert KEY.private_key is not None
    return f"{text}.{oidc._base64url(KEY.private_key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@dataclass
class FakeProvider:
    """Answers as OpenID Connect says, except for what a test has changed."""

    clock: Callable[[], float]
    claims: dict[str, Any] = field(default_factory=dict)
    user_info: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    # Makes the ID token of these claims, or is the token.
    sign: str | Callable[[dict[str, Any]], str] = lambda claims: signed(
        HEAD, json.dumps(claims).encode()
    )
    keys: list[Any] = field(default_factory=lambda: [KEY.as_dict(private=False)])
    down: bool = False
    # Whether the token endpoint sends the gateway on to another host.
    redirects: bool = False
    # What the token endpoint answers to each code, whoever asks.
    refusal: httpx.Response | None = None
    # Whether a code is given a token whatever the PKCE verifier: several ways back are under way.
    any_verifier: bool = False
    nonce: str = ""
    challenge: str = ""
    asked: list[str] = field(default_factory=list)
    form: dict[str, list[str]] = field(default_factory=dict)
    authorization: str = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/realms/vdi")
        self.asked.append(path)
        if self.down:
            raise httpx.ConnectError("refused")
        match path:
            case "/.well-known/openid-configuration":
                about = {
                    "issuer": ISSUER,
                    "authorization_endpoint": f"{ISSUER}/auth",
                    "token_endpoint": f"{ISSUER}/token",
                    "jwks_uri": f"{ISSUER}/keys",
                    "userinfo_endpoint": f"{ISSUER}/me",
                    "end_session_endpoint": f"{ISSUER}/end?x=1",
                }
                return httpx.Response(200, json=about | self.metadata)
            case "/token":
                self.form = parse_qs(request.content.decode())
                self.authorization = request.headers.get("authorization", "")
                if self.refusal:
                    return self.refusal
                if self.redirects:
                    return httpx.Response(307, headers={"Location": "https://evil.example/token"})
                if (
                    not self.any_verifier
                    and oidc.challenge_of(self.form["code_verifier"][0]) != self.challenge
                ):
                    return httpx.Response(400, json={"error": "invalid_grant"})
                now = int(self.clock())
                claims = {
                    "iss": ISSUER,
                    "aud": "vdi",
                    "sub": "1",
                    "iat": now,
                    "exp": now + 60,
                    "nonce": self.nonce,
                }
                claims |= {"email": "Alice@Example.com", "email_verified": True, "name": "Alice"}
                claims |= {"groups": ["engineering"]} | self.claims
                claims = {name: value for name, value in claims.items() if value is not None}
                token = self.sign if isinstance(self.sign, str) else self.sign(claims)
                return httpx.Response(200, json={"id_token": token, "access_token": "at"})
            case "/keys":
                return httpx.Response(200, json={"keys": self.keys})
            case "/me":
                assert request.headers["authorization"] == "Bearer at"
                return httpx.Response(200, json={"sub": "1"} | self.user_info)
            case _:
                return httpx.Response(404)


@dataclass
class SignOn:
    stage: LoginStage
    provider: FakeProvider

    async def go(self, browser: Browser, next_page: str = "/history") -> dict[str, str]:
        """To the provider; what its way back would carry."""
        answer = await browser.get("/login/oidc", params={"next": next_page})
        assert answer.status_code == 303, answer.text
        there = urlsplit(answer.headers["location"])
        assert f"{there.scheme}://{there.netloc}{there.path}" == f"{ISSUER}/auth"
        query = {name: values[0] for name, values in parse_qs(there.query).items()}
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["redirect_uri"] == "https://portal.vdi.localhost/login/oidc/back"
        self.provider.nonce, self.provider.challenge = query["nonce"], query["code_challenge"]
        return {"code": "c", "state": query["state"]}

    async def come_back(
        self, browser: Browser | None = None, next_page: str = "/history", /, **claims: Any
    ) -> httpx.Response:
        """There and back, by default in a new browser."""
        self.provider.claims |= claims
        browser = browser or self.stage.browser()
        return await browser.get(BACK, params=await self.go(browser, next_page))

    async def come_back_with_a_wrong_code(self, address: str = "203.0.113.7") -> httpx.Response:
        """There and back, with a code that the provider does not know."""
        browser = self.stage.browser(address)
        back = await self.go(browser)
        self.provider.challenge = "of another code"
        return await browser.get(BACK, params=back)


def _unread(answer: httpx.Response) -> httpx.Response:
    """The same as it would come over the wire: httpx counts the body of a response made from text
    as read.
    """
    return httpx.Response(
        answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content)
    )


@asynccontextmanager
async def signing_on(
    throttle: Throttle | None = None, config: OIDCSettings = CONFIG
) -> AsyncIterator[SignOn]:
    made: list[FakeProvider] = []
    settings = replace(WITH_OIDC, oidc=config)

    def provider(clock: FakeClock) -> OIDCProvider:
        made.append(FakeProvider(lambda: clock.now().timestamp()))

        async def answer(request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(0)  # what is asked at once is under way at once
            return _unread(made[0](request))

        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        return OIDCProvider(config, settings, now=made[0].clock, http=HttpClient(http))

    async with LoginStage(settings, throttle=throttle, provider=provider) as stage:
        yield SignOn(stage, made[0])


@pytest.fixture
async def sign_on() -> AsyncIterator[SignOn]:
    async with signing_on() as sign_on:
        yield sign_on


@pytest.fixture
def browser(sign_on: SignOn) -> Browser:
    return sign_on.stage.browser()


async def test_there_and_back(sign_on: SignOn, browser: Browser) -> None:
    answer = await sign_on.come_back(browser, "/desktops/x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/desktops/x")
    me = (await browser.get("/api/v1/me")).json()
    assert (me["user"], me["groups"], me["admin"]) == ("alice@example.com", ["engineering"], False)
    assert sign_on.provider.authorization.startswith("Basic ")
    assert "client_secret" not in sign_on.provider.form
    assert "/me" not in sign_on.provider.asked, "all that is needed was in the ID token"


async def test_the_login_page_offers_it(sign_on: SignOn) -> None:
    page = (await sign_on.stage.browser().get("/login?next=/history")).text
    assert "Continue with Example ID" in page and 'href="/login/oidc?next=/history"' in page
    assert 'name="password"' in page, "there are local users as well"
    sign_on.stage.set_users()
    await sign_on.stage.login.follow()
    assert 'name="password"' not in (await sign_on.stage.browser().get("/login")).text


async def test_two_tabs_may_be_under_way(sign_on: SignOn, browser: Browser) -> None:
    first = await sign_on.go(browser, "/one")
    nonce, challenge = sign_on.provider.nonce, sign_on.provider.challenge
    second = await sign_on.go(browser, "/two")
    answer = await browser.get(BACK, params=second)
    assert answer.headers["location"] == "/two"
    sign_on.provider.nonce, sign_on.provider.challenge = nonce, challenge
    assert (await browser.get(BACK, params=first)).headers["location"] == "/one"


async def test_a_way_back_is_for_one_browser_once_and_soon(sign_on: SignOn) -> None:
    browser, thief = sign_on.stage.browser(), sign_on.stage.browser()
    back = await sign_on.go(browser)
    await sign_on.go(thief)
    assert (await thief.get(BACK, params=back)).status_code == 403
    assert (await sign_on.stage.browser().get(BACK, params=back)).status_code == 403
    back = await sign_on.go(browser)
    assert (await browser.get(BACK, params=back)).status_code == 303
    assert (await browser.get(BACK, params=back)).status_code == 403
    late = await sign_on.go(browser)
    sign_on.stage.clock.forward(seconds=oidc.STATE_SECONDS + 1)
    assert (await browser.get(BACK, params=late)).status_code == 403


@pytest.mark.parametrize("state", ["", ".", "a.b", "é.é", "=.="])
async def test_a_made_up_state_is_refused(sign_on: SignOn, browser: Browser, state: str) -> None:
    await sign_on.go(browser)
    assert (await browser.get(BACK, params={"code": "c", "state": state})).status_code == 403


async def test_the_next_page_is_ours_also_on_the_way_back(sign_on: SignOn) -> None:
    assert (await sign_on.come_back(None, "https://evil.example/")).headers["location"] == "/"


def pairs(rows: Mapping[str, Iterable[Any]]) -> list[tuple[Any, str]]:
    """Each value with the key under which it stands."""
    return [(value, key) for key, values in rows.items() for value in values]


NOT_A_TIME = (10**400, -(10**400), 2**53 + 1, float("nan"), float("inf"), -float("inf"))
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "iss": ("https://evil.example", ISSUER + "/", None),
    "aud": ("another", ["another"], None, ["vdi", "another"]),
    "azp": ("another",),
    "exp": (1, True, "never", None, *NOT_A_TIME),
    "iat": (99999999999, None, *NOT_A_TIME),
    "nbf": (99999999999, *NOT_A_TIME),
    "nonce": ("another", None, 1, "\ud800"),
    "at_hash": ("AAAAAAAAAAAAAAAAAAAAAA", 1, "", "\ud800"),
    "sub": ("", None, 1, "1" * 256, "ä", "1\0"),
}
WRONG_CLAIMS: list[dict[str, Any]] = [
    {"aud": ["vdi", "another"], "azp": "another"},
    *({name: value} for value, name in pairs(WRONG_VALUES)),
]


async def test_a_token_that_says_something_else_is_not_believed(sign_on: SignOn) -> None:
    for claims in WRONG_CLAIMS:
        sign_on.provider.claims = {}
        answer = await sign_on.come_back(**claims)
        assert (answer.status_code, "could not be verified" in answer.text) == (403, True), claims
        assert "__Host-vdi-login" not in str(answer.headers.get_list("set-cookie")), claims


@pytest.mark.parametrize("name", TYPICAL)
async def test_no_answer_of_a_provider_takes_more_than_its_limit(name: str) -> None:
    async with serve_answer(TYPICAL[name]) as server:
        http = open_client_for_any_host(seconds=5)  # the first one reads all certificates
        provider = OIDCProvider(
            OIDCSettings(issuer=server.url, client_id="vdi"), WITH_OIDC, http=http
        )
        tracemalloc.start()
        try:
            with pytest.raises(ProviderDownError, match="well-known/openid-configuration: "):
                await provider.login_url("secret", "state")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await provider.close()
    assert peak < 4 * 2**20


async def test_a_provider_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_REQUEST_SECONDS", 0.2)
    drip = Answer(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01)
    async with serve_answer(drip) as server:
        provider = OIDCProvider(OIDCSettings(issuer=server.url, client_id="vdi"), WITH_OIDC)
        with pytest.raises(ProviderDownError, match="no response in time"):
            await provider.login_url("secret", "state")
        await provider.close()


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["vdi"]},
        {"aud": ["vdi", "x"], "azp": "vdi"},
        {"azp": "vdi"},
        # OpenID Connect Core 1.0, 3.1.3.8: the ID token may name the access token that came with
        # it.
        {"at_hash": oidc._base64url(hashlib.sha256(b"at").digest()[:16])},
    ],
    ids=str,
)
async def test_audiences_and_access_tokens_of_ours_are_believed(
    sign_on: SignOn, claims: dict[str, Any]
) -> None:
    assert (await sign_on.come_back(**claims)).status_code == 303


def none(claims: dict[str, Any]) -> str:
    head = oidc._base64url(b'{"alg":"none","kid":"k1"}')
    return f"{head}.{oidc._base64url(msgspec.json.encode(claims))}."


def hs256(claims: dict[str, Any], key: bytes) -> str:
    """By hand: the library refuses to sign with what everybody knows."""
    text = (
        oidc._base64url(b'{"alg":"HS256","kid":"k1"}')
        + "."
        + oidc._base64url(msgspec.json.encode(claims))
    )
    return f"{text}.{oidc._base64url(hmac.digest(key, text.encode(), 'sha256'))}"


def tampered(claims: dict[str, Any]) -> str:
    head, _, mark = jwt.encode({"alg": "RS256", "kid": "k1"}, claims, KEY).split(".")
    return f"{head}.{oidc._base64url(msgspec.json.encode(claims | {'email': 'boss@example.com'}))}.{mark}"


WRONG_TOKENS: list[str | Callable[[dict[str, Any]], str]] = [
    none,
    tampered,
    lambda claims: hs256(claims, KEY.as_pem(private=False)),
    lambda claims: hs256(claims, CONFIG.client_secret.encode()),
    lambda claims: jwt.encode({"alg": "RS256", "kid": "k1"}, claims, OTHER_KEY),
    lambda claims: jwt.encode({"alg": "RS256", "kid": "k2"}, claims, OTHER_KEY),
    lambda claims: jwt.encode(
        {"alg": "RS256", "jwk": OTHER_KEY.as_dict(private=False)}, claims, OTHER_KEY
    ),
    *(signed(HEAD, body) for body in (b"[]", b"1", b"null", b"\xff\xfe", b"[" * 50_000)),
    signed(HEAD, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    *(signed(head, b"{}") for head in (b"[]", b"[" * 50_000)),
    signed(b'{"alg":["RS256"],"kid":"k1"}', b"{}"),
    signed(b'{"alg":"RS256","kid":["k1"]}', b"{}"),
    signed(b'{"alg":"RS256","kid":"k1","crit":["x"],"x":1}', b"{}"),
    signed(b'{"alg":"RS256","kid":"k1","b64":false,"crit":["b64"]}', b"{}"),
    f"{oidc._base64url(DEEP)}.e30.AAAA",
    *("", "..", "a.b.c", "a.b.c.d.e", "\u212a.b.c", "x" * 10000),
]


async def test_a_token_that_is_not_signed_is_not_believed(sign_on: SignOn) -> None:
    for number, sign in enumerate(WRONG_TOKENS):
        sign_on.provider.sign = sign
        answer = await sign_on.come_back()
        assert (answer.status_code, "could not be verified" in answer.text) == (403, True), number


@pytest.mark.parametrize("later", [61, 3601])
async def test_a_swapped_key_counts_once_the_keys_are_read_again(
    sign_on: SignOn, later: int
) -> None:
    assert (await sign_on.come_back()).status_code == 303
    sign_on.provider.keys = [OTHER_KEY.as_dict(private=False)]
    sign_on.provider.sign = lambda claims: jwt.encode(
        {"alg": "RS256", "kid": "k1"}, claims, OTHER_KEY
    )
    sign_on.stage.clock.forward(seconds=later)
    assert (await sign_on.come_back()).status_code == (303 if later > 3600 else 403)


async def test_unknown_keys_by_the_dozen_are_looked_up_once(
    sign_on: SignOn, browser: Browser
) -> None:
    assert (await sign_on.come_back()).status_code == 303
    sign_on.provider.sign = lambda claims: jwt.encode(
        {"alg": "RS256", "kid": "k9"}, claims, OTHER_KEY
    )
    sign_on.stage.clock.forward(seconds=31)
    back = [await sign_on.go(browser) for _ in range(12)]
    sign_on.provider.any_verifier = True
    asked = sign_on.provider.asked.count("/keys")
    answers = await asyncio.gather(*(browser.get(BACK, params=each) for each in back))
    assert [answer.status_code for answer in answers] == [403] * 12
    assert sign_on.provider.asked.count("/keys") == asked + 1


ODD_KEYS: list[Any] = [
    [KEY.as_dict(private=False)] * 2000,
    5,
    None,
    "keys",
    [["k1"]],
    [None, 5, "x", []],
    [{}],
    [{"kty": "RSA"}],
    [{"kty": "RSA", "n": 5, "e": [], "kid": "k1"}],
    [{"kty": "RSA", "n": "!", "e": "!", "kid": "k1"}],
    [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "k1"}],
    [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "k1"}],
    [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}],
    [{"kty": "OKP", "crv": "X", "x": "AA", "kid": "k1"}],
    [{"kty": ["RSA"], "kid": {"a": 1}}],
    [*([{"kty": "RSA"}] * 100), KEY.as_dict(private=False)],
]


async def test_odd_key_sets_let_no_one_in(sign_on: SignOn) -> None:
    for keys in ODD_KEYS:
        sign_on.provider.keys = keys
        sign_on.stage.clock.forward(hours=2)  # by then the keys are read again
        answer = await sign_on.come_back()
        assert answer.status_code in (403, 503), keys
        assert "__Host-vdi-login" not in str(answer.headers.get_list("set-cookie")), keys


async def test_a_shared_secret_among_the_keys_signs_nothing(sign_on: SignOn) -> None:
    sign_on.provider.keys = [{"kty": "oct", "k": oidc._base64url(b"secret" * 10), "kid": "k1"}]
    sign_on.provider.sign = lambda claims: hs256(claims, b"secret" * 10)
    assert (await sign_on.come_back()).status_code == 403


@pytest.mark.parametrize(
    ("name", "last", "first_refused"), [("exp", -59, -60), ("iat", 60, 61), ("nbf", 60, 61)]
)
async def test_clocks_may_differ_by_a_minute(
    sign_on: SignOn, name: str, last: int, first_refused: int
) -> None:
    now = int(sign_on.stage.clock.now().timestamp())
    answers = [
        await sign_on.come_back(**{name: now + seconds}) for seconds in (last, first_refused)
    ]
    assert [answer.status_code for answer in answers] == [303, 403]


async def test_a_new_key_is_looked_up(sign_on: SignOn) -> None:
    assert (await sign_on.come_back()).status_code == 303
    new = RSAKey.generate_key(2048, parameters={"kid": "k2"})
    sign_on.provider.keys = [{"kty": "odd"}, new.as_dict(private=False)]
    sign_on.provider.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "k2"}, claims, new)
    assert (await sign_on.come_back()).status_code == 403, (
        "not at once: anybody could make us ask again and again"
    )
    sign_on.stage.clock.forward(seconds=31)
    assert (await sign_on.come_back()).status_code == 303


REFUSED_ADDRESSES: dict[str, list[dict[str, Any]]] = {
    "did not send your e-mail address": [{"email": email} for email in (None, "", ["a@b.c"])],
    "not verified": [{"email_verified": said} for said in (False, "false", "False", "no")],
    "allowed: true": [{"email_verified": said} for said in ("true", 1, [True])],
    "gateway.oidc.requireVerified": [{"email_verified": None}],
    "cannot be used": [
        {"email": email}
        for email in (
            "no address",
            "a@b.c\nd@e.f",
            *(f"bob{odd}@example.com" for odd in ("\u200b", "\ud800", "\0")),
        )
    ],
}


@pytest.mark.parametrize(("claims", "words"), pairs(REFUSED_ADDRESSES), ids=str)
async def test_without_an_address_that_is_theirs_no_one_comes_in(
    sign_on: SignOn, claims: dict[str, Any], words: str
) -> None:
    answer = await sign_on.come_back(**claims)
    assert answer.status_code == 403
    assert words in answer.text
    assert "__Host-vdi-login" not in str(answer.headers.get_list("set-cookie"))


async def test_what_the_token_lacks_is_in_the_user_info(sign_on: SignOn, browser: Browser) -> None:
    sign_on.provider.user_info = {
        "email": "bob@example.com",
        "email_verified": True,
        "groups": "admins, staff",
    }
    await sign_on.come_back(browser, email=None, email_verified=None, groups=None)
    me = (await browser.get("/api/v1/me")).json()
    assert (me["user"], me["groups"], me["admin"]) == ("bob@example.com", ["admins", "staff"], True)


async def test_an_address_is_verified_only_by_what_is_said_beside_it(sign_on: SignOn) -> None:
    """The claim of one source says nothing about the address of another."""
    sign_on.provider.user_info = {"email": "boss@example.com", "email_verified": False}
    answer = await sign_on.come_back(email=None, email_verified=True)
    assert answer.status_code == 403 and "not verified" in answer.text
    sign_on.provider.user_info = {"email": "me@example.com", "email_verified": True}
    answer = await sign_on.come_back(email="boss@example.com", email_verified=None)
    assert answer.status_code == 403 and "docs/login.md#verified" in answer.text
    sign_on.provider.user_info = {"email": "Alice@Example.com", "email_verified": True}
    assert (
        await sign_on.come_back(email="Alice@Example.com", email_verified=None)
    ).status_code == 303


async def test_a_setting_allows_addresses_without_verification() -> None:
    async with signing_on(config=replace(CONFIG, require_verified=False)) as sign_on:
        assert (await sign_on.come_back(email_verified=None)).status_code == 303
        assert "/me" not in sign_on.provider.asked
        refused: list[Any] = [False, "false", "no", "true", 0, 1, {}]
        for said in refused:
            answer = await sign_on.come_back(email_verified=said)
            assert answer.status_code == 403 and "not verified" in answer.text, said


async def user_of(sign_on: SignOn, **claims: Any) -> str:
    """Who a browser is after there and back; or what the page says."""
    browser = sign_on.stage.browser()
    answer = await sign_on.come_back(browser, **claims)
    if answer.status_code == 403:
        return html.unescape(answer.text)
    return str((await browser.get("/api/v1/me")).json()["user"])


async def test_an_address_stays_with_the_account_that_came_first(sign_on: SignOn) -> None:
    assert await user_of(sign_on) == "alice@example.com"
    said = await user_of(sign_on, sub="2", email="ALICE@example.com")
    assert (
        "Another account of your identity provider has signed in here as alice@example.com before."
        in said
    )
    assert "vdi gateway user release alice@example.com" in said
    (row,) = [row for row in sign_on.stage.acts if row[3] == "refused"]
    assert row[:3] == (
        f"{ISSUER}#2",
        "login.begin",
        "alice@example.com",
    ), "not the person whose address it is"
    assert await user_of(sign_on, sub="1") == "alice@example.com", (
        "and the first one still comes in"
    )


async def test_a_changed_address_at_the_provider_opens_no_other_one(sign_on: SignOn) -> None:
    """Neither somebody's who has not signed in yet, nor one that an account has."""
    assert await user_of(sign_on) == "alice@example.com"
    assert await user_of(sign_on, sub="2", email="bob@example.com") == "bob@example.com"
    said = await user_of(sign_on, sub="2", email="boss@example.com")
    assert (
        "Your account has signed in here as bob@example.com before; now its address is"
        " boss@example.com." in said
    )
    assert "vdi gateway user release bob@example.com" in said
    assert "as alice@example.com before" in await user_of(
        sign_on, sub="2", email="alice@example.com"
    )
    assert await user_of(sign_on, sub="3", email="boss@example.com") == "boss@example.com", (
        "nothing was bound"
    )
    assert await user_of(sign_on, sub="2", email="bob@example.com") == "bob@example.com"


async def test_a_released_address_goes_to_the_next_account(sign_on: SignOn) -> None:
    assert await user_of(sign_on) == "alice@example.com"
    assert [await sign_on.stage.logins.release("alice@example.com") for _ in range(2)] == [
        True,
        False,
    ]
    assert await user_of(sign_on, sub="2") == "alice@example.com"
    assert "Another account" in await user_of(sign_on, sub="1")


async def test_accounts_that_come_at_once_are_one(sign_on: SignOn) -> None:
    logins = sign_on.stage.logins
    who = [replace(ACCOUNT, subject=str(number)) for number in range(8)]
    done = await asyncio.gather(
        *(logins.begin(one, Device()) for one in who), return_exceptions=True
    )
    assert sum(isinstance(each, AnotherAccountError) for each in done) == 7
    assert len(await logins.of("alice@example.com")) == 1


async def test_another_issuer_is_another_provider(sign_on: SignOn) -> None:
    logins = sign_on.stage.logins
    new = replace(ACCOUNT, issuer="https://new.example.com", subject="2")
    await logins.begin(ACCOUNT, Device())
    secret, login = await logins.begin(new, Device())
    assert await logins.of("alice@example.com") == [login]
    again, _ = await logins.begin(new, Device())
    assert await logins.person_by_cookie(secret) and await logins.person_by_cookie(again)


async def test_the_first_login_of_another_issuer_ends_what_was_open(sign_on: SignOn) -> None:
    """The person at the new provider may be another one."""
    logins, tokens = sign_on.stage.logins, []
    for who in (
        ACCOUNT,
        replace(ACCOUNT, user="bob@example.com", subject="2"),
        Identity(user=ACCOUNT.user),
    ):
        secret, _ = await logins.begin(who, Device())
        person = await logins.person_by_cookie(secret)
        assert person is not None
        tokens.append((secret, (await logins.new_token(person, "script", timedelta(days=1)))[0]))
    await logins.begin(replace(ACCOUNT, issuer="https://new.example.com"), Device())
    held = [
        (await logins.person_by_cookie(secret), await logins.person_by_token(token))
        for secret, token in tokens
    ]
    assert held[0] == (None, None)
    assert None not in held[1] and None not in held[2], (
        "neither of somebody else nor of the local user"
    )


async def test_no_login_outlives_a_release_that_comes_with_it(sign_on: SignOn) -> None:
    logins = sign_on.stage.logins

    async def release() -> bool:
        released = await logins.release(ACCOUNT.user)
        await logins.end_all(ACCOUNT.user)
        return released

    for _ in range(20):
        _, released = await asyncio.gather(logins.begin(ACCOUNT, Device()), release())
        if released:
            assert await logins.of(ACCOUNT.user) == []
        else:
            assert await release()


async def test_a_refused_account_leaves_the_browsers_login(
    sign_on: SignOn, browser: Browser
) -> None:
    assert await user_of(sign_on) == "alice@example.com"
    await browser.log_in()
    assert (await sign_on.come_back(browser, sub="2")).status_code == 403
    assert (await browser.get("/api/v1/me")).json()["user"] == "alice@example.com"


async def test_a_local_user_and_an_account_may_share_an_address(
    sign_on: SignOn, browser: Browser
) -> None:
    """The password is a way in while the provider is down; it neither takes nor frees the
    address.
    """
    await browser.log_in()
    assert (await browser.get("/api/v1/me")).json()["user"] == "alice@example.com"
    assert await user_of(sign_on) == "alice@example.com"
    assert "Another account" in await user_of(sign_on, sub="2")
    assert (await sign_on.stage.browser().log_in()).status_code == 303


async def test_what_no_database_and_no_terminal_can_show_is_left_out(sign_on: SignOn) -> None:
    browser, groups = sign_on.stage.browser(), ["a\0", "\ud800", "\x1b[2J", "fine"]
    assert (
        await sign_on.come_back(browser, name="A\0\ud800\x1b]0;\u202eB", groups=groups)
    ).status_code == 303
    assert (await browser.get("/api/v1/me")).json()["groups"] == ["fine"]
    (login,) = await sign_on.stage.logins.of("alice@example.com")
    assert login.name == "A]0;B"


async def test_groups_without_end_are_refused_and_long_names_left_out(
    sign_on: SignOn, browser: Browser
) -> None:
    groups = [f"g{number}" for number in range(1000)]
    assert (
        await sign_on.come_back(browser, groups=[*groups, "x" * 255, "x" * 20_000])
    ).status_code == 303
    assert len((await browser.get("/api/v1/me")).json()["groups"]) == 1000
    answer = await sign_on.come_back(groups=[*groups, "one more"])
    assert answer.status_code == 403
    assert "sent 1001 groups in the claim &#39;groups&#39;; allowed: at most 1000" in answer.text


def refusal(sign_on: SignOn) -> tuple[str, str, str, str, str]:
    """Outcome, actor, target, reason and subject of the last row of the audit."""
    row = sign_on.stage.rows.rows(audit)[-1]
    detail = json.loads(row.detail)
    assert (row.action, detail["source"]) == ("login.begin", SOURCE_OIDC)
    return row.outcome, row.actor, row.target, detail["reason"], detail["subject"]


@pytest.mark.parametrize(
    ("claims", "target", "reason"),
    [
        ({"email_verified": False}, "alice@example.com", "not-verified"),
        ({"email_verified": None}, "alice@example.com", "not-verified"),
        ({"email": None}, "", "no-email"),
        ({"email": "bob\u200b@example.com"}, "", "bad-address"),
        (
            {"groups": [str(number) for number in range(1001)]},
            "alice@example.com",
            "too-many-groups",
        ),
    ],
    ids=["denied", "unsaid", "no-email", "invisible", "groups"],
)
async def test_refused_account_is_audited_with_address_and_subject(
    sign_on: SignOn, claims: dict[str, Any], target: str, reason: str
) -> None:
    assert (await sign_on.come_back(**claims)).status_code == 403
    assert refusal(sign_on) == ("refused", f"{ISSUER}#1", target, reason, "1")


async def test_refused_ways_back_are_audited_with_their_reason(
    sign_on: SignOn, browser: Browser
) -> None:
    back = await sign_on.go(browser)
    assert (await sign_on.stage.browser().get(BACK, params=back)).status_code == 403
    assert refusal(sign_on) == ("refused", "", "", "another-browser", "")
    assert (await browser.get(BACK, params=back)).status_code == 303
    assert (await browser.get(BACK, params=back)).status_code == 403
    assert refusal(sign_on) == ("refused", "", "", "replayed", "")
    late = await sign_on.go(browser)
    sign_on.stage.clock.forward(seconds=oidc.STATE_SECONDS + 1)
    assert (await browser.get(BACK, params=late)).status_code == 403
    assert refusal(sign_on) == ("refused", "", "", "expired", "")
    said = {"state": (await sign_on.go(browser))["state"], "error": "access_denied"}
    assert (await browser.get(BACK, params=said)).status_code == 403
    assert refusal(sign_on) == ("refused", "", "", "provider", "")


async def test_unverifiable_tokens_are_audited_with_the_claim(sign_on: SignOn) -> None:
    for claims, reason in (
        ({"exp": 1}, "exp is 1, and"),
        ({"nonce": "x"}, "nonce does not"),
        ({"sub": "a\0"}, "sub is"),
    ):
        sign_on.provider.claims = {}
        assert (await sign_on.come_back(**claims)).status_code == 403
        outcome, actor, target, why, subject = refusal(sign_on)
        assert (outcome, target) == ("refused", "") and why.startswith(reason)
        assert (actor, subject.isprintable()) == (f"{ISSUER}#{subject}", True)
    sign_on.provider.claims, sign_on.provider.sign = {}, tampered
    assert (await sign_on.come_back()).status_code == 403
    _, actor, _, why, subject = refusal(sign_on)
    assert (actor, subject) == ("", "") and "signature" in why


async def test_refusals_fill_the_audit_no_further_than_the_throttle() -> None:
    async with signing_on(Throttle(MemorySharedState(), PER_USER, Bound(1, 3))) as sign_on:
        answers = [
            await sign_on.stage.browser().get(BACK, params={"state": "a.b"}) for _ in range(5)
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 403, 429, 429]
        assert len(sign_on.stage.acts) == 3


async def test_user_info_of_somebody_else_is_not_believed(sign_on: SignOn) -> None:
    sign_on.provider.user_info = {"sub": "2", "email": "boss@example.com", "email_verified": True}
    assert (await sign_on.come_back(email=None)).status_code == 403


async def test_a_provider_with_iss_in_the_way_back(sign_on: SignOn, browser: Browser) -> None:
    """RFC 9207: against being sent to one provider and coming back from another."""
    back = await sign_on.go(browser) | {"iss": "https://evil.example"}
    answer = await browser.get(BACK, params=back)
    assert answer.status_code == 403, "also where the provider does not announce it"
    assert "/token" not in sign_on.provider.asked, "the code went to no one"
    sign_on.provider.metadata = {"authorization_response_iss_parameter_supported": True}
    sign_on.stage.clock.forward(seconds=31)
    for iss, status in (({}, 403), ({"iss": "https://evil.example"}, 403), ({"iss": ISSUER}, 303)):
        back = await sign_on.go(browser) | iss
        assert (await browser.get(BACK, params=back)).status_code == status


async def test_no_one_is_sent_to_a_provider_that_has_just_gone(
    sign_on: SignOn, browser: Browser
) -> None:
    back = await sign_on.go(browser)
    sign_on.provider.down = True
    sign_on.stage.clock.forward(seconds=31)
    assert (await browser.get("/login/oidc")).status_code == 503
    sign_on.provider.down = False
    assert (await browser.get(BACK, params=back)).status_code == 303, (
        "what is known of it still holds"
    )


async def test_a_provider_that_is_down_is_a_page_in_words(
    sign_on: SignOn, caplog: pytest.LogCaptureFixture
) -> None:
    sign_on.provider.down = True
    browser = sign_on.stage.browser()
    answer = await browser.get("/login/oidc?next=/history")
    assert answer.status_code == 503
    assert (
        "Example ID does not respond" in answer.text
        and 'href="/login?next=/history"' in answer.text
    )
    assert "refused" in caplog.text
    asked = len(sign_on.provider.asked)
    await browser.get("/login/oidc")
    assert len(sign_on.provider.asked) == asked, "it is left alone for a moment"
    assert (await browser.log_in()).status_code == 303, "local users get in"
    sign_on.provider.down = False
    sign_on.stage.clock.forward(seconds=6)
    await sign_on.go(sign_on.stage.browser())


async def test_a_provider_that_fails_is_known_before_a_login(sign_on: SignOn) -> None:
    """It is asked at the start and every five minutes, and each few seconds while it fails."""
    problems, asked = sign_on.stage.login.external_problems, sign_on.provider.asked
    assert await problems() == await problems() == []
    assert len(asked) == 1
    sign_on.provider.down = True
    assert await problems() == []
    sign_on.stage.clock.forward(seconds=301)
    (problem,) = await problems()
    assert problem.startswith(f"single sign-on: {ISSUER}: ")
    sign_on.provider.down = False
    sign_on.stage.clock.forward(seconds=6)
    assert await problems() == []


@pytest.mark.parametrize(
    ("status", "error"), [(401, "unauthorized_client"), (400, "invalid_client")]
)
async def test_refused_client_is_a_trouble_until_one_logs_in(
    sign_on: SignOn, status: int, error: str
) -> None:
    sign_on.provider.refusal = httpx.Response(status, json={"error": error})
    assert (await sign_on.come_back()).status_code == 503
    (problem,) = await sign_on.stage.login.external_problems()
    assert problem == f"single sign-on: {ISSUER}: POST {ISSUER}/token: {status} {error}"
    sign_on.provider.refusal = None
    await sign_on.come_back()
    assert await sign_on.stage.login.external_problems() == []


ODD_METADATA: dict[str, tuple[str | None, ...]] = {
    "issuer": ("https://evil.example", ISSUER + "/"),
    "token_endpoint": ("http://id.example.com/token",),
    "jwks_uri": (
        None,
        "http://id.example.com/keys",
        "https://",
        "https://[::1",
        "https://id.example.com:x/keys",
    ),
    "userinfo_endpoint": ("http://id.example.com/me",),
    "end_session_endpoint": (
        "http://id.example.com/end",
        "https://id.example.com/\r\nSet-Cookie: a=b",
    ),
    "authorization_endpoint": (
        *("http://id.example.com/auth", "javascript:alert(1)", "https:///auth"),
        *(
            "https://id.example.com/\r\n\r\n<script>",
            "https://id.example.com/\tauth",
            "https://id.example.com/ä",
        ),
    ),
}


@pytest.mark.parametrize(("value", "field"), pairs(ODD_METADATA))
async def test_a_provider_with_odd_metadata_counts_as_down(
    sign_on: SignOn, field: str, value: Any
) -> None:
    sign_on.provider.metadata = {field: value}
    assert (await sign_on.stage.browser().get("/login/oidc")).status_code == 503


async def test_endpoints_on_other_hosts_pass_but_no_redirects(sign_on: SignOn) -> None:
    """Google's are on three hosts. What the discovery names is the provider's word; where that
    sends us on is not.
    """
    sign_on.provider.metadata = {"jwks_uri": "https://keys.example.net/keys"}
    assert (await sign_on.come_back()).status_code == 303
    sign_on.provider.redirects = True
    assert (await sign_on.come_back()).status_code == 503
    assert sign_on.provider.asked[-1] == "/token", (
        "the code and the client's secret went no further"
    )


async def test_its_refusal_is_shown_and_harmless(sign_on: SignOn, browser: Browser) -> None:
    back = await sign_on.go(browser)
    said = {
        "state": back["state"],
        "error": "access_denied",
        "error_description": "<script>alert(1)</script>",
    }
    answer = await browser.get(BACK, params=said)
    assert answer.status_code == 403
    assert "access_denied" in answer.text and "<script>alert" not in answer.text


async def test_logging_out_leads_to_the_provider_too(sign_on: SignOn, browser: Browser) -> None:
    await sign_on.come_back(browser)
    answer = await browser.submit("/logout", (await browser.get("/account")).text)
    there = urlsplit(answer.headers["refresh"].removeprefix("1; url="))
    assert f"{there.scheme}://{there.netloc}{there.path}" == f"{ISSUER}/end"
    query = parse_qs(there.query)
    assert query["client_id"] == ["vdi"]
    assert query["post_logout_redirect_uri"] == ["https://portal.vdi.localhost/logged-out"]
    assert query["x"] == ["1"]
    (id_token,) = query["id_token_hint"]
    assert jwt.decode(id_token, KEY).claims["sub"] == "1"
    assert "You are signed out" in (await browser.get("/logged-out")).text
    assert not [name for name in browser.copy_cookies() if "hint" in name]


async def test_id_token_is_sent_to_the_sign_out_alone(sign_on: SignOn, browser: Browser) -> None:
    answer = await sign_on.come_back(browser)
    (hint,) = [
        cookie
        for cookie in answer.headers.get_list("set-cookie")
        if cookie.startswith("__Secure-vdi-hint=")
    ]
    attributes = {part.strip().lower() for part in hint.split(";")[1:]}
    assert {"path=/logout", "secure", "httponly", "samesite=lax"} <= attributes and len(
        hint.split(";")[0]
    ) <= 4096
    assert (await browser.get("/logged-out")).headers["location"] == "/", (
        "who is signed in is not told otherwise"
    )


async def test_hint_that_is_not_this_logins_is_not_passed_on(sign_on: SignOn) -> None:
    """A page of a desktop can plant a cookie for the whole domain."""
    browsers = [sign_on.stage.browser() for _ in range(2)]
    for browser in browsers:
        await sign_on.come_back(browser)
    first, second = (browser.copy_cookies() for browser in browsers)
    assert oidc.read_hint(first["__Host-vdi-login"], first["__Secure-vdi-hint"])
    for planted in (second["__Secure-vdi-hint"], "", ".", "a.b", "é.\ud800"):
        assert oidc.read_hint(first["__Host-vdi-login"], planted) == ""


async def test_id_token_that_no_cookie_can_hold_is_left_out(
    sign_on: SignOn, browser: Browser
) -> None:
    assert (await sign_on.come_back(browser, more="x" * 4000)).status_code == 303
    assert "__Secure-vdi-hint" not in browser.copy_cookies()
    answer = await browser.submit("/logout", (await browser.get("/account")).text)
    assert "id_token_hint" not in answer.headers["refresh"]


async def test_a_new_login_brings_the_tokens_up_to_date(sign_on: SignOn) -> None:
    browser, logins = sign_on.stage.browser(), sign_on.stage.logins
    await sign_on.come_back(browser)
    person = await logins.person_by_cookie(browser.copy_cookies()["__Host-vdi-login"])
    assert person is not None
    token, _ = await logins.new_token(person, "script", timedelta(days=1))
    await sign_on.come_back(groups=["admins"])
    again = await logins.person_by_token(token)
    assert again is not None and again.admin


async def test_failed_sign_ons_from_one_address_are_refused_after_some() -> None:
    async with signing_on(Throttle(MemorySharedState(), PER_USER, Bound(1, 3))) as sign_on:
        for _ in range(5):
            assert (await sign_on.come_back()).status_code == 303, "a success does not count"
        asked = sign_on.provider.asked.count("/token")
        refused = [await sign_on.come_back_with_a_wrong_code() for _ in range(5)]
        assert [answer.status_code for answer in refused] == [403, 403, 403, 429, 429]
        assert sign_on.provider.asked.count("/token") == asked + 3
        assert [row[3] for row in sign_on.stage.acts] == ["done"] * 5 + ["refused"] * 3
        assert sign_on.stage.counted("oidc", "throttled") == 2
        assert refused[-1].headers["retry-after"] == str(WINDOW)
        assert "Too many login attempts" in refused[-1].text
        assert 'href="/login/oidc?next=/history"' in refused[-1].text
        assert (await sign_on.come_back_with_a_wrong_code("198.51.100.1")).status_code == 403
        assert (await sign_on.stage.browser().log_in()).status_code == 303, (
            "passwords are counted by themselves"
        )


async def test_an_account_whose_address_is_taken_is_no_guesser() -> None:
    """A rebuilt provider changes every account, and a whole office may come from one address."""
    async with signing_on(Throttle(MemorySharedState(), PER_USER, Bound(1, 3))) as sign_on:
        assert await user_of(sign_on) == "alice@example.com"
        for _ in range(5):
            assert "Another account" in await user_of(sign_on, sub="2")
        assert await user_of(sign_on, sub="3", email="bob@example.com") == "bob@example.com"


async def test_a_provider_that_is_down_counts_as_a_failed_sign_on() -> None:
    """Some providers answer a wrong code with another status than OAuth's 400."""
    async with signing_on(Throttle(MemorySharedState(), PER_USER, Bound(1, 1))) as sign_on:
        browser = sign_on.stage.browser()
        first, second = [await sign_on.go(browser) for _ in range(2)]
        sign_on.provider.down = True
        assert (await browser.get(BACK, params=first)).status_code == 503
        assert (await browser.get(BACK, params=second)).status_code == 429


async def test_sign_ons_at_once_are_each_counted() -> None:
    async with signing_on(Throttle(MemorySharedState(), PER_USER, Bound(1, 3))) as sign_on:
        browser = sign_on.stage.browser()
        ways = [await sign_on.go(browser) for _ in range(8)]
        sign_on.provider.challenge = "of another code"
        answers = await asyncio.gather(*(browser.get(BACK, params=back) for back in ways))
        assert sorted(answer.status_code for answer in answers) == [403] * 3 + [429] * 5
        assert sign_on.provider.asked.count("/token") == 3


async def test_without_a_provider_its_pages_are_not_there() -> None:
    async with LoginStage() as stage:
        assert (await stage.browser().get("/login/oidc")).status_code == 404
        assert (await stage.browser().get(BACK)).status_code == 404


SECRETS = st.binary(min_size=32, max_size=32).map(oidc._base64url)
PAGES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126), max_size=oidc._LONGEST_NEXT - 1
).map("/{}".format)


@given(SECRETS, SECRETS, PAGES, st.integers(0, oidc.STATE_SECONDS), st.data())
def test_a_state_is_read_by_its_own_browser_as_it_was_made(
    secret: str, other: str, page: str, later: int, data: st.DataObject
) -> None:
    state = oidc.make_state(secret, page, 1000.0)
    assert oidc.read_state(secret, state, 1000.0 + later) == page
    at = data.draw(st.integers(0, len(state) - 1))
    changed = state[:at] + data.draw(st.characters()) + state[at + 1 :]
    for wrong_secret, wrong_state in ((other, state), (secret, changed), ("", state)):
        if (wrong_secret, wrong_state) != (secret, state):
            with pytest.raises(oidc.StateError):
                oidc.read_state(wrong_secret, wrong_state, 1000.0)


def test_a_state_from_the_future_is_read_within_the_leeway() -> None:
    """The provider may send the browser back within the second, to the other replica."""
    secret = oidc._base64url(b"s" * 32)
    state = oidc.make_state(secret, "/", 1000.0)
    assert oidc.read_state(secret, state, 1000.0 - oidc.STATE_LEEWAY_SECONDS) == "/"
    with pytest.raises(
        oidc.StateError, match="300 s in the future: the clocks of two replicas differ"
    ):
        oidc.read_state(secret, state, 700.0)
    with pytest.raises(oidc.StateError, match="more than 10 minutes ago"):
        oidc.read_state(secret, state, 1001.0 + oidc.STATE_SECONDS)


@pytest.mark.parametrize(
    ("claim", "groups"),
    [
        (["a", "b "], {"a", "b"}),
        ("a,b", {"a", "b"}),
        ("Domain Users", {"domain users"}),
        ("", set()),
        (None, set()),
        ([1, None, {"a": 1}, ""], set()),
        ({"a": 1}, set()),
    ],
)
def test_groups_come_as_a_list_or_as_text(claim: Any, groups: set[str]) -> None:
    assert groups_in(claim) == groups


@pytest.mark.parametrize(
    ("claims", "admin"),
    [
        ({"email": "BOSS@example.com"}, True),
        ({"email": "a@b.c", "groups": ["admins"]}, True),
        ({"email": "a@b.c", "groups": ["Admins"]}, True),
        ({"email": "a@b.c", "roles": ["admins"]}, False),
    ],
)
def test_administrators_by_name_or_group(claims: dict[str, Any], admin: bool) -> None:
    assert identity_from(claims | {"email_verified": True}, CONFIG, WITH_OIDC).admin is admin


ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
NAMES = st.sampled_from(
    ["iss", "aud", "azp", "exp", "iat", "nbf", "sub", "nonce", "email", "groups", "name"]
)


@given(st.dictionaries(NAMES, ODD))
def test_no_claims_make_it_fall_over(claims: dict[str, Any]) -> None:
    with pytest.raises(ClaimsError):
        check_claims(claims, CONFIG, "the nonce", 0.0)
    try:
        identity_from(claims, CONFIG, SETTINGS)
    except RefusedError as why:
        assert str(why)

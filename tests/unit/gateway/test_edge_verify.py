"""What Traefik learns about requests: of those who have entered, of those who have not, and of
those who cheat.
"""

import base64
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from support.builders import a_template
from support.desktop_key import MASTER
from unit.gateway.edge_stage import (
    GUEST,
    HANDSHAKE,
    HOST,
    SETTINGS,
    STRANGER,
    EdgeStage,
    a_session,
    address,
    changed,
    shared_with,
)
from unit.gateway.gateway_stage import NAVIGATION, Browser
from vdi.api.session import Phase, QueueStatus
from vdi.cluster.units import format_time
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE, Hosts
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import GrantStore, grants
from vdi.session.credentials import grant_token, subprotocols

ORIGIN = address(path="")


def cookies(browser: Browser, *names: str) -> str:
    return browser.stolen(HOST, *names)


async def signed(stage: EdgeStage, **claims: Any) -> str:
    """A token signed by the right key, with these claims changed."""
    kid, key = stage.edge.ring.signer()
    (grant,) = await GrantStore(stage.database).open()
    now = int(stage.clock.now().timestamp())
    content: dict[str, Any] = {
        "iss": SETTINGS.portal_url,
        "aud": grant.session_uid,
        "sub": grant.user,
        "role": "owner",
    }
    content |= {
        "gid": grant.id,
        "lid": grant.login_id,
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        "jti": "x",
    }
    return jwt.encode(
        {"alg": "Ed25519", "kid": kid}, {**content, **claims}, key, algorithms=["Ed25519"]
    )


# ---- those who have entered


async def test_the_desktop_gets_none_of_the_browsers_credentials(
    stage: EdgeStage, alice: Browser
) -> None:
    (grant,) = await GrantStore(stage.database).open()
    mine = f"theme=dark; {cookies(alice)}; selkies_token=edge"
    answer = await stage.verify(HOST, "/api/files/", Cookie=mine)
    assert answer.status_code == 200
    assert answer.headers["cookie"] == "theme=dark; selkies_token=edge"
    assert answer.headers["authorization"] == f"Bearer {grant_token(MASTER, grant.id)}"
    assert "set-cookie" not in answer.headers


async def test_a_handshake_gets_the_grants_own_token(stage: EdgeStage, alice: Browser) -> None:
    stage.edge.verify.handshake_seconds = 0.01
    (grant,) = await GrantStore(stage.database).open()
    own = subprotocols(grant_token(MASTER, grant.id))
    offered = {
        **HANDSHAKE,
        "Sec-WebSocket-Protocol": subprotocols("the owner's, stolen"),
        "Origin": ORIGIN,
    }
    answer = await stage.verify(
        HOST, "/api/websockets?token=stolen", Cookie=cookies(alice), **offered
    )
    assert (answer.status_code, answer.headers["sec-websocket-protocol"]) == (200, own)


async def test_signalling_gets_no_token_that_would_be_logged(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.edge.verify.handshake_seconds = 0.01
    answer = await stage.verify(
        HOST, "/api/webrtc/signaling/", Cookie=cookies(alice), Origin=ORIGIN, **HANDSHAKE
    )
    assert (answer.status_code, "sec-websocket-protocol" in answer.headers) == (200, False)


async def test_connections_are_noted_and_pages_are_not(
    stage: EdgeStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that those which a proxy cuts again and again are distinguished."""
    stage.edge.verify.handshake_seconds = 0.01
    noted: list[tuple[str, str]] = []
    monkeypatch.setattr(
        stage.edge.verify.disconnects,
        "opened",
        lambda session, _grant, path, _now: noted.append((session, path)),
    )
    await stage.verify(HOST, "/api/health", Cookie=cookies(alice))
    await stage.verify(
        HOST, "/api/websockets?a=b", Cookie=cookies(alice), Origin=ORIGIN, **HANDSHAKE
    )
    assert noted == [("alice-desktop", "/api/websockets")]


async def test_a_page_load_gets_the_fragment_that_selkies_needs(
    stage: EdgeStage, alice: Browser
) -> None:
    for uri, where in (("/", "/?v=1#token=edge"), ("/?a=b", "/?a=b&v=1#token=edge")):
        answer = await stage.verify(HOST, uri, Cookie=cookies(alice), **NAVIGATION)
        assert (answer.status_code, answer.headers["location"]) == (302, ORIGIN + where)
    assert (
        await stage.verify(HOST, "/?v=1", Cookie=cookies(alice), **NAVIGATION)
    ).status_code == 200
    assert (await stage.verify(HOST, "/", Cookie=cookies(alice))).status_code == 200


async def test_a_desktop_of_a_moment_ago_is_asked_before_it_is_opened(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.change(status={"ready_time": format_time(stage.clock.now())})
    answer = await stage.verify(HOST, "/?a=b&v=2", Cookie=cookies(alice), **NAVIGATION)
    assert answer.headers["location"] == f"{ORIGIN}/.vdi/open?next=/%3Fa%3Db%26v%3D2"
    page = await alice.get(answer.headers["location"])
    assert 'data-opens="/?a=b&amp;v=2&amp;v=1#token=edge"' in page.text
    assert (
        await stage.verify(HOST, "/?v=1", Cookie=cookies(alice), **NAVIGATION)
    ).status_code == 200, "no way round"
    stage.clock.forward(seconds=5)
    answer = await stage.verify(HOST, "/", Cookie=cookies(alice), **NAVIGATION)
    assert answer.headers["location"] == f"{ORIGIN}/?v=1#token=edge"


async def test_a_token_that_is_half_over_is_renewed_and_the_next_holds(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.clock.forward(seconds=140)
    assert "set-cookie" not in (await stage.verify(HOST, Cookie=cookies(alice))).headers
    stage.clock.forward(seconds=20)
    answer = await stage.verify(HOST, Cookie=cookies(alice))
    renewed = answer.headers["set-cookie"].partition(";")[0]
    stage.clock.forward(seconds=200)
    assert (await stage.verify(HOST, Cookie=renewed)).status_code == 200
    assert (await stage.verify(HOST, Cookie=cookies(alice, DESKTOP_COOKIE))).status_code == 401


async def test_a_grant_renews_its_token_while_the_login_lasts(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.clock.forward(hours=3)
    answer = await stage.verify(HOST, Cookie=cookies(alice))
    assert (answer.status_code, answer.headers["set-cookie"].partition("=")[0]) == (
        200,
        DESKTOP_COOKIE,
    )
    stage.clock.forward(hours=13)  # a login that no one used for 12 hours has ended
    assert (await stage.verify(HOST, Cookie=cookies(alice))).status_code == 401


async def test_no_token_outlives_its_grant(stage: EdgeStage, alice: Browser) -> None:
    (grant,) = await GrantStore(stage.database).open()
    stage.clock.wall = grant.expires - timedelta(seconds=60)
    token = await signed(stage)
    assert (await stage.verify(HOST, Cookie=f"{DESKTOP_COOKIE}={token}")).status_code == 200
    stage.clock.wall = grant.expires
    assert (await stage.verify(HOST, Cookie=cookies(alice))).status_code == 401


async def test_the_hot_path_asks_neither_the_database_nor_the_cluster(
    stage: EdgeStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.verify(HOST, Cookie=cookies(alice))
    stage.cluster.reads.clear()

    def fail(*_: Any) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(stage.database, "connect", fail)
    monkeypatch.setattr(stage.database, "begin", fail)
    assert (await stage.verify(HOST, Cookie=cookies(alice))).status_code == 200
    assert stage.cluster.reads == []


async def test_without_a_database_a_token_that_holds_is_good_enough(
    stage: EdgeStage, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DatabaseUnavailableError("it is down")

    monkeypatch.setattr(stage.database, "connect", fail)
    stage.edge.verify.handshake_seconds = 0.01
    stage.clock.forward(seconds=200)
    answer = await stage.verify(HOST, Cookie=cookies(alice))
    assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)
    handshake = await stage.verify(
        HOST, "/api/websockets", Cookie=cookies(alice), Origin=ORIGIN, **HANDSHAKE
    )
    assert handshake.status_code == 200
    stage.clock.forward(seconds=200)
    answer = await stage.verify(HOST, Cookie=cookies(alice))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(
    "phase", [Phase.PENDING, Phase.CREATING, Phase.FAILED, Phase.TERMINATING, Phase.SUSPENDED]
)
async def test_a_page_waits_until_the_desktop_runs(
    stage: EdgeStage, alice: Browser, phase: str
) -> None:
    stage.change(status={"phase": phase, "queue": QueueStatus(position=2)})
    answer = await stage.verify(HOST, "/files?a=b&v=1", Cookie=cookies(alice), **NAVIGATION)
    assert answer.headers["location"] == f"{ORIGIN}/.vdi/wait?next=/files%3Fa%3Db"
    assert (
        await stage.verify(HOST, "/api/health", Cookie=cookies(alice))
    ).status_code == 200  # Traefik knows better


async def test_a_suspended_desktop_answers_no_one_while_it_stops(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.change(spec={"suspended": True})
    assert (
        await stage.verify(HOST, "/api/websockets", Cookie=cookies(alice), **HANDSHAKE)
    ).status_code == 503
    answer = await stage.verify(HOST, "/", Cookie=cookies(alice), **NAVIGATION)
    assert answer.headers["location"] == f"{ORIGIN}/.vdi/wait?next=/"


async def test_a_replica_without_revocations_lets_no_one_in(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.edge.revoker.primed = False
    assert (await stage.verify(HOST, Cookie=cookies(alice))).status_code == 503


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Dest": "serviceworker"}, {"Service-Worker": "script"}]
)
async def test_service_workers_need_the_templates_permission(
    stage: EdgeStage, alice: Browser, headers: dict[str, str]
) -> None:
    """One would outlive the session in this browser. Browsers send both headers, also when they
    look for an update.
    """
    answer = await stage.verify(HOST, "/sw.js", Cookie=cookies(alice), **headers)
    assert answer.status_code == 403
    assert "spec.serviceWorkers" in answer.text
    for allowed, status in ((True, 200), (False, 403)):
        stage.put(a_template("office", serviceWorkers=allowed))
        assert (
            await stage.verify(HOST, "/sw.js", Cookie=cookies(alice), **headers)
        ).status_code == status
    assert (await stage.verify(HOST, "/sw.js", **headers)).status_code == 401, (
        "strangers learn nothing of the template"
    )
    worker = {"Sec-Fetch-Dest": "sharedworker"}  # ends with the last page that uses it
    assert (await stage.verify(HOST, "/sw.js", Cookie=cookies(alice), **worker)).status_code == 200


async def test_every_refusal_has_the_transport_headers(stage: EdgeStage, alice: Browser) -> None:
    answers = [
        await stage.verify(HOST, "/", **NAVIGATION),
        await stage.verify(HOST, "/"),
        await stage.verify("evil.example", "/"),
        await stage.verify(HOST, "/sw.js", Cookie=cookies(alice), **{"Service-Worker": "script"}),
    ]
    assert [answer.status_code for answer in answers] == [302, 401, 400, 403]
    for answer in answers:
        assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers


# ---- those who have not


async def test_a_person_is_led_in_and_a_program_is_reported(stage: EdgeStage) -> None:
    answer = await stage.verify(HOST, "/files", **NAVIGATION)
    assert (answer.status_code, answer.headers["location"]) == (
        302,
        f"{ORIGIN}/.vdi/start?next=/files",
    )
    assert (
        await stage.verify(HOST, "/files", Accept="text/html")
    ).status_code == 302  # an old browser
    for headers in (
        {},
        {"Accept": "*/*"},
        {**NAVIGATION, "X-Forwarded-Method": "POST"},
        {**NAVIGATION, "X-Forwarded-Method": "HEAD"},
        {**HANDSHAKE, **NAVIGATION},
        {**NAVIGATION, "Sec-Fetch-Mode": "cors"},
        {**NAVIGATION, "Sec-Fetch-Dest": "iframe"},
    ):
        answer = await stage.verify(HOST, "/files", **headers)
        assert (answer.status_code, answer.headers["x-vdi-gateway"]) == (401, "1"), headers


async def test_a_host_without_a_desktop_looks_like_others(stage: EdgeStage) -> None:
    for host in (HOST, SETTINGS.host("nobody")):
        assert (await stage.verify(host, "/")).status_code == 401
        answer = await stage.verify(host, "/", **NAVIGATION)
        assert answer.headers["location"] == f"{SETTINGS.url(host)}/.vdi/start?next=/"


# ---- those who cheat: tokens


async def test_a_stolen_cookie_on_another_host_is_refused(stage: EdgeStage, alice: Browser) -> None:
    stage.add(a_session("bob-desktop", GUEST))
    stage.add(a_session("alice-second"))
    bob = await stage.logged_in(GUEST)
    await bob.open(address("bob-desktop"))
    theirs = bob.stolen(SETTINGS.host("bob-desktop"))
    assert (await stage.verify(SETTINGS.host("bob-desktop"), Cookie=theirs)).status_code == 200
    assert (await stage.verify(HOST, Cookie=theirs)).status_code == 401
    for other in ("bob-desktop", "alice-second"):
        assert (
            await stage.verify(SETTINGS.host(other), Cookie=cookies(alice))
        ).status_code == 401, other


async def test_a_token_of_a_former_session_of_this_name(stage: EdgeStage, alice: Browser) -> None:
    stage.drop(stage.session)
    stage.add(changed(a_session(), metadata={"uid": "uid-new", "resource_version": "7"}))
    assert (await stage.verify(HOST, Cookie=cookies(alice))).status_code == 401


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"exp": 0},
    {"nbf": 4102444800},
    {"iss": "https://portal.evil.example"},
    {"aud": "uid-other"},
    {"aud": ["uid-alice-desktop"]},
    {"sub": STRANGER},
    {"role": "viewer"},
    {"role": "admin"},
    {"gid": None},
    {"exp": "never"},
]


async def test_claims_that_do_not_hold_here(stage: EdgeStage, alice: Browser) -> None:
    assert (
        await stage.verify(HOST, Cookie=f"{DESKTOP_COOKIE}={await signed(stage)}")
    ).status_code == 200
    for claims in WRONG_CLAIMS:
        token = await signed(stage, **claims)
        assert (await stage.verify(HOST, Cookie=f"{DESKTOP_COOKIE}={token}")).status_code == 401, (
            claims
        )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def forgeries(stage: EdgeStage) -> dict[str, str]:
    good = await signed(stage)
    header, payload, signature = good.split(".")
    kid, _ = stage.edge.ring.signer()
    public = stage.edge.ring.jwks()["keys"][0]
    other = OKPKey.generate_key("Ed25519")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    reported_role = _b64(msgspec.json.encode({**claims, "role": "viewer", "sub": STRANGER}))

    def with_header(**fields: Any) -> str:
        return _b64(json.dumps({"typ": "JWT", "alg": "Ed25519", "kid": kid, **fields}).encode())

    def hmac_with(secret: bytes) -> str:
        octets = OctKey.import_key(secret)
        return jwt.encode({"alg": "HS256", "kid": kid}, claims, octets, algorithms=["HS256"])

    own_jwk = jwt.encode(
        {"alg": "Ed25519", "kid": kid, "jwk": other.as_dict(private=False)},
        claims,
        other,
        algorithms=["Ed25519"],
    )
    return {
        "alg none": f"{with_header(alg='none')}.{payload}.",
        "alg None with a signature": f"{with_header(alg='None')}.{payload}.{signature}",
        "HS256 with the public key's x": hmac_with(public["x"].encode()),
        "HS256 with the public key's bytes": hmac_with(base64.urlsafe_b64decode(public["x"] + "=")),
        "EdDSA, its old name": f"{with_header(alg='EdDSA')}.{payload}.{signature}",
        "another key, our kid": jwt.encode(
            {"alg": "Ed25519", "kid": kid}, claims, other, algorithms=["Ed25519"]
        ),
        "its own key in the header": own_jwk,
        "an address of a key": (
            f"{with_header(jku='https://evil.example/jwks.json')}.{payload}.{signature}"
        ),
        "an unknown kid": f"{with_header(kid='0000')}.{payload}.{signature}",
        "a path as kid": f"{with_header(kid='../../dev/null')}.{payload}.{signature}",
        "no kid": _b64(b'{"alg":"Ed25519","typ":"JWT"}') + f".{payload}.{signature}",
        "crit": f"{with_header(crit=['exp'], exp=1)}.{payload}.{signature}",
        "b64 false": f"{with_header(b64=False, crit=['b64'])}.{payload}.{signature}",
        "tampered payload": f"{header}.{reported_role}.{signature}",
        "tampered signature": f"{header}.{payload}.{'A' * 86}",
        "no signature": f"{header}.{payload}.",
        "two parts": f"{header}.{payload}",
        "four parts": f"{good}.{signature}",
        "a header that is a list": f"{_b64(b'[1,2,3,4,5,6,7,8]')}.{payload}.{signature}",
        "JSON bomb": f"{_b64(b'[' * 200)}.{payload}.{signature}",
        "long": f"{header}.{'A' * 100_000}.{signature}",
        "quoted": f'"{good}"',
        "empty": "",
        "blank": "%20",
    }


async def test_every_forged_token_is_refused(stage: EdgeStage, alice: Browser) -> None:
    for what, token in (await forgeries(stage)).items():
        answer = await stage.verify(HOST, Cookie=f"{DESKTOP_COOKIE}={token}")
        assert answer.status_code == 401, what


async def test_a_flood_of_unknown_keys_does_not_reach_the_cluster(
    stage: EdgeStage, alice: Browser
) -> None:
    token = (await forgeries(stage))["an unknown kid"]
    stage.cluster.reads.clear()
    for _ in range(20):
        await stage.verify(HOST, Cookie=f"{DESKTOP_COOKIE}={token}")
    assert len(stage.cluster.reads) == 1


async def test_the_hash_of_a_handle_is_no_handle(stage: EdgeStage, alice: Browser) -> None:
    """A thief of the database has it; other texts are none either."""
    (grant,) = stage.rows.rows(grants)
    for handle in ("", "x", "0" * 64, "%27%20OR%201=1", "A" * 5000, grant.handle_hash, grant.id):
        assert (await stage.verify(HOST, Cookie=f"{GRANT_COOKIE}={handle}")).status_code == 401, (
            handle
        )


async def test_two_cookies_of_one_name_are_none(stage: EdgeStage, alice: Browser) -> None:
    good = cookies(alice, DESKTOP_COOKIE)
    planted = f"{DESKTOP_COOKIE}=planted"
    for both in ([good, planted], [planted, good], f"{good}; {planted}", f"{planted};{good}"):
        assert (await stage.verify(HOST, Cookie=both)).status_code == 401, both
    assert (await stage.verify(HOST, Cookie=[good, "theme=dark"])).status_code == 200


# ---- those who cheat: rights


async def test_a_share_that_is_taken_back_or_runs_out_is_over_at_once(stage: EdgeStage) -> None:
    until = format_time(stage.clock.now() + timedelta(minutes=2))
    stage.change(spec=shared_with(GUEST, "collaborator", until))
    guest = await stage.entered(GUEST)
    mine = cookies(guest)
    assert (await stage.verify(HOST, Cookie=mine)).status_code == 200
    stage.clock.forward(seconds=121)
    assert (await stage.verify(HOST, Cookie=mine)).status_code == 401
    stage.clock.forward(seconds=-60)
    assert (await stage.verify(HOST, Cookie=mine)).status_code == 200
    stage.change(spec={"access": ()})
    assert (await stage.verify(HOST, Cookie=mine)).status_code == 401


async def test_who_becomes_a_viewer_keeps_no_controllers_token(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "collaborator"))
    guest = await stage.entered(GUEST)
    stage.change(spec=shared_with(GUEST, "viewer"))
    assert (await stage.verify(HOST, Cookie=cookies(guest))).status_code == 401
    answer = await guest.open(address())  # by the way in, as a viewer
    assert "The desktop is opening." in answer.text, (
        "there is no desktop here that could confirm it"
    )
    roles = [one.role for one in await GrantStore(stage.database).open(user=GUEST)]
    assert "viewer" in roles


# ---- those who cheat: headers, hosts, paths


ODD_HEADERS: list[tuple[dict[str, Any], int]] = [
    ({"X-Forwarded-Host": [HOST, "bob-desktop.vdi.localhost"]}, 400),
    ({"X-Forwarded-Host": f"{HOST}, bob-desktop.vdi.localhost"}, 400),
    ({"X-Forwarded-Uri": ["/", "/api/health"]}, 400),
    ({"X-Forwarded-Method": ["GET", "POST"]}, 400),
    ({"Sec-WebSocket-Key": ["a", "b"]}, 400),
    ({"Origin": [ORIGIN, "https://evil.example"]}, 400),
    ({"X_Forwarded_Host": "bob-desktop.vdi.localhost"}, 200),  # another header, which no one reads
    (
        {
            "X-Original-Url": "/.vdi/x",
            "X-Rewrite-Url": "/",
            "Forwarded": "host=bob-desktop.vdi.localhost",
        },
        200,
    ),
    ({"X-HTTP-Method-Override": "DELETE"}, 200),
    ({"Host": "bob-desktop.vdi.localhost"}, 200),  # the internal listener's own
]


async def test_headers_that_say_it_twice_or_otherwise(stage: EdgeStage, alice: Browser) -> None:
    stage.add(a_session("bob-desktop", GUEST))
    for headers, status in ODD_HEADERS:
        assert (await stage.verify(HOST, Cookie=cookies(alice), **headers)).status_code == status, (
            headers
        )


async def test_one_host_in_other_spellings_is_the_same_host(
    stage: EdgeStage, alice: Browser
) -> None:
    for host in (HOST.upper(), f"{HOST}:8443", f"{HOST}:1", f"{HOST}.", f"{HOST}.:443"):
        assert (await stage.verify(host, Cookie=cookies(alice))).status_code == 200, host
        answer = await stage.verify(host, "/", **NAVIGATION)
        # Never an address out of the request, host.
        assert answer.headers["location"] == f"{ORIGIN}/.vdi/start?next=/"


OTHER_HOSTS = [
    "", "portal.vdi.localhost", "PORTAL.vdi.localhost:8443", "vdi.localhost", "evil.example", f"{HOST}.evil.example",
    f"evil.example#{HOST}", f"evil.example/{HOST}", f"user@{HOST}", f"{HOST}..", f"{HOST}:port", f"{HOST}:123456",
    f"x.{HOST}", f"-{HOST}", "alice_desktop.vdi.localhost", "alice-desktopXvdi.localhost",
    "alice%2ddesktop.vdi.localhost", f"{HOST}\x00", f"{HOST} ", "127.0.0.1", "[::1]:8080",
    "a" * 64 + ".vdi.localhost",
]  # fmt: skip


async def test_other_hosts_are_nobodys(stage: EdgeStage, alice: Browser) -> None:
    for host in OTHER_HOSTS:
        if host != host.strip() or "\x00" in host:
            # Such a header does not get through an HTTP client or server: ask without one between.
            assert Hosts(SETTINGS).label(host) is None, host
            continue
        answer = await stage.verify(host, Cookie=cookies(alice), **NAVIGATION)
        assert (answer.status_code, "location" in answer.headers) == (400, False), host


async def test_what_is_no_path_is_refused(stage: EdgeStage, alice: Browser) -> None:
    for uri in ("", "evil", "http://evil.example/", "*", "/" + "a" * 20_000):
        assert (await stage.verify(HOST, uri, Cookie=cookies(alice))).status_code == 400, uri


async def test_odd_paths_lead_nowhere_else(stage: EdgeStage, alice: Browser) -> None:
    """Neither for who is in (the path goes to the desktop as it is) nor for who is not (the
    redirect stays here).
    """
    for uri in (
        "//x.example/",
        "/..;/",
        "/%2f%2fx.example",
        "/%5cx.example",
        "/\\x.example",
        "/.//x.example",
    ):
        assert (
            await stage.verify(HOST, uri, Cookie=cookies(alice), **NAVIGATION)
        ).status_code == 200, uri
        answer = await stage.verify(HOST, uri, **NAVIGATION)
        assert answer.headers["location"].startswith(f"{ORIGIN}/.vdi/start?next=/"), uri
        start = await stage.browser().get(answer.headers["location"])
        assert start.headers["location"].startswith(
            f"{SETTINGS.portal_url}/enter?host=alice-desktop&"
        ), uri


OTHER_SITES: list[tuple[str, dict[str, str]]] = [
    ("/api/websockets", {**HANDSHAKE, "Origin": "https://evil.example"}),
    ("/api/websockets", {**HANDSHAKE, "Origin": address("bob-desktop", "")}),
    ("/api/websockets", {**HANDSHAKE, "Origin": "null"}),
    (
        "/api/websockets",
        {**HANDSHAKE, "Origin": "https://alice-desktop.vdi.localhost"},
    ),  # another port
    ("/api/websockets", {**HANDSHAKE, "Origin": "http://alice-desktop.vdi.localhost:8443"}),
    ("/api/upload", {"X-Forwarded-Method": "POST", "Origin": address("bob-desktop", "")}),
    ("/api/upload", {"X-Forwarded-Method": "POST", "Sec-Fetch-Site": "same-site"}),
    (
        "/api/files",
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ),
    ("/api/files", {**NAVIGATION, "Sec-Fetch-Site": "cross-site"}),
    ("/", {**NAVIGATION, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}),
    ("/", {**NAVIGATION, "Sec-Fetch-Site": "same-site", "X-Forwarded-Method": "POST"}),
]


async def test_pages_of_other_sites_are_refused(stage: EdgeStage, alice: Browser) -> None:
    for uri, headers in OTHER_SITES:
        assert (
            await stage.verify(HOST, uri, Cookie=cookies(alice), **headers)
        ).status_code == 403, (uri, headers)


async def test_a_link_from_another_site_opens_the_desktop(stage: EdgeStage, alice: Browser) -> None:
    headers = {**NAVIGATION, "Sec-Fetch-Site": "cross-site"}
    assert (await stage.verify(HOST, "/?v=1", Cookie=cookies(alice), **headers)).status_code == 200

"""TURN credentials: as coturn checks them, for who may enter a desktop, and for no one else."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from unit.gateway.edge_stage import GUEST, HOST, SETTINGS, EdgeStage, shared_with
from unit.gateway.gateway_stage import Browser
from vdi.gateway.edge.webrtc import ice_servers
from vdi.session.credentials import make_turn_credentials

SECRET = "s" * 40
URLS = ("turn:turn.example.com:3478?transport=udp", "turns:turn.example.com:5349?transport=tcp")
PAGE = {
    "Accept": "*/*",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Site": "same-origin",
}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[EdgeStage]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    settings = replace(
        SETTINGS, turn_urls=URLS, turn_secret_file=secret, turn_ttl=timedelta(hours=2)
    )
    async with EdgeStage(settings=settings) as stage:
        yield stage


async def ask(stage: EdgeStage, browser: Browser | None, **headers: str) -> httpx.Response:
    """What the page of alice's desktop gets, with that browser's cookies: Traefik sends this path
    to the gateway.
    """
    cookies = {"Cookie": browser.stolen(HOST)} if browser else {}
    transport = httpx.ASGITransport(stage.public, client=("10.0.0.5", 1))
    async with httpx.AsyncClient(transport=transport, base_url=f"https://{HOST}:8443") as client:
        return await client.get("/api/turn", headers={**PAGE, **cookies, **headers})


def test_credentials_are_those_of_the_turn_rest_convention() -> None:
    expires = datetime(2026, 11, 20, 12, tzinfo=UTC)
    name, password = make_turn_credentials("north", "uid-1", expires)
    assert name == f"{int(expires.timestamp())}:uid-1"
    assert base64.b64decode(password) == hmac.new(b"north", name.encode(), hashlib.sha1).digest()


def test_stun_servers_come_first_and_turn_servers_second() -> None:
    stun, turn = ice_servers(URLS, SECRET, "uid-1", datetime(2026, 11, 20, tzinfo=UTC))
    assert stun == {"urls": ["stun:turn.example.com:3478"]}
    assert turn["urls"] == list(URLS) and turn["username"].endswith(":uid-1") and turn["credential"]


async def test_who_is_in_gets_credentials_of_this_session_that_end(stage: EdgeStage) -> None:
    answer = await ask(stage, await stage.entered())
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    expires, _, user = answer.json()["iceServers"][1]["username"].partition(":")
    assert (int(expires), user) == (int(stage.clock.now().timestamp()) + 7200, "uid-alice-desktop")
    assert answer.json()["lifetimeDuration"] == "7200s"
    assert SECRET not in answer.text


async def test_a_guest_gets_them_while_the_share_lasts(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "collaborator"))
    guest = await stage.entered(GUEST)
    assert (await ask(stage, guest)).status_code == 200
    stage.change(spec={"access": []})
    assert (await ask(stage, guest)).status_code == 401


async def test_no_one_else_gets_any(stage: EdgeStage) -> None:
    no_one = await ask(stage, None)
    assert (no_one.status_code, "iceServers" in no_one.text) == (401, False)
    owner = await stage.entered()
    assert (await ask(stage, owner)).status_code == 200
    for headers in (
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://bobs-desktop.vdi.localhost:8443"},
    ):
        assert (await ask(stage, owner, **headers)).status_code == 403


async def test_a_rotated_turn_secret_counts_at_once(stage: EdgeStage) -> None:
    owner = await stage.entered()
    before = (await ask(stage, owner)).json()
    secret = stage.settings.turn_secret_file
    assert secret is not None
    secret.write_text("n" * 40)
    after = (await ask(stage, owner)).json()["iceServers"][1]
    expires = datetime.fromtimestamp(int(after["username"].partition(":")[0]), UTC)
    assert after["credential"] == make_turn_credentials("n" * 40, "uid-alice-desktop", expires)[1]
    assert after["credential"] != before["iceServers"][1]["credential"]
    secret.write_text("short")
    assert (await ask(stage, owner)).status_code == 503
    secret.unlink()
    assert (await ask(stage, owner)).status_code == 503


async def test_without_a_turn_server_the_list_is_empty() -> None:
    async with EdgeStage() as stage:
        owner = await stage.entered()
        assert (await ask(stage, owner)).json()["iceServers"] == []
        assert (await ask(stage, None)).status_code == 401

"""The edge before images that take no token table: a page of their own, with and without basic
auth, and Selkies 1.
"""

import base64
import logging
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import pytest

from support.builders import a_template
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import GUEST, HANDSHAKE, HOST, OWNER, EdgeStage, address, shared_with
from unit.gateway.gateway_stage import NAVIGATION
from vdi.cluster.units import format_time
from vdi.gateway.edge import verify
from vdi.kube.errors import Forbidden

PASSWORD = "hunter2-of-the-image"
BASIC = "Basic " + base64.b64encode(f"kasm_user:{PASSWORD}".encode()).decode()
KERNEL = "v1.kernel.websocket.jupyter.org"


@pytest.fixture
async def stage(desktop: FakeSelkies) -> AsyncIterator[EdgeStage]:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


def have_template(stage: EdgeStage, **spec: Any) -> None:
    spec = {"protocol": "Web", **spec}
    stage.put(a_template("office", **spec))


def with_login(stage: EdgeStage, **secret: str) -> None:
    have_template(stage, basicAuthSecret={"name": "kasmvnc"})
    if secret:
        stage.cluster.put_secret("kasmvnc", **secret)


async def test_the_page_is_opened_as_it_is_and_gets_nothing_of_selkies(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    have_template(stage)
    browser = await stage.logged_in(OWNER)
    answer = await browser.open(address())
    assert str(answer.url) == address() and not answer.extensions["fragment"]
    assert answer.json()["authorization"] is None
    assert desktop.tables == [] and desktop.refused == 0, "no token table is posted to it"


async def test_own_pages_keep_their_subprotocol(stage: EdgeStage, desktop: FakeSelkies) -> None:
    have_template(stage)
    desktop.hangs = True
    cookies = (await stage.entered()).stolen(HOST)
    offered = {"Sec-WebSocket-Protocol": KERNEL}
    answer = await stage.verify(
        HOST, "/api/kernels/1/channels", Cookie=cookies, **HANDSHAKE, **offered
    )
    assert (answer.status_code, answer.headers["sec-websocket-protocol"]) == (200, KERNEL)
    without = await stage.verify(HOST, "/socket", Cookie=cookies, **HANDSHAKE)
    assert without.status_code == 200 and "sec-websocket-protocol" not in without.headers


async def test_a_collaborator_may_request_every_path_of_it(stage: EdgeStage) -> None:
    """In JupyterLab /api/sessions are its own; in Selkies it says who is connected."""
    stage.change(spec=shared_with(GUEST, "collaborator"))
    have_template(stage)
    cookies = (await stage.entered(GUEST)).stolen(HOST)
    for method in ("GET", "POST", "DELETE"):
        answer = await stage.verify(
            HOST, "/api/sessions", Cookie=cookies, **{"X-Forwarded-Method": method}
        )
        assert answer.status_code == 200, method


async def test_a_viewer_of_it_is_refused_with_the_reason(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "viewer"))
    browser = await stage.logged_in(GUEST)
    have_template(stage)
    await browser.open(address())
    for path, headers in (("/ws", HANDSHAKE), ("/", NAVIGATION), ("/x.js", {})):
        answer = await stage.verify(HOST, path, Cookie=browser.stolen(HOST), **headers)
        assert answer.status_code == 403 and "serves its own page (protocol Web)" in answer.text, (
            path
        )


async def test_the_edge_signs_in_to_an_image_with_basic_auth(
    stage: EdgeStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    with_login(stage, username="kasm_user", password=PASSWORD)
    cookies = (await stage.entered()).stolen(HOST)
    for headers in ({}, HANDSHAKE, {"Authorization": "Basic c29tZWJvZHk6ZWxzZQ=="}):
        answer = await stage.verify(HOST, "/vnc.html", Cookie=cookies, **headers)
        assert (answer.status_code, answer.headers["authorization"]) == (200, BASIC)
    assert stage.cluster.reads.count("kasmvnc") == 1, "it is not read for each request"

    monkeypatch.setattr(verify, "KEPT_SECONDS", 0.0)
    stage.cluster.put_secret("kasmvnc", username="kasm_user", password="another")
    answer = await stage.verify(HOST, "/vnc.html", Cookie=cookies)
    assert answer.headers["authorization"] != BASIC, "a new password is taken"
    assert PASSWORD not in caplog.text and BASIC not in caplog.text


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ({}, "the Secret 'kasmvnc' does not exist"),
        (
            {"username": "u"},
            "the Secret 'kasmvnc' needs the keys 'username' (without a colon) and 'password'",
        ),
        ({"username": "u:v", "password": PASSWORD}, "needs the keys 'username' (without a colon)"),
    ],
)
async def test_without_credentials_nothing_is_requested_of_the_image(
    stage: EdgeStage, secret: dict[str, str], why: str
) -> None:
    with_login(stage, **secret)
    browser = await stage.entered()
    answer = await stage.verify(HOST, "/vnc.html", Cookie=browser.stolen(HOST))
    assert answer.status_code == 503 and why in answer.text
    assert PASSWORD not in answer.text


async def test_a_secret_that_the_chart_does_not_name_is_named(stage: EdgeStage) -> None:
    with_login(stage)
    browser = await stage.entered()
    stage.cluster.broken = Forbidden(403, "Forbidden", "secrets is forbidden")
    answer = await stage.verify(HOST, "/vnc.html", Cookie=browser.stolen(HOST))
    assert (
        answer.status_code == 503
        and "list it in the chart's gateway.basicAuthSecrets" in unescape(answer.text)
    )


async def test_selkies_1_gets_the_same_login_and_no_token(stage: EdgeStage) -> None:
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-py-example:v1.6.2-ubuntu24.04"
    have_template(stage, image=image, protocol="Selkies", basicAuthSecret={"name": "kasmvnc"})
    stage.cluster.put_secret("kasmvnc", username="kasm_user", password=PASSWORD)
    answer = await stage.verify(
        HOST, "/webrtc/signalling/", Cookie=(await stage.entered()).stolen(HOST), **HANDSHAKE
    )
    assert (answer.status_code, answer.headers["authorization"]) == (200, BASIC)
    assert "sec-websocket-protocol" not in answer.headers


async def test_a_new_desktop_is_asked_at_its_own_health_path(stage: EdgeStage) -> None:
    have_template(stage, healthPath="/healthz")
    status = {"ready_time": format_time(stage.clock.now())}
    stage.change(status=status)
    browser = await stage.logged_in(OWNER)
    page = await browser.open(address())
    assert page.url.path == "/.vdi/open"
    assert 'data-health="/healthz"' in page.text and 'data-opens="/?v=1"' in page.text
    answer = await stage.verify(HOST, "/?v=1", Cookie=browser.stolen(HOST), **NAVIGATION)
    assert answer.status_code == 200, "no one is sent there twice"

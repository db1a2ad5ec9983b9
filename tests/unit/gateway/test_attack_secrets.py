"""No line that the gateway logs holds a secret: a person's whole way, with all that can go wrong on
it, each level.
"""

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from support.csrf import csrf_of
from support.desktop_key import DATA, MASTER
from unit.gateway.attack_stage import DESKTOP, AttackStage, furnished_attack_stage
from unit.gateway.gateway_stage import NAVIGATION, PASSWORD, PORTAL, Browser
from vdi.gateway import __main__ as program
from vdi.gateway.app import _uvicorn_config
from vdi.gateway.settings import Settings
from vdi.gateway.web import credentials

OWN = {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}
TYPED_WRONG = "Tr0ub4dor-and-3"
IN_THE_QUERY = "what-only-the-query-has"
MADE_UP = "vdi_made-up-and-still-nobodys-business"
# What is under the gateway (and the browsers of this test) logs whole URLs, headers and parameters
# by these names. The program silences them: see the last test.
SILENCED = ("httpx", "httpcore", "aiosqlite")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[AttackStage]:
    async with furnished_attack_stage(tmp_path) as stage:
        yield stage


async def log_in(browser: Browser, user: str, password: str) -> tuple[httpx.Response, str]:
    """Fill in the form; the answer and the form's token."""
    token = csrf_of(
        (
            await browser.get("/login", params={"next": f"/?q={IN_THE_QUERY}"}, headers=NAVIGATION)
        ).text
    )
    fields = {"csrf": token, "user": user, "password": password}
    return await browser.post("/login", data=fields, headers=OWN), token


async def enter(browser: Browser, label: str) -> list[str]:
    """Follow the way into a desktop; the secrets that its addresses held."""
    url, seen = f"https://{label}.vdi.localhost/.vdi/start?next=/%3F{IN_THE_QUERY}", []
    for _ in range(3):
        answer = await browser.get(url, headers=NAVIGATION)
        url = answer.headers.get("location", "")
        seen += re.findall(r"(?:ticket|state)=([^&]+)", url)
    return seen


async def a_persons_way(stage: AttackStage, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Everything that has to do with secrets, done right and wrong. All secrets that were used."""
    alice = stage.browser()
    secrets = {PASSWORD, TYPED_WRONG, IN_THE_QUERY, MADE_UP, MASTER, DATA["key"]}
    for user, password, status in (
        ("alice@example.com", TYPED_WRONG, 403),
        ("nobody@example.com", TYPED_WRONG, 403),
        (PASSWORD, PASSWORD, 403),  # a password in the wrong field
        ("alice@example.com", PASSWORD, 303),
    ):
        answer, token = await log_in(alice, user, password)
        assert answer.status_code == status
        secrets.add(token)
    found = await enter(alice, "alice-desktop")
    assert len(found) == 2, "a state and a ticket"
    assert (
        await alice.get(f"{DESKTOP}/.vdi/enter?ticket={found[-1]}", headers=NAVIGATION)
    ).status_code in (302, 403)
    cookies = {one.name: one.value or "" for one in alice.cookies.jar}
    assert {
        "__Host-vdi-login",
        "__Host-vdi-state",
        "__Host-vdi-desktop",
        "__Host-vdi-grant",
    } <= set(cookies)
    together = "; ".join(f"{name}={value}" for name, value in cookies.items())
    files = f"/files?{IN_THE_QUERY}=1"
    assert (await stage.verify(files, Cookie=together)).status_code == 200
    token = cookies["__Host-vdi-desktop"]
    for bad in (token[:-8] + "AAAAAAAA", token + "x", "x.y.z"):
        cookie = f"__Host-vdi-desktop={bad}; {IN_THE_QUERY}=1"
        assert (await stage.verify(files, Cookie=cookie)).status_code == 401
    right = credentials.make_csrf_token(cookies["__Host-vdi-login"])
    made = await alice.post(
        "/api/v1/tokens", json={"label": "x", "days": 1}, headers={**OWN, "X-CSRF-Token": right}
    )
    assert made.status_code == 201, made.text
    api_token = made.json()["token"]
    no_one = stage.browser()
    for given, status in ((api_token, 200), (api_token + "x", 401), (MADE_UP, 401)):
        reported = {"Authorization": f"Bearer {given}"}
        assert (await no_one.get("/api/v1/sessions", headers=reported)).status_code == status
        assert (
            await no_one.get(f"/api/v1/sessions?{IN_THE_QUERY}=1", headers=reported)
        ).status_code in (400, 401, 422)
    foreign = await alice.post(
        f"/logout?{IN_THE_QUERY}=1", data={"csrf": right}, headers={"Origin": "https://evil.x"}
    )
    assert foreign.status_code == 403
    with monkeypatch.context() as patch:
        patch.setattr(stage.gateway.services.actions, "act", _fail)
        fault = await alice.post(
            "/api/v1/sessions/alice-desktop/suspend", headers={**OWN, "X-CSRF-Token": right}
        )
    assert fault.status_code == 500
    return secrets | set(found) | set(cookies.values()) | {right, api_token, *token.split(".")}


async def _fail(*_: object) -> None:
    raise RuntimeError("a fault of ours")


async def test_no_log_line_has_a_token_cookie_password_or_query(
    stage: AttackStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG):
        secrets = await a_persons_way(stage, monkeypatch)
    lines = [
        f"{record.name}: {caplog.handler.format(record)} {record.args!r}"
        for record in caplog.records
        if not record.name.startswith(SILENCED)
    ]
    assert any(
        "alice@example.com entered session alice-desktop as owner" in line for line in lines
    ), "it does log"
    assert any("was refused" in line for line in lines)
    assert any("a fault of ours" in line for line in lines)
    assert len(secrets) > 15
    assert all(len(secret) >= 8 for secret in secrets)
    for line in lines:
        assert not [secret for secret in secrets if secret in line], line


def test_what_logs_whole_addresses_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program itself: an HTTP client's own lines have whole URLs, a server's access log has
    every query.
    """
    levels = {name: logging.getLogger(name).level for name in ("", *SILENCED, "uvicorn", "alembic")}
    monkeypatch.setattr(program, "read_settings", lambda _: Settings(log_level="debug"))
    monkeypatch.setattr(program, "load_config", lambda *_: None)
    monkeypatch.setattr(program, "run_process", lambda *_: None)
    monkeypatch.setattr(
        program, "set_up_logging", lambda level, form: logging.getLogger().setLevel(level.upper())
    )
    try:
        assert program.main() == program.DONE
        for name in (*SILENCED, "uvicorn.access"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO), name
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert _uvicorn_config(None).access_log is False

"""Logging in at a real gateway: users of a real Secret, `vdi gateway user`, and what ends when they
go.
"""

import asyncio
import io
import json
from functools import partial
from pathlib import Path

import httpx
import pytest

from cluster.gateway_stage import GatewayStage, open_gateway_stage
from cluster.operator_stage import Stage
from support.waiting import eventually
from vdi.cli.main import main
from vdi.gateway.login import component


@pytest.fixture(autouse=True)
def follow_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute is long for a test."""
    monkeypatch.setattr(component, "FOLLOW_SECONDS", 0.2)


async def page_status(browser: httpx.AsyncClient, path: str = "/account") -> int:
    return (await browser.get(path)).status_code


async def is_revoked(gateway: GatewayStage, token: str) -> bool:
    return await token_status(gateway, token) == 401


async def is_logged_out(browser: httpx.AsyncClient) -> bool:
    return await page_status(browser) == 303


async def test_users_are_added_and_removed_by_command(
    stage: Stage,
    kubeconfig: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def user(*words: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit code, standard output, standard error of a command, which has an event loop of its
        own.
        """
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        there = ["-n", stage.namespace, "--kubeconfig", str(kubeconfig)]
        code = await asyncio.to_thread(main, ["gateway", "user", *words, *there])
        return code, *capsys.readouterr()

    async with open_gateway_stage(stage, tmp_path) as gateway:
        code, password, said = await user(
            "add", "Grace@Example.com", "--name", "Grace", "--group", "staff"
        )
        assert (code, len(password.strip())) == (0, 23)
        assert "grace@example.com can log in" in said
        grace = await gateway.log_in("grace@example.com", password.strip())
        assert "Grace" in (await grace.get("/account")).text
        token = await api_token(gateway, grace)

        code, _, said = await user("add", "grace@example.com")
        assert (code, "already exists" in said) == (1, True)
        code, listed, _ = await user("ls", "-o", "json")
        entry = next(load for load in json.loads(listed) if load["user"] == "grace@example.com")
        assert entry == {
            "user": "grace@example.com",
            "name": "Grace",
            "groups": ["staff"],
            "admin": False,
        }
        assert "argon2" not in listed

        code, out, _ = await user(
            "passwd", "grace@example.com", "--password-stdin", stdin="a much longer password\n"
        )
        assert (code, out) == (0, "")
        await eventually(partial(is_logged_out, grace), "a new password ends the logins")
        assert await token_status(gateway, token) == 200, "tokens have no password"
        again = await gateway.log_in("grace@example.com", "a much longer password")

        code, removed, _ = await user("rm", "grace@example.com", "--yes", "-o", "json")
        assert (code, json.loads(removed)) == (0, {"deleted": ["grace@example.com"]})
        await eventually(partial(is_logged_out, again), "who is removed is logged out")
        await eventually(partial(is_revoked, gateway, token), "and after the logins the tokens end")
        code, _, said = await user("rm", "grace@example.com", "--yes")
        assert (code, "there is no user" in said) == (1, True)
        assert await page_status(await gateway.log_in("alice@example.com")) == 200, "others stayed"


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        (("add", "no-address"), "", 2, "not an e-mail address"),
        (("add", "a@b.example", "--password-stdin"), "short\n", 2, "allowed: 10 or more"),
        (("add", "a@b.example", "--password-stdin"), "", 2, "allowed: 10 or more"),
        (("passwd", "nobody@b.example"), "", 1, "there is no user"),
    ],
)
def test_invalid_user_commands_are_explained(
    words: tuple[str, ...],
    stdin: str,
    code: int,
    said: str,
    namespace: str,
    kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    assert (
        main(["gateway", "user", *words, "-n", namespace, "--kubeconfig", str(kubeconfig)]) == code
    )
    assert said in capsys.readouterr().err


def test_the_first_user_makes_the_secret(
    namespace: str, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["-n", namespace, "--kubeconfig", str(kubeconfig)]
    assert main(["gateway", "user", "ls", *there]) == 0
    assert "no user logs in" in capsys.readouterr().err
    assert (
        main(["gateway", "user", "add", "first@example.com", "--admin", "-o", "json", *there]) == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert made["user"] == "first@example.com"
    assert len(made["password"]) == 23
    assert main(["gateway", "user", "ls", *there]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["first@example.com", "-", "-", "yes"]


async def test_login_survives_a_gateway_restart(stage: Stage, tmp_path: Path) -> None:
    async with open_gateway_stage(stage, tmp_path) as gateway:
        alice = await gateway.log_in("alice@example.com")
        token = await api_token(gateway, alice)
        cookies = dict(alice.cookies)
        lost = await gateway.log_in("bob@example.com")
        assert (await gateway.post(lost, "/logout")).status_code == 200
        of_bob = dict(lost.cookies)
    async with open_gateway_stage(stage, tmp_path) as gateway:
        browser = await gateway.browser()
        browser.cookies.update(cookies)
        assert await page_status(browser) == 200
        assert await token_status(gateway, token) == 200
        browser = await gateway.browser()
        browser.cookies.update(of_bob)
        assert await is_logged_out(browser)


async def api_token(gateway: GatewayStage, browser: httpx.AsyncClient) -> str:
    page = (await gateway.post(browser, "/account/tokens", {"label": "test", "days": "7"})).text
    return page.partition('<pre id="new-token">')[2].partition("<")[0]


async def token_status(gateway: GatewayStage, token: str) -> int:
    browser = await gateway.browser()
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    return (await browser.get("/api/v1/me", headers=headers)).status_code

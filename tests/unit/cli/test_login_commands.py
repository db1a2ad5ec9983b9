"""`vdi login`, `logout` and `whoami` against a real gateway's login pages; the browser is
played.
"""

import json
import re
import sys
import threading
import webbrowser
from collections.abc import Iterator

import httpx
import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.remote_stage import RemoteGateway
from vdi.cli.login import describe_use
from vdi.cli.logins import Login, Logins, login_file, read_logins, write_logins


@pytest.fixture
def typed(clean_machine: None, type_command: Vdi, monkeypatch: pytest.MonkeyPatch) -> Vdi:
    """Type a command on a machine with a screen, without kubeconfig or login."""
    monkeypatch.setenv("DISPLAY", ":0")
    return type_command


class Browser:
    """The person's browser: agrees, and follows the page back to the command."""

    def __init__(self, gateway: RemoteGateway) -> None:
        self.gateway = gateway
        self.opened: list[str] = []
        self.answers: list[int] = []
        # Other values for what it brings back.
        self.change: dict[str, str] = {}
        self._threads: list[threading.Thread] = []

    def open(self, address: str) -> bool:
        self.opened.append(address)
        self._threads.append(threading.Thread(target=self._agree, args=(address,)))
        self._threads[-1].start()
        return True

    def _agree(self, address: str) -> None:
        page = self.gateway.do(self.gateway.agree(address))
        back = httpx.URL(page.headers["refresh"].partition("url=")[2])
        with httpx.Client(trust_env=False) as client:
            assert client.get(str(back.copy_with(path="/favicon.ico"))).status_code == 404
            self.answers.append(client.get(back.copy_merge_params(self.change)).status_code)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def browser(gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    browser = Browser(gateway)
    monkeypatch.setattr(webbrowser, "open", browser.open)
    yield browser
    browser.join()


def test_login_through_the_browser(typed: Vdi, gateway: RemoteGateway, browser: Browser) -> None:
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca))
    assert (ran.code, ran.out) == (
        0,
        f"logged in to {gateway.url} as alice@example.com until 2026-12-20T12:00:00Z\n",
    ), ran
    (address,) = browser.opened
    assert address in ran.err
    assert httpx.URL(address).params["redirect_uri"].startswith("http://127.0.0.1:")
    assert browser.answers == [200]
    login = read_logins().gateways[gateway.url]
    assert login.token.startswith("vdi_")
    assert login.ca == gateway.ca.read_text()
    assert login_file().stat().st_mode & 0o777 == 0o600
    assert login.token not in ran.out + ran.err
    gateway.call(lambda stage: stage.session())
    assert "alice-desktop" in typed("session", "ls").out


def test_login_again_needs_neither_address_nor_authority(
    typed: Vdi, gateway: RemoteGateway, browser: Browser
) -> None:
    assert typed("login", gateway.url, "--ca-file", str(gateway.ca)).code == 0
    first = read_logins().gateways[gateway.url].token
    assert typed("login").code == 0
    assert read_logins().gateways[gateway.url].token != first

    async def labels() -> list[str]:
        return [
            token.label for token in await gateway.there.services.logins.tokens("alice@example.com")
        ]

    assert len(gateway.do(labels())) == 1, "the token before is revoked"


class Typing:
    """Somebody who reads the address off the screen, agrees on another machine, and types the
    code.
    """

    def __init__(self, gateway: RemoteGateway, capsys: pytest.CaptureFixture[str]) -> None:
        self.gateway, self.capsys = gateway, capsys
        self.code: str | None = None

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        if self.code is not None:
            return self.code
        address = self.capsys.readouterr().err.split()[-1]
        assert "redirect_uri" not in address
        page = self.gateway.do(self.gateway.agree(address)).text
        found = re.search(r'<pre id="code">([\w-]{20,})</pre>', page)
        assert found, page
        return f"  {found[1]}\n"


@pytest.fixture
def typing(
    gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typing:
    typing = Typing(gateway, capsys)
    monkeypatch.setattr(sys, "stdin", typing)
    return typing


@pytest.mark.parametrize("how", ["asked for", "no screen"])
def test_login_with_a_code(
    typed: Vdi, gateway: RemoteGateway, typing: Typing, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no screen":
        monkeypatch.delenv("DISPLAY")
    flags = ["--no-browser"] if how == "asked for" else []
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca), *flags)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"logged in to {gateway.url} as alice@example.com")


@pytest.mark.parametrize(
    ("code", "said"),
    [("wrong\n", "issues no token for this code: this code is wrong"), ("", "no code was entered")],
)
def test_a_code_that_is_wrong_logs_no_one_in(
    typed: Vdi, gateway: RemoteGateway, typing: Typing, code: str, said: str
) -> None:
    typing.code = code
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca), "--no-browser")
    assert ran.code == 1
    assert said in ran.err
    assert not login_file().exists()


def test_what_comes_back_from_another_login_is_refused(
    typed: Vdi, gateway: RemoteGateway, browser: Browser
) -> None:
    browser.change = {"state": "of-another"}
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca))
    assert ran.code == 1
    assert "belongs to another login" in ran.err
    assert not login_file().exists()


def test_a_browser_that_brings_nothing_is_waited_for_no_longer(
    typed: Vdi, gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    __import__("vdi.cli.login")
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    monkeypatch.setattr("vdi.cli.login._BROWSER_SECONDS", 0.1)
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca))
    assert ran.code == 1
    assert "the request was not confirmed in the browser" in ran.err


def test_an_untrusted_certificate_stops_login_before_the_browser(
    typed: Vdi, gateway: RemoteGateway, browser: Browser
) -> None:
    ran = typed("login", gateway.url)
    assert ran.code == 3
    assert "its certificate is not trusted" in ran.err
    assert browser.opened == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no gateway is known"),
        (["http://portal.example.com"], "is not the address of a portal"),
        (["https://x", "--ca-file", "/none"], "--ca-file /none: No such file or directory"),
    ],
)
def test_wrong_usage(typed: Vdi, words: list[str], said: str) -> None:
    ran = typed("login", *words)
    assert ran.code == 2
    assert said in ran.err


def test_what_is_no_gateway_is_said(typed: Vdi, fake: FakeCluster) -> None:
    ran = typed("login", fake.url)
    assert ran.code == 3
    assert "which a gateway of VDI does not do" in ran.err


def test_login_says_when_commands_go_elsewhere(
    typed: Vdi, gateway: RemoteGateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    ran = typed("login", gateway.url, "--ca-file", str(gateway.ca))
    assert "because KUBECONFIG names a cluster: use --server" in ran.err


def test_logout_revokes_and_forgets(typed: Vdi, gateway: RemoteGateway, browser: Browser) -> None:
    typed("login", gateway.url, "--ca-file", str(gateway.ca))
    login = read_logins().gateways[gateway.url]
    ran = typed("logout")
    assert (ran.code, ran.out) == (0, f"logged out of {gateway.url}\n"), ran.err
    assert read_logins() == Logins()

    async def person() -> object:
        return await gateway.there.services.logins.person_by_token(login.token)

    assert gateway.do(person()) is None
    again = typed("logout")
    assert (again.code, again.err) == (1, "Error: you are not logged in (logged in to: none)\n")


def test_logout_of_a_token_that_had_ended_is_a_logout(typed: Vdi, gateway: RemoteGateway) -> None:
    write_logins(
        Logins(gateway.url, {gateway.url: Login("a@b.cd", "vdi_x", ca=gateway.ca.read_text())})
    )
    assert typed("logout").code == 0
    assert read_logins().gateways == {}


def test_logout_without_the_gateway_forgets_the_token(typed: Vdi) -> None:
    write_logins(
        Logins(
            "https://localhost:1",
            {"https://localhost:1": Login("a@b.cd", "vdi_x", "2026-12-20T12:00:00Z")},
        )
    )
    ran = typed("logout")
    assert ran.code == 1
    assert (
        "the token is removed here, but could not be revoked: cannot reach the gateway" in ran.err
    )
    assert "It expires at 2026-12-20T12:00:00Z" in ran.err
    assert read_logins().gateways == {}


def test_whoami_at_a_gateway(typed: Vdi, gateway: RemoteGateway, browser: Browser) -> None:
    typed("login", gateway.url, "--ca-file", str(gateway.ca))
    assert typed("whoami").out.splitlines() == [
        "User:      alice@example.com",
        "Groups:    engineering",
        "Way:       through the gateway, because you are logged in there (vdi login)",
        f"Server:    {gateway.url}",
        "Namespace: vdi-sessions",
        "Until:     2026-12-20T12:00:00Z",
    ]
    known = json.loads(typed("whoami", "-o", "json").out)
    assert (known["admin"], known["use"]["sessions"]["used"]) == (False, 0)


def test_use_is_what_is_limited() -> None:
    use = {
        "sessions": {"used": 1, "limit": 3},
        "gpus": {"used": 1, "limit": None},
        "gpuHoursPerMonth": {"used": 12.5, "limit": 100.0},
        "homeStorage": {"used": 30.0, "limit": 100.0},
    }
    said = "1 of 3 desktops, 12.5 of 100 GPU hours this month, 30 of 100 GiB of homes"
    assert describe_use(use) == said
    assert describe_use({}) == ""


def test_whoami_at_a_cluster(vdi: Vdi, fake: FakeCluster) -> None:
    fake.answer(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"status": {"userInfo": {"username": "tester", "groups": ["system:authenticated"]}}},
    )
    assert vdi("whoami").out.splitlines() == [
        "User:      tester",
        "Groups:    system:authenticated",
        "Way:       to the cluster, because KUBECONFIG names a cluster",
        f"Server:    {fake.url}",
        "Namespace: vdi-sessions",
    ]

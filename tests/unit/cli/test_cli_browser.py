"""Which addresses the person's browser gets: those of the login's domain, in a form that all
programs read alike.
"""

import webbrowser
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, a_session, running
from vdi.cli.browser import check_address, domain_of, opens_browser
from vdi.cli.errors import CliError
from vdi.cli.logins import Login, Logins, write_logins

REFUSED = [
    "",
    "--option",
    "-P https://a.vdi.example.com",
    "file:///etc/passwd",
    "file://a.vdi.example.com/etc/passwd",
    "javascript:alert(1)",
    "JavaScript://a.vdi.example.com/%0aalert(1)",
    "data:text/html,x",
    "ssh://a.vdi.example.com",
    "//a.vdi.example.com",
    "a.vdi.example.com",
    "http://a.vdi.example.com",
    "https://",
    "https:///a.vdi.example.com",
    "https:a.vdi.example.com",
    "https://evil.example",
    "https://evil.example/a.vdi.example.com",
    "https://evil.example?.vdi.example.com",
    "https://evil.example#.vdi.example.com",
    "https://evil.example\\.vdi.example.com",
    "https://evil.example\\@a.vdi.example.com",
    "https://a.vdi.example.com@evil.example",
    "https://user@a.vdi.example.com",
    "https://user:password@a.vdi.example.com",
    "https://evilvdi.example.com",
    "https://vdi.example.com.evil.example",
    "https://a.vdi.example.com.",
    "https://a.vdi.ex\u0430mple.com",  # a Cyrillic letter
    "https://evil.example\uff0f.vdi.example.com",  # a slash of full width
    "https://evil\u2024example.vdi.example.com",
    "https://a.vdi.example.com:99999999",
    "https://a.vdi.example.com:x",
    " https://a.vdi.example.com",
    "https://a.vdi.example.com ",
    "https://a.vdi.example.com/\n--option",
    "https://a.vdi.example.com/\x1b]0;x\x07",
    "https://a.vdi.example.com/\u202e",
    "https://127.0.0.1",
    "http://127.0.0.1:8080",
    "http://localhost:8080",
    "http://[::1]:8080",
    "https://0x7f.1",
    "https://169.254.169.254/latest/meta-data",
]


@pytest.mark.parametrize("url", REFUSED)
def test_the_browser_does_not_get_this_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with pytest.raises(CliError, match=r"at or below vdi\.example\.com"):
        opens_browser(url, "vdi.example.com")
    assert not opened


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://alice-5tq2mzk4.vdi.example.com", "vdi.example.com"),
        ("https://Alice.VDI.example.com:8443/#token=a.b-c_d%20", "vdi.example.com"),
        ("https://portal.vdi.example.com/cli/authorize?state=x&client=vdi+on+a", "vdi.example.com"),
        ("https://alice.vdi.localhost:8443", "vdi.localhost"),
        ("http://alice.vdi.localhost", "vdi.localhost"),
        ("http://127.0.0.1:40123/#token=x", "127.0.0.1"),
        ("http://[::1]:8080/cli/authorize?state=x", "::1"),
        ("https://alice.vdi.example.com", ""),
    ],
)
def test_the_browser_gets_this_address(
    url: str, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda opened: opened == url)
    assert opens_browser(url, domain)


@pytest.mark.parametrize(
    "url",
    [
        "http://alice.vdi.example.com",
        "file:///etc/passwd",
        "--option",
        "https://user@a.example.com",
    ],
)
def test_an_address_of_the_cluster_must_be_https_too(url: str) -> None:
    with pytest.raises(CliError, match="allowed: an https:// address"):
        check_address(url, "")


@pytest.mark.parametrize(
    ("server", "domain"),
    [
        ("https://portal.vdi.example.com", "vdi.example.com"),
        ("https://portal.vdi.localhost:8443", "vdi.localhost"),
        ("https://portal.localhost", "localhost"),
        ("http://127.0.0.1:8080", "localhost"),
        ("http://localhost:8080", "localhost"),
        ("https://evil.com", "evil.com"),
    ],
)
def test_the_domain_of_a_portal(server: str, domain: str) -> None:
    assert domain_of(server) == domain


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "javascript:alert(1)", "--option", "https://evil.example"]
)
@pytest.mark.parametrize("more", [[], ["--print"], ["-o", "json"]])
def test_open_refuses_the_address_of_a_hostile_gateway(
    vdi: Vdi,
    fake: FakeCluster,
    url: str,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.delenv("KUBECONFIG")
    write_logins(Logins(fake.url, {fake.url: Login("alice@example.com", "vdi_token", "", "")}))
    session = a_session(status=running(url=url)) | {"role": "owner"}
    fake.answer("GET", "/api/v1/sessions/alice-desktop", session)
    ran = vdi("session", "open", "alice-desktop", *more)
    assert ran.code == 1
    assert not ran.out
    assert "the browser does not get the address" in ran.err
    assert not opened


def test_open_refuses_what_somebody_wrote_into_the_status(
    vdi: Vdi, alice: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("opened"))
    alice.put(SESSIONS, a_session(status=running(url="file:///etc/passwd")))
    ran = vdi("session", "open", "alice-desktop")
    assert (ran.code, ran.out) == (1, "")
    assert "the browser does not get the address 'file:///etc/passwd'" in ran.err

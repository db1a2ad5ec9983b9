"""The choice between cluster and gateway, and the file with the logins."""

from pathlib import Path

import pytest

from vdi.cli.errors import CliError
from vdi.cli.logins import Login, Logins, login_file, read_logins, write_logins
from vdi.cli.options import KubeConnection
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.target import choose_target, server_url
from vdi.http_client import proxy_for

FIRST, SECOND = "https://portal.a.example", "https://portal.b.example:8443"
LOGINS = Logins(
    FIRST, {FIRST: Login("alice@example.com", "vdi_1"), SECOND: Login("alice@b.example", "vdi_2")}
)


@pytest.fixture(autouse=True)
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


CHOICES = [
    (KubeConnection(), None, {}, FIRST, "you are logged in there"),
    (KubeConnection(), SECOND, {}, SECOND, "--server or VDI_SERVER"),
    (KubeConnection(), "portal.b.example:8443", {}, SECOND, "--server or VDI_SERVER"),
    (KubeConnection(), SECOND, {"KUBECONFIG": "/x"}, SECOND, "--server or VDI_SERVER"),
    (KubeConnection(), None, {"KUBECONFIG": "/x"}, "", "KUBECONFIG names a cluster"),
    (KubeConnection(), None, {"KUBECONFIG": ""}, FIRST, "you are logged in there"),
    (KubeConnection(), None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", "this is a pod"),
    (KubeConnection(kubeconfig=Path("/x")), None, {}, "", "--kubeconfig or --context"),
    (KubeConnection(context="x"), None, {}, "", "--kubeconfig or --context"),
]


@pytest.mark.parametrize(("connection", "server", "environ", "goes_to", "why"), CHOICES)
def test_target_is_chosen_by_options_environment_and_login(
    connection: KubeConnection, server: str | None, environ: dict[str, str], goes_to: str, why: str
) -> None:
    write_logins(LOGINS)
    target = choose_target(connection, server, environ)
    assert why in target.why
    assert (target.server if isinstance(target, GatewayTarget) else "") == goes_to


def test_only_an_unusual_gateway_is_named_in_commands() -> None:
    write_logins(LOGINS)
    assert choose_target(KubeConnection(), FIRST, {}).flags == ""
    assert choose_target(KubeConnection(), SECOND, {}).flags == f" --server {SECOND}"


def test_without_a_login_commands_go_to_the_cluster() -> None:
    target = choose_target(KubeConnection(), None, {})
    assert (target.where, target.user) == ("in namespace vdi-sessions", "")
    assert "you are not logged in" in target.why


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("portal.vdi.localhost:8443", "https://portal.vdi.localhost:8443"),
        ("https://Portal.Example.com/", "https://portal.example.com"),
        ("https://portal.example.com:443", "https://portal.example.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://portal.vdi.localhost", "http://portal.vdi.localhost"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_an_address_has_one_spelling(text: str, url: str) -> None:
    assert server_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://portal.example.com",
        "https://a@portal.example.com",
        "https://p/login",
        "ftp://p",
        "p:x",
        "p:0",
    ],
)
def test_an_unusable_portal_address_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="is not the address of a portal") as refused:
        server_url(text)
    assert refused.value.exit_code == 2


def test_a_proxy_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("https://portal.example.com") == "http://proxy.example:3128"
    assert proxy_for("https://portal.inside.example") is None
    assert proxy_for("https://portal.vdi.localhost:8443") is None


def test_logins_are_readable_by_their_owner_only() -> None:
    write_logins(LOGINS)
    assert login_file().stat().st_mode & 0o777 == 0o600
    assert login_file().parent.stat().st_mode & 0o777 == 0o700
    assert read_logins() == LOGINS
    assert "vdi_1" not in repr(LOGINS)
    assert [path.name for path in login_file().parent.iterdir()] == ["login.json"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_file_open_to_others_is_not_used(mode: int) -> None:
    write_logins(LOGINS)
    login_file().chmod(mode)
    with pytest.raises(CliError, match=f"has mode {mode:04o}") as refused:
        choose_target(KubeConnection(), None, {})
    assert refused.value.exit_code == 3
    assert "vdi_1" not in refused.value.message
    assert choose_target(KubeConnection(context="x"), None, {}).user == "", (
        "who names a cluster does not need it"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"gateways": {"x": {}}}', "\xff"])
def test_a_damaged_file_is_named(text: str) -> None:
    write_logins(LOGINS)
    login_file().write_text(text, encoding="latin-1")
    with pytest.raises(CliError, match="is damaged"):
        read_logins()


def test_writing_again_makes_the_file_private_again() -> None:
    write_logins(LOGINS)
    login_file().chmod(0o644)
    write_logins(Logins())
    assert login_file().stat().st_mode & 0o777 == 0o600
    assert read_logins() == Logins()

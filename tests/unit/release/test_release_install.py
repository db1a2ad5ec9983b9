"""`vdi install` without values: what it asks, what it shows, and where a release is found."""

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.cli.fake_cluster import FakeCluster
from vdi.cli.errors import CliError
from vdi.cli.helm_options import locate
from vdi.cli.install import essential_values
from vdi.cli.main import main
from vdi.cli.options import KubeConnection
from vdi.release.chart import gateway_namespaces, release_namespaces


class Terminal(io.StringIO):
    """Standard input where somebody types."""

    def isatty(self) -> bool:
        return True


def test_what_no_option_gives_is_asked_until_it_is_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "nonsense\nVDI.Example.com\n\na@example.com, B@example.com\n"
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    values = essential_values(None, None, None, ask=True)
    assert values == {
        "domain": "vdi.example.com",
        "gateway.adminUsers": ["a@example.com", "b@example.com"],
    }
    asked = capsys.readouterr().err
    assert "'nonsense' is not a domain; allowed: names such as vdi.example.com" in asked
    assert (
        "Certificate of *.DOMAIN: none (Traefik's own), secret:NAME" in asked and "[none]" in asked
    )


@pytest.mark.parametrize(
    ("certificate", "value"),
    [
        ("none", {}),
        ("secret:wild", {"traefik.tlsSecret": "wild"}),
        ("issuer:letsencrypt", {"traefik.certManager.issuer": "letsencrypt"}),
        ("resolver:dns", {"traefik.certResolver": "dns"}),
    ],
)
def test_options_are_not_asked(certificate: str, value: dict[str, str]) -> None:
    given = essential_values("*.vdi.example.com", certificate, "you@example.com", ask=True)
    assert given == {
        "domain": "vdi.example.com",
        **value,
        "gateway.adminUsers": ["you@example.com"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            (
                "--domain and --certificate and --admin are missing, and there is no terminal for"
                " questions"
            ),
        ),
        (
            ("--domain", "vdi.example.com", "--certificate", "none"),
            "--admin is missing, and there is no terminal",
        ),
        (("--domain", "example"), "--certificate and --admin are missing"),
        (
            ("--domain", "exa_mple.com", "--set", "a=b"),
            "--domain: 'exa_mple.com' is not a domain; allowed: names such",
        ),
        (
            ("--certificate", "file:x", "--set", "a=b"),
            "--certificate: 'file:x' is not a certificate; allowed: none",
        ),
        (
            ("--admin", "you", "--set", "a=b"),
            "--admin: 'you' is not an e-mail address; allowed: addresses such as",
        ),
        (
            ("--admin", " ", "--set", "a=b"),
            "--admin: ' ' contains no administrator; allowed: e-mail addresses",
        ),
    ],
)
def test_without_a_terminal_the_missing_option_is_named(
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr("vdi.cli.helm_options.find_helm", lambda _: None)
    assert main(["install", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster().running() as fake:
        yield fake


def a_release_secret(namespace: str, chart: str = "vdi") -> dict[str, Any]:
    revision = {
        "name": "vdi",
        "namespace": namespace,
        "version": 1,
        "chart": {"metadata": {"name": chart}},
    }
    packed = base64.b64encode(base64.b64encode(json.dumps(revision).encode())).decode()
    metadata = {"name": "sh.helm.release.v1.vdi.v1", "namespace": namespace}
    return {"metadata": metadata, "data": {"release": packed}}


def secrets_of(cluster: FakeCluster, *secrets: dict[str, Any]) -> None:
    cluster.answer(
        "GET", "/api/v1/secrets", {"kind": "SecretList", "metadata": {}, "items": list(secrets)}
    )


def find(cluster: FakeCluster, folder: Path, namespace: str = "") -> str:
    kubeconfig = cluster.kubeconfig(folder)
    connection = KubeConnection(namespace, kubeconfig)
    return locate(
        connection, lambda client: release_namespaces(client, "vdi"), "the release vdi"
    ).namespace


def test_a_release_is_found_where_it_is(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets_of(cluster, a_release_secret("kasm"), a_release_secret("other", chart="kasm"))
    assert find(cluster, tmp_path) == "kasm"
    assert "Found the release vdi in namespace kasm." in capsys.readouterr().err
    assert find(cluster, tmp_path, "mine") == "mine"


def test_without_a_release_it_is_the_default(cluster: FakeCluster, tmp_path: Path) -> None:
    secrets_of(cluster)
    assert find(cluster, tmp_path) == "vdi-system"
    cluster.refuse("GET", "/api/v1/secrets", 403, reason="Forbidden", message="no")
    assert find(cluster, tmp_path) == "vdi-system"


def test_several_releases_need_a_namespace(cluster: FakeCluster, tmp_path: Path) -> None:
    secrets_of(cluster, a_release_secret("one"), a_release_secret("two"))
    with pytest.raises(
        CliError, match="the release vdi is in several namespaces; allowed: one, two"
    ) as error:
        find(cluster, tmp_path)
    assert error.value.exit_code == 2


def test_a_gateway_is_found_by_its_deployment(cluster: FakeCluster, tmp_path: Path) -> None:
    items = [{"metadata": {"name": "vdi-gateway", "namespace": "kasm"}}]
    cluster.answer(
        "GET",
        "/apis/apps/v1/deployments",
        {"kind": "DeploymentList", "metadata": {}, "items": items},
    )
    connection = KubeConnection("", cluster.kubeconfig(tmp_path))
    assert locate(connection, gateway_namespaces, "the gateway").namespace == "kasm"

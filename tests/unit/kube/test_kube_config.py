"""The configuration of a cluster, and the errors that name what is missing."""

import base64
import sys
from pathlib import Path
from typing import Any

import pytest

from unit.kube.kube_things import a_kubeconfig
from vdi.kube import config
from vdi.kube.config import load_config
from vdi.kube.errors import ConfigError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster unless the test makes one."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_the_file_given_wins_over_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(a_kubeconfig(tmp_path / "env", name="env")))
    found = load_config(a_kubeconfig(tmp_path / "given", name="given"))
    assert (found.server, found.namespace, found.token) == (
        "https://given:6443",
        "ns-given",
        "token-given",
    )


def test_the_variable_wins_over_the_pod_and_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_kubeconfig(tmp_path / "home/.kube/config", name="home")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBECONFIG", str(a_kubeconfig(tmp_path / "env", name="env")))
    assert load_config().server == "https://env:6443"


def test_several_files_are_merged_and_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = a_kubeconfig(tmp_path / "1", name="a", current="b", user={"token": "first"})
    second = a_kubeconfig(tmp_path / "2", name="b")
    third = a_kubeconfig(tmp_path / "3", name="a", user={"token": "third"})
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{third}")
    assert load_config().server == "https://b:6443"
    assert load_config(context="a").token == "first"


def test_in_a_pod_the_service_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("token", "secret"), ("ca.crt", "PEM"), ("namespace", "kasm\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    found = load_config()
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "kasm")
    assert found.token_file == tmp_path / "token"
    assert "secret" not in repr(found)
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        load_config()


def test_the_home_is_last(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--kubeconfig or \$KUBECONFIG"):
        load_config()
    a_kubeconfig(tmp_path / "home/.kube/config", name="home")
    assert load_config().server == "https://home:6443"


def test_relative_paths_start_at_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    user = {"client-certificate": "c.pem", "client-key": "sub/k.pem"}
    file = a_kubeconfig(folder / "config", user=user, **{"certificate-authority": "ca.pem"})
    (folder / "sub").mkdir()
    for name, text in (("c.pem", "cert"), ("sub/k.pem", "key"), ("ca.pem", "ca")):
        (folder / name).write_text(text)
    found = load_config(file)
    assert (found.client_cert, found.client_key, found.ca) == (b"cert", b"key", b"ca")


def test_data_wins_over_files_and_the_odd_settings_arrive(tmp_path: Path) -> None:
    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    user = {
        "tokenFile": "token",
        "client-certificate-data": b64(b"cert"),
        "client-key-data": b64(b"key"),
    }
    cluster: dict[str, Any] = {
        "certificate-authority": "not-there.pem",
        "certificate-authority-data": b64(b"ca"),
        "insecure-skip-tls-verify": True,
        "tls-server-name": "kubernetes",
        "proxy-url": "http://proxy:3128",
    }
    found = load_config(a_kubeconfig(tmp_path / "c", user=user, **cluster))
    assert (found.ca, found.client_cert, found.client_key) == (b"ca", b"cert", b"key")
    assert (found.insecure, found.tls_server_name, found.proxy_url) == (
        True,
        "kubernetes",
        "http://proxy:3128",
    )
    assert found.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"client-certificate-data": "Yw=="}, {}, "must be set together"),
        ({"client-certificate": "gone.pem"}, {}, "gone.pem"),
        ({"client-certificate-data": "!"}, {}, "client-certificate-data is not base64"),
        ({"auth-provider": {"name": "gcp"}}, {}, "'gcp' was removed"),
        ({"username": "me", "password": "x"}, {}, "removed from Kubernetes"),
        ({}, {"server": "localhost:8080"}, "'localhost:8080', must be"),
        ({"token": 7}, {}, r"\$.users\[0\].user.token"),
    ],
)
def test_wrong_entry_is_named(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(a_kubeconfig(tmp_path / "c", user=user, **cluster))


def test_missing_files_contexts_and_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(tmp_path / "nowhere")
    file = a_kubeconfig(tmp_path / "c")
    with pytest.raises(ConfigError, match="no context 'other'; available: one"):
        load_config(file, "other")
    with pytest.raises(ConfigError, match="current-context is not set; choose one of: one"):
        load_config(a_kubeconfig(tmp_path / "d", current=""))
    file.write_text("]")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file)


def plugin(tmp_path: Path, status: str) -> dict[str, Any]:
    script = tmp_path / "plugin.sh"
    answer = f'{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{status}}}'
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/calls\necho '{answer}'\n")
    script.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


def test_exec_plugin_gives_the_token_and_a_fresh_one(tmp_path: Path) -> None:
    found = load_config(
        a_kubeconfig(tmp_path / "c", user=plugin(tmp_path, '{"token":"from-plugin"}'))
    )
    assert found.token == "from-plugin"
    assert found.token_plugin is not None
    assert found.token_plugin() == "from-plugin"
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_an_exec_plugin_gives_a_certificate(tmp_path: Path) -> None:
    status = '{"clientCertificateData":"cert","clientKeyData":"key"}'
    found = load_config(a_kubeconfig(tmp_path / "c", user=plugin(tmp_path, status)))
    assert (found.client_cert, found.client_key, found.token) == (b"cert", b"key", None)


def test_a_plugin_that_fails_or_gives_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugin\.sh' returned neither"):
        load_config(a_kubeconfig(tmp_path / "c", user=plugin(tmp_path, "{}")))
    (tmp_path / "plugin.sh").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ConfigError, match=r"plugin\.sh'.*returned 3"):
        load_config(tmp_path / "c")
    (tmp_path / "plugin.sh").unlink()
    with pytest.raises(ConfigError, match=r"plugin\.sh"):
        load_config(tmp_path / "c")


def test_without_the_official_client_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.config.exec_provider", None)
    with pytest.raises(ConfigError, match=r"vdi-kubernetes\[exec-auth\]"):
        load_config(a_kubeconfig(tmp_path / "c", user=plugin(tmp_path, "{}")))

"""Behind a proxy: the commands of the demo talk to the cluster alone, so they go past it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vdi.demo import run
from vdi.demo.browser import Login
from vdi.devcluster.progress import Progress, Step

DEMO_LOGIN = Login("https://portal.vdi.localhost", "you@example.com", "secret")


def test_kubectl_helm_and_vdi_go_past_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "registry.example")
    environments: list[Mapping[str, str]] = []

    def remember(_step: Step, _argv: Sequence[str | Path], *, env: Mapping[str, str]) -> None:
        environments.append(env)

    monkeypatch.setattr(Step, "run", remember)
    kubectl, kubeconfig = tmp_path / "kubectl", tmp_path / "kubeconfig"
    kubectl.write_text(f'#!/bin/sh\nenv >> {tmp_path}/seen\necho \'{{"status": {{"url": "https://first"}}}}\'\n')
    kubectl.chmod(0o755)
    with Progress(tmp_path / "logs") as progress:
        run._install(tmp_path / "values.yaml", kubeconfig, tmp_path, timeout_factor=1, progress=progress)
        run.start_session(run.Demo(kubeconfig, tmp_path, DEMO_LOGIN), progress=progress)
    seen = (tmp_path / "seen").read_text()
    assert f"KUBECONFIG={kubeconfig}\n" in seen
    assert "_proxy=" not in seen.lower()
    assert [env["KUBECONFIG"] for env in environments] == [str(kubeconfig)] * 2
    assert not [name for env in environments for name in env if name.lower().endswith("_proxy")]

"""`vdi kasm install` with a real helm and a real API server, on a K3s that is placed by hand.

No pod runs here (replicas of the stand-in chart are 0), so helm is done at once.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import Tools
from cluster.kasm_site import KasmK3s, in_path, open_k3s
from vdi.cli.main import main

CHART = Path(__file__).parents[1] / "kasm/charts/c"
VALUES: dict[str, Any] = {
    "publicAddr": "localhost",  # resolves anywhere
    "certificate": {"secretName": "tls"},
    "ingress": {"enabled": True},
    "proxyService": {"type": "ClusterIP"},
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with (
        open_k3s(tmp_path_factory.mktemp("kasm")) as tools,
        in_path(tools.helm_binary, tools.kubectl_binary),
    ):
        yield tools


def a_chart(folder: Path, broken: str = "", version: str = "1.1190.6") -> Path:
    shutil.copytree(CHART, folder)
    meta = yaml.safe_load((folder / "Chart.yaml").read_text())
    (folder / "Chart.yaml").write_text(yaml.safe_dump({**meta, "version": version}))
    template = folder / "templates" / "_stand-in.tpl"
    template.write_text(re.sub(r"replicas: .*", "replicas: 0", template.read_text()))
    if broken:
        (folder / "templates" / "broken.yaml").write_text(broken)
    return folder


def test_install_checks_runs_helm_and_names_the_rollback(
    tools: Tools, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def install(values: dict[str, Any], chart: Path, *words: str, status: int = 0) -> str:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        given = ("-f", str(file), "--chart", str(chart), "--kubeconfig", str(tools.kubeconfig))
        code = main(["kasm", "install", *given, *words])
        said = capsys.readouterr()
        assert code == status, said.out + said.err
        return said.out + said.err

    def made() -> str:
        return tools.kubectl("--namespace", "kasm", "get", "deployments,statefulsets", "-o", "name")

    good = a_chart(tmp_path / "good")
    said = install({**VALUES, "global": {"hostname": "localhost"}}, good, status=1)
    assert "global.hostname is a value of generation A" in said
    said = install({**VALUES, "deploymentSize": "large"}, good, status=1)
    assert re.search(r"requested - .+ free = .+ missing", said)
    assert f"upgrade --install kasm {good}" in install(VALUES, good, "--dry-run")
    assert made() == ""

    assert "Next: vdi kasm validate --namespace kasm" in install(VALUES, good)
    assert "statefulset.apps/kasm-db-1-19-0" in made()
    said = install(VALUES, a_chart(tmp_path / "newer", version="1.1200.0"), status=1)
    assert "Save the database with pg_dump, and set dbManagement.initialize: false" in said

    broken = a_chart(tmp_path / "broken", "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n")
    said = install(VALUES, broken, status=1)
    assert "Undo: helm rollback kasm --namespace kasm" in said
    assert KasmK3s(tools, capsys).kasm("validate", "--connect", "127.0.0.1:1")[0] == 1

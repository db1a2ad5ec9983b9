"""vdi kasm install, backup and upgrade on a real kubelet: the stand-in of C waits, works, and keeps its data."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kasm.kasm_ward import CHARTS, KasmStage
from vdi.cli.main import main

VALUES = {
    "publicAddr": "kasm.example.com",
    "certificate": {"secretName": "tls"},
    "useImageTags": "1.19.0",
    "ingress": {"enabled": True},
    "proxyService": {"type": "ClusterIP"},
    "database": {"storage": {"retentionPolicy": {"whenDeleted": "Retain"}}},
    "waitSeconds": 1,
    "probes": {"initialDelaySeconds": 0, "periodSeconds": 2},
}
CARRIED = {**VALUES, "dbManagement": {"initialize": False, "upgrade": {"enable": True}}}
Run = Callable[..., str]


@pytest.fixture
def run(
    ward: KasmStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`vdi kasm ...` on this ward, with this helm and this kubectl; what it prints, stdout and then stderr."""
    monkeypatch.setenv("PATH", f"{ward.tools.kubectl_binary.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def kasm(*words: str, values: object = None, status: int = 0) -> str:
        place = ["--namespace", ward.namespace, "--kubeconfig", str(ward.tools.kubeconfig)]
        if words[0] != "backup":
            place += ["--helm", str(ward.tools.helm_binary)]
        if values is not None:
            (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
            place += ["-f", "values.yaml"]
        code = main(["kasm", *words, *place])
        seen = capsys.readouterr()
        assert code == status, f"{code}\n{seen.out}\n{seen.err}"
        return seen.out + seen.err

    return kasm


def psql(ward: KasmStage, statement: str) -> str:
    script = f'psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -qAtc "{statement}"'
    return ward.kubectl("exec", "kasm-db-1-19-0-0", "--", "sh", "-c", script).strip()


def test_waits_are_shown_by_name_and_a_failed_upgrade_leaves_the_data(
    ward: KasmStage, run: Run, tmp_path: Path
) -> None:
    ward.kubectl("create", "secret", "generic", "tls", "--from-literal=tls.crt=c", "--from-literal=tls.key=k")
    said = run("install", "--chart", str(CHARTS / "c"), values=VALUES)
    assert "proxy: kasm-api-is-ready waits until the API of its zone responds" in said
    assert "api: db-is-ready waits until the database is initialised" in said
    assert "Revision 1 of kasm is deployed: kasm-helm-1.1190.6." in said
    psql(ward, "insert into zones values ('mine')")

    assert "verified completely" in run("backup", "--to", "now.dump")
    assert (tmp_path / "now.dump").stat().st_mode & 0o777 == 0o600

    newer = tmp_path / "newer"
    shutil.copytree(CHARTS / "c", newer)
    meta = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump({**meta, "version": "1.1191.0", "appVersion": "1.19.1"}))
    # Until its pod has ended, the old database answers too: what waits must not take it for the new one.
    parts = newer / "templates" / "_stand-in.tpl"
    parts.write_text(parts.read_text().replace('from zones"', "from zones where zone_id = 'of the new database'\""))
    assert "would erase the database" in run("upgrade", "--chart", str(newer), "--yes", values=VALUES, status=1)
    # The stand-in has no Job that carries the data over: its new database stays empty, and no pod gets ready
    said = run("upgrade", "--chart", str(newer), "--yes", "--timeout", "40s", values=CARRIED, status=1)
    assert "database saved to" in said
    assert "api: db-is-ready waits until the database is initialised" in said
    assert "is deployed (kasm-helm-1.1190.6)" in said
    ward.kubectl("rollout", "status", "statefulset/kasm-db-1-19-0", "--timeout=60s")
    assert psql(ward, "select count(*) from zones where zone_id = 'mine'") == "1"

    said = run("uninstall", "--yes")
    assert "kept: volume kasm-database-kasm-db-1-19-0-0" in said
    assert "kasm-db-1-19-0-0" in ward.kubectl("get", "pvc", "-o", "name")

"""vdi kasm install, upgrade, backup, uninstall as programs: real helm 3 and 4, a real API server, the stand-in charts.

No pod runs here (replicas are 0; a database's pod is there on paper), so that helm is done at once. The dump is made by
a real PostgreSQL: `kubectl` is a program that runs the command of `kubectl exec` beside that server.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from support.postgres import Postgres, postgres_server
from tools import binaries
from vdi.devcluster.progress import Progress

__all__ = ["postgres_server"]

CHARTS = Path(__file__).parents[1] / "kasm" / "charts"
VALUES = {
    "publicAddr": "kasm.example.com",
    "certificate": {"secretName": "tls"},
    "ingress": {"enabled": True},
    "proxyService": {"type": "ClusterIP"},
}
A_VALUES = {
    "global": {"hostname": "kasm.example.com"},
    "kasmApp": {
        "servicesToDeploy": {
            name: {"replicas": 1}
            for name in (
                "kasmProxy",
                "kasmApi",
                "kasmManager",
                "kasmShare",
                "kasmGuac",
                "rdpGateway",
                "rdpHttpsGateway",
            )
        }
    },
}
CARRIED = {**VALUES, "dbManagement": {"initialize": False, "upgrade": {"enable": True}}}
LABELS = {
    "app.kubernetes.io/name": "on-paper",  # not the StatefulSet's selector: its controller would take it away
    "app.kubernetes.io/component": "db",
    "app.kubernetes.io/instance": "kasm",
}


@dataclass(frozen=True)
class Kasm:
    """`vdi kasm` as a program, in a namespace of its own."""

    folder: Path
    kubeconfig: Path
    namespace: str
    helm: Path
    kubectl_binary: Path

    def run(self, *words: str, values: object = None, status: int = 0) -> str:
        """What it prints, stdout and then stderr."""
        folders = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **folders, "KUBECONFIG": str(self.kubeconfig), "PATH": path}
        command = [sys.executable, "-m", "vdi", "kasm", *words, "-n", self.namespace]
        if words[0] != "backup":
            command += ["--helm", str(self.helm)]
        if values is not None:
            file = self.folder / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            command += ["-f", str(file)]
        done = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def kubectl(self, *words: str, stdin: str = "") -> str:
        command = [str(self.kubectl_binary), "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def chart(self, letter: str, **changes: str) -> Path:
        """A copy of a stand-in chart without pods, with other lines in its Chart.yaml."""
        copy = self.folder / f"chart-{letter}-{'-'.join(changes.values()) or 'as-it-is'}"
        shutil.copytree(CHARTS / letter, copy)
        meta = yaml.safe_load((copy / "Chart.yaml").read_text())
        (copy / "Chart.yaml").write_text(yaml.safe_dump({**meta, **changes}))
        template = copy / "templates" / "_stand-in.tpl"
        template.write_text(re.sub(r"replicas: .*", "replicas: 0", template.read_text()))
        return copy

    def database_pod(self) -> None:
        """The database's pod, as a kubelet would describe it."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "kasm-db-1-19-0-0", "labels": LABELS},
            "spec": {"containers": [{"name": "kasm-db", "image": "localhost/db"}]},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        status = {"name": "kasm-db", "ready": True, "image": "", "imageID": "", "restartCount": 0}
        patch = json.dumps({"status": {"phase": "Running", "containerStatuses": [status]}})
        self.kubectl("patch", "pod", "kasm-db-1-19-0-0", "--subresource=status", "--type=merge", "-p", patch)

    def policy(self, when_deleted: str) -> None:
        """What becomes of the volume when the StatefulSet goes."""
        patch = json.dumps({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted}}})
        self.kubectl("patch", "statefulset", "kasm-db-1-19-0", "--type=merge", "-p", patch)


@contextmanager
def kasm_agent(kasm: Kasm) -> Iterator[None]:
    """A session of Kasm's own agent for Kubernetes is there, and the kind of it."""
    names = {"plural": "kasmworkspaces", "singular": "kasmworkspace", "kind": "KasmWorkspace"}
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    name = "kasmworkspaces.agent.kasm.com"
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {"group": "agent.kasm.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    kasm.kubectl("create", "-f", "-", stdin=json.dumps(crd))
    try:
        kasm.kubectl("wait", f"crd/{name}", "--for=condition=Established", "--timeout=20s")
        session = {"apiVersion": "agent.kasm.com/v1alpha1", "kind": "KasmWorkspace", "metadata": {"name": "one"}}
        kasm.kubectl("create", "-f", "-", stdin=json.dumps(session))
        yield
    finally:
        kasm.kubectl("delete", "crd", name)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with Progress(tmp_path_factory.mktemp("tools")) as progress:
        return binaries.ensure(["helm", "helm3", "kubectl"], progress=progress)


@pytest.fixture(params=["helm", pytest.param("helm3", marks=pytest.mark.long)])
def kasm(
    request: pytest.FixtureRequest,
    tools: dict[str, Path],
    kubeconfig: Path,
    postgres_server: Postgres,
    tmp_path: Path,
) -> Iterator[Kasm]:
    url = postgres_server.new_database()
    database = url.partition("@/")[2].partition("?")[0]
    postgres_server.psql(database, "CREATE TABLE zones (zone_id text); INSERT INTO zones VALUES ('default')")
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexport PATH={postgres_server.binaries}:$PATH PGHOST={postgres_server.folder}\n"
        f"export POSTGRES_DB={database} POSTGRES_USER=postgres POSTGRES_PASSWORD=hunter2\n"
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    )
    program.chmod(0o755)
    found = Kasm(tmp_path, kubeconfig, f"kasm-{uuid4().hex[:8]}", tools[request.param], tools["kubectl"])
    found.kubectl("create", "namespace", found.namespace)
    yield found
    found.kubectl("delete", "namespace", found.namespace, "--wait=false")


@pytest.mark.long
def test_from_install_through_the_refused_upgrade_to_uninstall(kasm: Kasm) -> None:
    chart = str(kasm.chart("c"))
    said = kasm.run("install", "--chart", chart, "--dry-run", values=VALUES)
    assert "kasm-helm 1.1190.6 (Kasm 1.19.0) as release kasm" in said
    assert "Nothing was changed." in said
    said = kasm.run("install", "--chart", chart, values=VALUES)
    assert "helm: everything is ready" in said
    assert "Revision 1 of kasm is deployed: kasm-helm-1.1190.6." in said
    assert "already exists in namespace" in kasm.run("install", "--chart", chart, values=VALUES, status=1)

    newer = str(kasm.chart("c", version="1.1191.0", appVersion="1.19.1"))
    refused = kasm.run("upgrade", "--chart", newer, "--yes", values=VALUES, status=1)
    assert "This upgrade would erase the database: StatefulSet kasm-db-1-19-0 is replaced" in refused
    kasm.policy("Delete")
    refused = kasm.run("upgrade", "--chart", newer, "--yes", values=CARRIED, status=1)
    assert "patch statefulset kasm-db-1-19-0" in refused
    kasm.policy("Retain")
    refused = kasm.run("upgrade", "--chart", newer, "--yes", values=CARRIED, status=1)
    assert "the bundled database of" in refused
    assert kasm.kubectl("get", "statefulsets", "-o", "name").count("kasm-db-1-19-0") == 1

    kasm.database_pod()
    said = kasm.run("upgrade", "--chart", newer, "--yes", "--backup-to", "before.dump", values=CARRIED)
    assert "database saved to" in said
    assert "Revision 2 of kasm is deployed: kasm-helm-1.1191.0." in said
    assert (kasm.folder / "before.dump").read_bytes().startswith(b"PGDMP")
    assert "statefulset.apps/kasm-db-1-19-1" in kasm.kubectl("get", "statefulsets", "-o", "name")
    older = kasm.run("upgrade", "--chart", chart, "--yes", values=CARRIED, status=1)
    assert "is older: the database cannot be" in older

    said = kasm.run("uninstall", "--yes")
    assert "helm uninstall" in said
    assert kasm.kubectl("get", "deployments,statefulsets,services", "-o", "name") == ""
    assert "there is no release kasm" in kasm.run("uninstall", "--yes", status=1)


@pytest.mark.parametrize("kasm", ["helm"], indirect=True)
def test_values_that_the_chart_does_not_read_are_refused_before_anything_is_made(kasm: Kasm) -> None:
    wrong = {**VALUES, "global": {"hostname": "kasm.example.com"}}
    said = kasm.run("install", "--chart", str(kasm.chart("c")), values=wrong, status=1)
    assert "global.hostname is a value of generation A" in said
    assert "Set publicAddr" in said
    assert "deployment" not in kasm.kubectl("get", "deployments,statefulsets", "-o", "name")
    other = kasm.folder / "other"
    other.mkdir()
    (other / "Chart.yaml").write_text("apiVersion: v2\nname: other\nversion: 1.0.0\n")
    assert "is 'other' 1.0.0, which is not one of Kasm's charts; allowed: kasm-single-zone" in kasm.run(
        "install", "--chart", str(other), values=VALUES, status=1
    )


def test_an_installation_that_fails_is_taken_back_with_the_reason(kasm: Kasm) -> None:
    kasm.kubectl("create", "quota", "small", "--hard=services=2")
    said = kasm.run("install", "--chart", str(kasm.chart("c")), values=VALUES, status=1)
    assert "exceeded quota: small" in said
    assert "It was removed again; there is no release kasm" in said
    assert kasm.kubectl("get", "deployments,statefulsets", "-o", "name") == ""


@pytest.mark.long
@pytest.mark.parametrize("kasm", ["helm"], indirect=True)
def test_a_backup_is_a_file_and_the_volume_of_an_uninstalled_kasm_stays(kasm: Kasm) -> None:
    chart = str(kasm.chart("c"))
    kasm.run("install", "--chart", chart, values=VALUES)
    kasm.database_pod()
    data = json.loads(kasm.run("backup", "--to", "kasm.dump", "-o", "json"))
    assert data["tables"] == 1
    assert data["bytes"] == (kasm.folder / "kasm.dump").stat().st_size
    kasm.policy("Delete")
    owner = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": "kasm-db-1-19-0",
        "uid": kasm.kubectl("get", "statefulset", "kasm-db-1-19-0", "-o", "jsonpath={.metadata.uid}"),
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-kasm-db-1-19-0-0", "labels": LABELS, "ownerReferences": [owner]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kasm.kubectl("create", "-f", "-", stdin=json.dumps(claim))
    assert "kept: volume data-kasm-db-1-19-0-0" in kasm.run("uninstall", "--dry-run")
    with kasm_agent(kasm):
        said = kasm.run("uninstall", "--yes", status=1)
        assert "there are 1 kasmworkspaces.agent.kasm.com" in said
        assert f"kubectl --namespace {kasm.namespace} delete kasmworkspaces.agent.kasm.com --all" in said
    said = kasm.run("uninstall", "--yes")
    assert "StatefulSet kasm-db-1-19-0: its volume is kept (whenDeleted was Delete)" in said
    owners = ("get", "pvc", "data-kasm-db-1-19-0-0", "-o", "jsonpath={.metadata.ownerReferences}")
    assert kasm.kubectl(*owners) == "", "the garbage collector deletes it with its owner"
    kasm.kubectl("create", "secret", "generic", "kasm-secrets", "--save-config")
    lost = kasm.run("install", "--chart", chart, values=VALUES, status=1)
    assert "database.storage.retentionPolicy.whenDeleted: Delete" in lost
    assert "Write Retain there." in lost
    kasm.kubectl("delete", "secret", "kasm-secrets", "--ignore-not-found")
    locked = kasm.run("install", "--chart", str(kasm.chart("c", version="1.1190.7")), values=VALUES, status=1)
    assert "would create one with another password" in locked


@pytest.mark.long
def test_an_old_database_of_generation_a_is_opened_with_its_old_passwords_only(kasm: Kasm) -> None:
    """Its Secret is a hook: each installation makes it again, with other passwords, and so does its removal."""
    chart = str(kasm.chart("a"))
    read = ("get", "secret", "kasm-secrets", "-o", "jsonpath={.data}")
    kasm.run("install", "--chart", chart, values=A_VALUES)
    upgrade = [str(kasm.helm), "upgrade", "kasm", chart, "-n", kasm.namespace, "--kubeconfig", str(kasm.kubeconfig)]
    subprocess.run([*upgrade, "--reuse-values"], check=True, timeout=60)  # its record has other passwords now
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "kasm-db-data-kasm-db-statefulset-0", "labels": {"app.kubernetes.io/name": "kasm-db"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kasm.kubectl("create", "-f", "-", stdin=json.dumps(claim))
    passwords = kasm.kubectl(*read)
    said = kasm.run("uninstall", "--yes")
    assert "The next installation creates new passwords unless its values (-f passwords.yaml) have these:" in said
    assert kasm.kubectl(*read) == passwords

    refused = kasm.run("install", "--chart", chart, values=A_VALUES, status=1)
    assert "this chart creates new passwords at every installation, which do not match it" in refused
    (command,) = re.findall(r"\(umask 077; kubectl .* > passwords\.yaml\)", refused)
    assert command in said
    environment = {"PATH": f"{kasm.kubectl_binary.parent}:{os.environ['PATH']}", "KUBECONFIG": str(kasm.kubeconfig)}
    subprocess.run(["/bin/sh", "-ec", command], cwd=kasm.folder, env=environment, check=True, timeout=30)
    assert (kasm.folder / "passwords.yaml").stat().st_mode & 0o777 == 0o600
    (kasm.folder / "values-a.yaml").write_text(yaml.safe_dump(A_VALUES))
    said = kasm.run("install", "--chart", chart, "-f", "values-a.yaml", "-f", "passwords.yaml")
    assert "the database of an earlier installation will be used again" in said
    assert kasm.kubectl(*read) == passwords


@pytest.mark.long
@pytest.mark.parametrize("kasm", ["helm3"], indirect=True)
def test_generations_follow_each_other_one_at_a_time(kasm: Kasm) -> None:
    old = A_VALUES
    said = kasm.run("install", "--chart", str(kasm.chart("a")), values=old)
    assert "Revision 1 of kasm is deployed: kasm-single-zone-1.17.0." in said
    assert "run the namespace at Pod Security baseline" in said
    b, c = str(kasm.chart("b")), str(kasm.chart("c"))
    assert "no direct way to kasm-helm 1.1190.6: upgrade to kasm" in kasm.run(
        "upgrade", "--chart", c, "--yes", values=VALUES, status=1
    )
    said = kasm.run("upgrade", "--chart", b, "--yes", status=1)
    assert "values of kasm-single-zone do not fit kasm" in said
    assert "vdi kasm values migrate - --from A --to B" in said
    new = {"publicAddr": "kasm.example.com", "certificate": {"secretName": "tls"}}
    assert "would erase the database: StatefulSet kasm-db-statefulset" in kasm.run(
        "upgrade", "--chart", b, "--yes", values=new, status=1
    )
    assert "kasm-proxy-deployment" in kasm.kubectl("get", "deployments", "-o", "name")

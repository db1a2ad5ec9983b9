"""Two releases on one cluster, with real helm and two real operators that have only the rights of their charts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools, open_tools
from cluster.release_stage import pods_get_ready
from support.waiting import wait_until

Object = dict[str, Any]
WORK, LAB = "work", "lab"
TEMPLATE = {
    "image": "registry.example.com/desktop:1",
    "resources": {"defaultGPU": 0},
    "persistence": {"enabled": False},
}
VALUES: dict[str, Object] = {
    name: {
        "domain": f"{name}.localhost",
        "sessions": {"namespace": f"{name}-sessions", "podSecurity": "baseline"},
        "crds": {"install": name == WORK},
        "doctor": {"schedule": "*/10 * * * *"},
        "gateway": {"doctor": True},
        "templates": {"small": None, name: TEMPLATE},
        "pools": {name: {"template": name, "replicas": 1}},
    }
    for name in (WORK, LAB)
}


@dataclass(frozen=True)
class Site:
    """A cluster with both releases, each named as its namespace."""

    tools: Tools

    def install(self, name: str) -> None:
        file = self.tools.home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(VALUES[name]))
        words = (name, str(CHART), "--namespace", name, "--create-namespace", "-f", str(file))
        for _ in range(2):  # the first run makes the kinds of what the second brings
            done = self.tools.helm("upgrade", "--install", *words)
            assert done.returncode == 0, done.stderr

    def get(self, *words: str) -> Any:
        return json.loads(self.tools.kubectl("get", *words, "-o", "json"))

    @contextmanager
    def operator(self, name: str) -> Iterator[None]:
        """The operator of that release, as its ServiceAccount and with the variables of its Deployment."""
        config = yaml.safe_load(self.tools.kubeconfig.read_text())
        token = self.tools.kubectl("create", "token", "vdi-operator", "-n", name).strip()
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        file = self.tools.home / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump(config))
        (container,) = self.get("deployment", "vdi-operator", "-n", name)["spec"]["template"]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        del environment["VDI_GATEWAY_URL"]  # no gateway runs
        environment |= {"KUBECONFIG": str(file), "VDI_METRICS_ADDR": "127.0.0.1:0"}
        command = [sys.executable, "-m", "vdi", "operator", "run"]
        with (self.tools.home / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            try:
                yield
            finally:
                process.terminate()
                process.wait(15)

    def start(self, release: str, name: str, template: str) -> None:
        session = {
            "apiVersion": "vdi.kasm.io/v1alpha1",
            "kind": "VDISession",
            "metadata": {"name": name, "namespace": f"{release}-sessions"},
            "spec": {"user": f"{name}@example.com", "template": template},
        }
        self.tools.kubectl("create", "-f", "-", stdin=json.dumps(session))

    def runs(self, release: str, name: str) -> bool:
        found = self.get("vdisession", name, "-n", f"{release}-sessions")
        return bool(found.get("status", {}).get("phase") == "Running")

    def is_full(self, pool: str) -> bool:
        return bool(self.get("vdipool", pool).get("status", {}).get("ready") == 1)

    def desktops(self, release: str, pool: str) -> list[str]:
        """Names of the desktops that wait in that pool."""
        selector = f"vdi.kasm.io/pool={pool},!vdi.kasm.io/session"
        return [
            pod["metadata"]["name"] for pod in self.get("pod", "-n", f"{release}-sessions", "-l", selector)["items"]
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_tools(tmp_path_factory.mktemp("two"), f"t{os.getpid():x}") as tools:
        yield Site(tools)


def test_two_releases_work_side_by_side_and_one_outlives_the_other(site: Site) -> None:
    site.install(WORK)
    site.install(LAB)
    with ExitStack() as stack:
        stack.enter_context(pods_get_ready(site.tools.kubeconfig))
        stack.enter_context(site.operator(LAB))
        with site.operator(WORK):
            for release in (WORK, LAB):
                wait_until(f"pool {release} is full", partial(site.is_full, release), 60)
                site.start(release, "alice", release)
                wait_until(f"{release} runs a session", partial(site.runs, release, "alice"), 60)
            assert site.desktops(WORK, LAB) == site.desktops(LAB, WORK) == [], "each pool is filled by its own operator"

        assert site.tools.helm("uninstall", WORK, "--namespace", WORK).returncode == 0
        assert len(site.get("crd")["items"]) >= 3
        assert site.runs(WORK, "alice"), "nothing deletes a session that has no operator for now"
        assert site.runs(LAB, "alice")
        site.start(LAB, "bob", LAB)
        wait_until("the other release starts sessions", lambda: site.runs(LAB, "bob"), 60)

    kinds = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
    names = site.tools.kubectl("get", kinds, "-l", "app.kubernetes.io/name=vdi", "-o", "name").split()
    assert names and all(name.endswith(".lab.lab") for name in names)
    site.install(WORK)
    assert site.runs(WORK, "alice"), "the release that comes back finds its session"


def test_a_second_release_may_not_have_the_namespace_of_another(site: Site, tmp_path: Path) -> None:
    site.install(WORK)
    values = {**VALUES[LAB], "sessions": VALUES[WORK]["sessions"]}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = ("upgrade", "--install", "third", str(CHART), "--namespace", "third", "--create-namespace")
    done = site.tools.helm(*words, "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    assert "work-sessions" in done.stderr and "exists and cannot be imported" in done.stderr

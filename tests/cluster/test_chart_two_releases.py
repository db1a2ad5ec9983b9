"""Two releases on one cluster, with real helm and two real operators that have only the rights of their charts."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools
from cluster.release_stage import operator_process, pods_get_ready
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
        "probe": {"desktop": {"image": "registry.example.com/desktop:1"}},
        "pools": {name: {"template": name, "replicas": 1}},
    }
    for name in (WORK, LAB)
}


@dataclass(frozen=True)
class TwoReleases:
    """A cluster with both releases, each named as its namespace."""

    tools: Tools

    def install(self, name: str) -> None:
        file = self.tools.home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(VALUES[name]))
        words = (name, str(CHART), "--namespace", name, "--create-namespace", "-f", str(file))
        for _ in range(2):  # the first run makes the kinds of what the second brings
            done = self.tools.helm("upgrade", "--install", *words)
            assert done.returncode == 0, done.stderr

    @contextmanager
    def operator(self, name: str) -> Iterator[None]:
        """The operator of that release, as its ServiceAccount and with the variables of its Deployment."""
        kubeconfig = self.tools.kubeconfig_of("vdi-operator", name)
        deployment = self.tools.get("deployment", "vdi-operator", "-n", name)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        del environment["VDI_GATEWAY_URL"]  # no gateway runs
        with operator_process(self.tools, kubeconfig, environment):
            yield

    def start(self, release: str, name: str, template: str) -> None:
        session = {
            "apiVersion": "vdi.kasm.io/v1alpha1",
            "kind": "VDISession",
            "metadata": {"name": name, "namespace": f"{release}-sessions"},
            "spec": {"user": f"{name}@example.com", "template": template},
        }
        self.tools.kubectl("create", "-f", "-", stdin=json.dumps(session))

    def runs(self, release: str, name: str) -> bool:
        found = self.tools.get("vdisession", name, "-n", f"{release}-sessions")
        return bool(found.get("status", {}).get("phase") == "Running")

    def is_full(self, pool: str) -> bool:
        return bool(self.tools.get("vdipool", pool).get("status", {}).get("ready") == 1)

    def desktops(self, release: str, pool: str) -> list[str]:
        """Names of the desktops that wait in that pool."""
        selector = f"vdi.kasm.io/pool={pool},!vdi.kasm.io/session"
        return [
            pod["metadata"]["name"]
            for pod in self.tools.get("pod", "-n", f"{release}-sessions", "-l", selector)["items"]
        ]


@pytest.fixture(scope="module")
def releases(tools: Tools) -> TwoReleases:
    return TwoReleases(tools)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_two_releases_are_independent(releases: TwoReleases) -> None:
    releases.install(WORK)
    releases.install(LAB)
    with ExitStack() as stack:
        stack.enter_context(pods_get_ready(releases.tools.kubeconfig))
        stack.enter_context(releases.operator(LAB))
        with releases.operator(WORK):
            for release in (WORK, LAB):
                wait_until(f"pool {release} is full", partial(releases.is_full, release))
                releases.start(release, "alice", release)
                wait_until(f"{release} runs a session", partial(releases.runs, release, "alice"))
            assert releases.desktops(WORK, LAB) == releases.desktops(LAB, WORK) == [], (
                "each pool is filled by its own operator"
            )

        assert releases.tools.helm("uninstall", WORK, "--namespace", WORK).returncode == 0
        assert len(releases.tools.get("crd")["items"]) >= 3
        assert releases.runs(WORK, "alice"), "nothing deletes a session that has no operator for now"
        assert releases.runs(LAB, "alice")
        releases.start(LAB, "bob", LAB)
        wait_until("the other release starts sessions", lambda: releases.runs(LAB, "bob"))

    kinds = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
    names = releases.tools.kubectl("get", kinds, "-l", "app.kubernetes.io/name=vdi", "-o", "name").split()
    assert names and all(name.endswith(".lab.lab") for name in names)
    templates = releases.tools.kubectl("get", "vditemplate", "-l", "app.kubernetes.io/component=probe", "-o", "name")
    assert templates.split() == ["vditemplate.vdi.kasm.io/vdi-probe.lab.lab"], "each probe has a template of its own"
    releases.install(WORK)
    assert releases.runs(WORK, "alice"), "the release that comes back finds its session"


@pytest.mark.long
def test_a_second_release_may_not_have_the_namespace_of_another(releases: TwoReleases, tmp_path: Path) -> None:
    releases.install(WORK)
    values = {**VALUES[LAB], "sessions": VALUES[WORK]["sessions"]}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = ("upgrade", "--install", "third", str(CHART), "--namespace", "third", "--create-namespace")
    done = releases.tools.helm(*words, "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    assert "work-sessions" in done.stderr and "exists and cannot be imported" in done.stderr

"""Two releases on one cluster, with real helm and two real operators that have only the rights of
their charts.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools
from cluster.release_stage import operator_of, pods_get_ready
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
    tools, work, lab = releases.tools, f"{WORK}-sessions", f"{LAB}-sessions"
    releases.install(WORK)
    releases.install(LAB)
    with pods_get_ready(tools.kubeconfig), operator_of(tools, LAB):
        with operator_of(tools, WORK):
            for release, namespace in ((WORK, work), (LAB, lab)):
                wait_until(f"pool {release} is full", partial(tools.pool_is_full, release))
                tools.create_session(namespace, "alice", release)
                wait_until(
                    f"{release} runs a session", partial(tools.session_runs, namespace, "alice")
                )
            assert releases.desktops(WORK, LAB) == releases.desktops(LAB, WORK) == [], (
                "each pool is filled by its own operator"
            )

        assert tools.helm("uninstall", WORK, "--namespace", WORK).returncode == 0
        assert len(tools.get("crd")["items"]) >= 3
        assert tools.session_runs(work, "alice"), (
            "nothing deletes a session that has no operator for now"
        )
        assert tools.session_runs(lab, "alice")
        tools.create_session(lab, "bob", LAB)
        wait_until("the other release starts sessions", lambda: tools.session_runs(lab, "bob"))

    kinds = (
        "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"
    )
    names = tools.kubectl("get", kinds, "-l", "app.kubernetes.io/name=vdi", "-o", "name").split()
    assert names and all(name.endswith(".lab.lab") for name in names)
    templates = tools.kubectl(
        "get", "vditemplate", "-l", "app.kubernetes.io/component=probe", "-o", "name"
    )
    assert templates.split() == ["vditemplate.vdi.kasm.io/vdi-probe.lab.lab"], (
        "each probe has a template of its own"
    )
    releases.install(WORK)
    assert tools.session_runs(work, "alice"), "the release that comes back finds its session"


@pytest.mark.long
def test_a_second_release_may_not_have_the_namespace_of_another(
    releases: TwoReleases, tmp_path: Path
) -> None:
    releases.install(WORK)
    values = {**VALUES[LAB], "sessions": VALUES[WORK]["sessions"]}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = (
        "upgrade",
        "--install",
        "third",
        str(CHART),
        "--namespace",
        "third",
        "--create-namespace",
    )
    done = releases.tools.helm(*words, "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    assert "work-sessions" in done.stderr and "exists and cannot be imported" in done.stderr

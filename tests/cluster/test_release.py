"""vdi install, upgrade and uninstall, and helm rollback, on a real API server. Only readiness is
played.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, open_tools
from cluster.release_stage import BROKEN, Release, pods_get_ready
from support.waiting import wait_until
from tools import binaries
from tools.generate.chart_render import values_words
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster.progress import Progress

VALUES = sorted(path.name for path in CHART.glob("values*.yaml"))
HERE = ("--namespace", "vdi-sessions")
RELEASE = ("--namespace", RELEASE_NAMESPACE)
# The operator's ClusterRole.
MINE = f"vdi-operator.{RELEASE_NAMESPACE}.vdi"
SESSION = """
apiVersion: vdi.kasm.io/v1alpha1
kind: VDISession
metadata: {name: alice-desktop, namespace: vdi-sessions}
spec: {user: alice@example.com, template: small}
"""
FIRST: dict[str, Any] = {
    "image": {"repository": "localhost/vdi/vdi", "tag": "dev"},
    "templates": {
        "small": {
            "image": "localhost/vdi/desktop:dev",
            "persistence": {"enabled": True, "size": "1Gi"},
        },
        "bare": {"image": "registry.example.com/desktop:1", "persistence": {"enabled": False}},
    },
    "pools": {"warm": {"template": "bare", "replicas": 1}},
}
FOREIGN = {
    "certificates": ("cert-manager.io", "v1", "Certificate"),
    "podmonitors": ("monitoring.coreos.com", "v1", "PodMonitor"),
    "prometheusrules": ("monitoring.coreos.com", "v1", "PrometheusRule"),
}


@pytest.fixture(scope="module", params=["helm4", pytest.param("helm3", marks=pytest.mark.long)])
def release(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """Each on a cluster of its own: what one leaves behind when it fails half-way is no fault of
    the other.
    """
    folder = tmp_path_factory.mktemp("release")
    program = request.param.removesuffix("4")
    with Progress(folder) as progress:
        found = binaries.ensure([program], progress=progress)
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"HELM_{kind}_HOME", str(folder / kind.lower()))
        with open_tools(folder, f"r{os.getpid():x}") as tools, pods_get_ready(tools.kubeconfig):
            yield Release(replace(tools, helm_binary=found[program]))


def is_helm4(release: Release) -> bool:
    return release.tools.helm_binary.name == "helm"


@pytest.mark.timeout(480)  # the first time, building Helm 3 takes a minute or two
def test_each_values_file_is_clean(release: Release) -> None:
    for name in VALUES:
        done = release.tools.helm(
            "lint", "--strict", str(CHART), "--kube-version", "1.34.0", *values_words(name)
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr}"


@pytest.mark.long
@pytest.mark.timeout(480)
def test_release_is_installed_upgraded_and_removed(release: Release, tmp_path: Path) -> None:
    first = yaml.safe_dump(FIRST)
    without_images = release.run("install", "--yes", "--set", "domain=vdi.example.com", status=1)
    assert (
        "no image: set image.repository and image.tag (or image.digest), templates.small.image."
        in without_images
    )
    release.tools.kubectl("create", "clusterrole", MINE, "--verb=get", "--resource=pods")
    refused = release.run("install", "--dry-run", values=first, status=1)
    assert "VDIPool: warm" in refused
    assert f"ClusterRole {MINE} already exists and belongs to no release" in refused
    assert not release.there("crd", "vdipools.vdi.kasm.io"), "refused before anything was changed"
    release.tools.kubectl("delete", "clusterrole", MINE)

    shown = release.run("install", values=first, status=2)
    assert (
        f"Release         vdi in namespace {RELEASE_NAMESPACE} at https://" in shown
        and "use --yes" in shown
    )
    assert (
        f"New namespaces  vdi-sessions, {RELEASE_NAMESPACE}" in shown
        and "registry.example.com/desktop:1" in shown
    )
    assert not release.there("namespace", RELEASE_NAMESPACE), (
        "nothing was changed without an answer"
    )
    said = release.run("install", "--yes", values=first)
    assert (
        "3 CRDs applied and served" in said
        and "Installed: revision 1" in said
        and "NOT CREATED YET" not in said
    )
    assert release.there("vdit,vdipool") == [
        *(
            f"vditemplate.vdi.kasm.io/{name}"
            for name in ("bare", "small", "vdi-probe.vdi-system.vdi")
        ),
        "vdipool.vdi.kasm.io/warm",
    ], "with the first run"
    assert release.revisions() == [(1, "deployed")]

    newer = ("--chart", str(a_newer_chart(tmp_path)))
    with release.operator():
        release.tools.kubectl("create", "-f", "-", stdin=SESSION)
        desktop, uid = a_running_desktop(release)
        an_upgrade_with_newer_crds_and_other_values(release, *newer)
        if is_helm4(release):
            every_values_file_in_a_dry_run_on_the_server(release, *newer)
        a_failing_upgrade_rolls_itself_back(release, *newer)
        if is_helm4(release):
            ctrl_c_leaves_it_as_it_was(release, *newer)
        back_to_the_first_revision(release)
        assert release.tools.get("pod", desktop, *HERE)["metadata"]["uid"] == uid, (
            "untouched by all of it"
        )
        home = release.tools.get("pvc", *HERE)["items"][0]["metadata"]["uid"]
        uninstall_ends_sessions_and_keeps_homes(release)

    release.run("install", "--yes", values=first)
    with release.operator():
        release.tools.kubectl("create", "-f", "-", stdin=SESSION)
        a_running_desktop(release)
    assert [one["metadata"]["uid"] for one in release.tools.get("pvc", *HERE)["items"]] == [home], (
        "the old home"
    )
    without_an_operator_nothing_hangs(release)


@pytest.mark.ci
@pytest.mark.timeout(180)
def test_history_is_not_left_behind_in_silence(release: Release) -> None:
    release.run("install", "--yes", values=yaml.safe_dump(FIRST | {"pools": {}}))
    to_postgresql = ("upgrade", "--yes", "--set", "postgresql.enabled=true")
    for refused in (to_postgresql, (*to_postgresql, "--dry-run", "-o", "json")):
        said = release.run(*refused, status=1)
        assert (
            "SQLite would be left behind; allowed: move (vdi upgrade --move-history), leave" in said
        )
    done = release.tools.helm(
        "upgrade", "vdi", str(CHART), *RELEASE, "--reuse-values", *to_postgresql[2:]
    )
    assert "vdi upgrade --leave-history-behind" in done.stderr, "helm alone says it too"
    assert release.revisions() == [(1, "deployed")]
    assert "give one of them" in release.run(
        *to_postgresql, "--move-history", "--leave-history-behind", status=2
    )

    moved = release.run(*to_postgresql, "--move-history", "-o", "json")
    assert '"moved": {}' in moved, "no kubelet here: the sidecar did not run"
    assert release.revisions()[0] == (3, "deployed"), "with the sidecar, and then without it"
    assert "--move-history" not in release.run("upgrade", "--yes"), (
        "the values of now have PostgreSQL"
    )
    again = release.run("upgrade", "--yes", "--move-history")
    assert "The gateway does not use SQLite: there is no history to move" in again
    release.tools.helm("rollback", "vdi", "1", *RELEASE, "--force-conflicts")
    assert "Upgraded: revision 7" in release.run(*to_postgresql, "--leave-history-behind")
    release.run("uninstall", "--crds", "--yes", "--force")


@pytest.mark.long
@pytest.mark.timeout(360)
def test_a_release_in_another_namespace_is_found(release: Release) -> None:
    # vdi-sessions stays with the release before.
    first = yaml.safe_dump(FIRST | {"sessions": {"namespace": "desks"}})
    release.run("install", "--yes", "--namespace", "kasm", values=first)
    already = release.run("install", "--yes", values=first, status=1)
    assert "Found the release vdi in namespace kasm." in already
    assert "The release vdi is already installed in namespace kasm, revision 1." in already
    assert "Upgraded: revision 2 of vdi in the namespace kasm" in release.run("upgrade", "--yes")
    assert "Release vdi in kasm: revision 2" in release.run("uninstall", "--crds", "--yes")
    assert not release.there("deploy", "--namespace", "kasm")


def a_running_desktop(release: Release) -> tuple[str, str]:
    """Its pod's name and uid."""

    def running() -> str:
        status = release.tools.get("vdi", "alice-desktop", *HERE).get("status") or {}
        return str(status.get("podName", "")) if status.get("phase") == "Running" else ""

    name = wait_until("the desktop runs", running)
    return name, release.tools.get("pod", name, *HERE)["metadata"]["uid"]


def a_newer_chart(folder: Path) -> Path:
    """One whose CRD has a field more."""
    shutil.copytree(CHART, newer := folder / "vdi")
    path = newer / "files/crds/vdisessions.yaml"
    crd = yaml.safe_load(path.read_text())
    fields = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"][
        "properties"
    ]
    fields["later"] = {"type": "string"}
    path.write_text(yaml.safe_dump(crd))
    return newer


def has_later(release: Release) -> bool:
    stored = release.tools.get("crd", "vdisessions.vdi.kasm.io")["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    return "later" in stored["properties"]["spec"]["properties"]


def an_upgrade_with_newer_crds_and_other_values(release: Release, *newer: str) -> None:
    more = (*newer, "--set", "replicas=3", "--set", "logLevel=debug", "--set", "image.tag=next")
    shown = release.run("upgrade", *more, status=2)
    assert f"~ Deployment {RELEASE_NAMESPACE}/vdi-operator\n    ~ spec.replicas: 2 -> 3" in shown
    assert "env[VDI_LOG_LEVEL].value: info -> debug" in shown
    assert "properties.spec.properties.later" in shown
    assert "warm" not in shown, "without -f the release keeps its values"
    assert "use --yes" in shown
    assert release.revisions() == [(1, "deployed")], "nothing was changed by looking"
    assert not has_later(release)

    release.tools.kubectl(
        "label", "deploy", "vdi-gateway", *RELEASE, "--overwrite", "app.kubernetes.io/name=by-hand"
    )
    assert "Upgraded: revision 2" in release.run("upgrade", *more, "--yes")
    labels = release.tools.get("deploy", "vdi-gateway", *RELEASE)["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "vdi", "what was changed by hand is mended"
    assert release.tools.get("deploy", "vdi-operator", *RELEASE)["status"]["readyReplicas"] == 3
    assert image_of(release) == "localhost/vdi/vdi:next"
    assert has_later(release)
    refused = release.run("upgrade", "--yes", status=1)
    assert (
        "lacks fields that the cluster's has (v1alpha1: spec.later)" in refused
        and "helm rollback" in refused
    )


def every_values_file_in_a_dry_run_on_the_server(release: Release, *newer: str) -> None:
    """Each object of each is tried on the API server; kinds of other projects are there by name
    only.
    """
    # Where production has coturn.
    release.tools.kubectl("label", "nodes", "--all", "vdi.kasm.io/turn=true")
    for plural, (group, version, kind) in FOREIGN.items():
        release.tools.kubectl(
            "apply", "-f", "-", stdin=yaml.safe_dump(a_foreign_kind(plural, group, version, kind))
        )
    release.tools.kubectl(
        "wait",
        "--for=condition=Established",
        "crd",
        *(f"{key}.{FOREIGN[key][0]}" for key in FOREIGN),
    )
    for name in VALUES:
        # All but the defaults have PostgreSQL.
        left = [] if name == "values.yaml" else ["--leave-history-behind"]
        said = release.run("upgrade", "--dry-run", *newer, *left, *values_words(name))
        assert "✗" not in said, f"{name}: {said}"


def a_foreign_kind(plural: str, group: str, version: str, kind: str) -> dict[str, object]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": version, "served": True, "storage": True, "schema": schema}]
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": versions},
    }


def a_failing_upgrade_rolls_itself_back(release: Release, *newer: str) -> None:
    good = release.revisions()[0][0]
    # Helm 3 gives the way back the same time, and two seconds were too few for it once.
    broken = ("--set", f"image.repository={BROKEN}", "--yes", "--timeout", "6s")
    said = release.run("upgrade", *newer, *broken, status=1)
    reason = (
        f"The image {BROKEN}:next cannot be pulled: the registry has no such image; check name"
        " and tag"
    )
    assert said.count(reason) >= 2, "while it waited, and in the end"
    assert "Not everything was ready in time" in said
    assert (
        f"It was rolled back: revision {good + 2} of vdi is deployed, with the content of revision"
        f" {good}" in said
    )
    assert release.revisions()[:2] == [(good + 2, "deployed"), (good + 1, "failed")]
    assert not image_of(release).startswith(BROKEN)


def ctrl_c_leaves_it_as_it_was(release: Release, *newer: str) -> None:
    good = release.revisions()[0][0]
    process = release.start(
        "upgrade", *newer, "--set", f"image.repository={BROKEN}", "--yes", "--timeout", "60s"
    )
    wait_until("helm works on it", lambda: release.revisions()[0] == (good + 1, "pending-upgrade"))
    wait_until(
        "new pods are there",
        lambda: BROKEN in release.tools.kubectl("get", "pods", *RELEASE, "-o", "yaml"),
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "helm stops and undoes" in err and f"with the content of revision {good}" in err, err
    assert release.revisions()[0] == (good + 2, "deployed")


def image_of(release: Release) -> str:
    """The operator's."""
    deployment = release.tools.get("deploy", "vdi-operator", *RELEASE)
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def back_to_the_first_revision(release: Release) -> None:
    """As docs/upgrading.md has it."""
    conflicts = ("--force-conflicts",) if is_helm4(release) else ()
    done = release.tools.helm(
        "rollback", "vdi", "1", *RELEASE, "--wait", "--timeout", "2m", *conflicts
    )
    assert done.returncode == 0, done.stderr
    assert release.tools.get("deploy", "vdi-operator", *RELEASE)["spec"]["replicas"] == 2
    assert image_of(release) == "localhost/vdi/vdi:dev" and not has_later(release)


def uninstall_ends_sessions_and_keeps_homes(release: Release) -> None:
    planned = release.run("uninstall", "--dry-run")
    assert "Session alice-desktop of alice@example.com: will be ended" in planned
    said = release.run("uninstall", "--yes")
    assert "1 session ended" in said and "home of alice@example.com: " in said
    assert (
        "used again by the next installation" in said
        and "persistentvolumeclaim/vdi-gateway" in said
    )
    assert "kubectl delete secret/vdi-host-key -n vdi-system" in said
    assert not release.there("vdi,pod", *HERE) and release.there("pvc", *HERE)
    assert not release.there("deploy,svc,role", *RELEASE)
    assert len(release.there("crd", "-o", "name")) >= 3


def without_an_operator_nothing_hangs(release: Release) -> None:
    release.tools.kubectl("scale", "deploy", "vdi-operator", *RELEASE, "--replicas=0")
    gone = "jsonpath={.status.readyReplicas}"
    there = ("get", "deploy", "vdi-operator", *RELEASE, "-o", gone)
    wait_until("no operator is ready", lambda: not release.tools.kubectl(*there))
    refused = release.run("uninstall", "--yes", status=1)
    assert (
        f"no replica of deployment/{RELEASE_NAMESPACE}/vdi-operator is ready" in refused
        and "--force" in refused
    )
    assert release.there("vdi", *HERE), "nothing was removed"
    said = release.run("uninstall", "--force", "--delete-homes", "--crds", "--yes")
    assert "alice@example.com" in said and "1 home deleted" in said and "3 CRDs deleted" in said
    assert not release.there("pvc", *HERE)
    assert not [name for name in release.there("crd") if name.endswith("vdi.kasm.io")]
    wait_until(
        "what the session owned goes too", lambda: not release.there("pod,secret,svc", *HERE)
    )
    # So that no host passes to another person after the next installation.
    assert release.there("secret/vdi-host-key", *RELEASE)
    release.tools.kubectl("delete", "namespace", RELEASE_NAMESPACE, "--wait=true", check=False)

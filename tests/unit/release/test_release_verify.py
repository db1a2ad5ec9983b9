"""`--verify KEY` of install and upgrade: what is proven is what helm gets. cosign is a stand-in."""

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unit.release.test_release_preflight import a_revision, an_operator, facts
from unit.release.test_release_signatures import a_cosign, a_signed_folder
from vdi.cli import install as release_run
from vdi.cli.errors import CliError
from vdi.cli.findings import FindingsOutput
from vdi.cli.helm_options import ChangeOptions, ReleaseOptions
from vdi.cli.install import verified_copy
from vdi.cli.options import KubeConnection
from vdi.helm.arguments import Change
from vdi.helm.releases import Revision
from vdi.helm.run import Helm
from vdi.release.apply import HelmRun
from vdi.release.chart import Chart, find_chart
from vdi.release.facts import Facts
from vdi.release.signatures import PUBLIC_KEY

DIGEST = f"sha256:{'1' * 64}"
OURS = "r.example.com/vdi"
SIGNED = f"image: {{repository: {OURS}/vdi}}\n"
AT = ReleaseOptions(
    KubeConnection("kasm", None, None),
    "vdi",
    Helm(Path("/helm"), (4, 3, 1)),
    1.0,
    FindingsOutput.TEXT,
)


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A signed chart."""
    return a_signed_folder(tmp_path / "chart", Chart="name: vdi\nversion: 0.2.0\n", values=SIGNED)


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A public key; the cosign in PATH finds everything signed with it."""
    monkeypatch.setenv("PATH", str(a_cosign(tmp_path).parent), prepend=":")
    path = tmp_path / "cosign.pub"
    path.write_text("PUBLIC KEY")
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def a_cluster(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], bool], **known: Any
) -> list[tuple[str, str]]:
    """A release without a cluster and without helm; gives (chart, its values.yaml) of each time
    that helm reads it.
    """
    read: list[tuple[str, str]] = []

    def note(change: Change) -> None:
        read.append((change.chart, (Path(change.chart) / "values.yaml").read_text()))

    async def collect_facts(client: object, helm: Helm, chart: Chart, change: Change) -> Facts:
        note(change)
        operator = an_operator(container={"image": f"{OURS}/vdi@{DIGEST}"})
        return facts(**{"chart": chart, "objects": (operator,), **known})

    async def install_or_upgrade(running: HelmRun, facts: Facts, change: Change) -> Revision:
        note(change)
        return a_revision()

    async def read_revisions(*ignored: object) -> list[Revision]:
        return []

    monkeypatch.setattr(KubeConnection, "run", lambda _, work: asyncio.run(work(None)))
    monkeypatch.setattr(release_run, "collect_facts", collect_facts)
    monkeypatch.setattr(release_run, "install_or_upgrade", install_or_upgrade)
    monkeypatch.setattr(release_run, "read_revisions", read_revisions)
    monkeypatch.setattr(release_run, "confirm", answer)
    return read


def change_release(chart: Path, key: Path | None, *, upgrading: bool = False) -> None:
    options = ChangeOptions(AT, chart, files=(), sets=(), key=key, dry_run=False, yes=False)
    release_run.change_release(options, upgrading=upgrading)


def test_helm_gets_the_proven_copy_after_the_question(
    chart: Path,
    key: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(question: str) -> bool:
        (chart / "values.yaml").write_text("image: {repository: evil.example.com/vdi}\n")
        (chart / "templates/extra.yaml").write_text("a: b\n")
        return True

    read = a_cluster(monkeypatch, answer)
    change_release(chart, key)
    (checked, before), (applied, after) = read
    assert checked == applied != str(chart) and before == after == SIGNED
    assert f"Signed with {key}: chart vdi-0.2.0 (3 files)" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CliError("no")])
def test_the_copy_is_private_and_gone_after_any_end(
    chart: Path, key: Path, temporary: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), verified_copy(find_chart(chart), key) as copy:
        (private,) = temporary.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert (
            copy.folder.parent == private
            and (copy.folder / "templates/a.yaml").read_text() == "a: b\n"
        )
        raise error
    assert list(temporary.iterdir()) == []


def test_a_chart_that_is_refused_leaves_no_copy(chart: Path, key: Path, temporary: Path) -> None:
    (chart / "templates/b.yaml").symlink_to("a.yaml")
    with (
        pytest.raises(
            CliError, match=r"templates/b\.yaml: it is a symbolic link.*; nothing was changed"
        ),
        verified_copy(find_chart(chart), key),
    ):
        pass
    assert list(temporary.iterdir()) == []


def test_a_key_in_the_chart_s_own_folder_is_refused(chart: Path, key: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked.pub"
    linked.symlink_to(chart / PUBLIC_KEY)
    for inside in (chart / PUBLIC_KEY, linked):
        with (
            pytest.raises(
                CliError,
                match=rf"--verify {inside}: the key is in the chart's own folder .*; allowed: ",
            ),
            verified_copy(find_chart(chart), inside),
        ):
            pass


@pytest.mark.parametrize(
    ("upgrading", "question"),
    [
        (False, "Install vdi-0.2.0 into namespace kasm?"),
        (True, "Upgrade from vdi-0.3.0 to vdi-0.2.0? Running desktops are not affected."),
    ],
)
def test_the_question_names_the_version(
    chart: Path, key: Path, monkeypatch: pytest.MonkeyPatch, upgrading: bool, question: str
) -> None:
    asked: list[str] = []

    def answer(words: str) -> bool:
        asked.append(words)
        return False

    a_cluster(monkeypatch, answer, revisions=(a_revision(chart="0.3.0"),) if upgrading else ())
    monkeypatch.setattr(release_run, "run_checks", lambda *ignored, **more: [])
    with pytest.raises(CliError, match="nothing was changed"):
        change_release(chart, key, upgrading=upgrading)
    assert asked == [question]


def test_every_image_that_the_release_names_is_proven_or_listed(
    chart: Path, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pod(name: str, **more: Any) -> dict[str, Any]:
        return {"containers": [{"name": name, "image": f"{OURS}/{name}@{DIGEST}", **more}]}

    def an_object(kind: str, spec: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}

    variable = [{"name": "VDI_PLACEHOLDER_IMAGE", "value": f"{OURS}/placeholder@{DIGEST}"}]
    volume = {
        "name": "files",
        "image": {"reference": "other.example.com/volume:1", "pullPolicy": "Never"},
    }
    probe = {
        **pod("probe"),
        "initContainers": [{"name": "i", "image": f"{OURS}/init@{DIGEST}"}],
        "volumes": [volume],
    }
    plan = json.dumps({"roles": [{"image": f"{OURS}/plan@{DIGEST}"}]})
    objects = (
        an_operator(container={"image": f"{OURS}/operator@{DIGEST}"}),
        an_object("Deployment", {"template": {"spec": pod("gateway", env=variable)}}),
        an_object("Job", {"template": {"spec": probe}}),
        an_object("CronJob", {"jobTemplate": {"spec": {"template": {"spec": pod("doctor")}}}}),
        an_object("VDITemplate", {"image": f"{OURS}/desktop@{DIGEST}"}),
        an_object("Prometheus", {"image": "other.example.com/prometheus:1"}),
        {
            **an_object("ConfigMap", None),
            "data": {"plan.json": plan, "broken.json": "{", "a.py": "image"},
        },
        an_object("CustomResourceDefinition", {"properties": {"image": {"type": "string"}}}),
    )
    a_cluster(
        monkeypatch,
        lambda question: False,
        objects=objects,
        hooks=(an_object("Pod", pod("trial")),),
    )
    monkeypatch.setattr(release_run, "run_checks", lambda *ignored, **more: [])
    with pytest.raises(CliError, match="nothing was changed"):
        change_release(chart, key)
    said = [line for line in capsys.readouterr().err.splitlines() if ": image " in line]
    names = [
        "desktop",
        "doctor",
        "gateway",
        "init",
        "operator",
        "placeholder",
        "plan",
        "probe",
        "trial",
    ]
    assert said == [
        *(f"Signed with {key}: image {OURS}/{name}@{DIGEST}" for name in names),
        "Not of this release, so not verified: image other.example.com/prometheus:1",
        "Not of this release, so not verified: image other.example.com/volume:1",
    ]

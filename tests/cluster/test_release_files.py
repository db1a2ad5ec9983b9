"""A release for real: cosign, syft, oras and helm make it, a registry on this machine has it, `vdi
install` proves it.

Long: building cosign and syft from their modules takes minutes, once.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import Popen

import httpx
import pytest
import yaml

from cluster.edge_traefik import free_port
from cluster.helm_tools import open_tools
from cluster.release_stage import Release, pods_get_ready
from support.releases import VERSION, make_checkout, make_image, sbom_names
from support.waiting import wait_until
from tools import binaries
from tools.release.build import IMAGES, find_release, write_files
from tools.release.images import write_layout
from tools.release.programs import ProgramError, Programs
from tools.release.publish import publish, push_images
from vdi.devcluster.progress import Progress
from vdi.release.images import read_archive
from vdi.release.signatures import BadSignatureError, CannotVerifyError, verify_folder, verify_image

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
CHART, IMAGE = f"vdi-{VERSION}.tgz", f"vdi-image-vdi-{VERSION}-amd64.tar"
BILL = f"vdi-image-vdi-{VERSION}-amd64.cdx.json"
VALUES = {"domain": "vdi.example.com", "replicas": 1}


class Registry:
    """CNCF distribution on loopback, which a test may stop. oras and helm speak HTTP to `localhost`
    alone.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.address = f"localhost:{free_port()}"
        settings = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
            "http": {"addr": self.address},
        }
        self._settings, self._log = folder / "registry.yaml", folder / "registry.log"
        self._settings.write_text(yaml.safe_dump(settings))
        with self._log.open("wb") as log:
            self._process = Popen([program, "serve", str(self._settings)], stdout=log, stderr=log)
        wait_until("the registry answers", self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/v2/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(15)


class Stage:
    """A release with small images, signed, in a registry."""

    def __init__(self, folder: Path, programs: Programs, registry: Registry) -> None:
        self.folder, self.programs, self.registry = folder, programs, registry
        self.place = f"{registry.address}/vdi"
        self.key = folder / "cosign.key"
        self.public = folder / "cosign.pub"
        self.dist = folder / "dist"
        self.cosign = programs.path("cosign")
        programs.run("cosign", "generate-key-pair", cwd=folder)
        checkout = make_checkout(folder / "checkout")
        release = find_release(VERSION, self.place, checkout)
        self.dist.mkdir()
        images = {name: {"amd64": make_image(folder, name)} for name in (*IMAGES, "kiosk")}
        write_files(programs, release, self.dist, images, self.key, checkout)

    def digest(self, name: str) -> str:
        """Of an image of the release."""
        layout = self.dist / f"vdi-image-{name}-{VERSION}-amd64.tar"
        return self.programs.run("oras", "resolve", "--oci-layout", f"{layout}:{VERSION}")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("release")
    with Progress(folder / "logs") as progress:
        registry = Registry(binaries.ensure(["registry"], progress=progress)["registry"], folder)
        programs = Programs(("cosign", "syft", "oras", "helm"), progress)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSIGN_PASSWORD", "")
        patch.setenv("PATH", f"{programs.path('cosign').parent}:{os.environ['PATH']}")
        for kind in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"HELM_{kind}_HOME", str(folder / kind.lower()))
        try:
            yield Stage(folder, programs, registry)
        finally:
            registry.stop()


def test_release_files_are_verified_offline(stage: Stage) -> None:
    assert verify_folder(stage.cosign, stage.dist, stage.public) == [
        "provenance.json",
        CHART,
        f"vdi-gallery-{VERSION}.yaml",
        *(
            f"vdi-image-{name}-{VERSION}-amd64.{end}"
            for name in ("desktop", "kiosk", "vdi")
            for end in ("cdx.json", "tar")
        ),
        f"vdi-manifests-{VERSION}.tar.gz",
        "vdi_kubernetes-0.2.0rc1-py3-none-any.whl",
        "vdi_kubernetes-0.2.0rc1.cdx.json",
        "vdi_kubernetes-0.2.0rc1.tar.gz",
    ]
    purls = sbom_names(stage.dist / "vdi_kubernetes-0.2.0rc1.cdx.json")
    assert any(purl.startswith("pkg:pypi/httpx@") for purl in purls)
    assert "pkg:pypi/httpx@0.28.1" in sbom_names(stage.dist / BILL)
    names = {image.name for image in read_archive(stage.dist / IMAGE)}
    assert names == {f"{stage.place}/vdi:{VERSION}", f"{stage.place}/vdi@{stage.digest('vdi')}"}


def test_the_wheel_s_chart_is_signed_too(stage: Stage, tmp_path: Path) -> None:
    zipfile.ZipFile(next(stage.dist.glob("*.whl"))).extractall(tmp_path)
    chart = tmp_path / "vdi/files/charts/vdi"
    assert "templates/deployment.yaml" in verify_folder(stage.cosign, chart, stage.public)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert values["image"]["digest"] == stage.digest("vdi")
    assert (
        values["templates"]["small"]["image"]
        == f"{stage.place}/desktop:{VERSION}@{stage.digest('desktop')}"
    )


def flip(path: Path) -> None:
    """Change one bit of one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


TAMPERED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image": (f"{IMAGE}: it was changed", lambda d: flip(d / IMAGE)),
    "chart": (f"{CHART}: it was changed", lambda d: flip(d / CHART)),
    "bill": (
        f"{BILL}: it was changed",
        lambda d: shutil.copy(d / BILL.replace("vdi-image-vdi", "vdi-image-kiosk"), d / BILL),
    ),
    "missing": (f"{CHART}: it is missing", lambda d: (d / CHART).unlink()),
    "new": (
        "extra.whl: it is not a file of the release",
        lambda d: (d / "extra.whl").write_text("a"),
    ),
    "sums": ("SHA256SUMS: the key .* has not signed it", lambda d: flip(d / "SHA256SUMS")),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampered_release_file_is_named(stage: Stage, tmp_path: Path, what: str) -> None:
    said, tamper = TAMPERED[what]
    shutil.copytree(stage.dist, copy := tmp_path / "dist")
    tamper(copy)
    with pytest.raises(BadSignatureError, match=said):
        verify_folder(stage.cosign, copy, stage.public)
    with pytest.raises(BadSignatureError, match=said.split(":")[0]):
        publish(stage.programs, copy, stage.place, stage.key)


def other_key(stage: Stage, folder: Path) -> Path:
    """The public key of somebody else."""
    stage.programs.run("cosign", "generate-key-pair", cwd=folder)
    return folder / "cosign.pub"


def test_release_with_a_foreign_signature_is_refused(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(BadSignatureError, match="has not signed it"):
        verify_folder(stage.cosign, stage.dist, other_key(stage, tmp_path))


def test_multi_platform_image_is_one_index(stage: Stage, tmp_path: Path) -> None:
    archives = {arch: make_image(tmp_path, f"multi-{arch}") for arch in ("amd64", "arm64")}
    target = tmp_path / "multi.tar"
    write = partial(
        write_layout,
        stage.programs,
        archives,
        target,
        name="r.example.com/multi:1",
        annotations={"a": "b"},
    )
    digest = write()
    index = json.loads(
        stage.programs.run("oras", "manifest", "fetch", "--oci-layout", f"{target}:1")
    )
    assert [entry["platform"]["os"] for entry in index["manifests"]] == ["linux", "linux"]
    assert index["annotations"] == {"a": "b"}
    assert write() == digest


@contextmanager
def installed(stage: Stage, folder: Path) -> Iterator[tuple[Release, str]]:
    """An API server, and the chart as the registry has it."""
    words = (
        "pull",
        f"oci://{stage.place}/charts/vdi",
        "--version",
        VERSION,
        "--plain-http",
        "--untar",
    )
    stage.programs.run("helm", *words, "--destination", folder)
    with open_tools(folder, f"s{os.getpid():x}") as tools, pods_get_ready(tools.kubeconfig):
        yield Release(tools), str(folder / "vdi")


def test_published_images_and_chart_are_verified(stage: Stage, tmp_path: Path) -> None:
    pushed = publish(stage.programs, stage.dist, stage.place, stage.key)
    assert [reference.partition("@")[0] for reference in pushed] == [
        *(f"{stage.place}/{name}" for name in ("desktop", "kiosk", "vdi")),
        f"{stage.place}/charts/vdi",
    ]
    stranger = other_key(stage, tmp_path)
    for reference in pushed:
        verify_image(stage.cosign, reference, stage.public)
        with pytest.raises(BadSignatureError, match="has not signed it"):
            verify_image(stage.cosign, reference, stranger)
    ours = f"{stage.place}/vdi@{stage.digest('vdi')}"
    for kind in ("cyclonedx", "slsaprovenance1"):
        words = ("--key", stage.public, "--insecure-ignore-tlog=true", "--type", kind)
        assert stage.programs.run("cosign", "verify-attestation", *words, ours)

    values = yaml.safe_dump(VALUES)
    with installed(stage, tmp_path) as (release, chart):
        key = ("--chart", chart, "--verify", str(stage.public))
        said = release.run("install", *key, "--dry-run", values=values)
        assert f"image {ours}" in said and "Signed with" in said
        a_registry_that_swaps_a_tag_changes_nothing(stage, release, key, tmp_path)
        refused = release.run(
            "install", "--chart", chart, "--verify", str(stranger), "--yes", values=values, status=1
        )
        assert "has not signed it" in refused and "nothing was changed" in refused
        by_tag = ("--set", "image.digest=", "--yes")
        refused = release.run("install", *key, *by_tag, values=values, status=1)
        assert f"image {stage.place}/vdi:{VERSION}: it is named by a tag" in refused
        (extra := Path(chart) / "templates/extra.yaml").write_text("a: b")
        refused = release.run("install", *key, "--yes", values=values, status=1)
        assert "templates/extra.yaml: it is not a file" in refused
        extra.unlink()
        assert not release.there("namespace", "vdi-system"), "nothing was applied"
        assert "Installed: revision 1" in release.run("install", *key, "--yes", values=values)
        stage.registry.stop()
        away = release.run("upgrade", *key, "--set", "replicas=2", "--yes", status=3)
        assert "cosign could not check it" in away and "nothing was changed" in away
        assert release.revisions() == [(1, "deployed")]
    with pytest.raises(CannotVerifyError, match="could not check it"):
        verify_image(stage.cosign, ours, stage.public)
    with pytest.raises(ProgramError, match=stage.place):
        push_images(stage.programs, stage.dist, stage.place)


def a_registry_that_swaps_a_tag_changes_nothing(
    stage: Stage, release: Release, key: tuple[str, ...], folder: Path
) -> None:
    """The tag leads to another image between check and pull; what is applied is the digest that was
    checked.
    """
    swapped = folder / "swapped"
    swapped.mkdir()
    name, target = f"{stage.place}/vdi:{VERSION}", swapped / IMAGE
    digest = write_layout(
        stage.programs, {"amd64": make_image(swapped, "evil")}, target, name=name, annotations={}
    )
    push_images(stage.programs, swapped, stage.place)
    assert stage.programs.run("oras", "resolve", name) == digest != stage.digest("vdi")
    said = release.run("install", *key, "--dry-run", values=yaml.safe_dump(VALUES))
    assert f"image {stage.place}/vdi@{stage.digest('vdi')}" in said
    evil = ("--set", f"image.digest={digest}", "--yes")
    refused = release.run("install", *key, *evil, values=yaml.safe_dump(VALUES), status=1)
    assert f"{digest}: the key" in refused and "has not signed it" in refused

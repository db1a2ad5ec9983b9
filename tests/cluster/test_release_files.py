"""A release's files, made for real: wheel and chart without a checkout, the same bytes twice, a real registry."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.edge_traefik import free_port
from support.releases import VERSION, make_checkout, make_image, sbom_names
from support.waiting import eventually
from tools import binaries
from tools.release import oci, signing
from tools.release.build import IMAGES, find_release, provenance, write_files
from tools.release.publish import PublishError, publish
from tools.release.registry_signatures import CYCLONEDX, SIGNATURE_NOTE, sign_release
from vdi.devcluster.progress import Progress

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with Progress(tmp_path_factory.mktemp("logs")) as progress:
        return binaries.ensure(["helm", "crane", "registry"], progress=progress)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("release") / "checkout")


def make_release(checkout: Path, helm: Path, folder: Path, registry: str = "") -> Path:
    """The signed files of a release with small images; its key is beside the folder."""
    folder.mkdir()
    release = find_release(VERSION, registry, checkout)
    images = {name: {"amd64": make_image(folder.parent, name)} for name in (*IMAGES, "kiosk")}
    write_files(release, folder, images, helm, checkout)
    key = folder.with_suffix(".key")
    signing.new_key(key)
    sign_release(folder, release, signing.load_key(key), provenance(release, datetime.now(UTC)))
    return folder


@pytest.fixture(scope="module")
def released(checkout: Path, programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_release(checkout, programs["helm"], tmp_path_factory.mktemp("files") / "dist")


def test_a_release_has_every_file_and_each_is_proven(released: Path) -> None:
    assert signing.verify(released, released.with_name("dist.key.pub")) == sorted(
        [
            "provenance.intoto.json",
            "vdi-0.2.0-rc.1.tgz",
            "vdi-chart-0.2.0-rc.1.tar",
            "vdi-gallery-0.2.0-rc.1.yaml",
            "vdi-image-desktop-0.2.0-rc.1-amd64.cdx.json",
            "vdi-image-desktop-0.2.0-rc.1-amd64.tar",
            "vdi-image-kiosk-0.2.0-rc.1-amd64.cdx.json",
            "vdi-image-kiosk-0.2.0-rc.1-amd64.tar",
            "vdi-image-vdi-0.2.0-rc.1-amd64.cdx.json",
            "vdi-image-vdi-0.2.0-rc.1-amd64.tar",
            "vdi-manifests-0.2.0-rc.1.tar.gz",
            "vdi-signatures-0.2.0-rc.1.tar",
            "vdi_kubernetes-0.2.0rc1-py3-none-any.whl",
            "vdi_kubernetes-0.2.0rc1.cdx.json",
            "vdi_kubernetes-0.2.0rc1.tar.gz",
        ]
    )
    bill = sbom_names(released / "vdi_kubernetes-0.2.0rc1.cdx.json")
    assert any(purl.startswith("pkg:pypi/httpx@") for purl in bill)


@pytest.mark.long
def test_the_same_commit_gives_the_same_bytes(
    released: Path, checkout: Path, programs: dict[str, Path], tmp_path: Path
) -> None:
    again = make_release(checkout, programs["helm"], tmp_path / "dist")
    unequal = {name for name, digest in signing.checksums(again).items() if signing.checksums(released)[name] != digest}
    signed = {signing.PROVENANCE, f"vdi-signatures-{VERSION}.tar"}
    assert unequal == signed, "they say when the build began, and are signed with another key"


def test_the_wheel_alone_gives_a_cli_that_finds_its_chart(
    released: Path, programs: dict[str, Path], tmp_path: Path
) -> None:
    """The wheel in an environment of its own, which takes the dependencies from ours; the sources are not in reach."""
    python = tmp_path / "venv/bin/python"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True, timeout=60)
    wheel = next(released.glob("*.whl"))
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel], check=True, timeout=120)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    next(python.parents[1].glob("lib/*/site-packages")).joinpath("ours.pth").write_text(f"{ours}\n")
    code = (
        "import pathlib, vdi, vdi.release.chart as c; print(pathlib.Path(vdi.__file__).parent); print(c.find_chart())"
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for command, words in (("vdi", "vdi 0.2.0rc1"), ("kubectl-vdi", "vdi 0.2.0rc1")):
        done = subprocess.run(
            [python.with_name(command), "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == words, done.stderr
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    package, chart = done.stdout.splitlines()
    assert package.startswith(str(tmp_path / "venv"))
    assert f"{package}/files/charts/vdi" in chart
    assert "version='0.2.0-rc.1'" in chart
    rendered = run_helm(programs, tmp_path, "template", "vdi", f"{package}/files/charts/vdi")
    assert f"image: localhost/vdi/vdi:{VERSION}" in rendered
    assert f'app.kubernetes.io/version: "{VERSION}"' in rendered


def run_helm(programs: dict[str, Path], folder: Path, *words: str) -> str:
    """What helm prints."""
    done = subprocess.run(
        [programs["helm"], *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def registry(program: Path, folder: Path) -> AsyncIterator[str]:
    """A registry on loopback: CNCF distribution."""
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": address},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "serve", str(folder / "registry.yaml"), stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def answers() -> bool:
                try:
                    return (await http.get(f"http://{address}/v2/")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers)
        yield address
    finally:
        process.terminate()
        await process.wait()


async def test_a_registry_has_what_the_chart_names_by_digest(
    checkout: Path, programs: dict[str, Path], tmp_path: Path
) -> None:
    async with registry(programs["registry"], tmp_path) as address:
        place = f"{address}/vdi"
        dist = make_release(checkout, programs["helm"], tmp_path / "dist", place)
        messages: list[str] = []
        pushed = await asyncio.to_thread(publish, dist, place, programs["crane"], messages.append)
        digests = {path.name.split("-")[2]: oci.digest_of(path) for path in dist.glob("vdi-image-*.tar")}
        assert set(pushed) >= {f"{place}/{name}@{digest}" for name, digest in digests.items()}
        assert len(messages) == 12, "of each artifact a signature and attestations"

        (template,) = yaml.safe_load_all((dist / f"vdi-gallery-{VERSION}.yaml").read_text())
        assert template["spec"]["image"] == f"{place}/kiosk:{VERSION}@{digests['kiosk']}"

        chart = tmp_path / f"vdi-{VERSION}.tgz"
        words = ("pull", f"oci://{place}/charts/vdi", "--version", VERSION, "--plain-http")
        await asyncio.to_thread(run_helm, programs, tmp_path, *words)
        assert chart.read_bytes() == (dist / chart.name).read_bytes()
        rendered = await asyncio.to_thread(run_helm, programs, tmp_path, "template", "vdi", str(chart))
        assert f"image: {place}/vdi@{digests['vdi']}" in rendered
        values = yaml.safe_load(await asyncio.to_thread(run_helm, programs, tmp_path, "show", "values", str(chart)))
        assert values["templates"]["small"]["image"] == f"{place}/desktop:{VERSION}@{digests['desktop']}"
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"http://{address}/v2/vdi/vdi/manifests/{digests['vdi']}"
            manifest = await http.get(url, headers={"Accept": oci.MANIFEST})
            assert json.loads(manifest.text)["annotations"]["org.opencontainers.image.version"] == VERSION

        trusted = await asyncio.to_thread(dist.with_suffix(".key.pub").read_bytes)
        kinds = {
            reference: await signatures_in(address, reference.removeprefix(f"{address}/"), trusted)
            for reference in pushed
        }
        assert [kinds[f"{place}/{name}@{digest}"] for name, digest in digests.items()] == [
            [signing.SLSA_PROVENANCE, CYCLONEDX]
        ] * 3
        assert [signing.SLSA_PROVENANCE] in kinds.values(), "the chart's"


async def signatures_in(address: str, reference: str, public_key: bytes) -> list[str]:
    """Prove what a registry has beside `reference`, as cosign's specification says; the kinds of its attestations."""
    repository, _, digest = reference.partition("@")
    key = serialization.load_pem_public_key(public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)

    async def layers(tag: str) -> list[tuple[dict[str, Any], bytes]]:
        url = f"http://{address}/v2/{repository}"
        manifest = (await http.get(f"{url}/manifests/{tag}", headers={"Accept": oci.MANIFEST})).json()
        return [(layer, (await http.get(f"{url}/blobs/{layer['digest']}")).content) for layer in manifest["layers"]]

    async with httpx.AsyncClient(trust_env=False) as http:
        stem = digest.replace(":", "-")
        ((layer, payload),) = await layers(f"{stem}.sig")
        key.verify(base64.b64decode(layer["annotations"][SIGNATURE_NOTE]), payload, ec.ECDSA(hashes.SHA256()))
        critical = json.loads(payload)["critical"]
        assert critical["image"]["docker-manifest-digest"] == digest
        assert critical["identity"]["docker-reference"] == f"{address}/{repository}"
        found = []
        for layer, content in await layers(f"{stem}.att"):
            statement = signing.open_envelope(json.loads(content), key)
            assert [subject["digest"] for subject in statement["subject"]] == [{"sha256": digest.partition(":")[2]}]
            assert statement["predicateType"] == layer["annotations"]["predicateType"]
            found.append(statement["predicateType"])
        return found


async def test_a_registry_that_does_not_answer_is_named(released: Path, programs: dict[str, Path]) -> None:
    place = f"127.0.0.1:{free_port()}/vdi"
    with pytest.raises(PublishError, match=place):
        await asyncio.to_thread(publish, released, place, programs["crane"], print)

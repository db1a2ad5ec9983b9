"""Builds the files of a release from the commit that has its tag: nothing that is not committed goes in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from tools.build_hook import semantic_version, stamp
from tools.generate import chart as chart_files
from tools.generate.chart_render import ROOT
from tools.release import oci, sbom

NAME = "vdi-kubernetes"
IMAGES = ("vdi", "desktop")
"""Images of ours that the chart names; each is REGISTRY/NAME. They only run, so they have no build tools."""
GALLERY_TEMPLATES = "docs/examples/gallery"
SOURCE_REGISTRY = "localhost/vdi"
"""The registry in the sources' references, which no node can pull from."""


class ReleaseError(Exception):
    """Raised when there is no release to be made: says why and what to do."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is built: the version as Python and as charts write it, the commit, its time (seconds), where images go.

    `source` is the address of the repository; empty when it is not known.
    """

    python_version: str
    version: str
    commit: str
    epoch: int
    registry: str
    source: str = ""

    @property
    def created(self) -> str:
        """The commit's time, as OCI writes it."""
        return oci.timestamp(self.epoch)

    def labels(self, image: str) -> dict[str, str]:
        """Labels of an image."""
        labels = {
            "created": self.created,
            "licenses": "Apache-2.0",
            "revision": self.commit,
            "source": self.source,
            "title": image,
            "version": self.version,
        }
        return {f"org.opencontainers.image.{name}": value for name, value in labels.items() if value}

    def reference(self, name: str) -> str:
        """An image's name, with its tag."""
        return f"{self.registry or SOURCE_REGISTRY}/{name}:{self.version}"


def git(*words: str, root: Path = ROOT) -> str:
    """Output of git in the checkout."""
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise ReleaseError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def check_registry(registry: str) -> None:
    """Raise ReleaseError for what is no place in a registry."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)+", registry):
        raise ReleaseError(f"REGISTRY={registry}: allowed: HOST[:PORT]/PATH, such as registry.example.com/vdi")


def find_release(version: str, registry: str, root: Path = ROOT) -> Release:
    """The release `version` of the checkout at `root`. Raises ReleaseError when it may not be made from there."""
    try:
        python_version = str(Version(version))
    except InvalidVersion:
        python_version = ""
    if not python_version or semantic_version(python_version) != version:
        raise ReleaseError(f"VERSION={version}: allowed: versions such as 0.2.0 and 0.2.0-rc.1")
    if registry:
        check_registry(registry)
    if changed := git("status", "--porcelain", root=root):
        raise ReleaseError(f"the checkout has changes that are not committed:\n{changed}")
    tag = f"v{version}"
    commit = git("rev-parse", "HEAD", root=root)
    if git("tag", "--list", tag, root=root) != tag:
        raise ReleaseError(f"there is no tag {tag}. Run: git tag --annotate --message={tag} {tag}")
    if git("rev-list", "-n1", tag, root=root) != commit:
        raise ReleaseError(f"the tag {tag} is not at this commit. Run: git checkout {tag}")
    if not re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    ):
        raise ReleaseError(f'CHANGELOG.md has no section "## {version} - YYYY-MM-DD"')
    return Release(python_version, version, commit, commit_time(root), registry, source_address(root))


def find_snapshot(registry: str, root: Path = ROOT) -> Release:
    """What `make images` builds: this checkout as it is. SOURCE_DATE_EPOCH counts, else the commit's time."""
    if registry:
        check_registry(registry)
    python_version = metadata.version(NAME)
    commit = git("rev-parse", "HEAD", root=root) + ("-dirty" if git("status", "--porcelain", root=root) else "")
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise ReleaseError(f"SOURCE_DATE_EPOCH={given}: allowed: seconds, such as {commit_time(root)}")
    epoch = int(given) if given else commit_time(root)
    version = semantic_version(python_version)
    return Release(python_version, version, commit, epoch, registry, source_address(root))


def commit_time(root: Path) -> int:
    """Of the commit that is checked out, in seconds."""
    return int(git("show", "-s", "--format=%ct", "HEAD", root=root))


def source_address(root: Path) -> str:
    """The address of the repository, from the remote `origin`; empty when that is no address on a server."""
    done = subprocess.run(
        ["git", "-C", root, "remote", "get-url", "origin"], capture_output=True, text=True, check=False, timeout=60
    )
    found = re.fullmatch(r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)([^/:]+)[/:](.+?)(?:\.git)?/?", done.stdout.strip())
    return f"https://{found[1]}/{found[2]}" if found else ""


def write_images(release: Release, target: Path, images: Mapping[str, Mapping[str, Path]]) -> dict[str, str]:
    """Write layout and bills of materials of each image; gives the digests.

    `images`: name -> architecture -> archive.
    """
    digests = {}
    for name, archives in images.items():
        for arch, archive in archives.items():
            components = sbom.image_components(archive)
            if name in IMAGES and (
                tools := sorted(component.name for component in components if sbom.is_build_tool(component.name))
            ):
                raise ReleaseError(f"{archive} has build tools: {', '.join(tools)}")
            document = sbom.render(f"{SOURCE_REGISTRY}/{name}", release.version, components)
            (target / f"vdi-image-{name}-{release.version}-{arch}.cdx.json").write_text(document)
        layout = target / f"vdi-image-{name}-{release.version}-{'-'.join(sorted(archives))}.tar"
        reference, labels = release.reference(name), release.labels(name)
        digests[name] = oci.write_image(archives, layout, name=reference, labels=labels, epoch=release.epoch)
    return digests


def gallery_templates(release: Release, digests: Mapping[str, str], root: Path = ROOT) -> str:
    """The templates of the gallery's images that were built, as YAML, with their names: by digest where a registry
    has them. Empty without such an image.
    """
    templates = []
    for name in sorted(digests.keys() - set(IMAGES)):
        template = yaml.safe_load((root / GALLERY_TEMPLATES / f"{name}.yaml").read_text())
        template["spec"]["image"] = _named(release, name, digests)
        templates.append(template)
    return yaml.safe_dump_all(templates, sort_keys=False, width=120) if templates else ""


def _named(release: Release, name: str, digests: Mapping[str, str]) -> str:
    """An image's reference: by digest where a registry has it."""
    return release.reference(name) + (f"@{digests[name]}" if release.registry else "")


def write_files(
    release: Release, target: Path, images: Mapping[str, Mapping[str, Path]], helm: Path, root: Path = ROOT
) -> None:
    """Write everything but checksums and signatures to `target`, an empty folder. `images` as for `write_images`."""
    digests = write_images(release, target, images)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        export(source, release.commit, root)
        for folder in ("charts", "manifests"):
            stamp(source / folder, release.version)
        write_references(source / "charts/vdi/values.yaml", release, digests)
        manifest = chart_files.manifest_text(helm, source / "charts/vdi")
        (source / "manifests/vdi.yaml").write_text(manifest)
        _write_chart(release, source / "charts/vdi", target)
        _write_packages(release, source, target)
        oci.pack_folder(source / "manifests", target / f"vdi-manifests-{release.version}.tar.gz")
        locked = (source / "requirements/run.txt").read_text()
        bill = sbom.render(NAME, release.version, sbom.locked_components(locked))
        (target / f"vdi_kubernetes-{release.python_version}.cdx.json").write_text(bill)
        if templates := gallery_templates(release, digests, source):
            (target / f"vdi-gallery-{release.version}.yaml").write_text(templates)


def export(folder: Path, commit: str, root: Path) -> None:
    """The files of a commit."""
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    git("archive", "--format=tar", f"--output={archive}", commit, root=root)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")


def image_values(release: Release, digests: Mapping[str, str]) -> dict[str, Any]:
    """The chart's values that name the images: by digest where a registry has them."""
    repository, _, tag = release.reference("vdi").rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "digest": digests["vdi"] if release.registry else ""},
        "templates": {"small": {"image": _named(release, "desktop", digests)}},
    }


def write_references(values: Path, release: Release, digests: Mapping[str, str]) -> None:
    """Set the images in the chart's values.yaml, which a checkout leaves empty."""
    images = image_values(release, digests)
    text = values.read_text()
    for name, value in (*images["image"].items(), ("image", images["templates"]["small"]["image"])):
        written = json.dumps(value)
        text, changed = re.subn(rf'^( +{name}): ""$', rf"\1: {written}", text, count=1, flags=re.MULTILINE)
        if not changed:
            raise ReleaseError(f'{values.name} has no empty {name}: ""; the chart of a checkout names no image')
    values.write_text(text)


def provenance(release: Release, started: datetime, gallery: Sequence[str] = ()) -> dict[str, Any]:
    """How the files came to be: the predicate of SLSA provenance v1."""
    return {
        "buildDefinition": {
            "buildType": "urn:vdi-kubernetes:make-release:v1",
            "externalParameters": {
                "version": release.version,
                "registry": release.registry,
                "gallery": list(gallery),
            },
            "internalParameters": {"python": sys.version.split()[0], "sourceDateEpoch": release.epoch},
            "resolvedDependencies": [
                {"uri": f"git+{NAME}@refs/tags/v{release.version}", "digest": {"gitCommit": release.commit}}
            ],
        },
        "runDetails": {
            "builder": {"id": os.environ.get("RELEASE_BUILDER", "make release")},
            "metadata": {"startedOn": started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
        },
    }


def _write_chart(release: Release, chart: Path, target: Path) -> None:
    package = target / f"vdi-{release.version}.tgz"
    oci.pack_folder(chart, package)
    layout = target / f"vdi-chart-{release.version}.tar"
    oci.write_chart(package, layout, name=release.reference("charts/vdi"), created=release.created)


def _write_packages(release: Release, source: Path, target: Path) -> None:
    env = os.environ | {
        "SETUPTOOLS_SCM_PRETEND_VERSION": release.python_version,
        "SOURCE_DATE_EPOCH": str(release.epoch),
    }
    made = source / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(made)]
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise ReleaseError(f"the packages were not built:\n{done.stderr}")
    for path in made.iterdir():
        shutil.copy(path, target / path.name)

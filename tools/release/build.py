"""Builds the files of a release from the commit that has its tag: nothing that is not committed
goes in.
"""

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
from tools.release.images import write_bill, write_layout
from tools.release.programs import Programs
from tools.release.signing import PROVENANCE, sign, write_public_key
from vdi.release.signatures import PUBLIC_KEY

NAME = "vdi-kubernetes"
# Images of ours that the chart names; each is REGISTRY/NAME. They only run, so they have no build
# tools.
IMAGES = ("vdi", "desktop")
GALLERY_TEMPLATES = "docs/examples/gallery"
# The registry in the sources' references, which no node can pull from.
SOURCE_REGISTRY = "localhost/vdi"


class ReleaseError(Exception):
    """Raised when there is no release to be made: says why and what to do."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is built: the version as Python and as charts write it, the commit, its time (seconds),
    where images go.

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
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def annotations(self, image: str) -> dict[str, str]:
        labels = {
            "created": self.created,
            "licenses": "Apache-2.0",
            "revision": self.commit,
            "source": self.source,
            "title": image,
            "version": self.version,
        }
        return {
            f"org.opencontainers.image.{name}": value for name, value in labels.items() if value
        }

    def reference(self, name: str) -> str:
        return f"{self.registry or SOURCE_REGISTRY}/{name}:{self.version}"


def git(*arguments: str, root: Path = ROOT) -> str:
    done = subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise ReleaseError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def check_registry(registry: str) -> None:
    """Raise ReleaseError for what is no place in a registry."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)+", registry):
        raise ReleaseError(
            f"REGISTRY={registry}: allowed: HOST[:PORT]/PATH, such as registry.example.com/vdi"
        )


def find_release(version: str, registry: str, root: Path = ROOT) -> Release:
    """The release `version` of the checkout at `root`. Raises ReleaseError when it may not be made
    from there.
    """
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
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$",
        (root / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    ):
        raise ReleaseError(f'CHANGELOG.md has no section "## {version} - YYYY-MM-DD"')
    return Release(
        python_version, version, commit, commit_time(root), registry, source_address(root)
    )


def check_generated() -> None:
    """Raise ReleaseError for generated files that are stale."""
    if (
        subprocess.run(
            [sys.executable, "-m", "tools.generate", "--check"], cwd=ROOT, check=False
        ).returncode
        != 0
    ):
        raise ReleaseError("generated files are stale: `make verify` fails")


def find_snapshot(registry: str, root: Path = ROOT) -> Release:
    """What `make images` builds: this checkout as it is. SOURCE_DATE_EPOCH counts, else the
    commit's time.
    """
    if registry:
        check_registry(registry)
    python_version = metadata.version(NAME)
    commit = git("rev-parse", "HEAD", root=root) + (
        "-dirty" if git("status", "--porcelain", root=root) else ""
    )
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise ReleaseError(
            f"SOURCE_DATE_EPOCH={given}: allowed: seconds, such as {commit_time(root)}"
        )
    epoch = int(given) if given else commit_time(root)
    version = semantic_version(python_version)
    return Release(python_version, version, commit, epoch, registry, source_address(root))


def commit_time(root: Path) -> int:
    """Of the commit that is checked out, in seconds."""
    return int(git("show", "-s", "--format=%ct", "HEAD", root=root))


def source_address(root: Path) -> str:
    """The address of the repository, from the remote `origin`; empty when that is no address on a
    server.
    """
    done = subprocess.run(
        ["git", "-C", root, "remote", "get-url", "origin"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    match = re.fullmatch(
        r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)([^/:]+)[/:](.+?)(?:\.git)?/?",
        done.stdout.strip(),
    )
    return f"https://{match[1]}/{match[2]}" if match else ""


def write_images(
    programs: Programs, release: Release, target: Path, images: Mapping[str, Mapping[str, Path]]
) -> dict[str, str]:
    """Write layout and bills of materials of each image; gives the digests.

    `images`: name -> architecture -> archive. Raises ReleaseError for build tools in our images.
    """
    digests = {}
    for name, archives in images.items():
        for arch, archive in archives.items():
            bill = target / f"vdi-image-{name}-{release.version}-{arch}.cdx.json"
            tools = write_bill(programs, f"docker-archive:{archive}", bill, name, release.version)
            if tools and name in IMAGES:
                raise ReleaseError(f"{archive} has build tools: {', '.join(tools)}")
        layout = target / f"vdi-image-{name}-{release.version}-{'-'.join(sorted(archives))}.tar"
        reference, notes = release.reference(name), release.annotations(name)
        digests[name] = write_layout(programs, archives, layout, name=reference, annotations=notes)
    return digests


def gallery_templates(release: Release, digests: Mapping[str, str], root: Path = ROOT) -> str:
    """The templates of the gallery's images that were built, as YAML, with their names: by digest
    where a registry has them. Empty without such an image.
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
    programs: Programs,
    release: Release,
    target: Path,
    images: Mapping[str, Mapping[str, Path]],
    key: Path,
    root: Path = ROOT,
) -> None:
    """Write a release to `target`, an empty folder, and sign it. `images` as for `write_images`.

    The chart has a signature of its own, which is also in the wheel: `vdi install --verify` proves
    its files.
    """
    started = datetime.now(UTC)
    digests = write_images(programs, release, target, images)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        export(source, release.commit, root)
        for folder in ("charts", "manifests"):
            stamp(source / folder, release.version)
        write_references(source / "charts/vdi/values.yaml", release, digests)
        manifest = chart_files.manifest_text(programs.path("helm"), source / "charts/vdi")
        (source / "manifests/vdi.yaml").write_text(manifest)
        sign(programs, source / "charts/vdi", key)
        chart = shutil.make_archive(str(Path(scratch) / "chart"), "gztar", source / "charts", "vdi")
        Path(chart).rename(target / f"vdi-{release.version}.tgz")
        _write_packages(release, source, target)
        shutil.make_archive(
            str(target / f"vdi-manifests-{release.version}"), "gztar", source, "manifests"
        )
        bill = target / f"vdi_kubernetes-{release.python_version}.cdx.json"
        # By this name syft knows it.
        locked = shutil.copy(source / "requirements/run.txt", Path(scratch) / "requirements.txt")
        write_bill(programs, f"file:{locked}", bill, NAME, release.version)
        if templates := gallery_templates(release, digests, source):
            (target / f"vdi-gallery-{release.version}.yaml").write_text(templates)
    document = _provenance(release, started, sorted(images))
    (target / PROVENANCE).write_text(json.dumps(document, indent=1) + "\n")
    sign(programs, target, key)
    write_public_key(programs, key, target / PUBLIC_KEY)


def export(folder: Path, commit: str, root: Path) -> None:
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    git("archive", "--format=tar", f"--output={archive}", commit, root=root)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")


def image_values(release: Release, digests: Mapping[str, str]) -> dict[str, Any]:
    """The chart's values that name the images: by digest where a registry has them."""
    repository, _, tag = release.reference("vdi").rpartition(":")
    return {
        "image": {
            "repository": repository,
            "tag": tag,
            "digest": digests["vdi"] if release.registry else "",
        },
        "templates": {"small": {"image": _named(release, "desktop", digests)}},
    }


def write_references(values: Path, release: Release, digests: Mapping[str, str]) -> None:
    """Set the images in the chart's values.yaml, which a checkout leaves empty."""
    images = image_values(release, digests)
    text = values.read_text()
    for name, value in (*images["image"].items(), ("image", images["templates"]["small"]["image"])):
        written = json.dumps(value)
        text, changed = re.subn(
            rf'^( +{name}): ""$', rf"\1: {written}", text, count=1, flags=re.MULTILINE
        )
        if not changed:
            raise ReleaseError(
                f'{values.name} has no empty {name}: ""; the chart of a checkout names no image'
            )
    values.write_text(text)


def _provenance(release: Release, started: datetime, images: Sequence[str]) -> dict[str, Any]:
    """How the files came to be: the predicate of SLSA provenance v1."""
    return {
        "buildDefinition": {
            "buildType": "urn:vdi-kubernetes:make-release:v1",
            "externalParameters": {
                "version": release.version,
                "registry": release.registry,
                "images": list(images),
            },
            "internalParameters": {
                "python": sys.version.split()[0],
                "sourceDateEpoch": release.epoch,
            },
            "resolvedDependencies": [
                {
                    "uri": f"git+{NAME}@refs/tags/v{release.version}",
                    "digest": {"gitCommit": release.commit},
                }
            ],
        },
        "runDetails": {
            "builder": {"id": os.environ.get("RELEASE_BUILDER", "make release")},
            "metadata": {"startedOn": started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
        },
    }


def _write_packages(release: Release, source: Path, target: Path) -> None:
    env = os.environ | {
        "SETUPTOOLS_SCM_PRETEND_VERSION": release.python_version,
        "SOURCE_DATE_EPOCH": str(release.epoch),
    }
    made = source / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(made)]
    done = subprocess.run(
        command, cwd=source, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise ReleaseError(f"the packages were not built:\n{done.stderr}")
    for path in made.iterdir():
        shutil.copy(path, target / path.name)

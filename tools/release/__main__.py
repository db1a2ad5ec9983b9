"""`python -m tools.release key|images|build|verify|publish`: what `make images`, `release` and the others run.

Exit status: 0 done, 1 refused or failed, 2 usage, 3 nothing here can build images.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from tools import binaries
from tools.generate.chart_render import ROOT
from tools.release import signing
from tools.release.build import (
    ReleaseError,
    check_registry,
    find_release,
    find_snapshot,
    gallery_templates,
    image_values,
    provenance,
    write_files,
    write_images,
)
from tools.release.images import build_images
from tools.release.publish import PublishError, publish
from tools.release.registry_signatures import sign_release
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import SourceFailed
from vdi.devcluster.images import GALLERY, ImageFailed
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.progress import Progress, StepFailed

COULD_NOT_BUILD = 3
"""Exit status: no program here can build images."""


def build(options: argparse.Namespace) -> None:
    """Check, build, sign; the folder appears when everything in it is complete."""
    started = datetime.now(UTC)
    release = find_release(options.version, options.registry)
    key = signing.load_key(options.key)
    if subprocess.run([sys.executable, "-m", "tools.generate", "--check"], cwd=ROOT, check=False).returncode != 0:
        raise ReleaseError("generated files are stale: `make verify` fails")
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".release-") as scratch:
        with tempfile.TemporaryDirectory() as logs, Progress(Path(logs)) as progress:
            helm = binaries.ensure(["helm"], progress=progress)["helm"]
            images = build_images(release.python_version, release.epoch, print, progress, options.gallery)
        made = Path(scratch) / "dist"
        made.mkdir()
        write_files(release, made, images, helm)
        sign_release(made, release, key, provenance(release, started, options.gallery))
        shutil.rmtree(options.dist, ignore_errors=True)
        made.rename(options.dist)
    for name in signing.verify(options.dist, options.dist / signing.PUBLIC_KEY):
        print(f"  {name}")
    print(f"{options.dist}: release {release.version}, complete and signed")


def images(options: argparse.Namespace) -> None:
    """Build the images of the checkout as it is, and values that name them; push them where a registry is given."""
    snapshot = find_snapshot(options.registry)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".release-") as scratch:
        with tempfile.TemporaryDirectory() as logs, Progress(Path(logs)) as progress:
            built = build_images(snapshot.python_version, snapshot.epoch, print, progress, options.gallery)
            crane = binaries.ensure(["crane"], progress=progress)["crane"] if options.registry else None
        made = Path(scratch) / "images"
        made.mkdir()
        digests = write_images(snapshot, made, built)
        (made / "values.yaml").write_text(yaml.safe_dump(image_values(snapshot, digests), sort_keys=False))
        if templates := gallery_templates(snapshot, digests):
            (made / "gallery.yaml").write_text(templates)
        if crane:
            publish(made, options.registry, crane, print)
        shutil.rmtree(options.into, ignore_errors=True)
        options.into.parent.mkdir(parents=True, exist_ok=True)
        made.rename(options.into)
    for name, digest in digests.items():
        print(f"{snapshot.reference(name)}@{digest}")
    archives = " ".join(str(path) for path in sorted(options.into.glob("*.tar")))
    if not options.registry:
        print(f"To the nodes of a cluster: vdi images load {archives}")
    print(f"Then: vdi install -f {options.into / 'values.yaml'}")
    if options.gallery:
        print(f"Templates of the gallery: kubectl apply -f {options.into / 'gallery.yaml'}")
        print(f"To check them: {' && '.join(f'vdi image check {name}' for name in options.gallery)}")


def verify(options: argparse.Namespace) -> None:
    """Prove each file."""
    trusted = options.key or options.dist / signing.PUBLIC_KEY
    for name in signing.verify(options.dist, trusted):
        print(f"ok  {name}")
    if options.key is None:
        print(f"Checked with the key beside the files, {trusted.name}: pass the one that you trust (KEY=FILE).")


def push(options: argparse.Namespace) -> None:
    """Push what was proven."""
    check_registry(options.registry)
    signing.verify(options.dist, options.key or options.dist / signing.PUBLIC_KEY)
    with tempfile.TemporaryDirectory() as logs, Progress(Path(logs)) as progress:
        crane = binaries.ensure(["crane"], progress=progress)["crane"]
    for reference in publish(options.dist, options.registry, crane, print):
        print(reference)
    print(f"To check one: cosign verify --key {signing.PUBLIC_KEY} --insecure-ignore-tlog=true REFERENCE")


def existing_file(name: str) -> Path:
    """A file that an option names."""
    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(f"{name!r} is no file; `python -m tools.release key FILE` makes a key")
    return Path(name)


def gallery_images(names: str) -> tuple[str, ...]:
    """The images of the gallery that an option names: all, or some with spaces between."""
    if names == "all":
        return GALLERY
    chosen = tuple(names.split())
    if unknown := set(chosen) - set(GALLERY):
        raise argparse.ArgumentTypeError(
            f"GALLERY={names!r}: allowed: all, or of {' '.join(GALLERY)}; not {min(unknown)!r}"
        )
    return chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.splitlines()[0])
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    key = commands.add_parser("key", help="write a new private key to FILE, and the public one to FILE.pub")
    key.add_argument("file", type=Path)
    key.set_defaults(run=lambda options: signing.new_key(options.file))

    builds = commands.add_parser("build", help="build and sign a release of the commit that is checked out")
    builds.add_argument("--version", required=True, help="such as 0.2.0 or 0.2.0-rc.1: the tag without its v")
    builds.add_argument(
        "--registry", default="", help="where the images will be: HOST[:PORT]/PATH; chart and CLI name it"
    )
    builds.add_argument("--key", required=True, type=existing_file, help="the private key that signs")
    builds.set_defaults(run=build)

    builds_images = commands.add_parser(
        "images",
        help="build the images of the checkout as it is, as OCI layouts, with values that name them",
        epilog="Example: python -m tools.release images --registry registry.example.com/vdi",
    )
    builds_images.add_argument("--registry", default="", help="push them to HOST[:PORT]/PATH; empty: for nodes")
    builds_images.add_argument("--into", type=Path, default=ROOT / "build/images", help="the folder that is written")
    builds_images.set_defaults(run=images)

    verifies = commands.add_parser("verify", help="prove each file of a release, offline")
    verifies.set_defaults(run=verify)
    pushes = commands.add_parser("publish", help="push images and chart to a registry, by digest")
    pushes.add_argument("--registry", required=True, help="HOST[:PORT]/PATH")
    pushes.set_defaults(run=push)
    for command in (verifies, pushes):
        command.add_argument(
            "--key", type=existing_file, help="the public key that you trust; else the one beside the files"
        )
    for command in (builds, builds_images):
        command.add_argument(
            "--gallery", type=gallery_images, default=(), help="images of the gallery too: names in one word, or all"
        )
    for command in (builds, verifies, pushes):
        command.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of the release's files")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except NoBuilder as error:
        print(f"Error: {error}", file=sys.stderr)
        return COULD_NOT_BUILD
    except (
        ReleaseError,
        PublishError,
        signing.VerificationError,
        StepFailed,
        SourceFailed,
        BinaryUnavailable,
        ImageFailed,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

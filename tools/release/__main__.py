"""`python -m tools.release images|build|verify|publish`: what `make images`, `release` and the
others run.

Exit status: 0 done, 1 refused or failed, 2 usage, 3 nothing here can build images.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path

import yaml

from tools.generate.chart_render import ROOT
from tools.release import build, publish
from tools.release.images import build_images
from tools.release.programs import ProgramError, Programs
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import SourceFailed
from vdi.devcluster.images import GALLERY, ImageFailed
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.progress import Progress, StepFailed
from vdi.release.signatures import PUBLIC_KEY, BadSignatureError, CannotVerifyError, verify_folder


@contextmanager
def folder_for(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` when everything in it is complete."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".release-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)


def make_release(options: argparse.Namespace, progress: Progress) -> None:
    """Check, build, sign."""
    release = build.find_release(options.version, options.registry)
    build.check_generated()
    programs = Programs(("cosign", "syft", "oras", "helm"), progress)
    with folder_for(options.dist) as made:
        images = build_images(
            release.python_version, release.epoch, print, progress, options.gallery
        )
        build.write_files(programs, release, made, images, options.key)
    print(f"{options.dist}: release {release.version}, complete and signed")


def make_images(options: argparse.Namespace, progress: Progress) -> None:
    """Build the images of the checkout as it is, and values that name them; push them where a
    registry is given.
    """
    snapshot = build.find_snapshot(options.registry)
    programs = Programs(("syft", "oras"), progress)
    with folder_for(options.into) as made:
        images = build_images(
            snapshot.python_version, snapshot.epoch, print, progress, options.gallery
        )
        digests = build.write_images(programs, snapshot, made, images)
        (made / "values.yaml").write_text(
            yaml.safe_dump(build.image_values(snapshot, digests), sort_keys=False)
        )
        if templates := build.gallery_templates(snapshot, digests):
            (made / "gallery.yaml").write_text(templates)
        if options.registry:
            publish.push_images(programs, made, options.registry)
    for name, digest in digests.items():
        print(f"{snapshot.reference(name)}@{digest}")
    if not options.registry:
        print(
            "To the nodes of a cluster: vdi images load"
            f" {' '.join(map(str, sorted(options.into.glob('*.tar'))))}"
        )
    print(f"Then: vdi install -f {options.into / 'values.yaml'}")
    if options.gallery:
        print(f"Templates of the gallery: kubectl apply -f {options.into / 'gallery.yaml'}")
        print(f"To try them: {' && '.join(f'vdi template try {name}' for name in options.gallery)}")


def verify_release(options: argparse.Namespace, progress: Progress) -> None:
    """Prove each file."""
    trusted = options.key or options.dist / PUBLIC_KEY
    for name in verify_folder(
        Programs(("cosign",), progress).path("cosign"), options.dist, trusted
    ):
        print(f"ok  {name}")
    if options.key is None:
        print(
            f"Checked with the key beside the files, {trusted.name}: pass the one that you trust"
            " (KEY=FILE)."
        )


def publish_release(options: argparse.Namespace, progress: Progress) -> None:
    """Push what the key has signed, and sign it in the registry."""
    build.check_registry(options.registry)
    programs = Programs(("cosign", "oras", "helm"), progress)
    for reference in publish.publish(programs, options.dist, options.registry, options.key):
        print(reference)


def private_key(name: str) -> Path:
    """cosign's private key. Its password is COSIGN_PASSWORD, else asked for once."""
    key = existing_file(name)
    if "COSIGN_PASSWORD" not in os.environ:
        if not sys.stdin.isatty():
            raise argparse.ArgumentTypeError(
                f"COSIGN_PASSWORD is not set: the password of {name}, empty without one"
            )
        os.environ["COSIGN_PASSWORD"] = getpass(f"Password of {name}: ")
    return key


def existing_file(name: str) -> Path:
    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(
            f"{name!r} is no file; `cosign generate-key-pair` makes a key and its .pub"
        )
    return Path(name)


def gallery_images(names: str) -> tuple[str, ...]:
    """The images of the gallery that an option names: all, or some with spaces between."""
    chosen = GALLERY if names == "all" else tuple(names.split())
    if unknown := set(chosen) - set(GALLERY):
        raise argparse.ArgumentTypeError(
            f"GALLERY={names!r}: allowed: all, or of {' '.join(GALLERY)}; not {min(unknown)!r}"
        )
    return chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tools.release", description=__doc__.splitlines()[0]
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    builds = commands.add_parser(
        "build", help="build and sign a release of the commit that is checked out"
    )
    builds.set_defaults(run=make_release)
    builds.add_argument(
        "--version", required=True, help="such as 0.2.0 or 0.2.0-rc.1: the tag without its v"
    )
    snapshots = commands.add_parser(
        "images", help="build the images of the checkout as it is, and values that name them"
    )
    snapshots.set_defaults(run=make_images)
    snapshots.add_argument(
        "--into", type=Path, default=ROOT / "build/images", help="the folder that is written"
    )
    verifies = commands.add_parser("verify", help="prove each file of a release, offline")
    verifies.set_defaults(run=verify_release)
    verifies.add_argument(
        "--key",
        type=existing_file,
        help="the public key that you trust; else the one in the folder",
    )
    pushes = commands.add_parser(
        "publish", help="push images and chart to a registry, and sign them there by digest"
    )
    pushes.set_defaults(run=publish_release)
    for command in (builds, pushes):
        command.add_argument("--key", required=True, type=private_key, help="cosign's private key")
    for command in (builds, snapshots, pushes):
        command.add_argument(
            "--registry", default="", help="where the images are: HOST[:PORT]/PATH"
        )
    for command in (builds, snapshots):
        command.add_argument(
            "--gallery",
            type=gallery_images,
            default=(),
            help="images of the gallery too: names in one word, or all",
        )
    for command in (builds, verifies, pushes):
        command.add_argument(
            "--dist", type=Path, default=ROOT / "dist", help="the folder of the release's files"
        )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    refused = (
        build.ReleaseError,
        BadSignatureError,
        CannotVerifyError,
        ProgramError,
        BinaryUnavailable,
    )
    try:
        with tempfile.TemporaryDirectory() as logs, Progress(Path(logs)) as progress:
            options.run(options, progress)
    except (*refused, NoBuilder, StepFailed, SourceFailed, ImageFailed, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3 if isinstance(error, NoBuilder) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

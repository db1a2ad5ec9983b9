"""`python -m tools.release key|build|verify|publish`: what `make release`, `release-verify` and `publish` run.

Exit status: 0 done, 1 refused or failed, 2 usage.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools.generate.chart_render import ROOT
from tools.release import signing
from tools.release.build import ReleaseError, check_registry, find_release, provenance, write_files
from tools.release.publish import PublishError, publish
from vdi.devcluster import binaries
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import SourceFailed, architecture
from vdi.devcluster.images import ImageFailed, ensure_desktop, ensure_vdi
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.progress import Progress, StepFailed


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
            images = {
                "vdi": ensure_vdi(progress=progress, version=release.version),
                "desktop": ensure_desktop(progress=progress),
            }
        made = Path(scratch) / "dist"
        made.mkdir()
        write_files(release, made, images, helm, architecture())
        signing.sign(made, key, provenance(release, started))
        shutil.rmtree(options.dist, ignore_errors=True)
        made.rename(options.dist)
    for name in signing.verify(options.dist, options.dist / signing.PUBLIC_KEY):
        print(f"  {name}")
    print(f"{options.dist}: release {release.version}, complete and signed")


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


def existing_file(name: str) -> Path:
    """A file that an option names."""
    if not Path(name).is_file():
        raise argparse.ArgumentTypeError(f"{name!r} is no file; `python -m tools.release key FILE` makes a key")
    return Path(name)


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

    verifies = commands.add_parser("verify", help="prove each file of a release, offline")
    verifies.set_defaults(run=verify)
    pushes = commands.add_parser("publish", help="push images and chart to a registry, by digest")
    pushes.add_argument("--registry", required=True, help="HOST[:PORT]/PATH")
    pushes.set_defaults(run=push)
    for command in (verifies, pushes):
        command.add_argument(
            "--key", type=existing_file, help="the public key that you trust; else the one beside the files"
        )
    for command in (builds, verifies, pushes):
        command.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder of the release's files")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (
        ReleaseError,
        PublishError,
        signing.VerificationError,
        StepFailed,
        SourceFailed,
        BinaryUnavailable,
        ImageFailed,
        NoBuilder,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A home that was mounted empty is filled from a skeleton."""

import contextlib
import os
import shutil
from collections.abc import Set
from pathlib import Path

from launcher.log import log, refuse


def prepare_home(home: Path, skeleton: Path) -> None:
    """Fill the home; refuse one that can't be written.

    What is there stays. A folder that an init container has made for a volume in it is filled
    around that volume.
    """
    if not os.access(home, os.W_OK | os.X_OK):
        refuse(
            f"HOME={home} can't be written by uid {os.getuid()}: the volume must be writable for it"
            f" or gid {os.getgid()}"
        )
    mounts = mount_points()
    for source in skeleton.iterdir():
        target, part = home / source.name, home / f".{source.name}.part"
        if source.is_dir() and _is_made_for_volumes(target, mounts):
            try:
                _fill_around(source, target, mounts)
            except (OSError, shutil.Error) as error:
                log(f"{target} is not filled from {source}: {error}")
        elif not os.path.lexists(target):
            # Under its name when it is whole: a pod that ends in the middle has filled nothing.
            shutil.rmtree(part, ignore_errors=True)
            _copy(source, part)
            part.rename(target)


def mount_points() -> frozenset[str]:
    """Where something is mounted in this container. st_dev does not tell: a ConfigMap may be on the
    home's disk.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return frozenset(line.split()[4].replace(r"\040", " ") for line in lines)
    return frozenset()


def _is_made_for_volumes(folder: Path, mounts: Set[str]) -> bool:
    """Whether it is a folder with nothing in it but mounts, and the folders above them."""
    if folder.is_symlink() or str(folder) in mounts:
        return False
    if not any(mount.startswith(f"{folder}/") for mount in mounts):
        return False
    with contextlib.suppress(OSError):
        return all(
            str(entry) in mounts or _is_made_for_volumes(entry, mounts)
            for entry in folder.iterdir()
        )
    return False


def _fill_around(source: Path, target: Path, mounts: Set[str]) -> None:
    """Copy what is not there, and nothing into what is mounted."""
    for entry in source.iterdir():
        place = target / entry.name
        if str(place) in mounts:
            continue
        if not os.path.lexists(place):
            _copy(entry, place)
        elif entry.is_dir() and place.is_dir():
            _fill_around(entry, place, mounts)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)

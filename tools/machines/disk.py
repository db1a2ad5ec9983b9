"""Disks of machines: the distribution's, made once and cached, and the two that hand a machine what the host has.

debootstrap and `mke2fs -d` make them out of folders: nothing is mounted, no loop device is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tools.machines.distributions import Distribution
from tools.machines.guest import PASSWORD, USER
from vdi.devcluster import host_settings, packages
from vdi.devcluster.binaries import entry_key
from vdi.devcluster.binaries.components import RECIPES, DebianPackage
from vdi.devcluster.build_cache import BuildCache
from vdi.devcluster.control_plane import CONTROL_PLANE_BINARIES
from vdi.devcluster.node import NODE_BINARIES
from vdi.devcluster.progress import Step

TOOLS = {
    "debootstrap": "debootstrap",
    "debugfs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
"""Programs and files that are needed here and their packages."""

HANDED_IN = "/media/handed-in"
_ROOT_SIZE, _HAND_IN_SIZE, _CACHE_SIZE = "24G", "64M", "12G"  # sparse: only what is written takes room
_CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_IMAGES = ("base", "coredns", "desktop", "local-path-provisioner", "pause", "vdi")

_FILES = {
    "etc/hostname": "machine\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 machine\n",
    "etc/machine-id": "",  # made at the first boot
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
    "etc/systemd/system/vdi-machine.service": f"""\
[Unit]
Description=The commands of a newcomer
After=network.target
[Service]
ExecStartPre=mkdir -p {HANDED_IN}
ExecStartPre=mount -o ro /dev/vdb {HANDED_IN}
ExecStart=python3 -u {HANDED_IN}/guest.py
KillMode=process
[Install]
WantedBy=multi-user.target
""",
}
_COMMANDS = (
    ("useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", USER),
    ("sh", "-c", f"echo {USER}:{PASSWORD} | chpasswd"),
    ("systemctl", "enable", "systemd-networkd.service", "vdi-machine.service"),
    # Its vhangup ends what others write to the console.
    ("systemctl", "mask", "serial-getty@ttyS0.service"),
)


def ensure_disk(distribution: Distribution, build_cache: BuildCache) -> Path:
    """The folder with `disk.img`, `vmlinuz` and `initrd` of a fresh installation. Raises StepFailed.

    A disk is made again when what goes into it changes here, and as old as its first use otherwise: the newcomer's
    `apt-get` sees newer packages on the servers, as on any installed machine.
    """
    key = f"machine-{distribution.name}-{recipe_digest(distribution)}"

    def make(step: Step, into: Path) -> None:
        _bootstrap(distribution, step, into)

    entry = build_cache.obtain(key, f"Install {distribution.name} on a disk", make)
    for old in build_cache.folder.glob(f"machine-{distribution.name}-*"):
        if old != entry:
            shutil.rmtree(old, ignore_errors=True)
    return entry


def recipe_digest(distribution: Distribution) -> str:
    """Changes with everything that goes into the disk, but for the versions of packages."""
    recipe = [distribution.suite, distribution.mirror, distribution.packages, _FILES, _COMMANDS, _ROOT_SIZE]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:10]


def _bootstrap(distribution: Distribution, step: Step, into: Path) -> None:
    tree = into / "tree"
    options = ["--variant=minbase", f"--include={','.join(distribution.packages)}"]
    step.run(["debootstrap", *options, distribution.suite, tree, distribution.mirror])
    for name, text in _FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for command in _COMMANDS:
        step.run(["chroot", tree, *command])
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(next((tree / "boot").glob(f"{name}*")), into / name)
    make_image(step, into / "disk.img", tree, _ROOT_SIZE)
    shutil.rmtree(tree)


def make_image(step: Step, image: Path, folder: Path, size: str) -> None:
    """An ext4 file system with the content of `folder`. Raises StepFailed."""
    step.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, image, size])


def copy_disk(step: Step, source: Path, target: Path) -> None:
    """A copy to write to, as sparse as its source. Raises StepFailed."""
    step.run(["cp", "--sparse=always", "--reflink=auto", source, target])


def fetch_logs(step: Step, disk: Path, folder: str, into: Path) -> None:
    """Copy a folder off the disk of a machine that is switched off. Raises StepFailed."""
    into.mkdir(parents=True, exist_ok=True)
    step.run(["debugfs", "-R", f"rdump {folder} {into}", disk])


def make_hand_in(
    step: Step, image: Path, scratch: Path, checkout: Path, config: Mapping[str, object], suite: str
) -> None:
    """The disk with the project's last commit, what runs in the machine, and this host's settings for pip and apt."""
    folder = scratch / "handed-in"
    folder.mkdir()
    step.run(["git", "-C", checkout, "bundle", "create", folder / "vdi.bundle", "HEAD"])
    shutil.copyfile(Path(__file__).with_name("guest.py"), folder / "guest.py")
    (folder / "config.json").write_text(json.dumps(config))
    write_settings(folder, suite, os.environ)
    make_image(step, image, folder, _HAND_IN_SIZE)


def write_settings(folder: Path, suite: str, env: Mapping[str, str]) -> None:
    """Below `folder`/etc: package servers, certificate authorities, settings for pip and apt, as this host has them."""
    settings = host_settings.pip_settings(env, host_settings.pip_files(env, Path.home()))
    ca = host_settings.find_ca(env, settings)
    files = {
        "etc/apt/sources.list": host_settings.debian_sources(host_settings.apt_targets(), suite),
        "etc/apt/apt.conf.d/90host": host_settings.apt_settings(host_settings.apt_dump()),
        "etc/pip.conf": pip_conf(settings, has_ca=ca is not None),
        "etc/environment": [f"{name}={env[name]}" for name in host_settings.PROXY_VARIABLES if env.get(name)],
    }
    for name, lines in files.items():
        if lines:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
    if ca is not None:
        (folder / _CA_BUNDLE).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ca, folder / _CA_BUNDLE)


def pip_conf(settings: Mapping[str, str], *, has_ca: bool) -> list[str]:
    """The lines of pip's configuration in a machine; folders of this host are not there."""
    names = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    lines = [f"{name} = {' '.join(settings[name].split())}" for name in names if settings.get(name)]
    lines += [f"cert = /{_CA_BUNDLE}"] * has_ca
    return ["[global]", *lines] if lines else []


def make_cache_disk(step: Step, image: Path, scratch: Path, cache: Path, arch: str) -> None:
    """The disk with programs and images that the demo would otherwise download or build, as far as `cache` has them."""
    folder = scratch / "cache"
    folder.mkdir()
    for entry in select_entries(sorted(cache.iterdir()) if cache.is_dir() else (), arch):
        shutil.copytree(entry, folder / entry.name, symlinks=True, copy_function=_link_or_copy)
    make_image(step, image, folder, _CACHE_SIZE)


def select_entries(entries: Iterable[Path], arch: str) -> list[Path]:
    """Of a cache's entries those that the demo uses, but for packages of this host's own distribution."""
    names = (*CONTROL_PLANE_BINARIES, *NODE_BINARIES, "helm", "traefik-crds.yaml")
    recipes = [recipe for name in names for recipe in RECIPES[name] if not isinstance(recipe, DebianPackage)]
    keys = {f"{entry_key(recipe)}-{arch}" for recipe in recipes}
    images = tuple(f"image-{name}-" for name in _IMAGES)
    return [
        entry
        for entry in entries
        if entry.name in keys or (entry.name.startswith(images) and entry.name.endswith(f"-{arch}"))
    ]


def _link_or_copy(source: str, target: str) -> str:
    """A second name costs nothing; another file system needs a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def install_tools(step: Step) -> None:
    """Install the programs that are missing here. Raises PackagesUnavailable, StepFailed."""
    missing = missing_packages(TOOLS)
    if missing:
        packages.install(step, missing)


def missing_packages(tools: Mapping[str, str]) -> Sequence[str]:
    """The packages of the programs and files that are not here."""
    return sorted(
        {package for tool, package in tools.items() if shutil.which(tool) is None and not Path(tool).exists()}
    )

"""The machines: distributions that the project promises to run on, and what their smallest installation has."""

from __future__ import annotations

from dataclasses import dataclass

_PACKAGES = (
    # A machine with systemd, as an installer or a cloud image makes it.
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "libpam-systemd",
    "udev",
    "dbus",
    "iproute2",
    "procps",
    "kmod",
    "ca-certificates",
    "curl",
    "sudo",
    # What README requests.
    "git",
    "make",
    "python3",
    "python3-venv",
)


@dataclass(frozen=True)
class Distribution:
    """One kind of machine: what debootstrap makes it of."""

    name: str
    """As the command line has it."""
    suite: str
    mirror: str
    packages: tuple[str, ...]


_DEBIAN = "http://deb.debian.org/debian"
DISTRIBUTIONS = {
    distribution.name: distribution
    for distribution in (
        Distribution("debian-13", "trixie", _DEBIAN, (*_PACKAGES, "linux-image-amd64")),
        Distribution("debian-12", "bookworm", _DEBIAN, (*_PACKAGES, "linux-image-amd64")),
    )
}

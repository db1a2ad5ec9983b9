"""This machine's settings for pip, apt and proxies, in a form that a build can use and an image
cannot keep.

Two folders are made: one is mounted over the build's /root (pip's configuration, the certificate
authorities, wheel folders), one over its /etc/apt. Both folders exist in the image already, so not
even an empty file stays behind. Proxies need no file: builders pass their variables on by name.
"""

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROXY_VARIABLES = tuple(
    spelled
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
    for spelled in (name, name.upper())
)
_AUTHORITY_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# Paths that only these folders have: none may be in an image.
LEFTOVERS = ("root/.config", "root/ca.crt", "root/.netrc", "root/find-links-0", "etc/apt/ca.crt")

_PIP_SETTINGS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "no-index",
    "proxy",
    "timeout",
    "retries",
)
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SYSTEM_CA = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT_SETTINGS = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
)


def image_pull_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of `env` that containerd needs to reach registries: proxies and certificate
    authorities.
    """
    return {name: env[name] for name in (*PROXY_VARIABLES, *_AUTHORITY_VARIABLES) if name in env}


def without_proxies(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a program that talks to the embedded cluster alone.

    The cluster's addresses are chosen when it is created, so no one can name them in NO_PROXY
    before.
    """
    return {name: value for name, value in env.items() if name not in PROXY_VARIABLES}


@dataclass(frozen=True)
class BuildFolders:
    """Mounts of a build, as (folder here, folder in the build), and texts that must not be in the
    result.
    """

    mounts: tuple[tuple[Path, str], ...]
    private: tuple[str, ...]


def pip_settings(env: Mapping[str, str], files: Iterable[Path]) -> dict[str, str]:
    """pip's settings on this machine; later files and then the environment win."""
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        if parser.read(file):
            for section in ("global", "install"):
                if parser.has_section(section):
                    settings.update(
                        {key.replace("_", "-"): value for key, value in parser.items(section)}
                    )
    for name, value in env.items():
        if name.startswith("PIP_"):
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def pip_files(env: Mapping[str, str], home: Path) -> list[Path]:
    """pip's configuration files, in the order in which pip reads them."""
    folders = []
    for folder in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        if folder:
            folders.append(Path(folder) / "pip")
    user = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
    files = [
        folder / "pip.conf"
        for folder in (*folders, Path("/etc"), home / ".pip", user, Path(sys.prefix))
    ]
    return [*files, *([Path(env["PIP_CONFIG_FILE"])] if env.get("PIP_CONFIG_FILE") else [])]


def prepare_home(folder: Path, env: Mapping[str, str], home: Path) -> BuildFolders:
    """Fill `folder`, which the build sees as /root. Nothing in it can be read by others."""
    folder.mkdir(mode=0o700)
    settings = pip_settings(env, pip_files(env, home))
    lines = ["[global]", "disable-pip-version-check = true"]
    for key in _PIP_SETTINGS:
        values = settings.get(key, "").split()
        if values:
            lines.append(f"{key} = " + "\n    ".join(values))
    ca = find_ca(env, settings)
    if ca is not None:
        shutil.copyfile(ca, folder / "ca.crt")
        lines.append("cert = /root/ca.crt")
    mounts, links = _find_links(settings.get("find-links", ""), folder)
    if links:
        lines.append("find-links = " + "\n    ".join(links))
    if (home / ".netrc").is_file():
        shutil.copyfile(home / ".netrc", folder / ".netrc")
        (folder / ".netrc").chmod(0o600)
    (folder / ".config" / "pip").mkdir(parents=True)
    (folder / ".config" / "pip" / "pip.conf").write_text("\n".join(lines) + "\n")
    proxies = []
    for name in PROXY_VARIABLES:
        if "no_proxy" not in name.lower() and env.get(name):
            proxies.append(env[name])
    indexes = [
        settings[key] for key in ("index-url", "extra-index-url", "proxy") if settings.get(key)
    ]
    return BuildFolders(((folder, "/root"), *mounts), (*proxies, *indexes, "/root/ca.crt"))


def find_ca(env: Mapping[str, str], settings: Mapping[str, str]) -> Path | None:
    """The certificate authorities this machine trusts: pip's own setting, the usual variables, the
    system's.
    """
    named = [settings.get("cert"), *(env.get(name) for name in _CA_VARIABLES)]
    candidates = [*(Path(name) for name in named if name), *_SYSTEM_CA]
    return next((path for path in candidates if path.is_file()), None)


def prepare_apt(folder: Path, sources: Iterable[str], dump: str, ca: Path | None) -> BuildFolders:
    """Fill `folder`, which the build sees as /etc/apt, with package sources and the settings of
    `apt-config dump`.

    `ca` is copied in here too: apt fetches as a user who cannot look into /root.
    """
    for part in ("apt.conf.d", "preferences.d", "sources.list.d", "trusted.gpg.d", "auth.conf.d"):
        (folder / part).mkdir(parents=True)
    (folder / "sources.list.d" / "machine.list").write_text(
        "".join(f"{line}\n" for line in sources)
    )
    lines = apt_settings(dump)
    if ca is not None:
        shutil.copyfile(ca, folder / "ca.crt")
        lines.append('Acquire::https::CAInfo "/etc/apt/ca.crt";')
    (folder / "apt.conf.d" / "machine").write_text("".join(f"{line}\n" for line in lines))
    for name in ("auth.conf", "auth.conf.d"):
        source = Path("/etc/apt") / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, folder / name)
    return BuildFolders(((folder, "/etc/apt"),), ())


def apt_settings(dump: str) -> list[str]:
    """The lines of `apt-config dump` that say how to reach package servers, without the certificate
    file's path.
    """
    lines = []
    for line in dump.splitlines():
        if line.startswith(_APT_SETTINGS) and "::CAInfo" not in line:
            lines.append(line)
    return [line for line in lines if not line.endswith('"";')]


def debian_sources(targets: str, suite: str) -> list[str]:
    """One-line package sources of Debian `suite` on the servers that this machine uses.

    `targets` has a line `URI SUITE COMPONENT ORIGIN` per package list, as `apt_targets` prints
    them; none of Debian's gives none (an Ubuntu machine): mmdebstrap then takes its default server.
    """
    main: list[str] = []
    security: list[str] = []
    for line in targets.splitlines():
        uri, machine_suite, component, origin = [*line.split(), "", "", "", ""][:4]
        if origin == "Debian" and component == "main":
            kind = security if "security" in machine_suite else main
            if uri not in kind:
                kind.append(uri)
    lines: list[str] = []
    for uri in main:
        lines += [f"{uri} {suite}", f"{uri} {suite}-updates"]
    lines += [f"{uri} {suite}-security" for uri in security]
    return [f"deb [signed-by={_KEYRING}] {line} main" for line in lines]


def apt_targets() -> str:
    """The package lists that this machine's apt uses; empty where there is no apt."""
    columns = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    return _answer("apt-get", "indextargets", "--format", columns, "Created-By: Packages")


def apt_dump() -> str:
    """This machine's apt settings; empty where there is no apt."""
    return _answer("apt-config", "dump")


def _answer(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, env=env
    )
    return done.stdout if done.returncode == 0 else ""


def _find_links(value: str, folder: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """Folders of wheels are mounted below /root, everything else (URLs) stays as it is."""
    mounts: list[tuple[Path, str]] = []
    links: list[str] = []
    for place in value.split():
        path = Path(place.removeprefix("file://"))
        if path.is_dir():
            inside = f"find-links-{len(mounts)}"
            (folder / inside).mkdir()
            mounts.append((path, f"/root/{inside}"))
            links.append(f"/root/{inside}")
        elif "://" in place:
            links.append(place)
    return mounts, links

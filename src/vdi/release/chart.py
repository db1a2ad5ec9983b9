"""The chart, the places where a release or gateway of it is, and commands that name a release.

Every module of `vdi.release` raises the errors that are defined here.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.helm.arguments import Place
from vdi.helm.releases import Object, Revision, decode_revision
from vdi.kube.errors import Forbidden
from vdi.kube.resource import DEPLOYMENTS, SECRETS
from vdi.kube.transport import Client

NAME = "vdi"
# Parents of `charts/vdi` in a wheel and in a checkout.
_PLACES = (Path(__file__).resolve().parents[1] / "files", Path(__file__).resolve().parents[3])

_ALLOWED = "allowed: --chart DIR, the folder of the chart vdi"
_GATEWAY = "app.kubernetes.io/name=vdi,app.kubernetes.io/component=gateway"


class RefusedError(Exception):
    """Raised when what was asked cannot or must not be done; the message is whole sentences, with
    what is allowed.
    """


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of ours, as a folder."""

    folder: Path
    version: str
    app_version: str

    @property
    def words(self) -> str:
        return f"{NAME}-{self.version}"


def find_chart(given: Path | None = None) -> Chart:
    """The chart in the given folder, else the one that came with the package or its checkout.
    Raises RefusedError.
    """
    if given:
        folders = [given]
    else:
        folders = [place / "charts" / "vdi" for place in _PLACES]
    folder = next((folder for folder in folders if (folder / "Chart.yaml").is_file()), folders[0])
    file = folder / "Chart.yaml"
    if not file.is_file():
        if given is None:
            reason = "this installation of vdi does not include it, like the one in its image"
            raise RefusedError(f"no chart: {reason}; {_ALLOWED}")
        raise RefusedError(f"--chart {given}: there is no {file.name} in it; {_ALLOWED}")
    try:
        meta = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise RefusedError(f"{file} cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("name") != NAME:
        chart_name = meta.get("name") if isinstance(meta, dict) else None
        raise RefusedError(f"{file}: name is {chart_name!r}, not {NAME!r}; {_ALLOWED}")
    return Chart(folder.absolute(), str(meta.get("version", "")), str(meta.get("appVersion", "")))


def version_numbers(version: str) -> tuple[int, ...]:
    """`0.10.1-rc.1` -> (0, 10, 1), to compare."""
    core = version.partition("-")[0].partition("+")[0]
    return tuple(int(part) for part in core.split(".") if part.isdigit())


async def release_namespaces(client: Client, release: str) -> list[str]:
    """Namespaces where this release of our chart is, also one that failed or is pending.

    Empty without a release, or where the account may not list Secrets of all namespaces. Raises
    KubeError.
    """
    selector = f"owner=helm,name={release},status!=uninstalled"
    try:
        secrets = await client.list(SECRETS, label_selector=selector, into=Object)
    except Forbidden:
        return []
    return _namespaces(secrets, lambda secret: decode_revision(secret).chart.metadata.name == NAME)


def options_of(release: str, place: Place) -> str:
    """Options for a suggested command of ours that choose the same release."""
    options = ["--release", release] if release != NAME else []
    options += ["--namespace", place.namespace] if place.namespace != RELEASE_NAMESPACE else []
    options += ["--kubeconfig", str(place.kubeconfig)] if place.kubeconfig else []
    options += ["--context", place.context] if place.context else []
    return "".join(f" {shlex.quote(word)}" for word in options)


def rollback_command(release: str, place: Place, revision: Revision) -> str:
    """The command that goes back to this revision, whatever has happened since."""
    return f"helm rollback {shlex.quote(release)} {revision.version} {place.helm_options} --wait"


async def gateway_namespaces(client: Client) -> list[str]:
    """Namespaces where a gateway of ours is; empty as for `release_namespaces`. Raises
    KubeError.
    """
    try:
        deployments = await client.list(DEPLOYMENTS, label_selector=_GATEWAY, into=Object)
    except Forbidden:
        return []
    return _namespaces(deployments, lambda _: True)


def _namespaces(objects: list[Object], is_ours: Callable[[Object], bool]) -> list[str]:
    first_objects: dict[str, Object] = {}
    for obj in objects:
        first_objects.setdefault(obj["metadata"]["namespace"], obj)
    return sorted(namespace for namespace, obj in first_objects.items() if is_ours(obj))


def image_reference(name: str) -> str:
    """The name under which a node's containerd keeps an image: with its registry and its tag."""
    if "@" in name or ":" in name.rpartition("/")[2]:
        named = name
    else:
        named = f"{name}:latest"
    first, slash, _ = named.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return named
    if slash:
        return f"docker.io/{named}"
    return f"docker.io/library/{named}"

"""Where a release and its gateway are: for commands without a namespace, and in commands that are suggested."""

import shlex
from collections.abc import Callable
from typing import Any

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.helm.place import Place
from vdi.helm.releases import Revision, decode_revision
from vdi.kube.errors import Forbidden
from vdi.kube.resource import DEPLOYMENTS, SECRETS
from vdi.kube.transport import Client
from vdi.release.chart import NAME

Object = dict[str, Any]
_GATEWAY = "app.kubernetes.io/name=vdi,app.kubernetes.io/component=gateway"


async def release_namespaces(client: Client, release: str) -> list[str]:
    """Namespaces where this release of our chart is, also one that failed or is pending.

    Empty without a release, or where the account may not list Secrets of all namespaces. Raises KubeError.
    """
    selector = f"owner=helm,name={release},status!=uninstalled"
    try:
        secrets = await client.list(SECRETS, label_selector=selector, into=Object)
    except Forbidden:
        return []
    return _namespaces(secrets, lambda secret: decode_revision(secret).chart.metadata.name == NAME)


def options_of(release: str, place: Place) -> str:
    """What to add to a suggested command so that it is about the same release."""
    words = ["--release", release] if release != NAME else []
    words += ["--namespace", place.namespace] if place.namespace != RELEASE_NAMESPACE else []
    words += ["--kubeconfig", str(place.kubeconfig)] if place.kubeconfig else []
    words += ["--context", place.context] if place.context else []
    return "".join(f" {shlex.quote(word)}" for word in words)


def rollback_command(release: str, place: Place, revision: Revision) -> str:
    """The command that goes back to this revision, whatever has happened since."""
    return f"helm rollback {shlex.quote(release)} {revision.version} {place.helm_options} --wait"


async def gateway_namespaces(client: Client) -> list[str]:
    """Namespaces where a gateway of ours is; empty as for `release_namespaces`. Raises KubeError."""
    try:
        deployments = await client.list(DEPLOYMENTS, label_selector=_GATEWAY, into=Object)
    except Forbidden:
        return []
    return _namespaces(deployments, lambda _: True)


def _namespaces(objects: list[Object], is_ours: Callable[[Object], bool]) -> list[str]:
    found: dict[str, Object] = {}
    for obj in objects:
        found.setdefault(obj["metadata"]["namespace"], obj)
    return sorted(namespace for namespace, obj in found.items() if is_ours(obj))

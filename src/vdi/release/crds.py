"""CRDs of a release: they are upgraded before helm runs, so that objects of new kinds can come in the same run.

They stay the release's: they carry Helm's labels, and are applied under Helm's own field manager, so that neither
Helm 3 nor Helm 4 finds somebody else's fields. What is lost by a change of them is pure reckoning.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from vdi.helm.discovery import Kinds
from vdi.helm.releases import MANAGED_BY, RELEASE_NAME, RELEASE_NAMESPACE
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.resource import CRDS
from vdi.kube.transport import Client
from vdi.release.errors import RefusedError

Object = Mapping[str, Any]
KIND = "CustomResourceDefinition"
HELM = "helm"
"""Field manager of Helm."""
_SECONDS = 30.0


class Loss(NamedTuple):
    """What a change of a CRD would take away."""

    crd: str
    stored: tuple[str, ...]
    """Versions in which objects are stored, that the new CRD does not have: the API server refuses that."""
    fields: tuple[str, ...]
    """Fields that the API server would drop from every object that is written."""


def losses(there: Iterable[Object], desired: Iterable[Object]) -> list[Loss]:
    """What is lost when the cluster's CRDs become the desired ones."""
    old = {crd["metadata"]["name"]: crd for crd in there}
    found = []
    for new in desired:
        name = new["metadata"]["name"]
        if name not in old:
            continue
        versions = {version["name"]: version for version in new["spec"]["versions"]}
        stored = ((old[name].get("status") or {}).get("storedVersions")) or []
        lost = [
            f"{version['name']}: {path}"
            for version in old[name]["spec"]["versions"]
            if version["name"] in versions
            for path in _missing(_schema(version), _schema(versions[version["name"]]), "")
        ]
        gone = tuple(version for version in stored if version not in versions)
        if gone or lost:
            found.append(Loss(name, gone, tuple(lost)))
    return found


def of_release(objects: Iterable[Object]) -> list[Object]:
    """The CRDs among a release's objects."""
    return [obj for obj in objects if obj["kind"] == KIND]


async def apply_crds(client: Client, crds: Iterable[Object], release: str, namespace: str) -> None:
    """Make or upgrade them, and wait until the API server serves their kinds.

    Raises KubeError, and RefusedError when it does not serve one in time.
    """
    marks = {RELEASE_NAME: release, RELEASE_NAMESPACE: namespace}
    async with Client(client.config, field_manager=HELM) as helm:
        for crd in crds:
            meta = crd["metadata"]
            labels = {**(meta.get("labels") or {}), **MANAGED_BY}
            annotations = {**(meta.get("annotations") or {}), **marks}
            body = {**crd, "metadata": {**meta, "labels": labels, "annotations": annotations}}
            await helm.apply(CRDS, meta["name"], body, into=dict[str, Any])
        for crd in crds:
            await _served(helm, crd)


async def _served(client: Client, crd: Object) -> None:
    names, versions = crd["spec"]["names"], crd["spec"]["versions"]
    group = crd["spec"]["group"]
    try:
        async with asyncio.timeout(_SECONDS):
            for version in (version["name"] for version in versions if version.get("served", True)):
                while await Kinds(client).find(f"{group}/{version}", names["kind"]) is None:
                    await SYSTEM_CLOCK.sleep(0.1)
    except TimeoutError as error:
        words = f"the API server has the CRD {crd['metadata']['name']} but does not serve {names['kind']}"
        raise RefusedError(f"{words} after {_SECONDS:.0f} s; kubectl describe crd {crd['metadata']['name']}") from error


def _schema(version: Object) -> Any:
    return (version.get("schema") or {}).get("openAPIV3Schema") or {}


def _missing(there: Any, desired: Any, path: str) -> Iterator[str]:
    """Fields of one schema that another does not have."""
    if desired.get("x-kubernetes-preserve-unknown-fields"):
        return
    kept = desired.get("properties") or {}
    for name, inner in (there.get("properties") or {}).items():
        here = f"{path}.{name}".lstrip(".")
        if name not in kept:
            yield here
        else:
            yield from _missing(inner, kept[name], here)
    for key in ("items", "additionalProperties"):
        if isinstance(there.get(key), dict) and isinstance(desired.get(key), dict):
            yield from _missing(there[key], desired[key], f"{path}[]")

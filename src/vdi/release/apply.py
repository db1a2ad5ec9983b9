"""Install or upgrade of a release: CRDs first, then helm with a live view, then the state that it left.

CRDs are upgraded before helm runs, so that objects of new kinds can come in the same run. They stay the release's:
they carry Helm's labels and are applied under Helm's own field manager, so that neither Helm 3 nor Helm 4 finds
foreign fields.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, NamedTuple, Protocol

from vdi.helm import arguments
from vdi.helm.arguments import Change, Place
from vdi.helm.discovery import Kinds
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.releases import MANAGED_BY, PENDING, RELEASE_NAME, RELEASE_NAMESPACE, Revision, deployed, read_revisions
from vdi.helm.run import Helm, View, Watch, run_watched
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.resource import CRDS
from vdi.kube.transport import Client
from vdi.release.chart import RefusedError, options_of, rollback_command
from vdi.release.facts import POD_KINDS, Facts

Object = Mapping[str, Any]
CRD_KIND = "CustomResourceDefinition"
# Field manager of Helm.
HELM_MANAGER = "helm"

_SERVED_SECONDS = 30.0


class Loss(NamedTuple):
    """What a change of a CRD would take away."""

    crd: str
    # Versions in which objects are stored, that the new CRD does not have: the API server refuses that.
    stored: tuple[str, ...]
    # Fields that the API server would drop from every object that is written.
    fields: tuple[str, ...]


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


def crds_of(objects: Iterable[Object]) -> list[Object]:
    """The CRDs among a release's objects."""
    return [obj for obj in objects if obj["kind"] == CRD_KIND]


async def apply_crds(client: Client, crds: Iterable[Object], release: str, namespace: str) -> None:
    """Make or upgrade them, and wait until the API server serves their kinds.

    Raises KubeError, and RefusedError when it does not serve one in time.
    """
    marks = {RELEASE_NAME: release, RELEASE_NAMESPACE: namespace}
    async with Client(client.config, field_manager=HELM_MANAGER) as helm:
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
        async with asyncio.timeout(_SERVED_SECONDS):
            for version in (version["name"] for version in versions if version.get("served", True)):
                while await Kinds(client).find(f"{group}/{version}", names["kind"]) is None:
                    await SYSTEM_CLOCK.sleep(0.1)
    except TimeoutError as error:
        words = f"the API server has the CRD {crd['metadata']['name']} but does not serve {names['kind']}"
        raise RefusedError(
            f"{words} after {_SERVED_SECONDS:.0f} s; kubectl describe crd {crd['metadata']['name']}"
        ) from error


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


_NAMED = POD_KINDS | {"Service", "PersistentVolumeClaim"}


class Progress(View, Protocol):
    """Where stages are shown."""

    def stage(self, text: str, seconds: float) -> None:
        """One stage is over."""


class NotDoneError(Exception):
    """Raised when helm did not do it: the reason in words, and the state of the release."""

    def __init__(self, reason: str, state: str, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        super().__init__(f"{reason}\n{state}")


@dataclass(frozen=True, slots=True)
class HelmRun:
    """What a helm run needs."""

    client: Client
    helm: Helm
    view: Progress
    seconds: float


async def install_or_upgrade(run: HelmRun, facts: Facts, change: Change) -> Revision:
    """CRDs, then the rest; undone by helm when it fails. Raises NotDoneError, RefusedError, KubeError."""
    crds = crds_of(facts.objects)
    if crds:
        began = monotonic()
        run.view.waiting("the API server accepts the CRDs")
        await apply_crds(run.client, crds, change.release, change.place.namespace)
        run.view.stage(f"{len(crds)} CRDs applied and served", monotonic() - began)
    if facts.before is not None:
        change = replace(change, more=arguments.take_back_fields(run.helm, facts.before.apply_method))
    names = tuple(sorted({str(obj["metadata"]["name"]) for obj in facts.objects if obj["kind"] in _NAMED}))
    watch = Watch(run.client, [change.place.namespace], run.view, names)
    words = arguments.upgrade(run.helm, change, seconds=run.seconds)
    return await _helm(run, words, change.release, change.place, watch, change.values.stdin)


async def _helm(
    run: HelmRun, words: list[str], release: str, place: Place, watch: Watch, stdin: bytes | None
) -> Revision:
    before, began = await read_revisions(run.client, place.namespace, release), monotonic()
    try:
        await run_watched(run.helm, words, watch, stdin=stdin)
    except (HelmFailedError, HelmInterruptedError) as error:
        after = await read_revisions(run.client, place.namespace, release)
        state = state_in_words(release, place, before, after)
        raise NotDoneError(str(error), state, interrupted=isinstance(error, HelmInterruptedError)) from error
    run.view.stage(f"helm {words[0]}: everything is ready", monotonic() - began)
    found = deployed(await read_revisions(run.client, place.namespace, release))
    if found is None:
        raise NotDoneError(f"helm {words[0]} ended well", f"and no revision of {release} is deployed.")
    return found


def state_in_words(release: str, place: Place, before: Sequence[Revision], after: Sequence[Revision]) -> str:
    """In which state a run that did not succeed has left the release."""
    if not after:
        return (
            f"Nothing of {release} remains on the cluster, except for CRDs, namespaces, homes and Secrets, which "
            "are kept."
        )
    newest, good = after[0], deployed(after)
    if newest.status in PENDING:
        back = good or next((revision for revision in after if revision.status == "superseded"), None)
        remedy = rollback_command(release, place, back) if back else f"vdi uninstall{options_of(release, place)}"
        return f"Revision {newest.version} of {release} was left {newest.status}. To fix it: {remedy}"
    if good is None:
        return f"Revision {newest.version} of {release} is {newest.status} ({newest.summary}); no revision is deployed."
    if before and newest.version == before[0].version:
        return f"Revision {good.version} of {release} is deployed as before; nothing was changed."
    if newest.status == "failed":
        return (
            f"Revision {newest.version} of {release} failed ({newest.summary}); the last good revision is "
            f"{good.version}, and the cluster may be between the two. "
            f"To fix it: {rollback_command(release, place, good)}"
        )
    if good.info.description.startswith("Rollback to "):
        to = good.info.description.removeprefix("Rollback to ")
        return (
            f"It was rolled back: revision {good.version} of {release} is deployed, with the content of revision {to}."
        )
    return f"Revision {good.version} of {release} is deployed ({good.summary})."

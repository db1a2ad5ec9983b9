"""Install or upgrade of a release: CRDs first, then helm with a live view, then the state that it
left.

CRDs are upgraded before helm runs, so that objects of new kinds can come in the same run. They stay
the release's: they carry Helm's labels and are applied under Helm's own field manager, so that
neither Helm 3 nor Helm 4 finds foreign fields.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from vdi.helm import arguments
from vdi.helm.arguments import Change, Place
from vdi.helm.discovery import Kinds
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.releases import (
    FIELD_MANAGER,
    MANAGED_BY,
    PENDING,
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    Revision,
    deployed,
    last_good,
    read_revisions,
)
from vdi.helm.run import Helm, View, Watch, run_watched
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.resource import CRDS
from vdi.kube.transport import Client
from vdi.release.chart import RefusedError, options_of, rollback_command
from vdi.release.diff import Object, crds_of
from vdi.release.facts import POD_KINDS, Facts

_SERVED_SECONDS = 30.0
_POLL_SECONDS = 0.1
# Kinds whose names tell the watch which pods and claims belong to the release.
_NAMED = POD_KINDS | {"Service", "PersistentVolumeClaim"}


class NotDoneError(Exception):
    """Raised when helm failed or was interrupted: the reason, and the state of the release."""

    def __init__(self, reason: str, state: str, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        super().__init__(f"{reason}\n{state}")


@dataclass(frozen=True, slots=True)
class HelmRun:
    """Cluster, program, display and time limit of a helm run."""

    client: Client
    helm: Helm
    view: View
    seconds: float


async def install_or_upgrade(run: HelmRun, facts: Facts, change: Change) -> Revision:
    """CRDs, then the rest; undone by helm when it fails. Raises NotDoneError, RefusedError,
    KubeError.
    """
    release, place = change.release, change.place
    if crds := crds_of(facts.objects):
        began = monotonic()
        run.view.waiting("the API server accepts the CRDs")
        await apply_crds(run.client, crds, release, place.namespace)
        run.view.passed(f"{len(crds)} CRDs applied and served", monotonic() - began)
    if facts.before is not None:
        change = replace(
            change, more=arguments.take_back_fields(run.helm, facts.before.apply_method)
        )
    names = tuple(
        sorted({str(obj["metadata"]["name"]) for obj in facts.objects if obj["kind"] in _NAMED})
    )
    watch = Watch(run.client, place.namespace, run.view, names)
    command = arguments.upgrade(run.helm, change, seconds=run.seconds)
    before, began = await read_revisions(run.client, place.namespace, release), monotonic()
    try:
        await run_watched(run.helm, command, watch, stdin=change.values.stdin)
    except (HelmFailedError, HelmInterruptedError) as error:
        after = await read_revisions(run.client, place.namespace, release)
        state = describe_state(release, place, before, after)
        raise NotDoneError(
            str(error), state, interrupted=isinstance(error, HelmInterruptedError)
        ) from error
    run.view.passed("helm upgrade: everything is ready", monotonic() - began)
    revision = deployed(await read_revisions(run.client, place.namespace, release))
    if revision is None:
        raise NotDoneError(
            "helm upgrade reported success", f"and no revision of {release} is deployed."
        )
    return revision


async def apply_crds(client: Client, crds: Iterable[Object], release: str, namespace: str) -> None:
    """Make or upgrade them, and wait until the API server serves their kinds.

    Raises KubeError, and RefusedError when it does not serve one in time.
    """
    marks = {RELEASE_NAME: release, RELEASE_NAMESPACE: namespace}
    async with Client(client.config, field_manager=FIELD_MANAGER) as helm:
        for crd in crds:
            meta = crd["metadata"]
            labels = {**(meta.get("labels", {})), **MANAGED_BY}
            annotations = {**(meta.get("annotations", {})), **marks}
            body = {**crd, "metadata": {**meta, "labels": labels, "annotations": annotations}}
            await helm.apply(CRDS, meta["name"], body, into=dict[str, Any])
        for crd in crds:
            await _served(helm, crd)


async def _served(client: Client, crd: Object) -> None:
    # An accepted CRD is served a moment later. Until then helm would fail on the first object of
    # its kind.
    name, spec = crd["metadata"]["name"], crd["spec"]
    kind = spec["names"]["kind"]
    try:
        async with asyncio.timeout(_SERVED_SECONDS):
            for version in spec["versions"]:
                if version.get("served", True):
                    # `Kinds` remembers what it has read, so each look needs a new one.
                    while (
                        await Kinds(client).find(f"{spec['group']}/{version['name']}", kind) is None
                    ):
                        await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise RefusedError(
            f"the API server has the CRD {name} but does not serve {kind} after"
            f" {_SERVED_SECONDS:.0f} s; kubectl describe crd {name}"
        ) from error


def describe_state(
    release: str, place: Place, before: Sequence[Revision], after: Sequence[Revision]
) -> str:
    """The state in which a run that did not succeed has left the release."""
    if not after:
        return (
            f"Nothing of {release} remains on the cluster, except for CRDs, namespaces, homes and"
            " Secrets, which are kept."
        )
    newest, good = after[0], deployed(after)
    if newest.status in PENDING:
        remedy = f"vdi uninstall{options_of(release, place)}"
        if back := last_good(after):
            remedy = rollback_command(release, place, back)
        return (
            f"Revision {newest.version} of {release} was left {newest.status}. To fix it: {remedy}"
        )
    if good is None:
        return (
            f"Revision {newest.version} of {release} is {newest.status} ({newest.summary}); no"
            " revision is deployed."
        )
    if before and newest.version == before[0].version:
        return f"Revision {good.version} of {release} is deployed as before; nothing was changed."
    if newest.status == "failed":
        return (
            f"Revision {newest.version} of {release} failed ({newest.summary}); the last good"
            f" revision is {good.version}, and the cluster may be between the two. To fix it:"
            f" {rollback_command(release, place, good)}"
        )
    if good.info.description.startswith("Rollback to "):
        to = good.info.description.removeprefix("Rollback to ")
        return (
            f"It was rolled back: revision {good.version} of {release} is deployed, with the"
            f" content of revision {to}."
        )
    return f"Revision {good.version} of {release} is deployed ({good.summary})."

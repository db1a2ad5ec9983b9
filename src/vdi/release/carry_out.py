"""Brings a release about: CRDs first, then helm, with a live view; says in which state it left the release."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol

from vdi.helm import arguments
from vdi.helm.arguments import Change
from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.place import Place
from vdi.helm.releases import PENDING, Revision, deployed, read_revisions
from vdi.helm.watch import View, Watch, run_watched
from vdi.kube.transport import Client
from vdi.release.crds import apply_crds, of_release
from vdi.release.facts import POD_KINDS, Facts
from vdi.release.location import options_of, rollback_command

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
class Running:
    """What a helm run needs."""

    client: Client
    helm: Helm
    view: Progress
    seconds: float


async def install_or_upgrade(run: Running, facts: Facts, change: Change) -> Revision:
    """CRDs, then the rest; undone by helm when it fails. Raises NotDoneError, RefusedError, KubeError."""
    crds = of_release(facts.objects)
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
    run: Running, words: list[str], release: str, place: Place, watch: Watch, stdin: bytes | None
) -> Revision:
    before, began = await read_revisions(run.client, place.namespace, release), monotonic()
    try:
        await run_watched(run.helm, words, watch, stdin=stdin)
    except (HelmFailed, HelmInterrupted) as error:
        after = await read_revisions(run.client, place.namespace, release)
        state = state_in_words(release, place, before, after)
        raise NotDoneError(str(error), state, interrupted=isinstance(error, HelmInterrupted)) from error
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

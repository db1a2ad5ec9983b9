"""Brings a release about: CRDs first, then helm, with a live view; says in which state it left the release."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol

from vdi.helm import arguments
from vdi.helm.arguments import Change
from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.place import Place
from vdi.helm.releases import PENDING, Revision, deployed, read_revisions
from vdi.helm.watch import View, Watch, run_watched
from vdi.kube.errors import NotFound
from vdi.kube.resource import CRDS
from vdi.kube.transport import Client
from vdi.release.crds import apply_crds, losses, of_release
from vdi.release.database import (
    Downgrade,
    DowngradeError,
    downgraded,
    find_downgrade,
    upgrades_database,
)
from vdi.release.errors import RefusedError
from vdi.release.facts import POD_KINDS, Facts, Object
from vdi.release.location import options_of

_NAMED = POD_KINDS | {"Service", "PersistentVolumeClaim"}


class Progress(View, Protocol):
    """Where stages are shown."""

    def stage(self, text: str, seconds: float) -> None:
        """One stage is over."""


class NotDoneError(Exception):
    """Raised when helm did not do it: the reason in words, and the state of the release."""

    def __init__(self, reason: str, state: str, *, interrupted: bool = False, killed: bool = False) -> None:
        self.reason = reason
        self.state = state
        self.interrupted = interrupted
        self.killed = killed
        """Whether helm was ended at once, at the user's request: nothing more is done then."""
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
    before = facts.before
    if before is None:
        words = arguments.upgrade(run.helm, change, seconds=run.seconds)
        return await _helm(run, words, change.release, change.place, facts.objects, change.values.stdin)
    change = replace(change, more=arguments.take_back_fields(run.helm, before.apply_method))
    # Helm alone cannot undo an upgrade whose gateway has upgraded the database.
    by_us = upgrades_database(facts.objects, before.objects())
    words = arguments.upgrade(run.helm, change, seconds=run.seconds, undo_on_failure=not by_us)
    try:
        return await _helm(run, words, change.release, change.place, facts.objects, change.values.stdin)
    except NotDoneError as error:
        if not by_us or error.killed:
            raise
        state = await _undo_upgrade(run, change, before, error)
        raise NotDoneError(error.reason, state, interrupted=error.interrupted) from error


async def _undo_upgrade(run: Running, change: Change, before: Revision, error: NotDoneError) -> str:
    """The state that it left."""
    namespace = change.place.namespace
    revisions = await read_revisions(run.client, namespace, change.release)
    if revisions and revisions[0].version == before.version:
        return error.state
    run.view.say(f"  It is rolled back to revision {before.version}.")
    try:
        downgrade = await find_downgrade(run.client, namespace, before.objects())
        await roll_back(run, change.release, change.place, before, downgrade)
    except NotDoneError as failed:
        return f"The rollback failed too: {failed}"
    after = await read_revisions(run.client, namespace, change.release)
    return state_in_words(change.release, change.place, revisions, after)


async def roll_back(
    run: Running, release: str, place: Place, target: Revision, downgrade: Downgrade | None
) -> Revision:
    """Back to that revision, as a new one, and the database before it. Raises NotDoneError, KubeError."""
    more = arguments.take_back_fields(run.helm, target.apply_method)
    words = arguments.rollback(release, target.version, place, seconds=run.seconds, more=more)
    try:
        async with downgraded(run.client, run.view, run.seconds, downgrade):
            return await _helm(run, words, release, place, target.objects(), None)
    except DowngradeError as error:
        revisions = await read_revisions(run.client, place.namespace, release)
        raise NotDoneError(str(error), state_in_words(release, place, revisions, revisions)) from error


async def _helm(
    run: Running, words: list[str], release: str, place: Place, objects: Sequence[Object], stdin: bytes | None
) -> Revision:
    names = tuple(sorted({str(obj["metadata"]["name"]) for obj in objects if obj["kind"] in _NAMED}))
    undone = release if arguments.roll_back_flag(run.helm) in words else ""
    watch = Watch(run.client, [place.namespace], run.view, names, release=undone)
    before, began = await read_revisions(run.client, place.namespace, release), monotonic()
    try:
        await run_watched(run.helm, words, watch, stdin=stdin)
    except (HelmFailed, HelmInterrupted) as error:
        after = await read_revisions(run.client, place.namespace, release)
        state = state_in_words(release, place, before, after)
        interrupted = isinstance(error, HelmInterrupted)
        killed = isinstance(error, HelmInterrupted) and error.killed
        raise NotDoneError(str(error), state, interrupted=interrupted, killed=killed) from error
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
    newest, good, options = after[0], deployed(after), options_of(release, place)
    if newest.status in PENDING:
        back = good or next((revision for revision in after if revision.status == "superseded"), None)
        remedy = f"vdi rollback {back.version}" if back else "vdi uninstall"
        return f"Revision {newest.version} of {release} was left {newest.status}. To fix it: {remedy}{options}"
    if good is None:
        return f"Revision {newest.version} of {release} is {newest.status} ({newest.summary}); no revision is deployed."
    if before and newest.version == before[0].version:
        return f"Revision {good.version} of {release} is deployed as before; nothing was changed."
    if newest.status == "failed":
        return (
            f"Revision {newest.version} of {release} failed ({newest.summary}); the last good revision is "
            f"{good.version}, and the cluster may be between the two. To fix it: vdi rollback {good.version}{options}"
        )
    if good.info.description.startswith("Rollback to "):
        to = good.info.description.removeprefix("Rollback to ")
        return (
            f"It was rolled back: revision {good.version} of {release} is deployed, with the content of revision {to}."
        )
    return f"Revision {good.version} of {release} is deployed ({good.summary})."


def rollback_target(release: str, revisions: Sequence[Revision], desired: int | None) -> Revision:
    """The revision to go back to; without `desired` the newest before the present one that was in place.

    Raises RefusedError, which says what is allowed.
    """
    if not revisions:
        raise RefusedError(f"there is no release {release} in this namespace; allowed: an existing one")
    current = deployed(revisions) or revisions[0]
    # A failed revision never was a state to go back to. The present one is, after a failure on top of it.
    good = [revision for revision in revisions if revision.status in ("superseded", "deployed")]
    others = [revision for revision in good if revision.version != current.version or current is not revisions[0]]
    allowed = ", ".join(str(revision.version) for revision in others) or "none: no other revision was ever deployed"
    if desired is None:
        target = next((revision for revision in others if revision.version <= current.version), None)
    else:
        target = next((revision for revision in others if revision.version == desired), None)
    if target is None:
        asked = f"revision {desired}" if desired is not None else "an earlier revision"
        raise RefusedError(f"{release} cannot go back to {asked}; allowed: {allowed}")
    return target


async def crd_losses(client: Client, target: Revision) -> list[str]:
    """What going back to that revision's CRDs would lose, in words. Raises RefusedError where it cannot be done."""
    desired, there = of_release(target.objects()), []
    for crd in desired:
        try:
            there.append(await client.get(CRDS, crd["metadata"]["name"], into=dict[str, Any]))
        except NotFound:
            continue
    found = losses(there, desired)
    for loss in found:
        if loss.stored:
            stored = ", ".join(loss.stored)
            raise RefusedError(
                f"revision {target.version} cannot be restored: objects of {loss.crd} are stored as {stored}, which "
                "its CRD does not have; allowed: a revision whose CRD has it"
            )
    return [
        (f"{loss.crd}: the API server will drop {', '.join(loss.fields)} from objects that are written")
        for loss in found
    ]

"""Removal of a release for `vdi uninstall`: what there is, and the deletion of sessions, release,
homes and CRDs.

Sessions are ended while the operator can still do it, homes stay unless requested otherwise, and
what stays is listed. Nothing waits for a finalizer that no one removes.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec

from vdi.api.meta import GROUP
from vdi.api.session import VDISession
from vdi.api.template import HomeScope
from vdi.doctor.objects.components import Operator, operators_among
from vdi.helm import arguments
from vdi.helm.arguments import Place
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.releases import KEEP, Object, Revision, deployed, read_revisions
from vdi.helm.run import run_helm
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, CRDS, DEPLOYMENTS, Resource
from vdi.kube.transport import Client
from vdi.release.apply import HelmRun, NotDoneError
from vdi.release.chart import RefusedError
from vdi.release.diff import CRD_KIND
from vdi.release.facts import settings_of
from vdi.session.homes import HomeClaim, HomeSummary, summarize_homes
from vdi.session.naming import HOST, MANAGED_BY
from vdi.settings import Settings
from vdi.snapshot.objects.meta import Named
from vdi.snapshot.objects.workloads import WorkloadObject

_FORCED_AFTER = 60.0
_POLL_SECONDS = 0.3
_AGAIN = (
    "Sessions are ended, and parts of the release may be removed; vdi uninstall again continues."
)
_HOMES = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A release with everything that belongs to it, as `plan_removal` has found it."""

    release: str
    namespace: str
    # None: helm knows no such release; what it has left behind may still be there.
    revision: Revision | None
    # The first has the reservations of host names.
    sessions_namespaces: tuple[str, ...]
    sessions: tuple[VDISession, ...] = ()
    # Sessions in other namespaces, which another operator looks after.
    elsewhere: int = 0
    # Operators that watch one of the sessions' namespaces.
    operators: tuple[Operator, ...] = ()
    # Operators of other releases, which need the CRDs.
    other_operators: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    # Templates that are not the release's.
    templates: tuple[str, ...] = ()
    homes: tuple[HomeSummary, ...] = ()
    crds: tuple[str, ...] = ()
    # Objects of the release that stay when it goes, as kubectl deletes them.
    kept: tuple[str, ...] = ()
    # The same of its databases' volumes.
    volumes: tuple[str, ...] = ()
    # Host names that are recorded for their first users.
    reservations: tuple[str, ...] = ()

    @property
    def operator_works(self) -> bool:
        """Whether a running operator removes the finalizers."""
        return any(operator.ready for operator in self.operators)

    @property
    def lost_homes(self) -> tuple[HomeSummary, ...]:
        """Homes that go with their session."""
        return tuple(home for home in self.homes if is_owned(home))


def is_owned(home: HomeSummary) -> bool:
    """Whether the home belongs to one session and is deleted with it."""
    return home.scope == HomeScope.SESSION.value


async def plan_removal(client: Client, release: str, namespace: str) -> Removal:
    """Find everything that belongs to the release. Raises KubeError."""
    revisions = await read_revisions(client, namespace, release)
    revision = deployed(revisions) or (revisions[0] if revisions else None)
    objects = tuple(revision.objects()) if revision else ()
    where = (settings_of(objects) if objects else Settings()).namespaces
    sessions = await _known(client.list(SESSIONS, into=VDISession))
    operators = operators_among(await client.list(DEPLOYMENTS, into=WorkloadObject))
    made = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    reservations = await client.list(
        CONFIG_MAPS, namespace=where[0], label_selector=HOST, into=Named
    )
    own = []
    for operator in operators:
        if not {*where}.isdisjoint(operator.watches):
            own.append(operator)
    others = [operator for operator in operators if operator not in own]
    return Removal(
        release=release,
        namespace=namespace,
        revision=revision,
        sessions_namespaces=where,
        sessions=tuple(session for session in sessions if session.metadata.namespace in where),
        elsewhere=sum(session.metadata.namespace not in where for session in sessions),
        operators=tuple(own),
        other_operators=tuple(operator.object for operator in others),
        pools=pools_to_end(
            await _names(client, POOLS),
            own={name for kind, name in made if kind == POOLS.kind},
            others=bool(others),
        ),
        templates=tuple(
            name for name in await _names(client, TEMPLATES) if (TEMPLATES.kind, name) not in made
        ),
        homes=tuple(await _homes(client, where, sessions)),
        crds=tuple(name for name in await _names(client, CRDS) if name.endswith(f".{GROUP}")),
        kept=tuple(_kept(objects, namespace)),
        volumes=tuple(volumes_of_servers(objects, namespace)),
        reservations=tuple(
            sorted(reservation.metadata.labels[HOST] for reservation in reservations)
        ),
    )


def pools_to_end(names: Sequence[str], *, own: set[str], others: bool) -> tuple[str, ...]:
    """Pools that end with the release. With another operator on the cluster, which fills pools too,
    only its own.
    """
    return tuple(name for name in names if name in own or not others)


def _kept(objects: Iterable[Object], namespace: str) -> Iterator[str]:
    for obj in objects:
        meta = obj["metadata"]
        if meta.get("annotations", {}).get(KEEP) != "keep" or obj["kind"] == CRD_KIND:
            continue
        where = f" -n {meta.get('namespace') or namespace}"
        if obj["kind"] == "Namespace":
            where = ""
        yield f"{obj['kind'].lower()}/{meta['name']}{where}"


def volumes_of_servers(objects: Iterable[Object], namespace: str) -> Iterator[str]:
    """The claims that StatefulSets leave behind, as `kept` names its objects."""
    for obj in objects:
        spec, name = obj.get("spec", {}), obj["metadata"]["name"]
        policy = spec.get("persistentVolumeClaimRetentionPolicy", {}).get("whenDeleted", "Retain")
        if obj["kind"] != "StatefulSet" or policy != "Retain":
            continue
        for claim in spec.get("volumeClaimTemplates", ()):
            for number in range(int(spec.get("replicas", 1))):
                where = obj["metadata"].get("namespace") or namespace
                yield (
                    f"persistentvolumeclaim/{claim['metadata']['name']}-{name}-{number} -n {where}"
                )


async def end_sessions(run: HelmRun, plan: Removal, *, force: bool) -> None:
    """Delete pools and sessions, and wait until they are gone. Raises RefusedError, KubeError.

    Without an operator that works, the caller has asked for `force`: it removes the finalizers, and
    Kubernetes' garbage collector then deletes what the sessions own.
    """
    began = monotonic()
    for pool in plan.pools:
        await _gone(run.client.delete(POOLS, pool, propagation="Background", into=msgspec.Raw))
    for session in plan.sessions:
        meta = session.metadata
        await _gone(
            run.client.delete(SESSIONS, meta.name, namespace=meta.namespace, into=msgspec.Raw)
        )
        if not plan.operator_works:
            await _remove_finalizers(run.client, session)

    async def left() -> list[str]:
        return await left_sessions(run.client, plan.sessions_namespaces)

    # A session's end takes seconds. With --force the wait for a working operator is short; then the
    # finalizers of stuck sessions are removed as well.
    first = min(run.seconds, _FORCED_AFTER) if force else run.seconds
    still = await _until_none(run, left, "sessions are ending", first)
    if still and force:
        for session in await _sessions(run.client, plan.sessions_namespaces):
            await _remove_finalizers(run.client, session)
        still = await _until_none(run, left, "sessions are ending", run.seconds)
    if still:
        raise RefusedError(
            f"these sessions have not ended within {run.seconds:.0f} s: {', '.join(still)}. Nothing"
            f" else was removed. To see why: vdi session show {still[0]}; --force removes their"
            " finalizers"
        )
    if plan.sessions:
        run.view.passed(f"{count(plan.sessions, 'session')} ended", monotonic() - began)


def no_operator(plan: Removal) -> str:
    """The reason why sessions cannot be ended without --force."""
    there = ", ".join(operator.object for operator in plan.operators)
    why = "there is no operator"
    if there:
        why = f"no replica of {there} is ready"
    names = ", ".join(session.metadata.name for session in plan.sessions[:5])
    more = " ..." if len(plan.sessions) > 5 else ""
    return (
        f"{count(plan.sessions, 'session')} ({names}{more}), but {why} that could end them: their"
        " finalizers would wait forever. Bring the operator back (vdi doctor finds the problem),"
        " or remove the finalizers with --force: Kubernetes then deletes their pods, Services,"
        " Secrets and routes; homes are kept"
    )


async def uninstall_release(run: HelmRun, plan: Removal, place: Place) -> None:
    """`helm uninstall`. Raises NotDoneError."""
    began = monotonic()
    run.view.waiting("helm removes the release")
    command = arguments.uninstall(plan.release, place, seconds=run.seconds)
    try:
        await run_helm(run.helm, command, say=run.view.say)
    except HelmInterruptedError as error:
        raise NotDoneError(str(error), _AGAIN, interrupted=True) from error
    except HelmFailedError as error:
        reason = str(error)
        if error.failure.code == "NotReadyInTime":
            reason = f"{error.what}: not everything was deleted within {run.seconds:.0f} s"
        raise NotDoneError(reason, _AGAIN) from error
    run.view.passed("helm uninstall", monotonic() - began)


async def delete_homes(run: HelmRun, homes: Sequence[HomeSummary]) -> None:
    """Delete these claims, and wait until they are gone. Raises RefusedError, KubeError."""
    began = monotonic()
    for home in homes:
        await _gone(
            run.client.delete(CLAIMS, home.name, namespace=home.namespace, into=msgspec.Raw)
        )
    names = {home.name for home in homes}

    async def left() -> list[str]:
        remaining = await _homes(run.client, sorted({home.namespace for home in homes}), ())
        return [home.name for home in remaining if home.name in names]

    if still := await _until_none(run, left, "homes are deleted", run.seconds):
        raise RefusedError(
            f"these homes are marked for deletion but still exist: {', '.join(still)}; a pod may"
            f" use them: kubectl -n {homes[0].namespace} describe pvc {still[0]}"
        )
    run.view.passed(f"{count(homes, 'home')} deleted", monotonic() - began)


async def delete_crds(run: HelmRun, names: Sequence[str]) -> None:
    """Delete the CRDs, and with them every template and pool. Raises RefusedError, KubeError."""
    began = monotonic()
    for name in names:
        await _gone(run.client.delete(CRDS, name, into=msgspec.Raw))

    async def left() -> list[str]:
        there = await _names(run.client, CRDS)
        return [name for name in names if name in there]

    if still := await _until_none(run, left, "CRDs are deleted", run.seconds):
        raise RefusedError(
            f"these CRDs are not deleted, because their objects have finalizers: {', '.join(still)}"
        )
    run.view.passed(f"{len(names)} CRDs deleted", monotonic() - began)


async def left_sessions(client: Client, namespaces: Sequence[str]) -> list[str]:
    return [session.metadata.name for session in await _sessions(client, namespaces)]


async def _sessions(client: Client, namespaces: Sequence[str]) -> list[VDISession]:
    sessions: list[VDISession] = []
    for namespace in namespaces:
        sessions += await _known(client.list(SESSIONS, namespace=namespace, into=VDISession))
    return sessions


async def _names(client: Client, resource: Resource) -> list[str]:
    return [obj.metadata.name for obj in await _known(client.list(resource, into=Named))]


async def _homes(
    client: Client, namespaces: Sequence[str], sessions: Sequence[VDISession]
) -> list[HomeSummary]:
    claims: list[HomeClaim] = []
    for namespace in namespaces:
        claims += await client.list(
            CLAIMS, namespace=namespace, label_selector=_HOMES, into=HomeClaim
        )
    return summarize_homes(claims, sessions)


def count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


async def _until_none(
    run: HelmRun, look: Callable[[], Awaitable[list[str]]], what: str, seconds: float
) -> list[str]:
    """Look until nothing is left; what is still there in the end."""
    deadline = monotonic() + seconds
    while left := await look():
        run.view.waiting(f"{what}: {len(left)} left, such as {left[0]}")
        if monotonic() > deadline:
            return left
        await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    return []


async def _remove_finalizers(client: Client, session: VDISession) -> None:
    patch = {"metadata": {"finalizers": None}}
    meta = session.metadata
    await _gone(
        client.patch(SESSIONS, meta.name, patch, namespace=meta.namespace, into=msgspec.Raw)
    )


async def _gone(request: Awaitable[Any]) -> None:
    with suppress(NotFound):
        await request


async def _known(request: Awaitable[list[Any]]) -> list[Any]:
    """The list; empty where the cluster does not know the kind."""
    try:
        return await request
    except NotFound:
        return []

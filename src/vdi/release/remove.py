"""Uninstall: sessions are ended while the operator can still do it, homes stay unless requested otherwise, and what
stays is listed. Nothing waits for a finalizer that no one removes.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec

from vdi.api.meta import GROUP
from vdi.api.session import VDISession
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.components import Operator, find_operators
from vdi.helm import arguments
from vdi.helm.arguments import Place
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.releases import KEEP, Revision, deployed, read_revisions
from vdi.helm.run import run_helm
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, CRDS, DEPLOYMENTS
from vdi.kube.transport import Client
from vdi.release.apply import HelmRun, NotDoneError
from vdi.release.chart import RefusedError
from vdi.release.facts import settings_of
from vdi.session.naming import HOST, MANAGED_BY, TEMPLATE_ANNOTATION, USER_ANNOTATION
from vdi.settings import Settings

Object = dict[str, Any]
_FORCED_AFTER = 60.0
_AGAIN = "Sessions are ended, and parts of the release may be removed; vdi uninstall again continues."


@dataclass(frozen=True, slots=True)
class HomeVolume:
    """A claim with somebody's files."""

    namespace: str
    claim: str
    user: str
    template: str
    size: str
    # It belongs to one session and is deleted with it (`scope: Session` of its template, or `retain: false`).
    owned: bool

    @property
    def words(self) -> str:
        """One line of a list."""

        of = f"template {self.template}" if self.template else "all templates with scope User"
        return f"{self.user or '(unknown)'}: {self.size or '?'} of {of} ({self.claim})"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What there is to remove."""

    release: str
    namespace: str
    # None: helm knows no such release; what it has left behind may still be there.
    revision: Revision | None
    # The first has the reservations of host names.
    sessions_namespaces: tuple[str, ...]
    sessions: tuple[VDISession, ...] = ()
    # Sessions in other namespaces, which another operator looks after.
    elsewhere: int = 0
    # Those that watch one of the sessions' namespaces.
    operators: tuple[Operator, ...] = ()
    # Operators of other releases, which need the CRDs.
    other_operators: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    # Templates that are not the release's.
    templates: tuple[str, ...] = ()
    homes: tuple[HomeVolume, ...] = ()
    crds: tuple[str, ...] = ()
    # Objects of the release that stay when it goes, as kubectl deletes them.
    kept: tuple[str, ...] = field(default=())
    # The same of its databases' volumes.
    volumes: tuple[str, ...] = ()
    # Host names that are recorded for their first users.
    reservations: tuple[str, ...] = ()

    @property
    def operator_works(self) -> bool:
        """Whether somebody takes the finalizers off."""
        return any(operator.ready for operator in self.operators)

    @property
    def lost_homes(self) -> tuple[HomeVolume, ...]:
        """Those that go with their session."""
        return tuple(home for home in self.homes if home.owned)


async def plan_removal(client: Client, release: str, namespace: str) -> Removal:
    """What is there. Raises KubeError."""
    revisions = await read_revisions(client, namespace, release)
    revision = deployed(revisions) or (revisions[0] if revisions else None)
    objects = tuple(revision.objects()) if revision else ()
    where = (settings_of(objects) if objects else Settings()).namespaces
    sessions = await _known(client.list(SESSIONS, into=VDISession))
    deployments = await client.list(DEPLOYMENTS, into=Object)
    operators = find_operators(Snapshot(taken_at="1970-01-01T00:00:00Z", objects={"deployments": deployments}))
    made = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    pools = await _known(client.list(POOLS, into=_Named))
    templates = await _known(client.list(TEMPLATES, into=_Named))
    crds = await client.list(CRDS, into=_Named)
    reservations = await client.list(CONFIG_MAPS, namespace=where[0], label_selector=HOST, into=_Reservation)
    own = [operator for operator in operators if not {*where}.isdisjoint(operator.watches)]
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
            [pool.metadata.name for pool in pools],
            own={name for kind, name in made if kind == "VDIPool"},
            others=bool(others),
        ),
        templates=tuple(
            template.metadata.name for template in templates if ("VDITemplate", template.metadata.name) not in made
        ),
        homes=tuple([home for namespace in where for home in await _homes(client, namespace)]),
        crds=tuple(crd.metadata.name for crd in crds if crd.metadata.name.endswith(f".{GROUP}")),
        kept=tuple(_kept(objects, namespace)),
        volumes=tuple(volumes_of_servers(objects, namespace)),
        reservations=tuple(sorted(reservation.metadata.labels[HOST] for reservation in reservations)),
    )


def pools_to_end(names: Sequence[str], *, own: set[str], others: bool) -> tuple[str, ...]:
    """Pools are of the whole cluster: where another operator fills them too, only the release's own end with it."""
    return tuple(name for name in names if name in own or not others)


def _kept(objects: Sequence[Object], namespace: str) -> list[str]:
    found = []
    for obj in objects:
        meta = obj["metadata"]
        if (meta.get("annotations") or {}).get(KEEP) == "keep" and obj["kind"] != "CustomResourceDefinition":
            where = "" if obj["kind"] == "Namespace" else f" -n {meta.get('namespace') or namespace}"
            found.append(f"{obj['kind'].lower()}/{meta['name']}{where}")
    return found


def volumes_of_servers(objects: Sequence[Object], namespace: str) -> Iterator[str]:
    """The claims that StatefulSets leave behind, as `kept` names its objects."""
    for obj in objects:
        spec, name = obj.get("spec") or {}, obj["metadata"]["name"]
        policy = (spec.get("persistentVolumeClaimRetentionPolicy") or {}).get("whenDeleted", "Retain")
        if obj["kind"] != "StatefulSet" or policy != "Retain":
            continue
        for claim in spec.get("volumeClaimTemplates") or ():
            for number in range(int(spec.get("replicas", 1))):
                where = obj["metadata"].get("namespace") or namespace
                yield f"persistentvolumeclaim/{claim['metadata']['name']}-{name}-{number} -n {where}"


async def end_sessions(run: HelmRun, plan: Removal, *, force: bool) -> None:
    """Delete pools and sessions, and wait until they are gone. Raises RefusedError, KubeError.

    Without an operator that works, `force` takes the finalizers off; Kubernetes' garbage collector then removes what
    the sessions own.
    """
    if plan.sessions and not plan.operator_works and not force:
        raise RefusedError(no_operator(plan))
    began = monotonic()
    for pool in plan.pools:
        await _gone(run.client.delete(POOLS, pool, propagation="Background", into=msgspec.Raw))
    left = list(plan.sessions)
    for session in left:
        await _gone(
            run.client.delete(SESSIONS, session.metadata.name, namespace=session.metadata.namespace, into=msgspec.Raw)
        )
    if not plan.operator_works:
        for session in left:
            await _let_go(run.client, session)

    async def look() -> list[str]:
        return [session.metadata.name for session in await _sessions(run.client, plan.sessions_namespaces)]

    # Who forces does not wait for long: a session's end takes seconds.
    still = await _until_none(
        run, look, "sessions are ending", min(run.seconds, _FORCED_AFTER) if force else run.seconds
    )
    if still and force:
        for session in await _sessions(run.client, plan.sessions_namespaces):
            await _let_go(run.client, session)
        still = await _until_none(run, look, "sessions are ending", run.seconds)
    if still:
        raise RefusedError(
            f"these sessions have not ended within {run.seconds:.0f} s: {', '.join(still)}. Nothing else was "
            f"removed. To see why: vdi session show {still[0]}; --force removes their finalizers"
        )
    if plan.sessions:
        run.view.stage(f"{count(plan.sessions, 'session')} ended", monotonic() - began)


def no_operator(plan: Removal) -> str:
    """Why sessions cannot be ended."""
    there = ", ".join(operator.object for operator in plan.operators)
    why = f"no replica of {there} is ready" if there else "there is no operator"
    names = ", ".join(session.metadata.name for session in plan.sessions[:5]) + (
        " ..." if len(plan.sessions) > 5 else ""
    )
    return (
        f"{count(plan.sessions, 'session')} ({names}), but {why} that could end them: their finalizers would wait "
        "forever. Bring the operator back (vdi doctor finds the problem), or remove the finalizers with --force: "
        "Kubernetes then deletes their pods, Services, Secrets and routes; homes are kept"
    )


async def uninstall_release(run: HelmRun, plan: Removal, place: Place) -> None:
    """`helm uninstall`. Raises NotDoneError."""
    began = monotonic()
    run.view.waiting("helm removes the release")
    words = arguments.uninstall(plan.release, place, seconds=run.seconds)
    try:
        await run_helm(run.helm, words, say=run.view.say)
    except HelmInterruptedError as error:
        raise NotDoneError(str(error), _AGAIN, interrupted=True) from error
    except HelmFailedError as error:
        late = error.failure.code == "NotReadyInTime"
        reason = f"{error.what}: not everything was deleted within {run.seconds:.0f} s" if late else str(error)
        raise NotDoneError(reason, _AGAIN) from error
    run.view.stage("helm uninstall", monotonic() - began)


async def delete_homes(run: HelmRun, homes: Sequence[HomeVolume]) -> None:
    """Delete these claims, and wait until they are gone. Raises RefusedError, KubeError."""
    began = monotonic()
    for home in homes:
        await _gone(run.client.delete(CLAIMS, home.claim, namespace=home.namespace, into=msgspec.Raw))
    names = {home.claim for home in homes}

    async def look() -> list[str]:
        found = [claim for space in {home.namespace for home in homes} for claim in await _homes(run.client, space)]
        return [home.claim for home in found if home.claim in names]

    if still := await _until_none(run, look, "homes are deleted", run.seconds):
        raise RefusedError(
            f"these homes are marked for deletion but still exist: {', '.join(still)}; a pod may use them: kubectl "
            f"-n {homes[0].namespace} describe pvc {still[0]}"
        )
    run.view.stage(f"{count(homes, 'home')} deleted", monotonic() - began)


async def delete_crds(run: HelmRun, names: Sequence[str]) -> None:
    """Delete the CRDs, and with them every template and pool. Raises RefusedError, KubeError."""
    began = monotonic()
    for name in names:
        await _gone(run.client.delete(CRDS, name, into=msgspec.Raw))

    async def look() -> list[str]:
        there = {crd.metadata.name for crd in await run.client.list(CRDS, into=_Named)}
        return [name for name in names if name in there]

    if still := await _until_none(run, look, "CRDs are deleted", run.seconds):
        raise RefusedError(f"these CRDs are not deleted, because their objects have finalizers: {', '.join(still)}")
    run.view.stage(f"{len(names)} CRDs deleted", monotonic() - began)


async def left_sessions(client: Client, namespaces: Sequence[str]) -> list[str]:
    """Sessions that are there: somebody may have started one in the meantime."""
    return [session.metadata.name for session in await _sessions(client, namespaces)]


async def _sessions(client: Client, namespaces: Sequence[str]) -> list[VDISession]:
    lists = [await _known(client.list(SESSIONS, namespace=namespace, into=VDISession)) for namespace in namespaces]
    return [session for sessions in lists for session in sessions]


class _Meta(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Meta


class _Labels(msgspec.Struct):
    labels: dict[str, str]


class _Reservation(msgspec.Struct):
    metadata: _Labels


async def _homes(client: Client, namespace: str) -> list[HomeVolume]:
    label = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    found = []
    for claim in await client.list(CLAIMS, namespace=namespace, label_selector=label, into=Object):
        notes, spec = claim["metadata"].get("annotations") or {}, claim.get("spec") or {}
        capacity = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
        found.append(
            HomeVolume(
                namespace,
                claim["metadata"]["name"],
                notes.get(USER_ANNOTATION, ""),
                notes.get(TEMPLATE_ANNOTATION, ""),
                capacity or ((spec.get("resources") or {}).get("requests") or {}).get("storage", ""),
                any(owner["kind"] == "VDISession" for owner in claim["metadata"].get("ownerReferences") or ()),
            )
        )
    return sorted(found, key=lambda home: (home.user, home.claim))


def count(things: Sequence[Any], name: str) -> str:
    """`1 home`, `2 homes`."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


async def _until_none(run: HelmRun, look: Callable[[], Awaitable[list[str]]], what: str, seconds: float) -> list[str]:
    """Look until nothing is left; what is still there in the end."""
    deadline = monotonic() + seconds
    while left := await look():
        run.view.waiting(f"{what}: {len(left)} left, such as {left[0]}")
        if monotonic() > deadline:
            return left
        await SYSTEM_CLOCK.sleep(0.3)
    return []


async def _let_go(client: Client, session: VDISession) -> None:
    patch = {"metadata": {"finalizers": None}}
    meta = session.metadata
    await _gone(client.patch(SESSIONS, meta.name, patch, namespace=meta.namespace, into=msgspec.Raw))


async def _gone(request: Awaitable[Any]) -> None:
    with suppress(NotFound):
        await request


async def _known(request: Awaitable[list[Any]]) -> list[Any]:
    """The list; empty where the cluster does not know the kind."""
    try:
        return await request
    except NotFound:
        return []

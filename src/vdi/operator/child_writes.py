"""Writes of a session's child objects (pod, home, Secret, Service, route): creation, repair and
deletion.

Called by the session controller with what it has observed. The objects' content comes from
`vdi.session.children`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vdi.api.session import VDISession
from vdi.api.template import Scheme
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time
from vdi.kinds import ROUTES
from vdi.kube.clock import Clock
from vdi.kube.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ServerError,
)
from vdi.kube.meta import key_of
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, PODS, SECRETS, SERVICES
from vdi.kube.transport import STRATEGIC_MERGE_PATCH
from vdi.operator.owned_resources import (
    ForeignObjectError,
    OwnedResources,
    UncertainCreates,
    is_uncertain,
    owner_uid,
)
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Hosts, Reservations, home_reservation
from vdi.session.alerts import Alert
from vdi.session.children import (
    Secret,
    build_home,
    build_pod,
    build_route,
    build_secret,
    build_service,
    scheme_of,
)
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import RESIZE_PENDING, Reason
from vdi.session.credentials import DesktopTokens, derive_tokens
from vdi.session.decide import (
    Decision,
    Observed,
    explain_api_error,
    host_taken,
    is_from_webhook,
    leftover,
    name_taken,
)
from vdi.session.effective import Blocked, Desktop
from vdi.session.homes import LAST_USED, MADE_AHEAD, Home, is_use_due
from vdi.session.lifetime import run_annotations
from vdi.session.naming import HOLD, Identity, has_label, pod_name
from vdi.session.resize import find_resize

log = logging.getLogger(__name__)
_KINDS = {
    resource.plural: resource.kind
    for resource in (PODS, CLAIMS, SECRETS, SERVICES, ROUTES, CONFIG_MAPS)
}


@dataclass(frozen=True, slots=True)
class Built:
    """A session's children after `Builder.build`, and what stood in its way."""

    # The session with its children as they are now.
    observed: Observed
    # Why a child is missing: not allowed to start, or refused.
    blocked: Blocked | None = None
    # The API server refused a child, or an object of somebody else has its name.
    refused: bool = False
    # A failure that another try may not have: the controller raises it once the status is written.
    failure: Exception | None = None
    # The pod had to wait for a write of this call: another one creates it.
    pod_follows: bool = False


class Builder:
    """Creates a session's children and repairs those that have drifted."""

    def __init__(
        self,
        owned: OwnedResources,
        hosts: Hosts,
        reservations: Reservations,
        uncertain_creates: UncertainCreates,
        desktop_key: ReleaseKey,
        settings: ClusterSettings,
    ) -> None:
        self._owned = owned
        self._hosts = hosts
        self._reservations = reservations
        self._uncertain_creates = uncertain_creates
        self._desktop_key = desktop_key
        self._settings = settings

    async def reserve_host(self, observed: Observed) -> Observed:
        """Reserve a chosen host label for the user; until then the session gets no route. Raises
        KubeError.
        """
        session, label = observed.session, observed.host
        if not label or not self._hosts.needs_reservation(session, label):
            return observed
        try:
            owner = await self._hosts.reserve(session, label)
        except ApiError as failure:
            blocked = _explain(failure, session.metadata.name)
            if blocked is None:
                raise
            return replace(
                observed, host=label if has_label(session, label) else "", host_blocked=blocked
            )
        if owner == session.spec.user:
            return observed
        return replace(observed, host="", host_blocked=host_taken(label))

    async def resize(self, observed: Observed) -> Alert | None:
        """Give the running pod the size of the session's spec; or why it does not get that. Raises
        KubeError.
        """
        if (pod := observed.pod) is None:
            return None
        change = find_resize(observed, self._settings)
        if not isinstance(change, dict):
            return change
        try:
            # Strategic, since a merge patch would drop the containers that an admission webhook has
            # added. The cache counts the new requests from the response on, so the queue gives them
            # to no other session.
            await self._owned.pods.patch(
                pod, change, subresource="resize", content_type=STRATEGIC_MERGE_PATCH
            )
        except ApiError as failure:
            # The second is of an API server with older nodes.
            if failure.api_missing or "without support for resize" in failure.message:
                advice = (
                    "A restart applies the new size, and closes all programs: save your work first."
                )
                return Alert(
                    RESIZE_PENDING,
                    Reason.NEEDS_RESTART,
                    f"This cluster resizes no running desktop. {advice}",
                )
            if (refusal := explain_refusal(failure, PODS.kind)) is None:
                raise
            if refusal.needs_change:
                reason = Reason.INFEASIBLE
            else:
                reason = Reason.DEFERRED
            return Alert(RESIZE_PENDING, reason, refusal.message)
        return None

    async def build(
        self,
        observed: Observed,
        decision: Decision,
        add_finalizer: Awaitable[VDISession] | None = None,
        *,
        evictable: bool = False,
    ) -> Built:
        """Send what is missing or has drifted, side by side. A session that may not start gets
        nothing.

        `evictable`: the pod's notice of a drain is over, so it may be evicted.
        """
        if decision.blocked:
            return Built(observed, decision.blocked)
        session = observed.session
        work = self._work(observed, decision, evictable=evictable)
        if add_finalizer:
            work = {"session": add_finalizer, **work}
        if work:
            results = await asyncio.gather(*work.values(), return_exceptions=True)
        else:
            results = []
        by_name = dict(zip(work, results, strict=True))
        failures = {
            name: result for name, result in by_name.items() if isinstance(result, BaseException)
        }
        made: dict[str, Any] = {
            name: result for name, result in by_name.items() if name not in failures
        }
        uncertain = [name for name, failure in failures.items() if is_uncertain(failure)]
        if not uncertain:
            self._reservations.release(session.metadata.uid)
        if "pod" in uncertain and observed.pod is None:
            meta = session.metadata
            self._uncertain_creates.add(key_of(session), meta.namespace, pod_name(meta.name))
        built = _collect_failures(
            replace(observed, **made) if made else observed, list(failures.values())
        )
        is_due = decision.desktop is not None and observed.pod is None and not failures
        if is_due and self._must_prepare(observed):
            return replace(built, pod_follows=True)
        return built

    def _must_prepare(self, observed: Observed) -> bool:
        """Whether the Secret or the home of a session without a pod has to be changed before its
        pod is created.
        """
        return self._is_of_other_key(observed) or _is_made_ahead(observed)

    def _is_of_other_key(self, observed: Observed) -> bool:
        """Whether the Secret is a pool desktop's, or of an earlier key of the release."""
        if observed.secret is None or observed.pod is not None:
            return False
        return observed.secret.agent_token != self._tokens(observed).agent

    def _work(
        self, observed: Observed, decision: Decision, *, evictable: bool
    ) -> dict[str, Awaitable[Any]]:
        """The requests to make, by the field of `Observed` that each sets.

        Sent in this order: the scheduler sets a pod back by a second that it sees before its home,
        the kubelet needs the Secret later, and neither needs Service and route.
        """
        # While the Secret or the home is changed, there is no pod: it follows.
        desktop = None if self._must_prepare(observed) else decision.desktop
        work = self._home_and_pod_work(observed, desktop, evictable=evictable)
        if observed.secret is None:
            work["secret"] = self._make_secret(observed)
        elif self._is_of_other_key(observed):
            # A kubelet reads an immutable Secret once for as long as a pod names it.
            work["secret"] = self._replace_secret(observed.secret, observed)
        service = build_service(identity=Identity.of(observed.session))
        if not self._owned.services.is_as_desired(observed.service, service):
            work["service"] = self._owned.services.ensure(service)
        if route := self._find_route(observed, decision):
            work["route"] = self._owned.routes.ensure(route)
        return work

    def _home_and_pod_work(
        self, observed: Observed, desktop: Desktop | None, *, evictable: bool
    ) -> dict[str, Awaitable[Any]]:
        owned, identity = self._owned, Identity.of(observed.session)
        work: dict[str, Awaitable[Any]] = {}
        home = desktop.home if desktop else None
        if observed.home and _is_made_ahead(observed):
            # The gateway may be about to delete a home that no one has used.
            work["home"] = owned.homes.patch_unchanged(
                observed.home, annotations={MADE_AHEAD: None}
            )
        elif home and _lacks_home(observed, home):
            work["home"] = owned.homes.ensure(build_home(identity=identity, home=home))
        if observed.pod:
            labels = {**identity.labels, HOLD: "false" if evictable else "true"}
            has_labels = labels.items() <= observed.pod.metadata.labels.items()
            if not observed.pod.terminating and not has_labels:
                work["pod"] = owned.pods.patch_metadata(observed.pod, labels=labels)
        elif desktop and (home is None or self._may_mount(home, observed.session)):
            run, port = run_annotations(observed.session, None), self._settings.agent_port
            pod = build_pod(identity=identity, desktop=desktop, run=run, agent_port=port)
            if home and not home.retain and not _is_own_home(observed):
                # A claim of this name may be an earlier session's, or somebody else's, and no pod
                # of ours may mount that one. So this pod alone waits until the claim is known to be
                # the session's own.
                work["home"] = made = asyncio.ensure_future(work["home"])
                work["pod"] = _make_after(made, partial(owned.pods.ensure, pod))
            else:
                work["pod"] = owned.pods.ensure(pod)
        return work

    def _find_route(self, observed: Observed, decision: Decision) -> dict[str, Any] | None:
        """The route to create or repair; None where it is as desired, or its host is not free."""
        session, host = observed.session, self._settings.host(observed.host)
        if not observed.host or observed.host_blocked:
            return None
        if not self._reservations.reserve(host, session.metadata.uid):
            return None
        scheme = Scheme.HTTP
        if observed.pod:
            scheme = scheme_of(observed.pod)
        elif decision.desktop:
            scheme = decision.desktop.scheme
        route = build_route(
            identity=Identity.of(session), host=host, settings=self._settings, scheme=scheme
        )
        if self._owned.routes.is_as_desired(observed.route, route):
            return None
        return route

    def _tokens(self, observed: Observed) -> DesktopTokens:
        meta = observed.session.metadata
        pod = observed.pod.metadata.name if observed.pod else ""
        key = self._desktop_key.value
        return derive_tokens(key, namespace=meta.namespace, name=meta.name, uid=meta.uid, pod=pod)

    async def _make_secret(self, observed: Observed) -> Secret:
        secret = build_secret(identity=Identity.of(observed.session), tokens=self._tokens(observed))
        return await self._owned.secrets.ensure(secret)

    async def _replace_secret(self, present: Secret, observed: Observed) -> Secret:
        await self._owned.secrets.delete(present)
        return await self._make_secret(observed)

    def _may_mount(self, home: Home, session: VDISession) -> bool:
        """Whether the home is free for this session; reserves it until the pod that mounts it is in
        the caches.
        """
        if home.shared or not home.retain:
            return True
        meta = session.metadata
        return self._reservations.reserve(home_reservation(meta.namespace, home.claim), meta.uid)


def _lacks_home(observed: Observed, home: Home) -> bool:
    """Whether the claim has to be made or checked for this pod, or for one that is to be created."""
    if observed.pod is None:
        return True
    return observed.home is None and observed.pod.home_claim == home.claim


def _is_own_home(observed: Observed) -> bool:
    home = observed.home
    return home is not None and owner_uid(home) == observed.session.metadata.uid


def _is_made_ahead(observed: Observed) -> bool:
    return observed.home is not None and MADE_AHEAD in observed.home.metadata.annotations


async def _make_after(first: asyncio.Future[Any], make: Callable[[], Awaitable[Pod]]) -> Pod | None:
    """The pod, made after `first`; None where `first` fails, which is reported as its own
    failure.
    """
    await asyncio.wait([first])
    if first.exception() is None:
        return await make()
    return None


def _collect_failures(observed: Observed, failures: list[BaseException]) -> Built:
    blocked: Blocked | None = None
    trouble: Exception | None = None
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
        explained = _explain(failure, observed.session.metadata.name)
        blocked = blocked or explained
        trouble = trouble or (failure if explained is None else None)
    return Built(observed, blocked, blocked is not None, trouble)


def _explain(failure: Exception, session_name: str) -> Blocked | None:
    """The reason of a refusal; None for any other failure (no answer, a conflict, a bug of ours),
    which is retried.
    """
    if isinstance(failure, ForeignObjectError):
        if failure.owner == session_name:
            return leftover(failure.kind, failure.name)
        return name_taken(failure.kind, failure.name)
    if isinstance(failure, NotFound) and failure.api_missing:
        return explain_api_error(_kind_in(failure), failure.message, kind_missing=True)
    if isinstance(failure, ApiError):
        return explain_refusal(failure, _kind_in(failure))
    return None


def explain_refusal(failure: Exception, kind: str) -> Blocked | None:
    """The reason why the API server or a webhook refuses an object of this kind; None: the failure
    is no refusal.
    """
    of_webhook = isinstance(failure, ServerError | BadRequest) and is_from_webhook(failure.message)
    if isinstance(failure, ApiError) and (of_webhook or isinstance(failure, Forbidden | Invalid)):
        return explain_api_error(kind, failure.message)
    return None


def _kind_in(failure: ApiError) -> str:
    """The kind that a request was about, taken from its path."""
    return next((_KINDS[part] for part in failure.request.split("/") if part in _KINDS), "child")


class Cleanup:
    """Deletes a session's children, by uid, and notes the last use of its home."""

    def __init__(self, owned: OwnedResources, clock: Clock) -> None:
        self._owned = owned
        self._clock = clock

    async def delete_all(self, observed: Observed) -> bool:
        """Delete a deleted session's children; True when all are gone. Its own home is garbage
        collected.
        """
        # The garbage collector would delete these too, but it looks for new kinds every 30 s only.
        # Until it knows the CRD, a session of the same name would find its host and Secret taken by
        # a session that is gone. Pod and route go first: when many sessions are deleted at once,
        # CPU and GPU are free before the rest is done.
        if not await self.delete_desktop(observed):
            return False
        work = []
        if observed.service:
            work.append(self._owned.services.delete(observed.service))
        if observed.secret:
            work.append(self._owned.secrets.delete(observed.secret))
        return all(await asyncio.gather(*work))

    async def delete_desktop(self, observed: Observed) -> bool:
        """Delete pod and route, which a suspended session does not keep; True when they are
        gone.
        """
        work = [self._delete(pod, observed) for pod in pods_of(observed)]
        work.append(self._record_use(observed))
        if observed.route:
            work.append(self._owned.routes.delete(observed.route))
        return all(await asyncio.gather(*work))

    async def delete_pod(self, observed: Observed) -> bool:
        """Delete the pod; True when it is gone."""
        return observed.pod is None or await self._delete(observed.pod, observed)

    async def delete_extra_pods(self, observed: Observed) -> None:
        """Delete second pods, and pods on a dead node, which would never report their end."""
        terminating = [
            pod for pod in (observed.pod, observed.terminating) if pod and pod.terminating
        ]
        unwanted = [
            *observed.extra_pods,
            *(pod for pod in terminating if _may_be_forced(pod, observed)),
        ]
        if unwanted:
            await asyncio.gather(*(self._delete(pod, observed) for pod in unwanted))

    async def is_gone(self, session: VDISession) -> bool:
        """Whether the API server, too, no longer has the pod that the status names. Raises
        KubeError.
        """
        # The cache may lag behind, above all at a takeover. Or somebody has removed the labels by
        # which our watch finds the pod: they are set again, and the watch brings it.
        meta, pods = session.metadata, self._owned.pods
        live = await pods.get_live(meta.namespace, session.status.pod_name)
        if live is None or owner_uid(live) != meta.uid:
            return True
        await pods.patch_metadata(live, labels=Identity.of(session).labels)
        return False

    async def _record_use(self, observed: Observed) -> bool:
        """Annotate a retained home with the time when its desktop stopped; a failure is only
        logged. Always True.
        """
        pod, home, now = observed.pod, observed.home, self._clock.now()
        if home and _is_made_ahead(observed) and pods_of(observed):
            # The gateway marked the home while the operator was starting its desktop. It may
            # contain files by now.
            await self._owned.homes.patch_metadata(home, annotations={MADE_AHEAD: None})
        if (
            pod
            and not pod.terminating
            and home
            and owner_uid(home) is None
            and is_use_due(home.metadata, now)
        ):
            try:
                await self._owned.homes.patch_metadata(
                    home, annotations={LAST_USED: format_time(now)}
                )
            except KubeError as error:
                log.warning(
                    "%s/%s: last use not recorded: %s",
                    home.metadata.namespace,
                    home.metadata.name,
                    error,
                )
        return True

    async def _delete(self, pod: Pod, observed: Observed) -> bool:
        return await self._owned.pods.delete(
            pod, grace_seconds=0 if _may_be_forced(pod, observed) else None
        )


def pods_of(observed: Observed) -> list[Pod]:
    """All pods of a session, wanted or not."""
    return [pod for pod in (observed.pod, observed.terminating, *observed.extra_pods) if pod]


def _may_be_forced(pod: Pod, observed: Observed) -> bool:
    """Whether to delete without its node's confirmation: the node is lost, and the pod writes to no
    volume.
    """
    on_that_node = observed.node is None or pod.spec.node_name == observed.node.metadata.name
    return pod.terminating and observed.node_lost and on_that_node and not pod.writes_to

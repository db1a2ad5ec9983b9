"""Makes what is missing and repairs what has drifted: all children of a session, side by side."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vdi.api.session import VDISession
from vdi.api.template import Scheme
from vdi.kube.errors import ApiError, Forbidden, Invalid, NotFound, ServerError
from vdi.kube.meta import key_of
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, PODS, SECRETS, SERVICES
from vdi.operator.hosts import Hosts
from vdi.operator.kinds import ROUTES
from vdi.operator.owned_resources import ForeignObjectError, OwnedResources, owner_uid
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Reservations, home_reservation
from vdi.operator.uncertain_creates import UncertainCreates, is_uncertain
from vdi.session.api_errors import explain_api_error, is_webhook_down, leftover, name_taken
from vdi.session.children.home import build_home
from vdi.session.children.pod import build_pod
from vdi.session.children.route import build_route
from vdi.session.children.secret import build_secret
from vdi.session.children.service import build_service
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import Decision, Observed, host_taken
from vdi.session.desktop_tokens import DesktopTokens, derive_tokens
from vdi.session.effective import Blocked
from vdi.session.homes import MADE_AHEAD, Home
from vdi.session.hosts import has_label
from vdi.session.identity import Identity
from vdi.session.lifetime import run_annotations
from vdi.session.naming import pod_name
from vdi.session.observed import HOLD, Pod, Secret


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a build."""

    observed: Observed
    """With the children as they are now."""
    blocked: Blocked | None = None
    """Why not all children are there, in words."""
    refused: bool = False
    """The problem is the API server's refusal of a child, or a stranger's object in its place."""
    failure: Exception | None = None
    """Trouble that a later try may not have: to be raised when the status has been written."""


class Builder:
    """Turns a verdict into objects."""

    def __init__(
        self,
        *,
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
        """Record whose host it is, where that is not known. Before that a session gets no route. Raises KubeError."""
        session, label = observed.session, observed.host
        if not label or not self._hosts.needs_reservation(session, label):
            return observed
        try:
            owner = await self._hosts.reserve(session, label)
        except ApiError as failure:
            blocked = _explain(failure, session.metadata.name)
            if blocked is None:
                raise
            return replace(observed, host=label if has_label(session, label) else "", host_blocked=blocked)
        if owner == session.spec.user:
            return observed
        return replace(observed, host="", host_blocked=host_taken(label))

    async def build(self, observed: Observed, decision: Decision, *, evictable: bool = False) -> Built:
        """Send what is missing or has drifted. A session that may not start gets nothing.

        `evictable`: the pod need not be kept from a drain any more.
        """
        if decision.blocked:
            return Built(observed, decision.blocked)
        session = observed.session
        identity = Identity.of(session)
        work = self._work(observed, decision, identity, evictable=evictable)
        results = await asyncio.gather(*work.values(), return_exceptions=True) if work else []
        made: dict[str, Any] = {}
        failures: dict[str, BaseException] = {}
        for name, result in zip(work, results, strict=True):
            if isinstance(result, BaseException):
                failures[name] = result
            else:
                made[name] = result
        uncertain = [name for name, failure in failures.items() if is_uncertain(failure)]
        if not uncertain:
            self._reservations.release(session.metadata.uid)
        if "pod" in uncertain and observed.pod is None:
            meta = session.metadata
            self._uncertain_creates.add(key_of(session), meta.namespace, pod_name(meta.name))
        return _collect_failures(replace(observed, **made) if made else observed, list(failures.values()))

    def _work(
        self, observed: Observed, decision: Decision, identity: Identity, *, evictable: bool
    ) -> dict[str, Awaitable[Any]]:
        """The requests to make, by the field of `Observed` that each is for; the pod, which needs the others, last."""
        session, owned, desktop = observed.session, self._owned, decision.desktop
        uid = session.metadata.uid
        host = self._settings.host(observed.host)
        work: dict[str, Awaitable[Any]] = {}
        if observed.secret is None:
            work["secret"] = self._make_secret(identity, self._tokens(observed))
        elif observed.pod is None and observed.secret.agent_token != (tokens := self._tokens(observed)).agent:
            # It is that of a pool's desktop, or of another key. The pod follows when the new Secret is there: a kubelet
            # reads an immutable Secret once for as long as a pod names it.
            work["secret"] = self._replace_secret(observed.secret, identity, tokens)
            desktop = None
        service = build_service(identity=identity)
        if not owned.services.is_as_desired(observed.service, service):
            work["service"] = owned.services.ensure(service)
        if observed.host and not observed.host_blocked and self._reservations.reserve(host, uid):
            scheme = (
                observed.pod.scheme if observed.pod else decision.desktop.scheme if decision.desktop else Scheme.HTTP
            )
            route = build_route(identity=identity, host=host, settings=self._settings, scheme=scheme)
            if not owned.routes.is_as_desired(observed.route, route):
                work["route"] = owned.routes.ensure(route)
        if observed.home and MADE_AHEAD in observed.home.metadata.annotations:
            # The pod follows when that is done: the gateway may be about to delete a home that no one has used.
            work["home"] = owned.homes.annotate_unchanged(observed.home, {MADE_AHEAD: None})
            desktop = None
        home = desktop.home if desktop else None
        is_its_home = home is not None and (observed.pod is None or observed.pod.home_claim == home.claim)
        if home and is_its_home and (observed.home is None or observed.pod is None):
            work["home"] = owned.homes.ensure(build_home(identity=identity, home=home))
        if observed.pod:
            labels = {**identity.labels, HOLD: "false" if evictable else "true"}
            if not observed.pod.terminating and not labels.items() <= observed.pod.metadata.labels.items():
                work["pod"] = owned.pods.label(observed.pod, labels)
        elif desktop and (home is None or self._may_mount(home, session)):
            run = run_annotations(session, None)
            port = self._settings.agent_port
            pod = build_pod(identity=identity, desktop=desktop, run=run, agent_port=port)
            if home and not home.retain and not (observed.home and owner_uid(observed.home) == uid):
                # A claim of this name may be an earlier session's, or somebody else's: no pod of ours mounts it.
                work["home"] = made = asyncio.ensure_future(work["home"])
                work["pod"] = _make_after(made, partial(owned.pods.ensure, pod))
            else:
                work["pod"] = owned.pods.ensure(pod)
        return work

    def _tokens(self, observed: Observed) -> DesktopTokens:
        meta = observed.session.metadata
        pod = observed.pod.metadata.name if observed.pod else ""
        key = self._desktop_key.value
        return derive_tokens(key, namespace=meta.namespace, name=meta.name, uid=meta.uid, pod=pod)

    async def _make_secret(self, identity: Identity, tokens: DesktopTokens) -> Secret:
        return await self._owned.secrets.ensure(build_secret(identity=identity, tokens=tokens))

    async def _replace_secret(self, present: Secret, identity: Identity, tokens: DesktopTokens) -> Secret:
        await self._owned.secrets.delete(present)
        return await self._make_secret(identity, tokens)

    def _may_mount(self, home: Home, session: VDISession) -> bool:
        """A home that one desktop may use at a time is reserved until the pod that mounts it is in the caches."""
        if home.shared or not home.retain:
            return True
        meta = session.metadata
        return self._reservations.reserve(home_reservation(meta.namespace, home.claim), meta.uid)


async def _make_after(first: asyncio.Future[Any], make: Callable[[], Awaitable[Pod]]) -> Pod | None:
    """The pod, when `first` has been made; None where that fails, which is reported as its own failure."""
    await asyncio.wait([first])
    return await make() if first.exception() is None else None


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
    """A refusal in words; None when it is no refusal but trouble (no answer, a conflict, a fault of ours)."""
    if isinstance(failure, ForeignObjectError):
        if failure.owner == session_name:
            return leftover(failure.kind, failure.name)
        return name_taken(failure.kind, failure.name)
    if isinstance(failure, NotFound) and failure.api_missing:
        return explain_api_error(_kind_in(failure), failure.message, kind_missing=True)
    if isinstance(failure, Forbidden | Invalid) or (
        isinstance(failure, ServerError) and is_webhook_down(failure.message)
    ):
        return explain_api_error(_kind_in(failure), failure.message)
    return None


_KINDS = {resource.plural: resource.kind for resource in (PODS, CLAIMS, SECRETS, SERVICES, ROUTES, CONFIG_MAPS)}


def _kind_in(failure: ApiError) -> str:
    """The kind that a request was about, from its path."""
    return next((_KINDS[part] for part in failure.request.split("/") if part in _KINDS), "child")

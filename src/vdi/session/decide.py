"""Admission of a session: its desktop, or the reason why it cannot have one now. Pure; operator and
doctor use it.

    observed: session, template, children, and other sessions that request the same home or host
        -> Decision(desktop)   go: build what is missing
        -> Decision(blocked)   wait or give up, with a reason and a message

A running desktop is never taken away by this: a session that has a pod is admitted, whatever has
been edited since. Whether its pod must end is decided in `ending`, whether a node has capacity for
it in `queueing`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Event, Node, PersistentVolumeClaim, Pod, Service
from vdi.cluster.reasons import PodReason
from vdi.session.children import Route, Secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import (
    ADMITTED,
    HOME_BOUND,
    POD_READY,
    ROUTE_READY,
    TEMPLATE_FOUND,
    Reason,
)
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.failures import find_failure_block
from vdi.session.homes import COPYING, Home, Homes
from vdi.session.lifetime import Activity

_CONDITIONS = {
    "PersistentVolumeClaim": HOME_BOUND,
    "Service": ROUTE_READY,
    "IngressRoute": ROUTE_READY,
}
_WEBHOOK_FAILED = "failed calling webhook"
_WEBHOOK_DENIED = "denied the request"
_CAUSES = (
    (
        r"violates PodSecurity",
        Reason.POD_SECURITY,
        "violates the namespace's Pod Security level",
        True,
    ),
    (r"exceeded quota|failed quota", Reason.QUOTA_EXCEEDED, "exceeds the namespace's quota", False),
    (
        r"(maximum|minimum) \S+ usage per",
        Reason.REFUSED,
        "violates the namespace's LimitRange",
        True,
    ),
    (
        r"is being terminated",
        Reason.REFUSED,
        "cannot be created, because the namespace is being deleted",
        True,
    ),
    (
        _WEBHOOK_FAILED,
        Reason.REFUSED,
        "is blocked by an admission webhook that does not respond",
        False,
    ),
    (r"cannot \w+ resource", Reason.REFUSED, "may not be created by the operator (RBAC)", True),
)


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that the operator knows of one session at one moment."""

    session: VDISession
    template: VDITemplate | None = None
    pod: Pod | None = None
    # The claim that the pod mounts, or would mount.
    home: PersistentVolumeClaim | None = None
    # The name of that claim, also before it exists; empty: there is no home.
    home_claim: str = ""
    # The claims that may be its home and exist.
    homes: Homes = field(default_factory=dict)
    service: Service | None = None
    route: Route | None = None
    secret: Secret | None = None
    events: tuple[Event, ...] = ()
    # The node of the pod, or of the terminating one.
    node: Node | None = None
    # The node no longer exists.
    node_gone: bool = False
    # A pod that the operator has deleted and that has not ended yet. No other one is created before
    # that.
    terminating: Pod | None = None
    # The agent's last report; None: it does not respond.
    activity: Activity | None = None
    # Further pods of this session, to be deleted: a session has one.
    extra_pods: tuple[Pod, ...] = ()
    # Name of another session that uses the home.
    home_holder: str | None = None
    # The session of another namespace that has this one's name.
    name_holder: VDISession | None = None
    # Host label of the session; empty: it has none, or another session or user has it.
    host: str = ""
    host_blocked: Blocked | None = None

    @property
    def node_lost(self) -> bool:
        """Whether the pod is on a node that does not answer, or is gone."""
        return self.node_gone or (self.node is not None and not self.node.ready)

    def start_state(self, pod: Pod) -> StartState:
        """The input of `explain` for this session's pod."""
        return StartState(pod, self.home, self.events, self.node, self.node_lost)


@dataclass(frozen=True, slots=True)
class Decision:
    """`desktop`: what to build or complete (None: cannot be known, or may not be); `blocked`: why
    it may not be.
    """

    desktop: Desktop | None = None
    blocked: Blocked | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """One of several sessions that request the same home or host, which only one can have."""

    uid: str
    name: str
    # RFC 3339; empty sorts before all others.
    created: str
    # Its pod mounts the home or its route has the host, or these are being created.
    holds: bool
    terminating: bool


def find_holder(contenders: Iterable[Contender]) -> Contender | None:
    """The contender that gets the home or host: the one that has it, else the oldest that is not
    being deleted.
    """
    # Every session decides this for itself, so the order must be total: two sessions that each
    # thought themselves the holder would both start on one home. Hence the uid, for those that were
    # created in the same second.
    candidates = []
    for contender in contenders:
        if contender.holds or not contender.terminating:
            candidates.append(contender)
    return min(
        candidates,
        key=lambda candidate: (not candidate.holds, candidate.created, candidate.uid),
        default=None,
    )


def decide(observed: Observed, settings: ClusterSettings, now: datetime) -> Decision:
    """The decision on a session that is neither being deleted nor suspended."""
    session, template, pod = observed.session, observed.template, observed.pod
    if pod and (observed.home or pod.home_claim is None):
        return Decision()  # nothing is missing
    if template:
        resolved = resolve(session, template, settings, observed.homes)
    else:
        resolved = _template_missing(session.spec.template)
    if pod:
        return Decision(desktop=resolved if isinstance(resolved, Desktop) else None)
    if isinstance(resolved, Blocked):
        return Decision(blocked=resolved)
    if observed.name_holder:
        return Decision(blocked=_session_name_taken(session, observed.name_holder))
    if observed.host_blocked:
        return Decision(blocked=observed.host_blocked)
    if observed.home_holder and resolved.home and resolved.home.retain:
        return Decision(blocked=_home_in_use(session, resolved.home, observed.home_holder))
    blocked = find_copying(observed.home) or _lost_home(observed) or _not_again_yet(observed, now)
    if blocked:
        return Decision(blocked=blocked)
    return Decision(desktop=resolved)


def _lost_home(observed: Observed) -> Blocked | None:
    home = observed.home
    if home is None:
        return None
    name = home.metadata.name
    if home.metadata.deletion_timestamp:
        message = (
            f"The home volume {name!r} is being deleted; the desktop starts with a new one"
            " afterwards."
        )
        return Blocked(PodReason.HOME_LEAVING, message, condition=HOME_BOUND)
    if home.status.phase == "Lost":
        message = (
            f"The volume of the home {name} no longer exists; its claim is lost. An administrator"
            f" restores the volume, or deletes the claim (kubectl delete pvc {name}); the desktop"
            " then starts with an empty home."
        )
        return Blocked(PodReason.HOME_LOST, message, condition=HOME_BOUND, needs_change=True)
    return None


def _not_again_yet(observed: Observed, now: datetime) -> Blocked | None:
    """The reason why a desktop that existed before is not created again, or not yet."""
    terminating = observed.terminating
    if terminating and observed.node_lost:
        explanation = explain(observed.start_state(terminating))
        return Blocked(explanation.reason, explanation.sentence, condition=POD_READY)
    if blocked := find_failure_block(observed.session, observed.template, now):
        return blocked
    if terminating:
        node = "Kubernetes"
        if terminating.spec.node_name:
            node = f"node {terminating.spec.node_name}"
        message = f"The desktop is restarted when {node} has stopped the previous one."
        return Blocked(PodReason.POD_STOPPING, message, condition=POD_READY)
    return None


def _session_name_taken(session: VDISession, holder: VDISession) -> Blocked:
    """Portal, REST API and CLI name a session without its namespace."""
    message = (
        f"The namespace {holder.metadata.namespace!r} already has a session"
        f" {session.metadata.name!r}. Delete it, or choose another session name."
    )
    return Blocked(Reason.NAME_TAKEN, message)


def host_taken(label: str) -> Blocked:
    """Another session has the host, or another user owns its name. The message does not say who."""
    return Blocked(
        Reason.HOST_TAKEN,
        f"The host name `{label}` is not available. Choose another `spec.hostname`.",
    )


def _template_missing(name: str) -> Blocked:
    return Blocked(
        Reason.TEMPLATE_NOT_FOUND,
        f"There is no template {name!r}. The desktop starts automatically when the template is"
        " created.",
        condition=TEMPLATE_FOUND,
    )


def _home_in_use(session: VDISession, home: Home, holder: str) -> Blocked:
    if home.of_user:
        name = session.spec.user
    else:
        name = f"{session.spec.user} for the template {session.spec.template!r}"
    return Blocked(
        Reason.HOME_IN_USE,
        f"The files of {name} are in use by the desktop {holder!r}. This desktop starts when that"
        " one is suspended or ended.",
    )


def find_copying(home: PersistentVolumeClaim | None) -> Blocked | None:
    """The block while a command such as `vdi home import` fills or moves the home."""
    command = home.metadata.annotations.get(COPYING) if home else None
    if not home or not command:
        return None
    return Blocked(
        Reason.HOME_IN_USE,
        f"The home {home.metadata.name!r} is in use by `{command}`. This desktop starts when the"
        " copy is complete. If that command was interrupted, an administrator has to run it"
        " again.",
    )


def is_from_webhook(message: str) -> bool:
    """Whether an error of the server is a webhook's refusal: one that is down, or denies without a
    status of its own.

    The API server reports the first as 500 and the second as 400, as trouble of its own and
    mistakes of ours.
    """
    return _WEBHOOK_FAILED in message or _WEBHOOK_DENIED in message


def explain_api_error(kind: str, message: str, *, kind_missing: bool = False) -> Blocked:
    """A refusal of the API server to create a child of this kind, with its own message at the
    end.
    """
    condition = _CONDITIONS.get(kind, ADMITTED)
    if kind_missing:
        text = (
            f"The cluster does not know {kind}: its CRD is not installed. The session continues"
            " automatically when it is installed."
        )
        return Blocked(Reason.REFUSED, text, condition=condition)
    # The server's own message at the end of a sentence, without `pods "x" is forbidden:`.
    detail = (
        re.sub(r'^\S+ "[^"]+" is (?:forbidden|invalid): ', "", message.strip()).rstrip(".") + "."
    )
    for pattern, reason, text, needs_change in _CAUSES:
        if re.search(pattern, message):
            sentence = f"The desktop's {kind} {text}: {detail}"
            return Blocked(reason, sentence, condition=condition, needs_change=needs_change)
    sentence = f"The API server refuses the desktop's {kind}: {detail}"
    return Blocked(Reason.REFUSED, sentence, condition=condition, needs_change=True)


def name_taken(kind: str, name: str) -> Blocked:
    """A foreign object has the name of a child. It is never taken over."""
    message = (
        f"The {kind} {name!r} already exists and belongs to someone else. Delete it, or choose"
        " another session name."
    )
    return Blocked(
        Reason.NAME_TAKEN, message, condition=_CONDITIONS.get(kind, ADMITTED), needs_change=True
    )


def leftover(kind: str, name: str) -> Blocked:
    """A child of an earlier session of the same name, which the garbage collector is about to
    remove.
    """
    message = f"Waiting until the {kind} {name!r} of an earlier session with this name is deleted."
    return Blocked(Reason.NAME_TAKEN, message, condition=_CONDITIONS.get(kind, ADMITTED))

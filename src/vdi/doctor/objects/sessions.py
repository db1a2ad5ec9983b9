"""A session of a snapshot as the operator would see it, so that the operator's own functions
explain it. Pure.

Checks and probes go through `active_sessions`. A finding about a session is made by
`SessionDiagnosis.finding`, which adds the objects that the session depends on: ranking looks for
causes among them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import msgspec

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.capacity import read_capacity
from vdi.cluster.explain import Explanation, explain
from vdi.cluster.objects import Event
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import (
    LEASE,
    Operator,
    lease_namespace,
    operator_for,
    settings_for,
)
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kube.wire import convert
from vdi.session import naming
from vdi.session.children import Route
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, Reason
from vdi.session.decide import Observed, decide
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.homes import home_names, resolve_home
from vdi.session.queueing.messages import explain_shortage, find_fitting
from vdi.session.queueing.queue import Queue
from vdi.snapshot.check import merge_patch
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.objects.storage import Node, PersistentVolumeClaim
from vdi.snapshot.objects.workloads import Pod

# Reasons with which the API server refuses a child of a session: its pod, home, route.
REFUSED = frozenset({Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY, Reason.REFUSED})
# Kinds with which `SessionDiagnosis` explains a session.
OF_SESSIONS = (
    *("vditemplates", "deployments", "nodes", "pods", "events", "ingressroutes", "services"),
    *("persistentvolumeclaims", "persistentvolumes"),
)


@dataclass(frozen=True)
class SessionDiagnosis:
    """A session with its template, pod, home and operator, and the reasons why it has no
    desktop.
    """

    snapshot: Snapshot
    session: VDISession

    def finding(
        self,
        code: str,
        message: str,
        *,
        remedy: Remedy,
        object_name: str = "",
        evidence: Iterable[str] = (),
        severity: Severity | None = None,
    ) -> Finding:
        """A finding about this session, or about an object of it."""
        return make_finding(
            code,
            object_name or self.object,
            message,
            remedy=remedy,
            evidence=evidence,
            severity=severity,
            related_objects=self.related_objects,
        )

    @property
    def object(self) -> str:
        """Its name in findings: `vdisession/NAMESPACE/NAME`."""
        return f"vdisession/{self.namespace}/{self.name}"

    @property
    def namespace(self) -> str:
        return self.session.metadata.namespace

    @property
    def name(self) -> str:
        return self.session.metadata.name

    @property
    def template_name(self) -> str:
        return self.session.spec.template

    @property
    def kubectl(self) -> str:
        """kubectl in its namespace, for commands of remedies."""
        return f"kubectl --namespace {self.namespace}"

    @property
    def restart_command(self) -> str:
        return f"vdi session restart {self.name} -n {self.namespace}"

    @cached_property
    def operator(self) -> Operator | None:
        return operator_for(self.snapshot, self.namespace)

    @property
    def host(self) -> str:
        """Host of its address: by its operator's settings, else as the operator reported it; empty:
        not known.
        """
        host = urlsplit(self.session.status.url).hostname or ""
        label = self.session.spec.hostname or host.partition(".")[0]
        if self.operator is None or self.operator.problem or not label:
            return host
        return self.operator.settings.host(label)

    def set_limit(self, resource: str, value: str) -> tuple[str, str, str]:
        """The object that sets its limit of `cpu` or `memory`, its name in messages, and the
        command to change it.
        """
        resources, template = self.session.spec.resources, self.template_name
        if resources and getattr(resources, resource):
            patch = {"spec": {"resources": {resource: value}}}
            return (
                self.object,
                "the session",
                merge_patch("vdisession", self.name, patch, self.namespace),
            )
        patch = {
            "spec": {"resources": {"defaultCPU" if resource == "cpu" else "defaultMemory": value}}
        }
        return (
            f"vditemplate/{template}",
            f"template `{template}`",
            merge_patch("vditemplate", template, patch),
        )

    @property
    def read_operator_log(self) -> Remedy:
        return Remedy.run(self._at_operator("logs"))

    @property
    def restart_operator(self) -> Remedy:
        sentence = "Read the operator's log, then restart it."
        return Remedy(sentence, (self._at_operator("logs"), self._at_operator("rollout restart")))

    def _at_operator(self, verb: str) -> str:
        if self.operator:
            namespace = self.operator.namespace
        else:
            namespace = RELEASE_NAMESPACE
        name = self.operator.name if self.operator else "vdi-operator"
        return f"kubectl --namespace {namespace} {verb} deployment/{name}"

    @property
    def resting(self) -> bool:
        """Suspended or being deleted: no desktop is expected of it."""
        return bool(self.session.spec.suspended or self.session.metadata.deletion_timestamp)

    @property
    def _all_pods(self) -> list[Pod]:
        return self.snapshot.pods_by_owner.get(self.session.metadata.uid, [])

    @cached_property
    def pods(self) -> list[Pod]:
        """Its pods that are not being deleted, the one in its status first."""
        named = self.session.status.pod_name
        live = [pod for pod in self._all_pods if not pod.terminating]
        return sorted(
            live, key=lambda pod: (pod.metadata.name != named, not pod.ready, pod.metadata.name)
        )

    @cached_property
    def pod(self) -> Pod | None:
        return self.pods[0] if self.pods else None

    @cached_property
    def stranded(self) -> Pod | None:
        """Its pod that is being deleted and cannot end, because its node is lost; None while it has
        another pod.
        """
        if self.pod:
            return None
        return next(
            (
                pod
                for pod in self._all_pods
                if pod.terminating and self._is_lost(pod.spec.node_name)
            ),
            None,
        )

    @property
    def bound(self) -> Pod | None:
        """Its pod, or the stranded one."""
        return self.pod or self.stranded

    def _is_lost(self, name: str) -> bool:
        node = self.snapshot.nodes.get(name)
        return bool(name and self.snapshot.nodes) and (node is None or not node.ready)

    @cached_property
    def desktop(self) -> Desktop | Blocked | None:
        """The desktop that it requests; None: its template does not exist."""
        policy = settings_for(self.snapshot, self.namespace)
        if self.template:
            return resolve(self.session, self.template, policy, self.homes)
        return None

    @property
    def template(self) -> VDITemplate | None:
        return self.snapshot.templates.get(self.template_name)

    @cached_property
    def homes(self) -> dict[str, PersistentVolumeClaim]:
        """Existing claims that may be its home."""
        named_claims = (
            (name, self.snapshot.claims.get((self.namespace, name)))
            for name in home_names(self.session)
        )
        return {name: claim for name, claim in named_claims if claim}

    @cached_property
    def home(self) -> PersistentVolumeClaim | None:
        name = self.pod.home_claim if self.pod else None
        if (
            name is None
            and self.template
            and (home := resolve_home(self.session, self.template, self.homes))
        ):
            name = home.claim
        if name:
            return self.snapshot.claims.get((self.namespace, name))
        return None

    @cached_property
    def observed(self) -> Observed:
        """The operator's view of it, without rival sessions: the operator names those in the
        status.
        """
        service = self.snapshot.find("services", naming.service_name(self.name), self.namespace)
        route = self.snapshot.find("ingressroutes", naming.route_name(self.name), self.namespace)
        node = None
        if self.bound:
            node = self.snapshot.nodes.get(self.bound.spec.node_name)
        return Observed(
            session=self.session,
            template=self.template,
            pod=self.pod,
            home=self.home,
            homes=self.homes,
            service=service,
            route=convert(msgspec.to_builtins(route), Route) if route else None,
            events=tuple(self._events()),
            node=node,
            node_gone=bool(
                self.bound and self.bound.spec.node_name and node is None and self.snapshot.nodes
            ),
            terminating=self.stranded,
        )

    def _events(self) -> Iterator[Event]:
        if self.pod is None:
            return
        yield from self.snapshot.events_of(self.pod.metadata.uid)
        if self.home:
            yield from self.snapshot.events_of(self.home.metadata.uid)

    @property
    def idle_seconds(self) -> float:
        """Time since the last change of its conditions."""
        times = []
        for one in self.session.status.conditions:
            if one.last_transition_time:
                times.append(one.last_transition_time)
        return self.snapshot.age(max([self.session.metadata.creation_timestamp, *times]))

    @property
    def starting_seconds(self) -> float | None:
        """Age of its pod, or time since the last change of a session without one; None: the desktop
        is ready.
        """
        if self.pod is None:
            return self.idle_seconds
        if self.answer:
            return self.snapshot.age(self.pod.metadata.creation_timestamp)
        return None

    @cached_property
    def answer(self) -> Explanation | None:
        """The reason why its pod is not ready; None: it is ready, or there is no pod."""
        if self.pod is None or (self.pod.ready and not self.observed.node_lost):
            return None
        return explain(self.observed.start_state(self.pod))

    @cached_property
    def problem(self) -> Blocked | None:
        """The reason why it has no pod: as the operator reported it of this generation, else as it
        would report it.
        """
        if self.pod is not None or self.resting:
            return None
        status = self.session.status
        blamed = None
        for condition in status.conditions:
            is_blamed = condition.type == ADMITTED or condition.reason in REFUSED
            if condition.status == "False" and is_blamed:
                blamed = blamed or condition
        current = status.observed_generation == self.session.metadata.generation
        # A queue position that is out of date must not hide that the operator no longer acts on the
        # session.
        if blamed and current and not (blamed.reason in QUEUE_REASONS and self._has_room):
            message = status.message or blamed.message
            return Blocked(blamed.reason, message, needs_change=status.phase == Phase.FAILED)
        problem = decide(
            self.observed, settings_for(self.snapshot, self.namespace), self.snapshot.now
        ).blocked
        return problem or self._shortage

    @property
    def _has_room(self) -> bool:
        """Whether it fits on a node now, with no other session in the queue."""
        others = _queued(self.snapshot) - int(self.session.status.queue is not None)
        return self._shortage is None and isinstance(self.desktop, Desktop) and others <= 0

    @cached_property
    def _shortage(self) -> Blocked | None:
        """The resource that is short, by the queue's own calculation."""
        desktop, snapshot = self.desktop, self.snapshot
        if not isinstance(desktop, Desktop) or snapshot.unreadable_kinds & {"nodes", "pods@all"}:
            return None
        volume = None
        if self.home:
            volume = snapshot.volumes.get(self.home.spec.volume_name)
        demand = desktop.demand(volume.pin if volume else ())
        queue = _full_queue(snapshot)
        group = queue.group_of(demand)
        if any(not room.closed and room.fits(demand.takes) for room in group.capacities.values()):
            return None
        short = explain_shortage(
            group, queue.capacities, lambda demand: find_fitting(demand, queue.capacities.values())
        )
        message = f"There is not enough capacity for it: {short.words}."
        return Blocked(short.reason, message, needs_change=short.hopeless)

    @property
    def related_objects(self) -> list[str]:
        """Objects that it depends on, as findings name them."""
        name = naming.service_name(self.name)
        objects = [
            self.object,
            f"namespace/{self.namespace}",
            f"vditemplate/{self.template_name}",
            f"lease/{lease_namespace(self.snapshot, self.namespace)}/{LEASE}",
            f"ingressroute/{self.namespace}/{name}",
            f"service/{self.namespace}/{name}",
        ]
        if self.template and self.template.spec.basic_auth_secret:
            objects.append(f"secret/{self.namespace}/{self.template.spec.basic_auth_secret.name}")
        if self.operator:
            objects.append(self.operator.object)
        if self.bound:
            objects += [
                f"pod/{self.namespace}/{self.bound.metadata.name}",
                f"node/{self.bound.spec.node_name}",
            ]
        if self.home:
            objects += [f"persistentvolumeclaim/{self.namespace}/{self.home.metadata.name}"]
            objects += [f"node/{name}" for name in pinned_nodes(self.snapshot, self.home)]
        return objects


@once
def _queued(snapshot: Snapshot) -> int:
    return sum(session.status.queue is not None for session in snapshot.all_sessions)


@once
def _full_queue(snapshot: Snapshot) -> Queue:
    """The capacity of all nodes and their use by pods of all namespaces."""
    queue = Queue()
    for node in snapshot.nodes.values():
        queue.set_node(read_capacity(node))
    for pod in snapshot.pods:
        if pod.spec.node_name and pod.status.phase not in ("Succeeded", "Failed"):
            queue.bind(pod.metadata.uid, pod.spec.node_name, pod.spec.takes, foreign=True, now=0)
    return queue


# The scheduler compares a volume's nodes by this label of theirs, which is mostly their name.
HOST_NAME = "kubernetes.io/hostname"


@once
def _names_by_label(snapshot: Snapshot) -> dict[str, str]:
    names = {}
    for name, node in snapshot.nodes.items():
        names[node.metadata.labels.get(HOST_NAME, name)] = name
    return names


def _pins(snapshot: Snapshot, claim: PersistentVolumeClaim) -> Iterator[tuple[str, str]]:
    """What a claim's volume requires of a node: label or field, and value."""
    volume = snapshot.volumes.get(claim.spec.volume_name)
    for term in volume.pin if volume else ():
        for expression in (*term.match_expressions, *term.match_fields):
            if expression.operator == "In" and expression.key in (HOST_NAME, "metadata.name"):
                yield from ((expression.key, value) for value in expression.values)


def find_relabelled(snapshot: Snapshot, claim: PersistentVolumeClaim) -> Node | None:
    """A node whose name is the label that a claim's volume requires, and which no longer has that
    label, as no other has it.
    """
    for key, value in _pins(snapshot, claim):
        if key == HOST_NAME and value not in _names_by_label(snapshot):
            return snapshot.nodes.get(value)
    return None


def pinned_nodes(snapshot: Snapshot, claim: PersistentVolumeClaim) -> list[str]:
    """Names of the nodes that a claim's volume is tied to, whether or not they exist."""
    names = set()
    for key, value in _pins(snapshot, claim):
        if key == HOST_NAME:
            names.add(_names_by_label(snapshot).get(value, value))
        else:
            names.add(value)
    return sorted(names)


@once
def diagnose_sessions(snapshot: Snapshot) -> tuple[SessionDiagnosis, ...]:
    """All sessions in the scope. Cached: checks share what one of them has worked out."""
    return tuple(SessionDiagnosis(snapshot, session) for session in snapshot.sessions)


def active_sessions(snapshot: Snapshot) -> list[SessionDiagnosis]:
    """Sessions in the scope of which a desktop is expected."""
    return [diagnosis for diagnosis in diagnose_sessions(snapshot) if not diagnosis.resting]

"""A session of a snapshot as the operator would see it, so that the operator's own functions explain it. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import urlsplit

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.capacity import read_capacity
from vdi.cluster.explain import Explanation, explain
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod, Service
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.components import LEASE, lease_namespace, operator_for, settings_for
from vdi.findings.model import Remedy
from vdi.kube.wire import convert
from vdi.session import naming
from vdi.session.children import Route
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, Reason
from vdi.session.decide import Observed, decide
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.homes import home_names, resolve_home
from vdi.session.queueing.messages import explain_shortage, find_fitting
from vdi.session.queueing.queue import Queue


@dataclass(frozen=True)
class SessionDiagnosis:
    """One session, and what explains it."""

    snapshot: Snapshot
    session: VDISession

    @property
    def object(self) -> str:
        """As findings name it."""

        return f"vdisession/{self.namespace}/{self.session.metadata.name}"

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.session.metadata.namespace

    @property
    def host(self) -> str:
        """The host of its address: from its operator's settings, or as the operator reported; empty: not known."""
        operator = operator_for(self.snapshot, self.namespace)
        host = urlsplit(self.session.status.url).hostname or ""
        label = self.session.spec.hostname or host.partition(".")[0]
        if operator is None or operator.problem or not label:
            return host
        return operator.settings.host(label)

    @property
    def read_operator_log(self) -> Remedy:
        """How to see what its operator says."""
        return Remedy.run(f"kubectl --namespace {self._operator_namespace} logs {self._operator_deployment}")

    @property
    def restart_operator(self) -> Remedy:
        """How to restart its operator, whose log is worth reading before."""
        return Remedy(
            "Read the operator's log, then restart it.",
            (
                *self.read_operator_log.commands,
                f"kubectl --namespace {self._operator_namespace} rollout restart {self._operator_deployment}",
            ),
        )

    @property
    def _operator_namespace(self) -> str:
        operator = operator_for(self.snapshot, self.namespace)
        return operator.namespace if operator else RELEASE_NAMESPACE

    @property
    def _operator_deployment(self) -> str:
        operator = operator_for(self.snapshot, self.namespace)
        return f"deployment/{operator.name if operator else 'vdi-operator'}"

    @property
    def resting(self) -> bool:
        """Suspended or on its way out: nothing is expected of it."""
        return bool(self.session.spec.suspended or self.session.metadata.deletion_timestamp)

    @cached_property
    def pods(self) -> list[Pod]:
        """Its pods that are not leaving, the one that its status names first."""
        named, mine = self.session.status.pod_name, self.snapshot.pods_by_owner.get(self.session.metadata.uid, [])
        live = [pod for pod in mine if not pod.terminating]
        return sorted(live, key=lambda pod: (pod.metadata.name != named, not pod.ready, pod.metadata.name))

    @cached_property
    def pod(self) -> Pod | None:
        """Its pod."""
        return self.pods[0] if self.pods else None

    @cached_property
    def stranded(self) -> Pod | None:
        """Its pod that is being deleted and cannot end, since its node is lost; None while there is another one."""
        mine = self.snapshot.pods_by_owner.get(self.session.metadata.uid, []) if self.pod is None else []
        return next((pod for pod in mine if pod.terminating and self._is_lost(pod.spec.node_name)), None)

    def _is_lost(self, name: str) -> bool:
        node = self.snapshot.nodes.get(name)
        return bool(name and self.snapshot.nodes) and (node is None or not node.ready)

    @cached_property
    def desktop(self) -> Desktop | Blocked | None:
        """What it asks for; None: its template is not there."""
        template, policy = self.template, settings_for(self.snapshot, self.namespace)
        return resolve(self.session, template, policy, self.homes) if template else None

    @property
    def template(self) -> VDITemplate | None:
        """What it is made from; None: it is not there."""
        return self.snapshot.templates.get(self.session.spec.template)

    @cached_property
    def homes(self) -> dict[str, PersistentVolumeClaim]:
        """The claims that may be its home and exist."""
        found = ((name, self.snapshot.claims.get((self.namespace, name))) for name in home_names(self.session))
        return {name: claim for name, claim in found if claim}

    @cached_property
    def home(self) -> PersistentVolumeClaim | None:
        """Its home."""
        name = self.pod.home_claim if self.pod else None
        if name is None and self.template and (home := resolve_home(self.session, self.template, self.homes)):
            name = home.claim
        return self.snapshot.claims.get((self.namespace, name)) if name else None

    @cached_property
    def observed(self) -> Observed:
        """As the operator sees it, but for rivals, whom the operator's own words name."""
        name, pod = self.session.metadata.name, self.pod
        service = self.snapshot.find("services", naming.service_name(name), self.namespace)
        route = self.snapshot.find("ingressroutes", naming.route_name(name), self.namespace)
        bound = pod or self.stranded
        node = self.snapshot.nodes.get(bound.spec.node_name) if bound else None
        return Observed(
            session=self.session,
            template=self.template,
            pod=pod,
            home=self.home,
            homes=self.homes,
            service=convert(service, Service) if service else None,
            route=convert(route, Route) if route else None,
            events=tuple(self._events()),
            node=node,
            node_gone=bool(bound and bound.spec.node_name and node is None and self.snapshot.nodes),
            terminating=self.stranded,
        )

    def _events(self) -> Iterator[Event]:
        pod = self.pod
        if pod is None:
            return
        subjects = [("Pod", pod.metadata.name)] + (
            [("PersistentVolumeClaim", pod.home_claim)] if pod.home_claim else []
        )
        for kind, name in subjects:
            for event in self.snapshot.events.get((kind, self.namespace, name), ()):
                if kind != "Pod" or event.regarding.uid in ("", pod.metadata.uid):
                    yield event

    @cached_property
    def answer(self) -> Explanation | None:
        """Why its pod is not ready; None: it is ready, or there is no pod."""
        pod = self.pod
        if pod is None or (pod.ready and not self.observed.node_lost):
            return None
        return explain(self.observed.start_state(pod))

    @cached_property
    def problem(self) -> Blocked | None:
        """Why it has no pod: the operator's own words if it has said something, else what it would say."""
        if self.pod is not None or self.resting:
            return None
        said = next(
            (
                condition
                for condition in self.session.status.conditions
                if condition.type == ADMITTED and condition.status == "False"
            ),
            None,
        )
        if said and self.session.status.observed_generation == self.session.metadata.generation:
            failed = self.session.status.phase == Phase.FAILED
            if not (said.reason in QUEUE_REASONS and self._has_room):
                return Blocked(said.reason, self.session.status.message or said.message, needs_change=failed)
        problem = decide(self.observed, settings_for(self.snapshot, self.namespace), self.snapshot.now).blocked
        return problem or self._shortage

    @property
    def _has_room(self) -> bool:
        """It is said to wait for room, and there is room: then something else is wrong."""
        return self._shortage is None and isinstance(self.desktop, Desktop) and not self._others_wait

    @property
    def _others_wait(self) -> bool:
        mine = int(self.session.status.queue is not None)
        return _waiters(self.snapshot) > mine

    @cached_property
    def _shortage(self) -> Blocked | None:
        """What there is too little of, by the queue's own reckoning, when the operator does not say."""
        desktop, snapshot = self.desktop, self.snapshot
        if not isinstance(desktop, Desktop) or snapshot.unreadable_kinds & {"nodes", "pods@all"}:
            return None
        volume = snapshot.volumes.get(self.home.spec.volume_name) if self.home else None
        demand = desktop.demand(volume.pin if volume else ())
        queue = full_queue(snapshot)
        group = queue.group_of(demand)
        if any(not room.closed and room.fits(demand.takes) for room in group.capacities.values()):
            return None
        short = explain_shortage(
            group, queue.capacities, lambda demand: find_fitting(demand, queue.capacities.values())
        )
        return Blocked(
            short.reason, f"There is not enough capacity for it: {short.words}.", needs_change=short.hopeless
        )

    @property
    def related_objects(self) -> list[str]:
        """All that it hangs on."""
        spec, meta = self.session.spec, self.session.metadata
        name = naming.service_name(meta.name)
        found = [
            self.object,
            f"namespace/{self.namespace}",
            f"vditemplate/{spec.template}",
            f"lease/{lease_namespace(self.snapshot, self.namespace)}/{LEASE}",
            f"ingressroute/{self.namespace}/{name}",
            f"service/{self.namespace}/{name}",
        ]
        if self.template and self.template.spec.basic_auth_secret:
            found.append(f"secret/{self.namespace}/{self.template.spec.basic_auth_secret.name}")
        if operator := operator_for(self.snapshot, self.namespace):
            found.append(operator.object)
        if bound := self.pod or self.stranded:
            found += [f"pod/{self.namespace}/{bound.metadata.name}", f"node/{bound.spec.node_name}"]
        if self.home:
            found += [f"persistentvolumeclaim/{self.namespace}/{self.home.metadata.name}"]
            found += [f"node/{name}" for name in pinned_nodes(self.snapshot, self.home)]
        return found


@lru_cache(maxsize=2)
def _waiters(snapshot: Snapshot) -> int:
    return sum(session.status.queue is not None for session in snapshot.all_sessions)


@lru_cache(maxsize=2)
def full_queue(snapshot: Snapshot) -> Queue:
    """The capacity of all nodes, and what is used of it."""
    queue = Queue()
    for node in snapshot.nodes.values():
        queue.set_node(read_capacity(node))
    for pod in snapshot.pods:
        if pod.spec.node_name and pod.status.phase not in ("Succeeded", "Failed"):
            queue.bind(pod.metadata.uid, pod.spec.node_name, pod.spec.takes, foreign=True, now=0)
    return queue


def pinned_nodes(snapshot: Snapshot, claim: PersistentVolumeClaim) -> list[str]:
    """The names of nodes that a volume is tied to, whether or not they are there."""
    volume = snapshot.volumes.get(claim.spec.volume_name)
    terms = volume.pin if volume else ()
    found = [
        value
        for term in terms
        for match_expression in (*term.match_expressions, *term.match_fields)
        if match_expression.operator == "In" and match_expression.key in ("kubernetes.io/hostname", "metadata.name")
        for value in match_expression.values
    ]
    return sorted(set(found))


@lru_cache(maxsize=2)
def diagnose_sessions(snapshot: Snapshot) -> tuple[SessionDiagnosis, ...]:
    """The sessions that were asked about."""
    return tuple(SessionDiagnosis(snapshot, session) for session in snapshot.sessions)


def active(found: Iterable[SessionDiagnosis]) -> Iterator[SessionDiagnosis]:
    """Those from which a desktop is expected."""
    return (diagnosis for diagnosis in found if not diagnosis.resting)


# Reasons by which the API server did not take a child of a session.
REFUSED = frozenset({Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY, Reason.REFUSED})

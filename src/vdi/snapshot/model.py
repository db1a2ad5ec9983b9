"""The cluster at one moment, as frozen data that can be saved and replayed, and the reads that were
not allowed. Pure.

Objects have the fields of `vdi.snapshot.objects`, and no others.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, wraps
from typing import Any, TypeVar

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.findings.model import Remedy
from vdi.snapshot.objects import Objects
from vdi.snapshot.objects.meta import Event
from vdi.snapshot.objects.storage import Node, PersistentVolume, PersistentVolumeClaim
from vdi.snapshot.objects.workloads import Pod, WorkloadObject

Raw = Mapping[str, Any]
T = TypeVar("T")

FORMAT = 1
# In place of a value that does not exist.
NOT_SET = "not set"
# In place of the error of a log that did not come.
NO_RESPONSE = "no response within 5 s"
# In place of an account's name that the API server does not give.
UNKNOWN_ACCOUNT = "your account"
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


def grant_commands(
    prefix: str, who: str, verb: str, resource: str, *, namespace: str = "", resource_name: str = ""
) -> tuple[str, ...]:
    """Commands that create a role with this one permission, and bind it to `who`, unless that is
    unknown.

    Each role has a name of its own, so that several can be pasted. `resource` as kubectl takes it:
    `pods`, `deployments.apps`, `pods/log`. `namespace` empty: in all of them.
    """
    if namespace:
        kind, at = "role", ["--namespace", namespace]
    else:
        kind, at = "clusterrole", []
    name = "-".join(
        re.sub(r"[^a-z0-9-]", "-", part) for part in (prefix, verb, resource, resource_name) if part
    )
    named = [f"--resource-name={resource_name}"] if resource_name else []
    role = [
        "kubectl",
        "create",
        kind,
        name,
        *at,
        f"--verb={verb}",
        f"--resource={resource}",
        *named,
    ]
    if who == UNKNOWN_ACCOUNT:
        return (shlex.join(role),)
    account = _SERVICE_ACCOUNT.fullmatch(who)
    if account:
        subject = f"--serviceaccount={account[1]}:{account[2]}"
    else:
        subject = f"--user={who}"
    binding = ["kubectl", "create", f"{kind}binding", name, *at, f"--{kind}={name}", subject]
    return shlex.join(role), shlex.join(binding)


class BadSnapshotError(ValueError):
    """Raised when a file is not a snapshot that this version reads; the message says why."""


class Unreadable(msgspec.Struct, frozen=True):
    """A kind that could not be read, by its name in `needs` of checks (`pods@all`: those of all
    namespaces).
    """

    kind: str
    words: str
    remedy: Remedy = Remedy()


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The public part of a TLS Secret. `problem`: why it cannot be used, a clause; `missing`: there
    is no Secret.
    """

    namespace: str
    secret: str
    names: tuple[str, ...] = ()
    begins: str = ""
    ends: str = ""
    problem: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field of an object that differs from the manifest of its Helm release. `object`: as
    findings name it.
    """

    object: str
    # NAMESPACE/NAME.
    release: str
    # Helm's own command that puts back what it has installed.
    rollback: str
    # Label of the object: the part of the release that it belongs to, such as `operator`.
    component: str = ""
    # Whether it has content that is not in the manifest, such as a key.
    has_data: bool = False
    # Empty: the object does not exist.
    field: str = ""
    expected: str = ""
    observed: str = ""
    # The program that has changed it, and the time; empty: not known.
    manager: str = ""
    time: str = ""


class ServiceAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Connections from the machine that runs the doctor, to the address of a Service and to that of
    its pod: whether each was accepted. `service`: as findings name it.
    """

    service: str
    pod: bool
    address: bool


class Scope(msgspec.Struct, frozen=True):
    """The requested namespace and session; empty: all. `kasm`: the namespace holds Kasm, whatever
    its chart is.
    """

    namespace: str = ""
    session: str = ""
    kasm: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, dict=True, eq=False):
    """The cluster at one moment. `absent`: plurals of kinds that the API server does not know."""

    format: int = FORMAT
    taken_at: str
    scope: Scope = Scope()
    objects: Objects = msgspec.field(default_factory=Objects)
    absent: tuple[str, ...] = ()
    unread: tuple[Unreadable, ...] = ()
    # The end of a pod's log, by `namespace/name`; of one of several containers, by
    # `namespace/name/container`.
    logs: dict[str, list[str]] = {}
    # Errors of the API server in place of a log, by `namespace/name` of the pod.
    log_errors: dict[str, str] = {}
    certificates: tuple[Certificate, ...] = ()
    # From the manifests of the releases of operators and gateways.
    differences: tuple[Difference, ...] = ()
    # End of the API server's certificate; empty: not known, or no TLS.
    api_certificate_ends: str = ""
    # None: there was no Service to try, or the machine reaches none.
    service_attempt: ServiceAttempt | None = None
    # Time of the slowest of a few small consecutive requests; 0: not measured.
    api_seconds: float = 0.0

    @cached_property
    def _derived(self) -> dict[Callable[..., Any], Any]:
        """Values of functions with `once`."""
        return {}

    def release(self) -> None:
        """Forget what checks have derived, which refers to this snapshot: it then is gone with its
        last user, and does not wait for the garbage collector beside the next one.
        """
        self._derived.clear()

    @cached_property
    def now(self) -> datetime:
        return parse_time(self.taken_at)

    @cached_property
    def unreadable_kinds(self) -> frozenset[str]:
        return frozenset(one.kind for one in self.unread)

    def of_kind(self, plural: str) -> list[Any]:
        found: list[Any] = getattr(self.objects, plural)
        return found

    def find(self, plural: str, name: str, namespace: str = "") -> Any:
        names = self._names.get(plural)
        if names is None:
            objects = self.of_kind(plural)
            names = {(one.metadata.namespace, one.metadata.name): one for one in objects}
            self._names[plural] = names
        return names.get((namespace, name))

    @cached_property
    def _names(self) -> dict[str, dict[tuple[str, str], Any]]:
        """Objects by namespace and name, of the kinds that were looked up."""
        return {}

    @property
    def all_sessions(self) -> Sequence[VDISession]:
        """Sessions of all namespaces, whatever the scope."""
        return self.objects.vdisessions

    @cached_property
    def sessions(self) -> list[VDISession]:
        scope = self.scope
        return [
            session
            for session in self.all_sessions
            if scope.namespace in ("", session.metadata.namespace)
            and scope.session in ("", session.metadata.name)
        ]

    @cached_property
    def templates(self) -> dict[str, VDITemplate]:
        return {template.metadata.name: template for template in self.objects.vditemplates}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        return {node.metadata.name: node for node in self.objects.nodes}

    @property
    def pods(self) -> list[Pod]:
        return self.objects.pods

    @cached_property
    def pods_by_owner(self) -> dict[str, list[Pod]]:
        """Pods by the uid of an owner."""
        found: dict[str, list[Pod]] = defaultdict(list)
        for pod in self.pods:
            for owner in pod.metadata.owner_references:
                found[owner.uid].append(pod)
        return found

    @cached_property
    def claims(self) -> dict[tuple[str, str], PersistentVolumeClaim]:
        claims = self.objects.persistentvolumeclaims
        return {(claim.metadata.namespace, claim.metadata.name): claim for claim in claims}

    @cached_property
    def volumes(self) -> dict[str, PersistentVolume]:
        return {volume.metadata.name: volume for volume in self.objects.persistentvolumes}

    @cached_property
    def events(self) -> dict[tuple[str, str, str], list[Event]]:
        """Warnings, by kind, namespace and name of the object they are about."""
        by_object: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
        for event in self.objects.events:
            by_object[event.regarding.kind, event.metadata.namespace, event.regarding.name].append(
                event
            )
        return by_object

    @cached_property
    def events_by_uid(self) -> dict[str, list[Event]]:
        """Warnings by the uid of their object. They outlive it by an hour, so its name is also that
        of a namesake.
        """
        by_uid: dict[str, list[Event]] = defaultdict(list)
        for event in self.objects.events:
            by_uid[event.regarding.uid].append(event)
        return by_uid

    def volume_path(self, name: str) -> str:
        """The folder of a PersistentVolume on its node; empty where it has none."""
        volume = self.volumes.get(name)
        source = None
        if volume:
            source = volume.spec.host_path or volume.spec.local
        return source.path if source else ""

    def events_of(self, uid: str) -> list[Event]:
        """Warnings about the object with this uid; none about an object without one."""
        return self.events_by_uid.get(uid, []) if uid else []

    def log_of(self, pod: Pod) -> list[str]:
        """The end of a pod's log; empty where none was read."""
        return self.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []

    def pods_of(self, workload: WorkloadObject) -> list[Pod]:
        """Pods of a Deployment or DaemonSet, by its selector, with those that are being deleted."""
        namespace, selector = workload.metadata.namespace, workload.spec.selector.match_labels
        return [
            pod
            for pod in self.pods
            if selector
            and pod.metadata.namespace == namespace
            and selector.items() <= pod.metadata.labels.items()
        ]

    def nodes_of(self, workload: WorkloadObject) -> list[str]:
        """Nodes of its pods, as findings name them; while a pod has no node, also nodes that are
        not ready.
        """
        pods = self.pods_of(workload)
        names = {pod.spec.node_name for pod in pods if pod.spec.node_name}
        if not pods or not all(pod.spec.node_name for pod in pods):
            names |= {name for name, node in self.nodes.items() if not node.ready}
        return [f"node/{name}" for name in sorted(names)]

    def age(self, timestamp: str | None) -> float:
        """Seconds from a time of the API to the snapshot's; 0 without a time."""
        if timestamp:
            return (self.now - parse_time(timestamp)).total_seconds()
        return 0.0


def once(function: Callable[[Snapshot], T]) -> Callable[[Snapshot], T]:
    """Decorator of a function that checks share: its value is computed once, and ends with its
    snapshot.
    """

    @wraps(function)
    def derive(snapshot: Snapshot) -> T:
        derived = snapshot._derived
        if function not in derived:
            derived[function] = function(snapshot)
        value: T = derived[function]
        return value

    return derive


def save(snapshot: Snapshot) -> bytes:
    """The snapshot as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=1)


def load(data: bytes) -> Snapshot:
    """The snapshot in a document of `save`. Raises BadSnapshotError."""
    try:
        snapshot = msgspec.json.decode(data, type=Snapshot)
        parse_time(snapshot.taken_at)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadSnapshotError(f"it is not a bundle of vdi doctor: {error}") from error
    if snapshot.format != FORMAT:
        raise BadSnapshotError(f"its format is {snapshot.format}; this version reads {FORMAT}")
    return snapshot

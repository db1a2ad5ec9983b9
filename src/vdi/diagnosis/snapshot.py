"""The cluster at one moment, as frozen data that can be saved and replayed, and what could not be read of it. Pure.

Objects are as the API server sent them, without what no check reads. Checks read them through the properties.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event, Node, PersistentVolume, PersistentVolumeClaim, Pod
from vdi.cluster.units import parse_time
from vdi.kube.wire import convert

_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
# Who lacks a right, where the API server does not say it.
UNKNOWN_ACCOUNT = "your account"


def grant_commands(
    prefix: str, who: str, verb: str, resource: str, *, namespace: str = "", resource_name: str = ""
) -> tuple[str, ...]:
    """A role of this one right, with a name of its own so that several can be pasted, and its binding to `who`.

    `resource` as kubectl takes it: `pods`, `deployments.apps`, `pods/log`. `namespace` empty: in all of them. Where it
    is unknown who it is, the binding is left out.
    """

    kind, at = ("role", ["--namespace", namespace]) if namespace else ("clusterrole", [])
    name = "-".join(re.sub(r"[^a-z0-9-]", "-", part) for part in (prefix, verb, resource, resource_name) if part)
    named = [f"--resource-name={resource_name}"] if resource_name else []
    role = ["kubectl", "create", kind, name, *at, f"--verb={verb}", f"--resource={resource}", *named]
    if who == UNKNOWN_ACCOUNT:
        return (shlex.join(role),)
    account = _ACCOUNT.fullmatch(who)
    subject = f"--serviceaccount={account[1]}:{account[2]}" if account else f"--user={who}"
    binding = ["kubectl", "create", f"{kind}binding", name, *at, f"--{kind}={name}", subject]
    return shlex.join(role), shlex.join(binding)


Raw = Mapping[str, Any]
T = TypeVar("T")

FORMAT = 1
# In the place of a value that may be a secret.
REDACTED = "(redacted)"


class BadSnapshotError(ValueError):
    """Raised when a file is not a snapshot that this version reads; the message says what is wrong with it."""


class Unreadable(msgspec.Struct, frozen=True):
    """Something that could not be read. `kind` is what checks call it (`pods@all`: those of all namespaces)."""

    kind: str
    words: str
    # What to do, in a sentence.
    remedy: str
    commands: tuple[str, ...] = ()


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The public part of a TLS Secret."""

    namespace: str
    secret: str
    names: tuple[str, ...] = ()
    begins: str = ""
    ends: str = ""
    # Why it cannot be used, a clause; `missing`: there is no such Secret.
    problem: str = ""


class Scope(msgspec.Struct, frozen=True):
    """What was requested."""

    # Sessions of this namespace; empty: of all.
    namespace: str = ""
    # Only this session of the namespace; empty: all.
    session: str = ""
    # The namespace holds Kasm, whatever its chart is.
    kasm: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, dict=True, eq=False):
    """The cluster at one moment."""

    format: int = FORMAT
    taken_at: str
    scope: Scope = Scope()
    # By plural.
    objects: dict[str, list[dict[str, Any]]] = {}
    # Plurals of kinds that the API server does not know.
    absent: tuple[str, ...] = ()
    unread: tuple[Unreadable, ...] = ()
    # The end of a pod's log, by `namespace/name`; of one of several containers, by `namespace/name/container`.
    logs: dict[str, list[str]] = {}
    certificates: tuple[Certificate, ...] = ()
    # When the certificate that the API server shows ends; empty: not known, or there is no TLS.
    api_certificate_ends: str = ""
    # How long the fastest of a few small requests took, one after the other; 0: not measured.
    api_seconds: float = 0.0

    @cached_property
    def now(self) -> datetime:
        """When it was taken."""
        return parse_time(self.taken_at)

    @cached_property
    def unreadable_kinds(self) -> frozenset[str]:
        """Kinds that could not be read."""
        return frozenset(one.kind for one in self.unread)

    def raw(self, plural: str) -> list[dict[str, Any]]:
        """Objects of a kind."""
        return self.objects.get(plural, [])

    def find(self, plural: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        """One object, or None."""
        return self._by_name[plural].get((namespace, name))

    @cached_property
    def _by_name(self) -> Mapping[str, Mapping[tuple[str, str], dict[str, Any]]]:
        found: dict[str, dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
        for plural, objects in self.objects.items():
            for one in objects:
                found[plural][one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
        return found

    def _decoded(self, plural: str, into: type[T]) -> list[T]:
        return [convert(one, into) for one in self.raw(plural)]

    @cached_property
    def all_sessions(self) -> list[VDISession]:
        """Sessions of all namespaces that could be read."""
        return self._decoded("vdisessions", VDISession)

    @cached_property
    def sessions(self) -> list[VDISession]:
        """Sessions that were asked about."""
        scope = self.scope
        return [
            session
            for session in self.all_sessions
            if scope.namespace in ("", session.metadata.namespace) and scope.session in ("", session.metadata.name)
        ]

    @cached_property
    def templates(self) -> dict[str, VDITemplate]:
        """By name."""
        return {template.metadata.name: template for template in self._decoded("vditemplates", VDITemplate)}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """By name."""
        return {node.metadata.name: node for node in self._decoded("nodes", Node)}

    @cached_property
    def pods(self) -> list[Pod]:
        """Of all namespaces that could be read."""
        return self._decoded("pods", Pod)

    @cached_property
    def pods_by_owner(self) -> dict[str, list[Pod]]:
        """By the uid of an owner."""
        found: dict[str, list[Pod]] = defaultdict(list)
        for pod in self.pods:
            for owner in pod.metadata.owner_references:
                found[owner.uid].append(pod)
        return found

    @cached_property
    def claims(self) -> dict[tuple[str, str], PersistentVolumeClaim]:
        """By namespace and name."""
        found = self._decoded("persistentvolumeclaims", PersistentVolumeClaim)
        return {(one.metadata.namespace, one.metadata.name): one for one in found}

    @cached_property
    def volumes(self) -> dict[str, PersistentVolume]:
        """By name."""
        return {volume.metadata.name: volume for volume in self._decoded("persistentvolumes", PersistentVolume)}

    @cached_property
    def events(self) -> dict[tuple[str, str, str], list[Event]]:
        """Warnings, by kind, namespace and name of the object they are about."""
        found: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
        for event in self._decoded("events", Event):
            found[event.regarding.kind, event.metadata.namespace, event.regarding.name].append(event)
        return found

    def events_of(self, kind: str, namespace: str, name: str) -> list[Event]:
        """Warnings about one object."""
        return self.events.get((kind, namespace, name), [])

    def log_of(self, pod: Pod) -> list[str]:
        """The end of a pod's log; empty where none was read."""
        return self.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []

    def pods_of(self, workload: Raw) -> list[Pod]:
        """Pods of a Deployment or DaemonSet, by its selector, with those that are being deleted."""
        namespace = workload["metadata"]["namespace"]
        selector = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
        return [
            pod
            for pod in self.pods
            if selector
            and pod.metadata.namespace == namespace
            and selector.items() <= dict(pod.metadata.labels).items()
        ]

    def nodes_of(self, workload: Raw) -> list[str]:
        """Nodes of its pods, as findings name them; while a pod has no node, also nodes that are not ready."""
        pods = self.pods_of(workload)
        names = {pod.spec.node_name for pod in pods if pod.spec.node_name}
        if not pods or not all(pod.spec.node_name for pod in pods):
            names |= {name for name, node in self.nodes.items() if not node.ready}
        return [f"node/{name}" for name in sorted(names)]

    def age(self, timestamp: str | None) -> float:
        """Seconds from a time of the API to when this was taken; 0 where there is no time."""
        return (self.now - parse_time(timestamp)).total_seconds() if timestamp else 0.0


def save(snapshot: Snapshot) -> bytes:
    """The snapshot as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=1)


def load(data: bytes) -> Snapshot:
    """What `save` wrote. Raises BadSnapshotError."""
    try:
        found = msgspec.json.decode(data, type=Snapshot)
        parse_time(found.taken_at)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadSnapshotError(f"it is not a bundle of vdi doctor: {error}") from error
    if found.format != FORMAT:
        raise BadSnapshotError(f"its format is {found.format}; this version reads {FORMAT}")
    return found

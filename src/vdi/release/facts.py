"""Facts about a cluster and a planned release, before anything is changed.

`collect` reads them, `preflight` and `needs` judge them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from vdi.cluster.objects import Node
from vdi.diagnosis.snapshot import Certificate
from vdi.doctor.objects.components import Traefik
from vdi.helm.arguments import Place
from vdi.helm.releases import Revision, deployed
from vdi.helm.run import Helm
from vdi.release.chart import Chart
from vdi.release.diff import Object
from vdi.settings import Settings, read_settings

POD_KINDS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"})


class Refusal(NamedTuple):
    """An object that the API server would not take."""

    object: str
    # `Forbidden`, `Invalid`, ...
    reason: str
    message: str


class Unreadable(NamedTuple):
    """Something that could not be looked at."""

    # Plural of the kind.
    kind: str
    message: str
    # One object, or those of one namespace; empty: all.
    name: str = ""

    @property
    def text(self) -> str:
        return f"{self.kind} {self.name}: {self.message}" if self.name else f"{self.kind}: {self.message}"


class ForeignObject(NamedTuple):
    """An object that the release would make, and that is there already without being the release's."""

    kind: str
    # Its namespace, or nothing.
    where: str
    name: str
    # `NAMESPACE/RELEASE` that it belongs to; empty: to none.
    owner: str


class Pods(NamedTuple):
    """The pods of one workload of the release."""

    workload: str
    namespace: str
    spec: Object


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A cluster, and the objects that a release would make on it."""

    helm: Helm
    chart: Chart
    # Address of the API server.
    server: str
    # Its version.
    kubernetes: str
    release: str
    place: Place
    # The newest first.
    revisions: tuple[Revision, ...] = ()
    # Objects of the release.
    objects: tuple[Object, ...] = ()
    # Objects that Helm makes beside them: the pod of `helm test`.
    hooks: tuple[Object, ...] = ()
    # The cluster's CRDs of the names that the chart's have.
    crds: tuple[Object, ...] = ()
    # Namespaces of the release, of the sessions, and others that objects name; None: it does not exist.
    namespaces: Mapping[str, Object | None] = field(default_factory=dict)
    # (apiVersion, kind) of the release's objects, that the API server does not know.
    unknown: frozenset[tuple[str, str]] = frozenset()
    # Rights that our account lacks, as kubectl auth can-i takes them.
    lacking: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    traefiks: tuple[Traefik, ...] = ()
    # Whether the API server knows traefik.io/v1alpha1.
    traefik_known: bool = True
    # StorageClasses.
    classes: tuple[Object, ...] = ()
    # By namespace and name, the keys of Secrets; a namespace that is not in it could not be read.
    secrets: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    # Of the TLS Secrets that the release names.
    certificates: tuple[Certificate, ...] = ()
    # Host names that were looked up here -> why they lead nowhere; empty: they do.
    names: Mapping[str, str] = field(default_factory=dict)
    # Refusals of a dry run on the API server.
    refusals: tuple[Refusal, ...] = ()
    # Objects that Helm would refuse to take into the release.
    foreign: tuple[ForeignObject, ...] = ()
    unread: tuple[Unreadable, ...] = ()

    @property
    def namespace(self) -> str:
        return self.place.namespace

    def is_unread(self, kind: str) -> bool:
        """Whether objects of this kind could not be listed."""
        return any(unread.kind == kind and not unread.name for unread in self.unread)

    @cached_property
    def before(self) -> Revision | None:
        """The revision that is in place."""
        return deployed(self.revisions)

    @cached_property
    def pods(self) -> tuple[Pods, ...]:
        """Of all workloads of the release."""
        found = []
        for obj in self.objects:
            if obj["kind"] in POD_KINDS:
                meta, spec = obj["metadata"], obj["spec"]
                spec = spec["jobTemplate"]["spec"] if obj["kind"] == "CronJob" else spec
                name = f"{obj['kind'].lower()}/{meta['name']}"
                found.append(Pods(name, meta.get("namespace") or self.namespace, spec["template"]["spec"]))
        return tuple(found)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the operator: domain, entry point, namespace of the sessions, ..."""
        return settings_of(self.objects)


def settings_of(objects: Iterable[Object]) -> Settings:
    """The settings of the operator among these objects; the defaults without an operator."""
    for obj in objects:
        if obj["kind"] == "Deployment":
            for container in obj["spec"]["template"]["spec"]["containers"]:
                variables = variables_of(container)
                if container["name"] == "operator" and "VDI_NAMESPACE" in variables:
                    return read_settings(variables)
    return Settings()


def variables_of(container: Object) -> dict[str, str]:
    """Environment variables of a container by name; those from a Secret are empty."""
    return {variable["name"]: str(variable.get("value", "")) for variable in container.get("env") or ()}

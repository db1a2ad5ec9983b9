"""Objects of a cluster as a snapshot keeps them. Pure.

These structs are what a check can read and what a bundle contains: a field that is not declared
here is dropped where the object is decoded. Where a declared field may hold a secret (environment,
command lines, annotations, data of a ConfigMap), `__post_init__` keeps what checks read. It changes
nothing the second time, when a bundle is loaded.
"""

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import msgspec

from vdi.kinds import POOLS, ROUTES, SESSIONS, TEMPLATES
from vdi.kube.errors import UnexpectedAnswer
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    CRDS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    INGRESSES,
    JOBS,
    LEASES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    VOLUMES,
    Resource,
)
from vdi.kube.wire import convert, decode, name_in, without_nulls
from vdi.snapshot.objects.config import ConfigMap, CustomResourceDefinition, LimitRange, Secret
from vdi.snapshot.objects.desktops import Pool, Session, Template
from vdi.snapshot.objects.gpu import ClusterPolicy, ResourceSlice
from vdi.snapshot.objects.meta import Event, Lease, Named
from vdi.snapshot.objects.network import (
    CertificateRequest,
    EndpointSlice,
    Ingress,
    IngressClass,
    IngressRoute,
    Middleware,
    NetworkPolicy,
    Service,
    TLSOption,
)
from vdi.snapshot.objects.storage import Node, PersistentVolume, PersistentVolumeClaim, StorageClass
from vdi.snapshot.objects.workloads import Job, Pod, WorkloadObject


class Objects(msgspec.Struct, omit_defaults=True, kw_only=True):
    """All objects of a snapshot, by plural."""

    certificates: list[CertificateRequest] = []
    clusterpolicies: list[ClusterPolicy] = []
    configmaps: list[ConfigMap] = []
    customresourcedefinitions: list[CustomResourceDefinition] = []
    daemonsets: list[WorkloadObject] = []
    deployments: list[WorkloadObject] = []
    endpointslices: list[EndpointSlice] = []
    events: list[Event] = []
    ingressclasses: list[IngressClass] = []
    ingresses: list[Ingress] = []
    ingressroutes: list[IngressRoute] = []
    jobs: list[Job] = []
    leases: list[Lease] = []
    limitranges: list[LimitRange] = []
    middlewares: list[Middleware] = []
    namespaces: list[Named] = []
    networkpolicies: list[NetworkPolicy] = []
    nodes: list[Node] = []
    persistentvolumeclaims: list[PersistentVolumeClaim] = []
    persistentvolumes: list[PersistentVolume] = []
    pods: list[Pod] = []
    resourceslices: list[ResourceSlice] = []
    runtimeclasses: list[Named] = []
    secrets: list[Secret] = []
    serverstransports: list[Named] = []
    services: list[Service] = []
    statefulsets: list[WorkloadObject] = []
    storageclasses: list[StorageClass] = []
    tlsoptions: list[TLSOption] = []
    vdipools: list[Pool] = []
    vdisessions: list[Session] = []
    vditemplates: list[Template] = []


MIDDLEWARES = Resource("traefik.io", "v1alpha1", "middlewares", "Middleware")
SERVERS_TRANSPORTS = Resource("traefik.io", "v1alpha1", "serverstransports", "ServersTransport")
CLUSTER_POLICIES = Resource(
    "nvidia.com", "v1", "clusterpolicies", "ClusterPolicy", namespaced=False
)
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
_KINDS = (
    *(SESSIONS, TEMPLATES, POOLS, PODS, DEPLOYMENTS, DAEMON_SETS, STATEFUL_SETS, JOBS),
    *(ROUTES, INGRESSES, SERVICES, ENDPOINT_SLICES, NETWORK_POLICIES, CLAIMS, VOLUMES),
    *(STORAGE_CLASSES, NODES, LEASES, EVENTS, CONFIG_MAPS, SECRETS, CRDS),
    *(MIDDLEWARES, SERVERS_TRANSPORTS, CLUSTER_POLICIES, RUNTIME_CLASSES, NAMESPACES),
    Resource("", "v1", "limitranges", "LimitRange"),
    Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False),
    Resource("traefik.io", "v1alpha1", "tlsoptions", "TLSOption"),
    Resource("cert-manager.io", "v1", "certificates", "Certificate"),
    Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", namespaced=False),
)
# By plural, as checks name what they need. A new kind has a struct, a field of `Objects` and a
# resource here.
KINDS: Mapping[str, Resource] = {kind.plural: kind for kind in _KINDS}
# The struct of each kind, by plural.
STRUCTS: Mapping[str, type[Any]] = {
    plural.lower(): get_args(hint)[0] for plural, hint in get_type_hints(Objects).items()
}


def read_object(plural: str, item: bytes | msgspec.Raw) -> Any:
    """The object in this JSON. Raises UnexpectedAnswer."""
    struct = STRUCTS[plural]
    try:
        return decode(item, struct, plural)
    except UnexpectedAnswer:
        # A field without a value is null in some versions of some APIs, and absent in others.
        return convert_object(plural, msgspec.json.decode(item))


def convert_object(plural: str, obj: Mapping[str, Any]) -> Any:
    """The object that was decoded to maps and lists. Raises UnexpectedAnswer."""
    try:
        return convert(without_nulls(obj), STRUCTS[plural])
    except msgspec.ValidationError as error:
        name = name_in(msgspec.json.encode(obj))
        raise UnexpectedAnswer(f"{plural} {name} has an unknown shape: {error}") from error

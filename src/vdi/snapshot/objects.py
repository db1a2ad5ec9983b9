"""Objects of a cluster as a snapshot keeps them. Pure.

These structs are what a check can read and what a bundle contains: a field that is not declared
here is dropped where the object is decoded. Where a declared field may hold a secret (environment,
command lines, annotations, data of a ConfigMap), `__post_init__` keeps what checks read. It changes
nothing the second time, when a bundle is loaded.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from vdi.api.meta import ObjectMeta
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster import objects as pruned
from vdi.cluster.objects import PodCondition
from vdi.kube.errors import UnexpectedAnswer
from vdi.kube.wire import convert, decode, name_in
from vdi.session.credentials import read_basic_auth
from vdi.settings import VARIABLES
from vdi.snapshot.waits import read_wait

# In place of a value that may be a secret.
REDACTED = "(redacted)"
# ConfigMap of Rancher's local-path provisioner, beside its Deployment.
LOCAL_PATH_CONFIG = "local-path-config"

# Annotations of ours, and those of others that checks read.
_OUR_NOTES = "vdi.kasm.io/"
_READ_NOTES = frozenset(
    {
        *("meta.helm.sh/release-name", "meta.helm.sh/release-namespace"),
        *("storageclass.kubernetes.io/is-default-class", "volume.kubernetes.io/selected-node"),
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "cluster-autoscaler.kubernetes.io/scale-down-disabled",
        *("karpenter.sh/do-not-disrupt", "kubernetes.io/ingress.class"),
        "traefik.ingress.kubernetes.io/router.entrypoints",
        "traefik.ingress.kubernetes.io/router.priority",
    }
)
_READ_ENV = frozenset(
    {
        *("SELKIES_ENCODER", "SELKIES_PORT", "CONFIG_FILE", "CONFIG_FILE_SRCDIR"),
        *("DEFAULT_CONFIG", "FALLBACK_STRATEGIES", "CONTAINERD_SOCKET"),
        # The operator's settings, and those of the gateway that a check reads.
        *VARIABLES,
        *("VDI_GATEWAY_NAMESPACE", "VDI_TURN_URLS"),
    }
)
# Of other settings the name is kept, which may be a misspelling.
_SETTINGS = "VDI_"
# Scheme, host and port of a URL, between user information and path.
_ORIGIN = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#@]*).*", re.DOTALL)
# Options of Traefik. `--providers.kubernetescrd.token` is one, too.
_READ_ARGS = re.compile(
    r"--(entrypoints\.|providers\.kubernetescrd(=|$|\.(namespaces|allowcrossnamespace)(=|$)))",
    re.IGNORECASE,
)
# This word tells NVIDIA's config-manager from its device plugin.
_READ_COMMAND = "config-manager"


def _read_notes(annotations: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in annotations.items()
        if key in _READ_NOTES or key.startswith(_OUR_NOTES)
    }


class Record(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of the structs: names as in the API, defaults left out of a bundle."""


class Meta(pruned.PodMeta, rename="camel", omit_defaults=True, kw_only=True):
    """`metadata`."""

    generation: int = 0
    finalizers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.annotations = _read_notes(self.annotations)
        self.resource_version = ""


class OurMeta(ObjectMeta, omit_defaults=True):
    """`metadata` of an object of our kinds."""

    def __post_init__(self) -> None:
        self.annotations = _read_notes(self.annotations)
        self.resource_version = ""


class _DataFields(Record):
    data: dict[str, msgspec.Raw] | None = msgspec.field(name="f:data", default=None)

    def __post_init__(self) -> None:
        self.data = None if self.data is None else {}


class Write(Record):
    """An entry of `managedFields`: when a manager last wrote the data."""

    time: str = ""
    fields_v1: _DataFields = msgspec.field(name="fieldsV1", default_factory=_DataFields)


class DataMeta(Meta, rename="camel", omit_defaults=True, kw_only=True):
    """`metadata` with the times of the writes to `data`."""

    managed_fields: tuple[Write, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.managed_fields = tuple(
            write for write in self.managed_fields if write.fields_v1.data is not None
        )


class Named(Record):
    """An object of which a check asks whether it exists."""

    metadata: Meta


class ConditionsStatus(Record):
    conditions: tuple[PodCondition, ...] = ()


class LabelSelector(Record):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[pruned.NodeSelectorRequirement, ...] = ()


class Reference(Record):
    """The name of another object."""

    name: str
    namespace: str = ""


# Pods and workloads


class SecretKey(Record):
    name: str = ""
    key: str = ""


class ValueSource(Record):
    secret_key_ref: SecretKey | None = None


class EnvVar(Record):
    """A variable, with its value where a check reads it."""

    name: str
    value: str = ""
    value_from: ValueSource | None = None


class ContainerPort(Record):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class VolumeMount(Record):
    name: str
    mount_path: str


class Container(pruned.Container, rename="camel", omit_defaults=True, kw_only=True):
    name: str
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    env: tuple[EnvVar, ...] = ()
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    # Not fields of Kubernetes: the address that its command line waits for, and the Secrets that
    # its environment names.
    waits_for: str = ""
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words = (*self.command, *self.args)
        values = {variable.name: variable.value for variable in self.env}
        self.waits_for = self.waits_for or read_wait(words, values)
        sources = (variable.value_from for variable in self.env)
        keys = (source.secret_key_ref for source in sources if source)
        self.secrets = self.secrets or tuple(sorted({key.name for key in keys if key}))
        kept = (
            variable
            for variable in self.env
            if variable.name.startswith(_SETTINGS) or _is_read(variable)
        )
        self.env = _read_env(kept)
        self.args = tuple(word for word in words if _READ_ARGS.match(word))
        self.command = tuple(word for word in self.command if word == _READ_COMMAND)


def _is_read(variable: EnvVar) -> bool:
    return variable.name in _READ_ENV


def _read_env(variables: Iterable[EnvVar]) -> tuple[EnvVar, ...]:
    kept = []
    for variable in variables:
        value = variable.value if _is_read(variable) else REDACTED
        kept.append(EnvVar(name=variable.name, value=value, value_from=variable.value_from))
    return tuple(kept)


class KeyToPath(Record):
    key: str
    path: str


class FileSource(Record):
    """`secret`, `configMap` or `hostPath` of a volume."""

    secret_name: str = ""
    name: str = ""
    path: str = ""
    items: tuple[KeyToPath, ...] = ()


class Volume(pruned.PodVolume, rename="camel", omit_defaults=True, kw_only=True):
    secret: FileSource | None = None
    config_map: FileSource | None = None
    host_path: FileSource | None = None


class PodSpec(pruned.PodSpec, rename="camel", omit_defaults=True, kw_only=True):
    """`spec` of a Pod with its containers."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    # Not a field of Kubernetes: names of the Secrets in the environment of its containers.
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        containers, init_containers, volumes = self.containers, self.init_containers, self.volumes
        placement = self.node_selector, self.tolerations
        # What a pod takes is looked up by its requests. Names and images would make each pod
        # another one.
        self.containers, self.init_containers = _requests(containers), _requests(init_containers)
        super().__post_init__()
        self.node_selector, self.tolerations = placement
        self.secrets = self.secrets or tuple(
            sorted({name for one in containers for name in one.secrets})
        )
        self.containers = tuple(_without_words(container, "") for container in containers)
        self.init_containers = tuple(
            _without_words(step, step.waits_for) for step in init_containers
        )
        self.volumes = tuple(
            volume for volume in volumes if volume.persistent_volume_claim or volume.host_path
        )


def _requests(containers: Iterable[Container]) -> tuple[Any, ...]:
    return tuple(
        pruned.Container(container.resources, container.restart_policy) for container in containers
    )


def _without_words(container: Container, waits_for: str) -> Container:
    return Container(
        name=container.name,
        image=container.image,
        resources=container.resources,
        restart_policy=container.restart_policy,
        ports=container.ports,
        waits_for=waits_for,
    )


class PodStatus(pruned.PodStatus, rename="camel", omit_defaults=True, kw_only=True):
    def __post_init__(self) -> None:
        """All conditions stay."""


class Pod(pruned.Pod, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class TemplateMeta(Record):
    labels: dict[str, str] = {}


class WorkloadPodSpec(Record):
    service_account_name: str = ""
    host_network: bool = False
    volumes: tuple[Volume, ...] = ()
    containers: tuple[Container, ...] = ()

    def __post_init__(self) -> None:
        self.volumes = tuple(
            Volume(
                name=one.name, secret=one.secret, config_map=one.config_map, host_path=one.host_path
            )
            for one in self.volumes
        )


class WorkloadTemplate(Record):
    metadata: TemplateMeta = msgspec.field(default_factory=TemplateMeta)
    spec: WorkloadPodSpec = msgspec.field(default_factory=WorkloadPodSpec)


class WorkloadSpec(Record):
    replicas: int = 1
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    template: WorkloadTemplate = msgspec.field(default_factory=WorkloadTemplate)


class WorkloadStatus(ConditionsStatus):
    ready_replicas: int = 0
    number_ready: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    observed_generation: int = 0


class WorkloadObject(Record):
    """A Deployment, StatefulSet or DaemonSet."""

    metadata: Meta
    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)


class JobSpec(Record):
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)


class Job(Record):
    metadata: Meta
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: ConditionsStatus = msgspec.field(default_factory=ConditionsStatus)


# Nodes and storage


class NodeCondition(pruned.NodeCondition, rename="camel", omit_defaults=True):
    last_heartbeat_time: str | None = None


class NodeStatus(pruned.NodeStatus, rename="camel", omit_defaults=True):
    conditions: tuple[NodeCondition, ...] = ()
    capacity: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images = ()
        self.runtime_handlers = ()


class Node(pruned.Node, omit_defaults=True, kw_only=True):
    metadata: Meta  # type: ignore[assignment]  # it has all fields of NodeMeta
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class ClaimStatus(pruned.PersistentVolumeClaimStatus, rename="camel", omit_defaults=True):
    conditions: tuple[PodCondition, ...] = ()


class PersistentVolume(pruned.PersistentVolume, omit_defaults=True, kw_only=True):
    metadata: Meta  # type: ignore[assignment]  # it has all fields of NamedMeta


class ClaimSpec(pruned.PersistentVolumeClaimSpec, rename="camel", omit_defaults=True):
    # None: the default class; empty: none.
    storage_class_name: str | None = None


class PersistentVolumeClaim(pruned.PersistentVolumeClaim, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: ClaimSpec = msgspec.field(default_factory=ClaimSpec)
    status: ClaimStatus = msgspec.field(default_factory=ClaimStatus)


class StorageClass(Record):
    metadata: Meta
    provisioner: str = ""
    volume_binding_mode: str = ""


# The path of a request


class ServicePort(Record):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None


class ServiceSpec(Record):
    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    cluster_ip: str = msgspec.field(name="clusterIP", default="")


class Service(pruned.Service, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ConditionsStatus = msgspec.field(default_factory=ConditionsStatus)


class EndpointConditions(Record):
    ready: bool | None = None


class Endpoint(Record):
    """One pod behind a Service. Its address is not kept."""

    conditions: EndpointConditions = msgspec.field(default_factory=EndpointConditions)


class EndpointPort(Record):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointSlice(Record):
    metadata: Meta
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class IngressPath(Record):
    path: str = ""
    path_type: str = ""


class IngressPaths(Record):
    paths: tuple[IngressPath, ...] = ()


class IngressRule(Record):
    host: str = ""
    http: IngressPaths = msgspec.field(default_factory=IngressPaths)


class IngressSpec(Record):
    ingress_class_name: str = ""
    rules: tuple[IngressRule, ...] = ()


class Ingress(Record):
    metadata: Meta
    spec: IngressSpec = msgspec.field(default_factory=IngressSpec)


class RouteService(Record):
    """`services[]` of a rule. Its health check may send a password as a header."""

    name: str
    kind: str = "Service"
    namespace: str = ""
    port: int | str = ""
    servers_transport: str = ""


class RouteRule(Record):
    match: str = ""
    priority: int = 0
    middlewares: tuple[Reference, ...] = ()
    services: tuple[RouteService, ...] = ()


class RouteTLS(Record):
    secret_name: str = ""
    cert_resolver: str = ""


class RouteSpec(Record):
    entry_points: tuple[str, ...] = ()
    routes: tuple[RouteRule, ...] = ()
    tls: RouteTLS | None = None


class IngressRoute(Record):
    metadata: Meta
    spec: RouteSpec = msgspec.field(default_factory=RouteSpec)


class Chain(Record):
    middlewares: tuple[Reference, ...] = ()


class ForwardAuth(Record):
    """The server that is asked: scheme, host and port."""

    address: str = ""

    def __post_init__(self) -> None:
        if not _ORIGIN.match(self.address):
            self.address = REDACTED
        self.address = _ORIGIN.sub(r"\1\2", self.address)


class MiddlewareSpec(Record):
    chain: Chain = msgspec.field(default_factory=Chain)
    forward_auth: ForwardAuth | None = None


class Middleware(Record):
    metadata: Meta
    spec: MiddlewareSpec = msgspec.field(default_factory=MiddlewareSpec)


class CertificateSpec(Record):
    secret_name: str = ""


class CertificateRequest(Record):
    """A Certificate of cert-manager."""

    metadata: Meta
    spec: CertificateSpec = msgspec.field(default_factory=CertificateSpec)
    status: ConditionsStatus = msgspec.field(default_factory=ConditionsStatus)


# Access


class IPBlock(Record):
    cidr: str = ""
    excepted: tuple[str, ...] = msgspec.field(name="except", default=())


class Peer(Record):
    ip_block: IPBlock | None = None
    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector | None = None


class PolicyPort(Record):
    protocol: str = "TCP"
    port: int | str | None = None
    end_port: int = 0


class PolicyRule(Record):
    """A rule of `ingress` or `egress`."""

    ports: tuple[PolicyPort, ...] = ()
    from_peers: tuple[Peer, ...] = msgspec.field(name="from", default=())
    to_peers: tuple[Peer, ...] = msgspec.field(name="to", default=())


class NetworkPolicySpec(Record):
    pod_selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    policy_types: tuple[str, ...] = ()
    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] | None = None


class NetworkPolicy(Record):
    metadata: Meta
    spec: NetworkPolicySpec = msgspec.field(default_factory=NetworkPolicySpec)


class LeaseSpec(Record):
    holder_identity: str = ""
    renew_time: str | None = None


class Lease(Record):
    metadata: Meta
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


# What configures


class ConfigMap(Record):
    """local-path's script, or how GPUs are shared."""

    metadata: DataMeta
    data: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.metadata.name == LOCAL_PATH_CONFIG:
            self.data = {key: text for key, text in self.data.items() if key == "setup"}
        else:
            self.data = {key: _gpu_config(text) for key, text in self.data.items()}


def _gpu_config(text: str) -> str:
    """The part of a device plugin's configuration that `vdi.gpu.sharing.config` reads, or why there
    is none.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        return json.dumps(f"{_NOT_YAML} in line {line}: {error.problem}")
    except (yaml.YAMLError, RecursionError, ValueError):
        return json.dumps(_NOT_YAML)
    if isinstance(config, str) and config.startswith(_NOT_YAML):
        return text
    if not isinstance(config, dict):
        return json.dumps(REDACTED) if config else ""
    kept = {key: config[key] for key in ("version", "sharing") if key in config}
    if isinstance(flags := config.get("flags"), dict) and "migStrategy" in flags:
        kept["flags"] = {"migStrategy": flags["migStrategy"]}
    return json.dumps(kept, default=str)


_NOT_YAML = f"{REDACTED}, not YAML"


class Secret(Record):
    """A Secret of `basicAuthSecret`: why it cannot be used, and its last change. None of its
    values.
    """

    metadata: DataMeta
    type: str = ""
    data: dict[str, str] = {}
    # Not fields of Kubernetes.
    problem: str | None = None
    changed: str = ""

    def __post_init__(self) -> None:
        if self.problem is None:
            self.problem = ""
            try:
                read_basic_auth(self.data)
            except ValueError as error:
                self.problem = str(error)
        self.changed = self.changed or max(
            (write.time for write in self.metadata.managed_fields), default=""
        )
        self.data = {}
        self.metadata = DataMeta(name=self.metadata.name, namespace=self.metadata.namespace)


class ResourceSliceSpec(Record):
    driver: str = ""
    node_name: str = ""


class ResourceSlice(Record):
    """Devices of a node, as Dynamic Resource Allocation has them."""

    metadata: Meta
    spec: ResourceSliceSpec = msgspec.field(default_factory=ResourceSliceSpec)


class PluginConfig(Record):
    name: str = ""
    default: str = ""


class DevicePlugin(Record):
    enabled: bool = True
    config: PluginConfig | None = None


class Toolkit(Record):
    enabled: bool = True
    env: tuple[EnvVar, ...] = ()

    def __post_init__(self) -> None:
        self.env = _read_env(self.env)


class ClusterPolicySpec(Record):
    device_plugin: DevicePlugin = msgspec.field(default_factory=DevicePlugin)
    toolkit: Toolkit = msgspec.field(default_factory=Toolkit)


class ClusterPolicyStatus(ConditionsStatus):
    state: str = ""


class ClusterPolicy(Record):
    """The GPU Operator's: its fields about sharing GPUs."""

    metadata: Meta
    spec: ClusterPolicySpec = msgspec.field(default_factory=ClusterPolicySpec)
    status: ClusterPolicyStatus = msgspec.field(default_factory=ClusterPolicyStatus)


class Schema(Record):
    """The names of the fields, level by level."""

    properties: dict[str, "Schema"] = {}
    items: "Schema | None" = None


class VersionSchema(Record):
    open_api: Schema = msgspec.field(name="openAPIV3Schema", default_factory=Schema)


class KindVersion(Record):
    name: str
    served: bool = True
    schema: VersionSchema = msgspec.field(default_factory=VersionSchema)


class KindNames(Record):
    kind: str = ""


class KindSpec(Record):
    names: KindNames = msgspec.field(default_factory=KindNames)
    versions: tuple[KindVersion, ...] = ()


class CustomResourceDefinition(Record):
    metadata: Meta
    spec: KindSpec = msgspec.field(default_factory=KindSpec)
    status: ConditionsStatus = msgspec.field(default_factory=ConditionsStatus)


class Event(pruned.Event, rename="camel", omit_defaults=True, kw_only=True):
    metadata: Meta


# Our own kinds: every field is known, and none of them is for a secret, but for the environment.


class Session(VDISession, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta


class Template(VDITemplate, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta

    def __post_init__(self) -> None:
        spec = self.spec
        spec.icon = ""
        spec.env = tuple(
            (
                msgspec.structs.replace(variable, value=REDACTED)
                if variable.name not in _READ_ENV
                else variable
            )
            for variable in spec.env
        )
        spec.pod_template.metadata.annotations = {}


class Pool(VDIPool, rename="camel", omit_defaults=True, kw_only=True):
    metadata: OurMeta


class Objects(Record):
    """All objects of a snapshot, by plural."""

    certificates: list[CertificateRequest] = []
    clusterpolicies: list[ClusterPolicy] = []
    configmaps: list[ConfigMap] = []
    customresourcedefinitions: list[CustomResourceDefinition] = []
    daemonsets: list[WorkloadObject] = []
    deployments: list[WorkloadObject] = []
    endpointslices: list[EndpointSlice] = []
    events: list[Event] = []
    ingresses: list[Ingress] = []
    ingressroutes: list[IngressRoute] = []
    jobs: list[Job] = []
    leases: list[Lease] = []
    middlewares: list[Middleware] = []
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
    vdipools: list[Pool] = []
    vdisessions: list[Session] = []
    vditemplates: list[Template] = []


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


def convert_object(plural: str, found: Mapping[str, Any]) -> Any:
    """The object that was decoded to maps and lists. Raises UnexpectedAnswer."""
    try:
        return convert(_without_nulls(found), STRUCTS[plural])
    except msgspec.ValidationError as error:
        name = name_in(msgspec.json.encode(found))
        raise UnexpectedAnswer(f"{plural} {name} has an unknown shape: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(field) for key, field in value.items() if field is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in value]
    return value

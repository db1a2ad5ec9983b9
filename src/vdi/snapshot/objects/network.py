"""The path of a request, and what may pass: Services, routes, policies, certificates. Pure."""

import re

import msgspec

from vdi.cluster import objects as pruned
from vdi.snapshot.objects.meta import (
    REDACTED,
    ConditionsStatus,
    LabelSelector,
    Meta,
    Record,
    Reference,
)

# Scheme, host and port of a URL, between user information and path.
_ORIGIN = re.compile(r"(https?://)(?:[^/?#]*@)?([^/?#@]*).*", re.DOTALL)


class LoadBalancerIngress(Record):
    ip: str = ""
    hostname: str = ""


class LoadBalancer(Record):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServingStatus(ConditionsStatus):
    """`status` of a Service or an Ingress."""

    load_balancer: LoadBalancer = msgspec.field(default_factory=LoadBalancer)

    @property
    def addresses(self) -> list[str]:
        """Addresses for requests from outside."""
        return [entry.ip or entry.hostname for entry in self.load_balancer.ingress]


class ServicePort(Record):
    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None


class ServiceSpec(Record):
    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    cluster_ip: str = msgspec.field(name="clusterIP", default="")


class Service(pruned.Service, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServingStatus = msgspec.field(default_factory=ServingStatus)


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


class BackendService(Record):
    name: str = ""


class IngressBackend(Record):
    service: BackendService = msgspec.field(default_factory=BackendService)


class IngressPath(Record):
    path: str = ""
    path_type: str = ""
    backend: IngressBackend = msgspec.field(default_factory=IngressBackend)


class IngressPaths(Record):
    paths: tuple[IngressPath, ...] = ()


class IngressRule(Record):
    host: str = ""
    http: IngressPaths = msgspec.field(default_factory=IngressPaths)


class IngressSpec(Record):
    ingress_class_name: str = ""
    rules: tuple[IngressRule, ...] = ()
    default_backend: IngressBackend = msgspec.field(default_factory=IngressBackend)


class Ingress(Record):
    metadata: Meta
    spec: IngressSpec = msgspec.field(default_factory=IngressSpec)
    status: ServingStatus = msgspec.field(default_factory=ServingStatus)


class IngressClassSpec(Record):
    controller: str = ""


class IngressClass(Record):
    metadata: Meta
    spec: IngressClassSpec = msgspec.field(default_factory=IngressClassSpec)


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
    options: Reference | None = None


class RouteSpec(Record):
    entry_points: tuple[str, ...] = ()
    routes: tuple[RouteRule, ...] = ()
    tls: RouteTLS | None = None


class IngressRoute(Record):
    metadata: Meta
    spec: RouteSpec = msgspec.field(default_factory=RouteSpec)


class ClientAuth(Record):
    client_auth_type: str = ""
    # Of authorities. With one, Traefik's default is to demand a certificate.
    secret_names: tuple[str, ...] = ()

    @property
    def is_demanded(self) -> bool:
        kind = self.client_auth_type
        return kind.startswith("Require") or (not kind and bool(self.secret_names))


class TLSOptionSpec(Record):
    client_auth: ClientAuth = msgspec.field(default_factory=ClientAuth)


class TLSOption(Record):
    metadata: Meta
    spec: TLSOptionSpec = msgspec.field(default_factory=TLSOptionSpec)


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

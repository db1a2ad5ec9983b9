"""What can be wrong with the gateway and the cluster's network, on a cluster with a gateway and
policies.
"""

from operator import setitem
from typing import Any

import msgspec

from unit.doctor.doctor_breaks import Faults, gone, put
from unit.doctor.doctor_builders import (
    BEGAN,
    JUST_NOW,
    SPACE,
    Cluster,
    Object,
    deployment,
    meta_of,
    ready_condition,
)
from vdi.findings.model import Remedy
from vdi.snapshot.model import Unreadable

_PORTAL = "ingressroutes/vdi-gateway"
_LABELS = {"app.kubernetes.io/name": "vdi", "app.kubernetes.io/component": "gateway"}
_VDI = {"app.kubernetes.io/name": "vdi"}
_TRAEFIK = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "traefik"}}}
_UNAVAILABLE = {"type": "Available", "status": "False", "lastTransitionTime": BEGAN}
_LINE = 'time=2026-11-20T11:59:00Z level=warning logger=vdi.gateway.health msg="{}"'


def with_gateway(cluster: Cluster) -> None:
    """A gateway that serves, CoreDNS, and the policies of the chart in short."""
    env = [
        {"name": "VDI_NAMESPACE", "value": SPACE},
        {"name": "VDI_GATEWAY_NAMESPACE", "value": "kasm"},
    ]
    env.append({"name": "VDI_DATABASE_URL", "value": "postgresql+asyncpg://u:p@x/vdi"})
    container = {"name": "gateway", "image": "localhost/vdi/vdi:dev", "env": env}
    dns = deployment(
        "coredns", "kube-system", {"k8s-app": "kube-dns"}, {"containers": [{"name": "coredns"}]}
    )
    dns["metadata"]["labels"] = {"k8s-app": "kube-dns"}
    turn = deployment("coturn", "kasm", {}, {"containers": [{"name": "coturn"}]})
    turn["metadata"]["labels"] = {"app.kubernetes.io/name": "coturn"}
    gateway = deployment("vdi-gateway", "kasm", _LABELS, {"containers": [container]})
    cluster.objects["deployments"] += [gateway, dns, turn]
    ports = [{"name": "http", "containerPort": 8080}, {"name": "internal", "containerPort": 8081}]
    cluster.add_pod("vdi-gateway-1", "kasm", labels=_LABELS)["spec"]["containers"][0]["ports"] = (
        ports
    )
    cluster.logs["kasm/vdi-gateway-1"] = [
        _LINE.format("serving https://portal.vdi.example.com, 1 sessions")
    ]
    _request_path(cluster)
    release = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kasm"}}}
    cluster.objects["networkpolicies"] = [
        _policy("deny", SPACE, {}, []),
        _policy("desktops", SPACE, {"matchLabels": {"app.kubernetes.io/managed-by": "vdi-operator"}}, [
            {"ports": [{"port": "http"}], "from": [_TRAEFIK, {**release, "podSelector": {"matchLabels": _LABELS}}]},
            {"ports": [{"port": 8000, "endPort": 8100}], "from": [{**release, "podSelector": {
                "matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": ["vdi"]}]}}]},
        ]),
        _policy("gateway", "kasm", {"matchLabels": _LABELS}, [
            {"ports": [{"port": "http"}, {"port": "internal"}], "from": [_TRAEFIK]},
            {"ports": [{"port": "internal"}], "from": [{"podSelector": {"matchLabels": _VDI}}]},
        ]),
    ]  # fmt: skip


def _request_path(cluster: Cluster) -> None:
    """What requests pass before a desktop: routes and Service of the gateway, and the Middleware
    that asks it.
    """
    host = {"priority": 2000, "match": "Host(`portal.vdi.example.com`)"}
    rest = {"priority": 1, "match": "HostRegexp(`^[a-z0-9-]+[.]vdi[.]example[.]com$`)"}
    rules = [
        {**rule, "kind": "Rule", "services": [{"name": "vdi-gateway", "port": "http"}]}
        for rule in (host, rest)
    ]
    meta = meta_of("kasm", "vdi-gateway")
    cluster.add("ingressroutes", meta, spec={"entryPoints": ["websecure"], "routes": rules})
    ports = [
        {"name": "http", "port": 8080, "targetPort": "http"},
        {"name": "internal", "port": 8081},
    ]
    cluster.add("services", meta, spec={"selector": _LABELS, "ports": ports})
    cluster.add_slice("kasm", "vdi-gateway", ("http", 8080), ("internal", 8081))
    address = "http://vdi-gateway.kasm.svc:8081/edge/verify"
    links = [{"name": f"vdi-edge-{link}"} for link in ("headers", "auth")]
    for name, spec in (
        ("vdi-edge", {"chain": {"middlewares": links}}),
        ("vdi-edge-headers", {"headers": {}}),
        ("vdi-edge-auth", {"forwardAuth": {"address": address}}),
    ):
        cluster.add("middlewares", meta_of(SPACE, name), spec=spec)
    for route in cluster.objects["ingressroutes"]:
        if route["metadata"]["namespace"] == SPACE:
            route["spec"]["routes"][0]["middlewares"] = [{"name": "vdi-edge"}]


def _policy(name: str, namespace: str, selector: Object, ingress: list[Object]) -> Object:
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


GATEWAY_FAULTS = fault = Faults(on=with_gateway)


def _says(cluster: Cluster, *messages: str) -> None:
    cluster.logs["kasm/vdi-gateway-1"] += [_LINE.format(message) for message in messages]


def _office(cluster: Cluster, secret: Object | None = None) -> None:
    """A template for an image as KasmVNC: TLS and basic auth. Its session runs."""
    cluster.operator_env.append({"name": "VDI_EDGE_MIDDLEWARE", "value": "vdi-edge"})
    spec = {"image": "kasmweb/chrome:1", "protocol": "Web", "scheme": "HTTPS", "port": 6901}
    spec |= {"basicAuthSecret": {"name": "kasmvnc"}, "resources": {"defaultGPU": 0}}
    cluster.add("vditemplates", {"name": "office", "generation": 1}, spec=spec)
    cluster.session["spec"]["template"] = "office"
    service = cluster.one("ingressroutes", "alice-0")["spec"]["routes"][0]["services"][0]
    service |= {"scheme": "https", "serversTransport": "vdi-desktop-tls"}
    cluster.add("serverstransports", meta_of(SPACE, "vdi-desktop-tls"))
    cluster.add("secrets", meta_of(SPACE, "kasmvnc"), type="Opaque", data=secret or {})


_CREDENTIALS = {"username": "a2FzbV91c2Vy", "password": "b2YtdGhlLWltYWdl"}


@fault("certificate_expired")
def the_portal_s_copy_of_the_certificate_is_over(cluster: Cluster) -> None:
    (good,) = cluster.certificates
    cluster.certificates.append(
        msgspec.structs.replace(good, namespace="kasm", ends="2026-11-19T00:00:00Z")
    )


def _tls_option(cluster: Cluster, name: str, **auth: object) -> None:
    cluster.add("tlsoptions", meta_of("kasm", name), spec={"clientAuth": auth})


@fault("client_certificate_demanded")
def certificates_of_browsers_for_all_hosts(cluster: Cluster) -> None:
    _tls_option(cluster, "default", clientAuthType="RequireAnyClientCert")
    _tls_option(cluster, "of-others", clientAuthType="RequireAndVerifyClientCert")


@fault("client_certificate_demanded")
def certificates_of_browsers_for_a_desktop(cluster: Cluster) -> None:
    _tls_option(cluster, "default", clientAuthType="VerifyClientCertIfGiven", secretNames=["ca"])
    _tls_option(cluster, "strict", secretNames=["ca"])
    tls = cluster.one("ingressroutes", "alice-0")["spec"]["tls"]
    tls["options"] = {"name": "strict", "namespace": "kasm"}


@fault("servers_transport_missing")
def no_transport_to_an_image_with_tls(cluster: Cluster) -> None:
    _office(cluster, _CREDENTIALS)
    cluster.drop("serverstransports")


@fault("basic_auth_secret_missing")
def no_secret_to_sign_in_to_an_image(cluster: Cluster) -> None:
    _office(cluster)
    cluster.drop("secrets")


@fault("not_readable")
def a_secret_that_the_doctor_may_not_read(cluster: Cluster) -> None:
    _office(cluster)
    cluster.drop("secrets")
    cluster.unread.append(
        Unreadable("secrets@basicAuthSecret", "eve may not get secrets in namespace x.", Remedy(""))
    )


def _does_not_start(cluster: Cluster, *lines: str) -> None:
    cluster.one("deployments", "vdi-gateway")["status"] = {}
    pod = cluster.one("pods", "vdi-gateway-1")
    state: Any = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    container = {
        "name": "gateway",
        "image": "x",
        "restartCount": 3,
        "state": state,
        "lastState": last,
    }
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": BEGAN}
    pod["status"] = {"phase": "Running", "conditions": [ready], "containerStatuses": [container]}
    cluster.logs["kasm/vdi-gateway-1"] = list(lines)


@fault("gateway_down")
def gateway_scaled_away(cluster: Cluster) -> None:
    cluster.one("deployments", "vdi-gateway")["spec"]["replicas"] = 0
    cluster.drop("pods", "vdi-gateway-1")


@fault("backend_unreachable")
def routes_ask_no_one(cluster: Cluster) -> None:
    cluster.drop("deployments", "vdi-gateway")
    cluster.drop("pods", "vdi-gateway-1")
    cluster.one("endpointslices", "vdi-gateway-x")["endpoints"] = []


def add_ingress(cluster: Cluster, host: str, path: str = "/", **spec: Any) -> Object:
    """A plain Ingress of another namespace."""
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    paths = [{"path": path, "pathType": "Prefix", "backend": backend}]
    rules = [{"host": host, "http": {"paths": paths}}]
    return cluster.add("ingresses", meta_of("web", "web"), spec={"rules": rules, **spec})


def add_route(cluster: Cluster, match: str, **spec: Any) -> Object:
    """An IngressRoute of another namespace, without a priority."""
    rule = {"kind": "Rule", "match": match, "services": [{"name": "web", "port": 80}]}
    return cluster.add("ingressroutes", meta_of("web", "web"), spec={"routes": [rule], **spec})


@fault("backend_unreachable")
def the_gateway_s_service_selects_nothing(cluster: Cluster) -> None:
    """Every desktop responds with 500, and every pod is ready."""
    cluster.one("services", "vdi-gateway")["spec"]["selector"] = {
        "app.kubernetes.io/name": "vdi",
        "app": "gone",
    }
    cluster.one("endpointslices", "vdi-gateway-x")["endpoints"] = []


@fault("backend_unreachable")
def the_middleware_asks_a_port_that_no_service_has(cluster: Cluster) -> None:
    auth = cluster.one("middlewares", "vdi-edge-auth")["spec"]["forwardAuth"]
    auth["address"] = auth["address"].replace("8081", "8443")


@fault("backend_unreachable")
def traefik_s_service_selects_nothing(cluster: Cluster) -> None:
    cluster.add_pod("traefik-1", "kube-system", labels={"app": "traefik"})
    ports = [{"name": "websecure", "port": 443, "targetPort": "websecure"}]
    spec = {"type": "LoadBalancer", "selector": {"app": "proxy"}, "ports": ports}
    cluster.add("services", meta_of("kube-system", "traefik"), spec=spec)


fault("route_shadowed", name="a_route_of_another_namespace_takes_the_host")(
    lambda cluster: add_route(cluster, "Host(`alice-0.vdi.example.com`)")
)
fault("route_shadowed", name="a_longer_rule_takes_the_portal")(
    lambda cluster: setitem(
        add_route(cluster, "Host(`portal.vdi.example.com`)")["spec"]["routes"][0], "priority", 3000
    )
)
fault("route_shadowed", name="an_ingress_takes_the_host")(
    lambda cluster: add_ingress(cluster, "alice-0.vdi.example.com", ingressClassName="traefik")
)
fault("route_shadowed", name="an_ingress_takes_all_hosts")(
    lambda cluster: add_ingress(cluster, "*.vdi.example.com")
)
fault("route_shadowed", name="an_ingress_takes_the_path_of_the_picture")(
    lambda cluster: add_ingress(cluster, "alice-0.vdi.example.com", "/api")
)


@fault("database_newer")
def gateway_older_than_its_database(cluster: Cluster) -> None:
    said = (
        "VDI_DATABASE_URL: the database is at revision 0009_next, which this version does not know"
    )
    _does_not_start(cluster, f'time=x level=critical logger=vdi.gateway msg="{said}"')


@fault("node_not_ready")
def the_kubelet_of_all_is_stopped(cluster: Cluster) -> None:
    """What ran there is made again, and finds no node."""
    ready = cluster.one("nodes")["status"]["conditions"][0]
    ready |= {
        "status": "Unknown",
        "lastTransitionTime": JUST_NOW,
        "message": "Kubelet stopped posting node status.",
    }
    for one in cluster.objects["deployments"]:
        one["status"] = {"readyReplicas": 0}
    for pod in cluster.objects["pods"]:
        ready_condition(pod)["status"] = "False"
    cluster.one("pods", "vdi-gateway-1")["spec"]["nodeName"] = ""
    cluster.one("leases")["spec"]["renewTime"] = "2026-11-20T11:55:00.000000Z"


@fault("dns_down")
def no_names(cluster: Cluster) -> None:
    cluster.one("deployments", "coredns")["status"] = {}
    _says(cluster, "trouble: database: Temporary failure in name resolution")


@fault("network_policy_blocks")
def traefik_has_other_labels(cluster: Cluster) -> None:
    labels = cluster.one("deployments", "traefik")["spec"]["template"]["metadata"]["labels"]
    labels["app"] = "proxy"


_INTERNET = {
    "ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]}
}


@fault("network_policy_blocks")
def desktops_may_not_ask_for_names(cluster: Cluster) -> None:
    """The internet alone does not include the DNS pods."""
    policy = _policy(
        "desktops-out", SPACE, {"matchLabels": {"app.kubernetes.io/managed-by": "vdi-operator"}}, []
    )
    policy["spec"] |= {"policyTypes": ["Egress"], "egress": [{"to": [_INTERNET]}]}
    cluster.objects["networkpolicies"].append(policy)


@fault("network_policy_blocks")
def the_gateway_may_not_ask_for_names(cluster: Cluster) -> None:
    """What it reports follows from that."""
    policy = _policy("gateway-out", "kasm", {"matchLabels": _LABELS}, [])
    everything_else = {"ports": [{"port": 1, "endPort": 52}, {"port": 54, "endPort": 65535}]}
    policy["spec"] |= {"policyTypes": ["Egress"], "egress": [everything_else]}
    cluster.objects["networkpolicies"].append(policy)
    _says(cluster, "trouble: database: Temporary failure in name resolution")


@fault("network_policy_blocks")
def the_database_lets_no_one_in(cluster: Cluster) -> None:
    release = {"app.kubernetes.io/instance": "vdi"}
    cluster.one("deployments", "vdi-gateway")["metadata"]["labels"] = release
    labels = {"app.kubernetes.io/name": "postgresql", **release}
    cluster.add_pod("vdi-postgresql-0", "kasm", labels=labels)
    cluster.objects["networkpolicies"].append(
        _policy("postgresql", "kasm", {"matchLabels": labels}, [])
    )


@fault("network_policy_blocks")
def the_operator_may_not_reach_the_api_server(cluster: Cluster) -> None:
    cluster.add(
        "endpointslices",
        meta_of("default", "kubernetes"),
        endpoints=[],
        ports=[{"name": "", "port": 6443}],
    )
    policy = _policy("operator-out", "kasm", {"matchLabels": _VDI}, [])
    pods: Object = {"to": [{"namespaceSelector": {}}]}
    policy["spec"] |= {"policyTypes": ["Egress"], "egress": [pods, {"ports": [{"port": 443}]}]}
    cluster.objects["networkpolicies"].append(policy)


@fault("clock_wrong")
def node_is_ahead(cluster: Cluster) -> None:
    for condition in cluster.one("nodes")["status"]["conditions"]:
        condition["lastHeartbeatTime"] = "2026-11-20T12:02:00Z"


@fault("clock_wrong")
def lease_of_a_node_is_ahead(cluster: Cluster) -> None:
    """Its conditions are minutes old, and so look well."""
    spec = {"renewTime": "2026-11-20T12:01:00.000000Z"}
    cluster.add("leases", {"name": "node-1", "namespace": "kube-node-lease"}, spec=spec)


GATEWAY_FAULTS.table(
    ("backend_unreachable", "the_gateway_s_service_is_gone", gone("services", "vdi-gateway")),
    (
        "backend_unreachable",
        "gateway_service_port_wrong",
        put("endpointslices/vdi-gateway-x", "ports.1.port", 9999),
    ),
    (
        "service_without_endpoints",
        "desktop_service_port_wrong",
        put("endpointslices/alice-0-x", "ports.0.port", 9999),
    ),
    (
        "servers_transport_missing",
        "portal_transport_gone",
        put(_PORTAL, "spec.routes.0.services.0.serversTransport", "gone"),
    ),
    (
        "middleware_missing",
        "portal_middleware_gone",
        put(_PORTAL, "spec.routes.0.middlewares", [{"name": "retry"}]),
    ),
    ("route_missing", "the_portal_has_no_route", gone("ingressroutes", "vdi-gateway")),
    (
        "",
        "an_image_with_tls_and_a_login_that_has_all_it_needs",
        lambda cluster: _office(cluster, _CREDENTIALS),
    ),
    (
        "unexplained_condition",
        "turn_away",
        put("deployments/coturn", "status", {"conditions": [_UNAVAILABLE]}),
    ),
    (
        "session_overdue",
        "no_one_ends_it",
        put("vdisessions", "status.expiresAt", "2026-11-20T11:50:00Z"),
    ),
)
fault("basic_auth_secret_missing", name="a_secret_to_sign_in_with_another_key")(
    lambda cluster: _office(cluster, {**_CREDENTIALS, "password": ""})
)
fault("gateway_down", name="gateway_set_wrong")(
    lambda cluster: _does_not_start(
        cluster, "Error: VDI_LOGIN_IDLE='soon': allowed: a duration such as 8h"
    )
)
fault("database_unreachable", name="database_away_from_the_start")(
    lambda cluster: _does_not_start(
        cluster, _LINE.format("waiting for the database: connection refused")
    )
)
fault("gateway_troubled", name="keys_forbidden")(
    lambda cluster: cluster.logs["kasm/vdi-gateway-1"].append(
        '{"level": "warning", "msg": "trouble: signing keys: secrets is forbidden"}'
    )
)
fault("api_certificate_ends", name="k3s_up_for_a_year")(
    lambda cluster: setattr(cluster, "api_certificate_ends", "2026-12-01T00:00:00Z")
)
fault("database_unreachable", name="database_away")(
    lambda cluster: _says(
        cluster,
        "trouble: shared state: no answer",
        "trouble: database: refused",
        "no trouble any more: shared state",
    )
)


def _trouble(code: str, name: str, message: str) -> None:
    fault(code, name=name)(lambda cluster: _says(cluster, f"trouble: {message}"))


_trouble("redis_unreachable", "redis_away", "shared state: no response within 2 s")
_trouble(
    "oidc_unreachable",
    "provider_away",
    "single sign-on: https://id.example.com: GET https://id.example.com/: 502",
)
_trouble(
    "websocket_cut",
    "a_proxy_in_front_cuts_connections",
    "websockets of alice-0: they are disconnected every 61 s",
)
_trouble(
    "clock_wrong",
    "a_replica_of_the_gateway_is_ahead",
    "clock: it is 300 s ahead of the API server's clock. Synchronise the clocks of the nodes (NTP)",
)
# It answers, so the gateway is ready.
fault("history_not_written", name="database_read_only")(
    lambda cluster: _says(
        cluster,
        "history is not written, and goes on when this has passed: attempt to write a readonly"
        " database",
        "history: the retention is put off for 30 s: attempt to write a readonly database",
    )
)

"""Traefik's table of hosts, and the Services that a request passes after it. Pure.

Routes of all namespaces share one table: of the rules that match a request, the one with the
highest priority takes it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from vdi.doctor.objects.components import find_traefiks
from vdi.session.naming import MANAGED_BY
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.objects.network import EndpointSlice, Ingress, IngressRoute, Middleware, Service
from vdi.snapshot.objects.workloads import Pod

_HOST = re.compile(r"Host\(\s*`([^`]+)`\s*\)")
_HOST_PATTERN = re.compile(r"HostRegexp\(\s*`([^`]+)`\s*\)")
_PATH = re.compile(r"(Path|PathPrefix)\(\s*`([^`]+)`\s*\)")
# Parts of a rule that can be judged. Other matchers, and a negation, may exclude any request.
_JUDGED = re.compile(r"(?:Host|HostRegexp|Path|PathPrefix)\(\s*`[^`]+`\s*\)|[\s&|()]")
# A desktop's page, and the WebSocket of its picture.
_DESKTOP_PATHS = ("/", "/api/websockets")
_REPETITION, _REPEATED_GROUP = re.compile(r"[*+?{]"), re.compile(r"\)[*+{]")
_MOST_REPETITIONS = 2
# Labels of an EndpointSlice: its Service, and the controller that keeps it up to date.
SERVICE, KEPT_BY = "kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by"
_RELEASE = {"app.kubernetes.io/name": "vdi"}
# Kinds by which a request's path is followed.
OF_ROUTES = (
    *("ingresses", "middlewares", "serverstransports", "services", "endpointslices"),
    *("daemonsets", "deployments", "statefulsets"),
)
_ANNOTATION = "traefik.ingress.kubernetes.io/router."


@dataclass(frozen=True)
class Rule:
    """A rule of the table. `entry_points` empty: all of them."""

    object: str
    match: str
    given_priority: int = 0
    entry_points: frozenset[str] = frozenset()

    @property
    def priority(self) -> int:
        # Traefik's default is the rule's length.
        return self.given_priority or len(self.match)

    @property
    def hosts(self) -> list[str]:
        """Hosts that it names literally."""
        return _HOST.findall(self.match)

    def taken_path(self, host: str) -> str:
        """The first path of a desktop at this host that the rule takes; empty: none, or the rule
        cannot be judged.
        """
        patterns, paths = _HOST_PATTERN.findall(self.match), _PATH.findall(self.match)
        if _JUDGED.sub("", self.match) or not (self.hosts or patterns or paths):
            return ""
        if (
            (self.hosts or patterns)
            and host not in self.hosts
            and not any(_matches(one, host) for one in patterns)
        ):
            return ""
        for path in _DESKTOP_PATHS:
            if not paths or any(
                path == one or (kind == "PathPrefix" and path.startswith(one))
                for kind, one in paths
            ):
                return path
        return ""


def _matches(pattern: str, host: str) -> bool:
    # The pattern is somebody else's. Traefik's engine takes linear time for any, Python's may take
    # years where repetitions are nested or many, and the gateway runs this too. Such a pattern is
    # not judged.
    if len(_REPETITION.findall(pattern)) > _MOST_REPETITIONS or _REPEATED_GROUP.search(pattern):
        return False
    try:
        return re.search(pattern, host) is not None
    except re.error:
        return False  # Go's syntax, which Python does not have


def route_rules(route: IngressRoute) -> list[Rule]:
    where = f"ingressroute/{route.metadata.namespace}/{route.metadata.name}"
    entry_points = frozenset(route.spec.entry_points)
    return [Rule(where, rule.match, rule.priority, entry_points) for rule in route.spec.routes]


def is_ours(route: IngressRoute) -> bool:
    """Whether a desktop or a release has this route."""
    labels = route.metadata.labels
    return MANAGED_BY.items() <= labels.items() or is_of_release(labels)


def is_of_release(labels: Mapping[str, str]) -> bool:
    """Whether these are labels of an object of a release of ours."""
    return _RELEASE.items() <= labels.items()


def _ingress_rules(ingress: Ingress) -> Iterator[Rule]:
    """The rules that Traefik makes of an Ingress. One without a class counts as Traefik's."""
    meta, spec = ingress.metadata, ingress.spec
    notes = meta.annotations
    if "traefik" not in (
        spec.ingress_class_name or notes.get("kubernetes.io/ingress.class") or "traefik"
    ):
        return
    where = f"ingress/{meta.namespace}/{meta.name}"
    priority = notes.get(f"{_ANNOTATION}priority", "")
    entry_points = frozenset(re.findall(r"[^\s,]+", notes.get(f"{_ANNOTATION}entrypoints", "")))
    for rule in spec.rules:
        host = rule.host
        matcher = f"Host(`{host}`)" if host else ""
        if host.startswith("*."):
            matcher = f"HostRegexp(`^[a-zA-Z0-9-]+{re.escape(host[1:])}$`)"
        for path in rule.http.paths:
            kind = "Path" if path.path_type == "Exact" else "PathPrefix"
            parts = (matcher, f"{kind}(`{path.path}`)" if path.path else "")
            match = " && ".join(filter(None, parts))
            yield Rule(where, match, int(priority) if priority.isdigit() else 0, entry_points)


@once
def _host_table(snapshot: Snapshot) -> Mapping[str, list[Rule]]:
    """Rules of others that Traefik reads, by the hosts that they name; ``""``: those that name no
    host, or patterns.
    """
    # Without a Traefik in the cluster one outside it reads the routes, and nothing is known of its
    # options.
    traefiks = find_traefiks(snapshot)
    watched = {namespace for traefik in traefiks for namespace in traefik.namespaces}
    watches_all = any(not traefik.namespaces for traefik in traefiks) or not traefiks
    rules: list[Rule] = []
    for route in snapshot.objects.ingressroutes:
        # Releases that share a domain are a finding of their own, as is a host that two sessions
        # request.
        if not is_ours(route) and (watches_all or route.metadata.namespace in watched):
            rules += route_rules(route)
    rules += [rule for ingress in snapshot.objects.ingresses for rule in _ingress_rules(ingress)]
    table: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        for host in ([] if _HOST_PATTERN.search(rule.match) else rule.hosts) or [""]:
            table[host].append(rule)
    return table


def find_rival(snapshot: Snapshot, own: Rule, host: str) -> tuple[Rule, str] | None:
    """A rule of another object that takes requests for `own`'s host, and the first path that it
    takes.
    """
    table = _host_table(snapshot)
    for rule in (*table.get(host, ()), *table.get("", ())):
        is_beside = (
            rule.entry_points and own.entry_points and not rule.entry_points & own.entry_points
        )
        # Of two equal priorities Traefik takes either.
        if rule.object == own.object or rule.priority < own.priority or is_beside:
            continue
        if path := rule.taken_path(host):
            return rule, path
    return None


class Backend(NamedTuple):
    """A Service that a request passes. `port`: number, or name of its port; `named_by`: the object
    that names it.
    """

    namespace: str
    name: str
    port: int | str
    named_by: str


def chain_of(snapshot: Snapshot, name: str, namespace: str) -> list[tuple[str, str]]:
    """Name and namespace of a Middleware, and of the members of a chain."""
    middleware: Middleware | None = snapshot.find("middlewares", name, namespace)
    links = middleware.spec.chain.middlewares if middleware else ()
    return [(name, namespace), *((link.name, link.namespace or namespace) for link in links)]


def backends_of(snapshot: Snapshot, route: IngressRoute) -> Iterator[Backend]:
    """The Services that an IngressRoute and its Middlewares name."""
    namespace, name = route.metadata.namespace, route.metadata.name
    for rule in route.spec.routes:
        for service in rule.services:
            if service.kind == "Service":
                named_by = f"ingressroute/{namespace}/{name}"
                yield Backend(service.namespace or namespace, service.name, service.port, named_by)
        for middleware in rule.middlewares:
            yield from middleware_backends(
                snapshot, middleware.name, middleware.namespace or namespace
            )


def middleware_backends(snapshot: Snapshot, name: str, namespace: str) -> Iterator[Backend]:
    """The Services that a Middleware, or a member of its chain, asks."""
    for link, there in chain_of(snapshot, name, namespace):
        middleware: Middleware | None = snapshot.find("middlewares", link, there)
        if middleware is None or middleware.spec.forward_auth is None:
            continue
        try:
            parts = urlsplit(middleware.spec.forward_auth.address)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            continue
        service, at, kind = [*(parts.hostname or "").split("."), "", "", ""][:3]
        if kind == "svc":
            yield Backend(at, service, port, f"middleware/{there}/{link}")


@once
def _ready_slices(snapshot: Snapshot) -> Mapping[tuple[str, str], list[EndpointSlice]]:
    """EndpointSlices with a ready endpoint, by namespace and name of their Service."""
    slices: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for one in snapshot.objects.endpointslices:
        if any(endpoint.conditions.ready is not False for endpoint in one.endpoints):
            service = one.metadata.labels.get(SERVICE, "")
            slices[one.metadata.namespace, service].append(one)
    return slices


def routes_to(snapshot: Snapshot, namespace: str, service: str) -> list[IngressRoute]:
    """Routes of this namespace that name this Service."""
    return [
        route
        for route in snapshot.objects.ingressroutes
        if route.metadata.namespace == namespace
        and any(one.name == service for one in backends_of(snapshot, route))
    ]


def added_by_hand(snapshot: Snapshot, namespace: str, service: str) -> list[EndpointSlice]:
    """EndpointSlices of a Service with a selector that no controller keeps up to date."""
    there: Service | None = snapshot.find("services", service, namespace)
    if there is None or not there.spec.selector:
        return []
    return [
        one
        for one in snapshot.objects.endpointslices
        if (one.metadata.namespace, one.metadata.labels.get(SERVICE)) == (namespace, service)
        and KEPT_BY not in one.metadata.labels
    ]


def is_read(snapshot: Snapshot, plural: str, namespace: str) -> bool:
    """Whether the objects of this kind and namespace are in the snapshot."""
    unread = snapshot.unreadable_kinds
    return plural not in unread and (
        f"{plural}@all" not in unread or namespace == snapshot.scope.namespace
    )


def explain_service(
    snapshot: Snapshot, namespace: str, name: str, port: int | str, pods: Iterable[Pod]
) -> tuple[str, list[str]] | None:
    """A clause that says why a Service leads to none of these pods, and its evidence; None: it
    leads to them.
    """
    service: Service | None = snapshot.find("services", name, namespace)
    if service is None:
        return "does not exist", [f"there is no Service {namespace}/{name}"]
    if service.spec.type == "ExternalName":
        return None
    ports = service.spec.ports
    served = next((one for one in ports if port in (one.name, one.port)), None)
    if served is None:
        numbers = ", ".join(str(one.port) for one in ports)
        return f"has no port {port}", [f"spec.ports: {numbers or 'none'}"]
    slices = _ready_slices(snapshot).get((namespace, name))
    if not slices:
        labels = [f"pod/{pod.metadata.name} labels: {pod.metadata.labels}" for pod in pods]
        selector = f"spec.selector: {service.spec.selector or None}"
        return "has no pod that is ready behind it", [selector, *labels[:2]]
    targets = _target_ports(slices, served.name)
    expected = _container_ports(pods, served.name)
    if targets and (not expected or targets & expected):
        return None
    listening = ", ".join(map(str, sorted(expected)))
    return (
        f"leads to port {served.target_port or served.port}, on which its pods do not listen",
        [f"ports of its pods: {listening or 'unknown'}"],
    )


def _target_ports(slices: Iterable[EndpointSlice], name: str) -> set[int]:
    targets = set()
    for endpoint_slice in slices:
        for port in endpoint_slice.ports:
            if port.name == name:
                targets.add(port.port)
    return targets


def _container_ports(pods: Iterable[Pod], name: str) -> set[int]:
    """Ports of this name; without one, any port that a container declares will do."""
    named: set[int] = set()
    others: set[int] = set()
    for pod in pods:
        for container in pod.spec.containers:
            for port in container.ports:
                (named if port.name == name else others).add(port.container_port)
    return named or others

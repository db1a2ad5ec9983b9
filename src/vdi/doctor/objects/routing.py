"""Traefik's table of hosts, and the Services that a request passes after it. Pure.

Routes of all namespaces share one table: of the rules that match a request, the one with the highest priority takes it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from vdi.cluster.objects import Pod
from vdi.doctor.objects.components import find_traefiks
from vdi.session.naming import MANAGED_BY
from vdi.snapshot.model import Raw, Snapshot, once

_HOST = re.compile(r"Host\(\s*`([^`]+)`\s*\)")
_HOST_PATTERN = re.compile(r"HostRegexp\(\s*`([^`]+)`\s*\)")
_PATH = re.compile(r"(Path|PathPrefix)\(\s*`([^`]+)`\s*\)")
# Parts of a rule that can be judged. Other matchers, and a negation, may exclude any request.
_JUDGED = re.compile(r"(?:Host|HostRegexp|Path|PathPrefix)\(\s*`[^`]+`\s*\)|[\s&|()]")
# A desktop's page, and the WebSocket of its picture.
_DESKTOP_PATHS = ("/", "/api/websockets")
_REPETITION, _REPEATED_GROUP = re.compile(r"[*+?{]"), re.compile(r"\)[*+{]")
_MOST_REPETITIONS = 2
_RELEASE = {"app.kubernetes.io/name": "vdi"}
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
        """The first path of a desktop at this host that the rule takes; empty: none, or the rule cannot be judged."""
        patterns, paths = _HOST_PATTERN.findall(self.match), _PATH.findall(self.match)
        if _JUDGED.sub("", self.match) or not (self.hosts or patterns or paths):
            return ""
        if (self.hosts or patterns) and host not in self.hosts and not any(_matches(one, host) for one in patterns):
            return ""
        for path in _DESKTOP_PATHS:
            if not paths or any(path == one or (kind == "PathPrefix" and path.startswith(one)) for kind, one in paths):
                return path
        return ""


def _matches(pattern: str, host: str) -> bool:
    # The pattern is somebody else's. Traefik's engine takes linear time for any, Python's may take years where
    # repetitions are nested or many, and the gateway runs this too. Such a pattern is not judged.
    if len(_REPETITION.findall(pattern)) > _MOST_REPETITIONS or _REPEATED_GROUP.search(pattern):
        return False
    try:
        return re.search(pattern, host) is not None
    except re.error:
        return False  # Go's syntax, which Python does not have


def route_rules(route: Raw) -> list[Rule]:
    meta, spec = route["metadata"], route["spec"]
    where = f"ingressroute/{meta['namespace']}/{meta['name']}"
    entry_points = frozenset(spec.get("entryPoints") or ())
    rules = spec.get("routes") or ()
    return [Rule(where, str(one.get("match", "")), int(one.get("priority") or 0), entry_points) for one in rules]


def _ingress_rules(ingress: Raw) -> Iterator[Rule]:
    """The rules that Traefik makes of an Ingress. One without a class counts as Traefik's."""
    meta, spec = ingress["metadata"], ingress.get("spec") or {}
    notes = meta.get("annotations") or {}
    if "traefik" not in (spec.get("ingressClassName") or notes.get("kubernetes.io/ingress.class") or "traefik"):
        return
    where = f"ingress/{meta['namespace']}/{meta['name']}"
    priority = str(notes.get(f"{_ANNOTATION}priority", ""))
    entry_points = frozenset(re.findall(r"[^\s,]+", str(notes.get(f"{_ANNOTATION}entrypoints", ""))))
    for rule in spec.get("rules") or ():
        host = str(rule.get("host") or "")
        matcher = f"Host(`{host}`)" if host else ""
        if host.startswith("*."):
            matcher = f"HostRegexp(`^[a-zA-Z0-9-]+{re.escape(host[1:])}$`)"
        for path in (rule.get("http") or {}).get("paths") or ():
            kind = "Path" if path.get("pathType") == "Exact" else "PathPrefix"
            parts = (matcher, f"{kind}(`{path['path']}`)" if path.get("path") else "")
            match = " && ".join(filter(None, parts))
            yield Rule(where, match, int(priority) if priority.isdigit() else 0, entry_points)


@once
def _host_table(snapshot: Snapshot) -> Mapping[str, list[Rule]]:
    """Rules of others that Traefik reads, by the hosts that they name; ``""``: those that name no host, or patterns."""
    # Without a Traefik in the cluster one outside it reads the routes, and nothing is known of its options.
    traefiks = find_traefiks(snapshot)
    watched = {namespace for traefik in traefiks for namespace in traefik.namespaces}
    watches_all = any(not traefik.namespaces for traefik in traefiks) or not traefiks
    rules: list[Rule] = []
    for route in snapshot.raw("ingressroutes"):
        labels = (route["metadata"].get("labels") or {}).items()
        # Releases that share a domain are a finding of their own, as is a host that two sessions request.
        is_ours = MANAGED_BY.items() <= labels or _RELEASE.items() <= labels
        if not is_ours and (watches_all or route["metadata"]["namespace"] in watched):
            rules += route_rules(route)
    rules += [rule for ingress in snapshot.raw("ingresses") for rule in _ingress_rules(ingress)]
    table: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        for host in ([] if _HOST_PATTERN.search(rule.match) else rule.hosts) or [""]:
            table[host].append(rule)
    return table


def find_rival(snapshot: Snapshot, own: Rule, host: str) -> tuple[Rule, str] | None:
    """A rule of another object that takes requests for `own`'s host, and the first path that it takes."""
    table = _host_table(snapshot)
    for rule in (*table.get(host, ()), *table.get("", ())):
        is_beside = rule.entry_points and own.entry_points and not rule.entry_points & own.entry_points
        # Of two equal priorities Traefik takes either.
        if rule.object == own.object or rule.priority < own.priority or is_beside:
            continue
        if path := rule.taken_path(host):
            return rule, path
    return None


class Backend(NamedTuple):
    """A Service that a request passes. `port`: number, or name of its port; `named_by`: the object that names it."""

    namespace: str
    name: str
    port: int | str
    named_by: str


def chain_of(snapshot: Snapshot, name: str, namespace: str) -> list[tuple[str, str]]:
    """Name and namespace of a Middleware, and of the members of a chain."""
    chain = ((snapshot.find("middlewares", name, namespace) or {}).get("spec") or {}).get("chain") or {}
    links = ((link["name"], link.get("namespace") or namespace) for link in chain.get("middlewares") or ())
    return [(name, namespace), *links]


def backends_of(snapshot: Snapshot, route: Raw) -> Iterator[Backend]:
    """The Services that an IngressRoute and its Middlewares name."""
    namespace, name = route["metadata"]["namespace"], route["metadata"]["name"]
    for rule in route["spec"].get("routes") or ():
        for one in rule.get("services") or ():
            if one.get("kind", "Service") == "Service":
                named_by = f"ingressroute/{namespace}/{name}"
                yield Backend(one.get("namespace") or namespace, one["name"], one.get("port", ""), named_by)
        for one in rule.get("middlewares") or ():
            yield from middleware_backends(snapshot, one["name"], one.get("namespace") or namespace)


def middleware_backends(snapshot: Snapshot, name: str, namespace: str) -> Iterator[Backend]:
    """The Services that a Middleware, or a member of its chain, asks."""
    for link, there in chain_of(snapshot, name, namespace):
        spec = (snapshot.find("middlewares", link, there) or {}).get("spec") or {}
        try:
            parts = urlsplit((spec.get("forwardAuth") or {}).get("address", ""))
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            continue
        service, at, kind = [*(parts.hostname or "").split("."), "", "", ""][:3]
        if kind == "svc":
            yield Backend(at, service, port, f"middleware/{there}/{link}")


@once
def _ready_slices(snapshot: Snapshot) -> Mapping[tuple[str, str], list[Raw]]:
    """EndpointSlices with a ready endpoint, by namespace and name of their Service."""
    found: dict[tuple[str, str], list[Raw]] = defaultdict(list)
    for one in snapshot.raw("endpointslices"):
        name = (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
        if any(endpoint["conditions"].get("ready") is not False for endpoint in one["endpoints"]):
            found[one["metadata"]["namespace"], name].append(one)
    return found


def is_read(snapshot: Snapshot, plural: str, namespace: str) -> bool:
    """Whether the objects of this kind and namespace are in the snapshot."""
    unread = snapshot.unreadable_kinds
    return plural not in unread and (f"{plural}@all" not in unread or namespace == snapshot.scope.namespace)


def explain_service(
    snapshot: Snapshot, namespace: str, name: str, port: int | str, pods: Iterable[Pod]
) -> tuple[str, list[str]] | None:
    """A clause that says why a Service leads to none of these pods, and its evidence; None: it leads to them."""
    service = snapshot.find("services", name, namespace)
    if service is None:
        return "does not exist", [f"there is no Service {namespace}/{name}"]
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return None
    ports = spec.get("ports") or ()
    served = next((one for one in ports if port in (one.get("name"), one.get("port"))), None)
    if served is None:
        return f"has no port {port}", [f"spec.ports: {', '.join(str(one.get('port')) for one in ports) or 'none'}"]
    slices = _ready_slices(snapshot).get((namespace, name))
    if not slices:
        labels = [f"pod/{pod.metadata.name} labels: {pod.metadata.labels}" for pod in pods]
        return "has no pod that is ready behind it", [f"spec.selector: {spec.get('selector')}", *labels[:2]]
    label = served.get("name", "")
    targets = {one["port"] for found in slices for one in found["ports"] if one.get("name", "") == label}
    opened: list[Raw] = [
        one
        for pod in pods
        for container in (snapshot.find("pods", pod.metadata.name, pod.metadata.namespace) or {})["spec"]["containers"]
        for one in container.get("ports") or ()
    ]
    # A port of the same name is meant; else any port that a container declares will do.
    same = {one["containerPort"] for one in opened if one.get("name", "") == label}
    expected = same or {one["containerPort"] for one in opened}
    if targets and (not expected or targets & expected):
        return None
    target, listening = served.get("targetPort", served.get("port")), ", ".join(map(str, sorted(expected)))
    return f"leads to port {target}, on which its pods do not listen", [f"ports of its pods: {listening or 'unknown'}"]

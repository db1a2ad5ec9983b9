"""Checks of each hop of a request: Traefik's table of hosts, route, Middlewares, Services of
gateway and desktop.

A new check of a hop belongs here. `vdi doctor --probe` (`vdi.doctor.probe`) tries the same path for
real.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from urllib.parse import urlsplit

from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import (
    Workload,
    find_gateways,
    find_operators,
    find_traefiks,
    gateways_in_scope,
    operators_in_scope,
    workloads,
)
from vdi.doctor.objects.routing import (
    KEPT_BY,
    OF_ROUTES,
    Backend,
    Rule,
    added_by_hand,
    backends_of,
    chain_of,
    explain_service,
    find_rival,
    is_read,
    middleware_backends,
    route_rules,
    routes_to,
)
from vdi.doctor.objects.sessions import OF_SESSIONS, SessionDiagnosis, active_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.children import PORT_NAME
from vdi.session.naming import route_name, service_name
from vdi.snapshot.check import check
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.network import IngressRoute, Service
from vdi.snapshot.objects.workloads import Pod

# Time that the operator and the endpoint controller have for a new pod.
_YOUNG_SECONDS = 30.0
# Kind of an object that a route names, and the code of its absence.
_NAMED = {
    "middlewares": ("Middleware", "middleware_missing"),
    "serverstransports": ("ServersTransport", "servers_transport_missing"),
}


@check("vdisessions", "ingressroutes", "pods", reads=(*OF_SESSIONS, *OF_ROUTES))
def routes_wrong(snapshot: Snapshot) -> Iterator[Finding]:
    """Routes that do not lead the session's host to its desktop."""
    if "ingressroutes" in snapshot.absent:
        return
    for diagnosis in active_sessions(snapshot):
        pod, name = diagnosis.pod, route_name(diagnosis.name)
        if pod is None or not pod.ready:
            continue
        where = f"ingressroute/{diagnosis.namespace}/{name}"
        route = snapshot.find("ingressroutes", name, diagnosis.namespace)
        if route is not None:
            yield from _rule_findings(diagnosis, route_rules(route), where)
            yield from _reference_findings(
                snapshot, route, diagnosis.operator, diagnosis.related_objects
            )
        elif snapshot.age(pod.metadata.creation_timestamp) > _YOUNG_SECONDS:
            yield diagnosis.finding(
                "route_missing",
                f"The desktop of {diagnosis.name} is ready, but has no route: its address responds"
                " with 404.",
                object_name=where,
                evidence=[f"there is no IngressRoute {diagnosis.namespace}/{name}"],
                remedy=diagnosis.read_operator_log,
            )


def _rule_findings(diagnosis: SessionDiagnosis, rules: list[Rule], where: str) -> Iterator[Finding]:
    """A rule that does not take the session's host, or loses it to another one."""
    host = diagnosis.host
    if not host:
        return
    own = [rule for rule in rules if rule.taken_path(host)]
    reported = urlsplit(diagnosis.session.status.url).hostname or ""
    operator = diagnosis.operator
    if not own and operator and reported and any(rule.taken_path(reported) for rule in rules):
        # Route and status agree, so it is not the route that is wrong. One finding for all sessions
        # of the operator.
        yield make_finding(
            "route_host_mismatch",
            operator.object,
            f"The operator's VDI_DOMAIN is {operator.settings.domain}, but its sessions are served"
            f" as {reported}.",
            evidence=[f"{diagnosis.object}: status.url: {diagnosis.session.status.url}"],
            remedy=Remedy(
                "Put the domain back, or restart the sessions.", (f"{operator.upgrade} --yes",)
            ),
        )
    elif not own:
        led = ", ".join(host for rule in rules for host in rule.hosts)
        yield diagnosis.finding(
            "route_host_mismatch",
            f"The session's address is {host}, but its route is for {led or 'no host'}. Browsers"
            " get 404.",
            object_name=where,
            evidence=[f"spec.routes[].match: {rule.match}" for rule in rules],
            remedy=diagnosis.restart_operator,
        )
    for rule in own:
        yield from _shadowed(diagnosis.snapshot, rule, host, diagnosis.related_objects)


def _shadowed(
    snapshot: Snapshot, own: Rule, host: str, related: Iterable[str] = ()
) -> Iterator[Finding]:
    """Another rule of Traefik's table that takes requests for the host."""
    rival = find_rival(snapshot, own, host)
    if rival is None:
        return
    rule, path = rival
    kind, namespace, name = rule.object.split("/")
    if path == "/":
        taken = f"the host {host}"
    else:
        taken = f"the path {path} of {host}"
    kubectl = f"kubectl --namespace {namespace}"
    yield make_finding(
        "route_shadowed",
        own.object,
        f"The {'route' if kind == 'ingressroute' else 'Ingress'} {namespace}/{name} takes over"
        f" {taken}: its priority is {rule.priority}, this route's is {own.priority}.",
        evidence=[
            f"{rule.object}: match {rule.match}, priority"
            f" {rule.given_priority or 'not set (its length)'}"
        ],
        remedy=Remedy(
            f"Give {name} another host or a lower priority, or delete it.",
            (f"{kubectl} get {kind} {name} --output yaml", f"{kubectl} delete {kind} {name}"),
        ),
        related_objects=related,
    )


def _reference_findings(
    snapshot: Snapshot, route: IngressRoute, release: Workload | None, related: Iterable[str] = ()
) -> Iterator[Finding]:
    """Entry points and objects that a route names and Traefik does not find: it then ignores the
    route.
    """
    namespace, name, spec = route.metadata.namespace, route.metadata.name, route.spec
    show = f"kubectl --namespace {namespace} get ingressroute {name} --output yaml"
    related = [*related]
    finding = partial(make_finding, object_name=f"ingressroute/{namespace}/{name}")
    traefiks = find_traefiks(snapshot)
    known = sorted({name for traefik in traefiks for name in traefik.entry_points})
    strange = ", ".join(name for name in spec.entry_points if known and name.lower() not in known)
    if strange:
        if release:
            command = f"{release.upgrade} --set traefik.entryPoint={known[0]}"
        else:
            command = show
        yield finding(
            "route_entry_point_unknown",
            message=(
                f"Traefik has no entry point {strange}, so it ignores the route; it has:"
                f" {', '.join(known)}."
            ),
            evidence=[f"spec.entryPoints: {', '.join(spec.entry_points)}"],
            remedy=Remedy.run(command),
            related_objects=related,
        )
    crosses = not traefiks or any(traefik.crosses_namespaces for traefik in traefiks)
    for plural, link, there in _links_of(snapshot, route):
        kind, code = _NAMED[plural]
        is_missing = is_read(snapshot, plural, there) and not snapshot.find(plural, link, there)
        # Traefik takes names of another namespace only with
        # --providers.kubernetescrd.allowCrossNamespace.
        is_refused = there != namespace and not crosses
        if is_missing or is_refused:
            if is_refused:
                problem = "is in another namespace"
            else:
                problem = "does not exist"
            yield finding(
                code,
                message=(
                    f"It names the {kind} {there}/{link}, which {problem}: Traefik ignores the"
                    " route (404)."
                ),
                evidence=[f"spec.routes[] names {there}/{link}"],
                remedy=Remedy.run(f"{release.upgrade} --yes" if release else show),
                related_objects=[*related, f"{kind.lower()}/{there}/{link}"],
            )


def _links_of(snapshot: Snapshot, route: IngressRoute) -> Iterator[tuple[str, str, str]]:
    """Plural, name and namespace of the objects that a route names, directly or through a chain."""
    namespace = route.metadata.namespace
    for rule in route.spec.routes:
        for middleware in rule.middlewares:
            for link in chain_of(snapshot, middleware.name, middleware.namespace or namespace):
                yield "middlewares", *link
        for service in rule.services:
            if service.servers_transport:
                yield "serverstransports", service.servers_transport, namespace


@check("vdisessions", "services", "endpointslices", "pods", reads=OF_SESSIONS)
def services_empty(snapshot: Snapshot) -> Iterator[Finding]:
    """Services of desktops that do not exist, or do not lead to the desktop although it is
    ready.
    """
    for diagnosis in active_sessions(snapshot):
        pod, name = diagnosis.pod, service_name(diagnosis.name)
        if pod is None or not pod.ready or not _is_settled(snapshot, [pod]):
            continue
        if problem := explain_service(snapshot, diagnosis.namespace, name, PORT_NAME, [pod]):
            exists = snapshot.find("services", name, diagnosis.namespace) is not None
            yield diagnosis.finding(
                "service_without_endpoints" if exists else "service_missing",
                f"The desktop is ready, but its Service {problem[0]}: the browser gets 404 or 503.",
                object_name=f"service/{diagnosis.namespace}/{name}",
                evidence=problem[1],
                remedy=diagnosis.restart_operator if exists else diagnosis.read_operator_log,
            )


def _is_settled(snapshot: Snapshot, pods: Iterable[Pod]) -> bool:
    """Whether no pod has just changed its readiness: EndpointSlices show that a moment later."""
    changed = []
    for pod in pods:
        if one := pod.condition("Ready"):
            changed.append(one.last_transition_time)
    return all(snapshot.age(time) >= _YOUNG_SECONDS for time in changed)


@check("deployments", "ingressroutes@all", "ingresses", reads=OF_ROUTES)
def gateway_unrouted(snapshot: Snapshot) -> Iterator[Finding]:
    """Gateways without a route, or whose hosts another route takes."""
    for gateway in gateways_in_scope(snapshot):
        routes = routes_to(snapshot, gateway.namespace, gateway.name)
        if not routes and gateway.ready and "ingressroutes" not in snapshot.absent:
            yield make_finding(
                "route_missing",
                f"ingressroute/{gateway.namespace}/{gateway.name}",
                "No route leads to the gateway: the portal, and each desktop that is starting,"
                " respond with 404.",
                evidence=[
                    f"no IngressRoute of {gateway.namespace} names the Service {gateway.name}"
                ],
                remedy=Remedy(
                    "The chart contains this route: upgrade the release.",
                    (f"{gateway.upgrade} --yes",),
                ),
            )
        for route in routes:
            yield from _reference_findings(snapshot, route, gateway)
            for rule in route_rules(route):
                for host in rule.hosts:
                    yield from _shadowed(snapshot, rule, host)


# One of them that leads nowhere breaks every desktop, while all pods are ready.
@check(
    "vdisessions",
    "ingressroutes",
    "deployments",
    "daemonsets",
    "services@all",
    "endpointslices@all",
    "pods@all",
    reads=(*OF_SESSIONS, *OF_ROUTES),
)
def backends_unreachable(snapshot: Snapshot) -> Iterator[Finding]:
    """Services other than a desktop's own that routes and Middlewares name, and Traefik's."""
    # In a release with one namespace a desktop's route is among the gateway's, too: it names both
    # Services.
    own = {(one.namespace, service_name(one.name)) for one in active_sessions(snapshot)}
    for backend in {backend[:3]: backend for backend in _shared_backends(snapshot)}.values():
        if backend[:2] not in own:
            yield from _backend_findings(snapshot, backend)


def _shared_backends(snapshot: Snapshot) -> Iterator[Backend]:
    entry_points = {"websecure"}
    for diagnosis in active_sessions(snapshot):
        if route_of_session := snapshot.find(
            "ingressroutes", route_name(diagnosis.name), diagnosis.namespace
        ):
            entry_points |= set(route_of_session.spec.entry_points)
            yield from backends_of(snapshot, route_of_session)
    for operator in operators_in_scope(snapshot):
        for namespace in operator.watches if operator.settings.edge_middleware else ():
            yield from middleware_backends(
                snapshot, operator.settings.edge_middleware or "", namespace
            )
    for route in (
        route
        for gateway in gateways_in_scope(snapshot)
        for route in routes_to(snapshot, gateway.namespace, gateway.name)
    ):
        yield from backends_of(snapshot, route)
    for traefik in find_traefiks(snapshot):
        service: Service | None = snapshot.find("services", traefik.name, traefik.namespace)
        for port in service.spec.ports if service else ():
            if port.name in entry_points:
                yield Backend(traefik.namespace, traefik.name, port.name, traefik.object)


def _backend_findings(snapshot: Snapshot, backend: Backend) -> Iterator[Finding]:
    namespace, name, port, named_by = backend
    for added in added_by_hand(snapshot, namespace, name):
        where = f"--namespace {namespace} {{}} endpointslice {added.metadata.name}"
        yield make_finding(
            "backend_unreachable",
            f"endpointslice/{namespace}/{added.metadata.name}",
            f"The EndpointSlice {added.metadata.name} adds addresses to the Service"
            f" {namespace}/{name} that no controller keeps up to date: where they are no pods, a"
            " part of the requests fails.",
            evidence=[f"it has no label {KEPT_BY}; the Service has a selector"],
            remedy=Remedy(
                "Delete it, unless its addresses are meant.",
                tuple(f"kubectl {where.format(verb)}" for verb in ("describe", "delete")),
            ),
            severity=Severity.WARNING,
        )
    workload = next(
        (one for one in workloads(snapshot) if (one.namespace, one.name) == (namespace, name)), None
    )
    if workload:
        pods = [pod for pod in snapshot.pods_of(workload.raw) if not pod.terminating]
    else:
        pods = []
    problem = explain_service(snapshot, namespace, name, port, pods)
    own = {one.object for one in (*find_gateways(snapshot), *find_traefiks(snapshot))}
    # Without a ready pod the cause is the gateway's or Traefik's own.
    is_down = workload and workload.object in own and not any(pod.ready for pod in pods)
    if problem is None or is_down or not _is_settled(snapshot, pods):
        return
    if named_by.startswith("middleware/"):
        failing = "every desktop behind it responds with 500"
    else:
        failing = "requests fail"
    yield make_finding(
        "backend_unreachable",
        f"service/{namespace}/{name}",
        f"The Service {namespace}/{name}, to which {named_by} leads, {problem[0]}: {failing}.",
        evidence=problem[1],
        remedy=_backend_remedy(snapshot, backend, workload),
        related_objects=[
            *([workload.object, *snapshot.nodes_of(workload.raw)] if workload else []),
            *([named_by] if named_by.startswith("middleware/") else []),
        ],
    )


def _backend_remedy(snapshot: Snapshot, backend: Backend, workload: Workload | None) -> Remedy:
    ours = [
        one
        for one in (workload, *find_operators(snapshot))
        if one and one.namespace == backend.namespace
    ][:1]
    show = (
        f"kubectl --namespace {backend.namespace} get services,endpointslices,pods --output wide"
        " --show-labels"
    )
    return Remedy.run(*(f"{one.upgrade} --yes" for one in ours if one.release), show)


CHECKS = (routes_wrong, services_empty, gateway_unrouted, backends_unreachable)

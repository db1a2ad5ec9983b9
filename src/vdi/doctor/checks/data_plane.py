"""Checks of a request's path from the browser to the desktop: Traefik, routes, certificates, the gateway, Services."""

import re
from collections.abc import Iterator
from typing import Any

from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Certificate, Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import (
    Gateway,
    Traefik,
    explain_pod,
    find_traefiks,
    gateways_in_scope,
    last_words,
    operator_for,
    operators_in_scope,
    pod_evidence,
    pods_of,
    troubles,
    unavailable_for,
)
from vdi.doctor.objects.references import hosts_by_certificate
from vdi.doctor.objects.sessions import SessionDiagnosis, active, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kube.certificate import covers
from vdi.session.naming import route_name, service_name

_YOUNG = 30.0
_SOON = 14 * 86400.0
_HOST = re.compile(r"Host\(\s*`([^`]+)`\s*\)")
_HOST_PATTERN = re.compile(r"HostRegexp\(\s*`([^`]+)`\s*\)")
_OLD_RULES = (
    (
        re.compile(r"HostRegexp\(\s*`[^`]*\{\w+:[^`]*`"),
        "HostRegexp takes a plain regular expression, not {name:pattern}",
    ),
    (
        re.compile(r"(?:Host|HostRegexp|Path|PathPrefix|Method)\(\s*`[^`]*`\s*,"),
        "a matcher takes one value: write A || B",
    ),
    (re.compile(r"(?:HeadersRegexp|Headers|HostHeader)\("), "Headers is now Header, HeadersRegexp is HeaderRegexp"),
    (re.compile(r"PathPrefix\(\s*`[^`]*\{"), "PathPrefix supports no patterns: use PathRegexp"),
)


@check("deployments", "daemonsets")
def traefik_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Traefik without a replica that answers, or that does not look at the sessions' namespace."""

    traefiks = find_traefiks(snapshot)
    for traefik in traefiks:
        new = snapshot.age(traefik.raw["metadata"]["creationTimestamp"]) <= _YOUNG * 2
        if not traefik.ready and not new and not (traefik.desired == 0 and any(other.ready for other in traefiks)):
            yield _traefik_down(snapshot, traefik)
    for namespace in sorted({session.metadata.namespace for session in snapshot.sessions}):
        if traefiks and all(traefik.namespaces and namespace not in traefik.namespaces for traefik in traefiks):
            yield make_finding(
                "traefik_not_watching",
                f"namespace/{namespace}",
                f"Traefik does not watch the namespace {namespace}, so its routes respond with 404.",
                evidence=[
                    f"{traefik.object}: namespaces {', '.join(sorted(traefik.namespaces))}" for traefik in traefiks
                ],
                remedy=Remedy(
                    f"Add {namespace} to --providers.kubernetescrd.namespaces of Traefik, or remove that argument.",
                    tuple(
                        f"kubectl --namespace {traefik.namespace} edit {traefik.kind} {traefik.name}"
                        for traefik in traefiks
                    ),
                ),
            )


def _traefik_down(snapshot: Snapshot, one: Traefik) -> Finding:
    command = f"kubectl --namespace {one.namespace}"
    if one.desired == 0 and one.kind == "deployment":
        up = Remedy("Scale it up again.", (f"{command} scale deployment {one.name} --replicas 1",))
        said, remedy = "Traefik is scaled to 0", up
    else:
        said = f"None of {one.desired} replicas of Traefik is ready"
        remedy = Remedy.run(f"{command} describe {one.kind} {one.name}", f"{command} describe pods")
    return make_finding(
        "traefik_down",
        one.object,
        f"{said}: no desktop can be reached.",
        evidence=[f"ready: 0 of {one.desired}"],
        remedy=remedy,
        related_objects=snapshot.nodes_of(one.raw),
    )


@check("vdisessions", "ingressroutes")
def traefik_kinds_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """The cluster does not know IngressRoute at all."""
    if "ingressroutes" in snapshot.absent and snapshot.sessions:
        yield make_finding(
            "traefik_crds_missing",
            "customresourcedefinition/ingressroutes.traefik.io",
            "The cluster does not know IngressRoute: Traefik 3's CRDs are missing. Desktops have no address.",
            evidence=["LIST ingressroutes.traefik.io: the server has no such resource"],
            remedy=Remedy(
                "Install Traefik 3 with its CRDs (docs/install.md). K3s: start it without --disable=traefik."
            ),
        )


@check("vdisessions", "ingressroutes", "pods")
def routes_wrong(snapshot: Snapshot) -> Iterator[Finding]:
    """Routes that do not lead the session's host to its desktop."""
    if "ingressroutes" in snapshot.absent:
        return
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod = diagnosis.pod
        if pod is None or not pod.ready:
            continue
        name = route_name(diagnosis.session.metadata.name)
        where = f"ingressroute/{diagnosis.namespace}/{name}"
        route = snapshot.find("ingressroutes", name, diagnosis.namespace)
        if route is None:
            if snapshot.age(pod.metadata.creation_timestamp) > _YOUNG:
                yield make_finding(
                    "route_missing",
                    where,
                    f"The desktop of {diagnosis.session.metadata.name} is ready, but has no route: its address "
                    "responds with 404.",
                    evidence=[f"there is no IngressRoute {diagnosis.namespace}/{name}"],
                    remedy=diagnosis.read_operator_log,
                    related_objects=diagnosis.related_objects,
                )
            continue
        yield from _rule_findings(diagnosis, route, where)
        yield from _shadowed(snapshot, diagnosis, route, where)
        yield from _reference_findings(snapshot, diagnosis, route, where)


def _rule_findings(diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    rules = [str(route.get("match", "")) for route in route["spec"].get("routes") or ()]
    name = route["metadata"]["name"]
    recreate = Remedy(
        "Delete the route; the operator creates it again.",
        (f"kubectl --namespace {diagnosis.namespace} delete ingressroute {name}",),
    )
    for rule in rules:
        for pattern, words in _OLD_RULES:
            if pattern.search(rule):
                yield make_finding(
                    "route_rule_v2",
                    where,
                    f"Its rule has the syntax of Traefik 2, which Traefik 3 does not accept: {words}.",
                    evidence=[f"spec.routes[].match: {rule}"],
                    remedy=recreate,
                    related_objects=diagnosis.related_objects,
                )
                return
    host = diagnosis.host
    led = [name for rule in rules for name in _HOST.findall(rule)]
    if host and not any(covers(name, host) for name in led):
        yield make_finding(
            "route_host_mismatch",
            where,
            f"The session's address is {host}, but its route is for {', '.join(led) or 'no host'}. Browsers get 404.",
            evidence=[f"spec.routes[].match: {rule}" for rule in rules]
            + [f"status.url: {diagnosis.session.status.url}"],
            remedy=recreate,
            related_objects=diagnosis.related_objects,
        )


def _shadowed(snapshot: Snapshot, diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    """Another route that takes all of the host."""
    host, own = diagnosis.host, max((_priority(rule) for rule in route["spec"].get("routes") or ()), default=0)
    for other in snapshot.raw("ingressroutes"):
        meta = other["metadata"]
        if (meta["namespace"], meta["name"]) == (diagnosis.namespace, route["metadata"]["name"]):
            continue
        for rule in other["spec"].get("routes") or ():
            if _priority(rule) <= own or not _takes_all_of(rule.get("match", ""), host):
                continue
            delete = f"kubectl --namespace {meta['namespace']} delete ingressroute {meta['name']}"
            yield make_finding(
                "route_shadowed",
                where,
                f"The route {meta['namespace']}/{meta['name']} takes over the host {host}: its priority is "
                f"{_priority(rule)}, this route's is {own}.",
                evidence=[
                    f"ingressroute/{meta['namespace']}/{meta['name']}: match {rule['match']},"
                    f" priority {rule.get('priority') or 'not set (its length)'}"
                ],
                remedy=Remedy(f"Give {meta['name']} another host or a lower priority, or delete it.", (delete,)),
                related_objects=diagnosis.related_objects,
            )
            return


def _priority(rule: Any) -> int:
    """Traefik's own: a rule that names none has its length."""
    return int(rule.get("priority") or 0) or len(rule.get("match", ""))


def _takes_all_of(match: str, host: str) -> bool:
    """Whether a rule takes every request for this host. One with other matchers may take some: that is not judged."""
    rest = re.sub(r"(?:Host|HostRegexp)\(\s*`[^`]+`\s*\)|PathPrefix\(\s*`/`\s*\)|[\s&|()]", "", match)
    if rest or not host:
        return False
    return any(name == host for name in _HOST.findall(match)) or any(
        _matches(pattern, host) for pattern in _HOST_PATTERN.findall(match)
    )


def _matches(pattern: str, host: str) -> bool:
    try:
        return re.search(pattern, host) is not None
    except re.error:
        return False  # Go's syntax, which Python does not have


def _reference_findings(snapshot: Snapshot, diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    spec, namespace = route["spec"], diagnosis.namespace
    traefiks = find_traefiks(snapshot)
    known = frozenset(name for traefik in traefiks for name in traefik.entry_points)
    strange = [name for name in spec.get("entryPoints") or () if known and name.lower() not in known]
    if strange:
        yield make_finding(
            "route_entry_point_unknown",
            where,
            f"Traefik has no entry point {', '.join(strange)}, so it ignores the route; it has: "
            f"{', '.join(sorted(known))}.",
            evidence=[f"spec.entryPoints: {', '.join(spec['entryPoints'])}"],
            remedy=Remedy.run(*_upgrade(snapshot, namespace, f"traefik.entryPoint={min(known)}")),
            related_objects=diagnosis.related_objects,
        )
    crosses = not traefiks or any(traefik.crosses_namespaces for traefik in traefiks)
    for one in spec.get("routes") or ():
        for reference in one.get("middlewares") or ():
            there = reference.get("namespace") or namespace
            yield from _middleware(snapshot, diagnosis, reference["name"], there, where)
        for reference in [*(one.get("middlewares") or ()), *(one.get("services") or ())]:
            if reference.get("namespace", namespace) != namespace and not crosses:
                yield make_finding(
                    "route_crosses_namespaces",
                    where,
                    f"It names {reference['name']!r} in the namespace {reference['namespace']}. Traefik rejects "
                    "references across namespaces and ignores the whole route.",
                    evidence=["--providers.kubernetescrd.allowCrossNamespace is not set"],
                    remedy=Remedy(
                        f"Create it in the namespace {namespace}, and use that name.",
                        (f"kubectl --namespace {namespace} get middlewares.traefik.io",),
                    ),
                    related_objects=diagnosis.related_objects,
                )


def _upgrade(snapshot: Snapshot, namespace: str, value: str = "") -> tuple[str, ...]:
    """The command that renders the release of this namespace's operator again."""
    operator = operator_for(snapshot, namespace)
    return (operator.upgrade + (f" --set {value}" if value else ""),) if operator else ()


def _middleware(
    snapshot: Snapshot, diagnosis: SessionDiagnosis, name: str, namespace: str, where: str
) -> Iterator[Finding]:
    if snapshot.scope.namespace not in ("", namespace) or "middlewares" in snapshot.unreadable_kinds:
        return
    named = snapshot.find("middlewares", name, namespace) or {}
    links = named.get("spec", {}).get("chain", {}).get("middlewares") or ()
    for each, there in ((name, namespace), *((link["name"], link.get("namespace") or namespace) for link in links)):
        if snapshot.find("middlewares", each, there) is not None:
            continue
        yield make_finding(
            "middleware_missing",
            where,
            f"It names the Middleware {there}/{each}, which does not exist: Traefik ignores the route (404).",
            evidence=[f"spec.routes[].middlewares: {name}"]
            + ([f"spec.chain.middlewares of {name}: {each}"] if each != name else []),
            remedy=Remedy.run(
                *_upgrade(snapshot, diagnosis.namespace), f"kubectl --namespace {there} get middlewares.traefik.io"
            ),
            related_objects=diagnosis.related_objects,
        )


@check("vdisessions", "services", "endpointslices", "pods")
def services_empty(snapshot: Snapshot) -> Iterator[Finding]:
    """Services that are not there, or that find no pod although one is ready."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod, name = diagnosis.pod, service_name(diagnosis.session.metadata.name)
        ready = pod.condition("Ready") if pod and pod.ready else None
        if ready is None or snapshot.age(ready.last_transition_time) < _YOUNG:
            continue
        where = f"service/{diagnosis.namespace}/{name}"
        service = snapshot.find("services", name, diagnosis.namespace)
        slices = [
            endpoint_slice
            for endpoint_slice in snapshot.raw("endpointslices")
            if endpoint_slice["metadata"]["namespace"] == diagnosis.namespace
            and (endpoint_slice["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name
        ]
        answering = [end for one in slices for end in one["endpoints"] if end["conditions"].get("ready") is not False]
        if service is not None and answering:
            continue
        selector = (service or {}).get("spec", {}).get("selector")
        yield make_finding(
            "service_without_endpoints" if service else "service_missing",
            where,
            "The desktop is ready, but its Service "
            + ("has no pod that responds" if service else "does not exist")
            + ": the browser gets 404 or 503.",
            evidence=[
                f"spec.selector: {selector}" if service else f"there is no Service {diagnosis.namespace}/{name}",
                f"pod/{pod.metadata.name} labels: {pod.metadata.labels}" if pod and service else "",
            ],
            remedy=Remedy(
                "Delete the Service; the operator creates it again.",
                (f"kubectl --namespace {diagnosis.namespace} delete service {name}",),
            )
            if service
            else diagnosis.read_operator_log,
            related_objects=diagnosis.related_objects,
        )


@check("vdisessions", "ingressroutes", "secrets")
def certificates_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Certificates of routes that are missing, over, about to end, or for other names."""
    there = {(certificate.namespace, certificate.secret): certificate for certificate in snapshot.certificates}
    for key, hosts in hosts_by_certificate(snapshot).items():
        if key in there:
            yield from _certificate(snapshot, there[key], hosts)


def _certificate(snapshot: Snapshot, one: Certificate, hosts: list[str]) -> Iterator[Finding]:
    where = f"secret/{one.namespace}/{one.secret}"
    shown = f"{hosts[0]} and {len(hosts) - 1} more" if len(hosts) > 1 else hosts[0]
    domain = hosts[0].partition(".")[2]
    renew = Remedy(
        "Put a certificate that browsers trust into fullchain.pem, and its key into key.pem. Then:",
        (
            f"kubectl --namespace {one.namespace} create secret tls {one.secret} --cert fullchain.pem --key key.pem"
            " --dry-run=client -o yaml | kubectl apply -f -",
        ),
    )
    if one.problem:
        missing = one.problem == "missing"
        yield make_finding(
            "certificate_missing",
            where,
            f"Routes name the certificate {one.namespace}/{one.secret}, "
            + ("which does not exist" if missing else f"but {one.problem}")
            + ". Traefik shows its own, which browsers refuse.",
            evidence=[f"it is for {shown}"],
            remedy=renew,
        )
        return
    left = -snapshot.age(one.ends)
    if left < _SOON or snapshot.age(one.begins) < 0:
        state = "has ended" if left < 0 else "ends" if snapshot.age(one.begins) >= 0 else "is not valid yet"
        yield make_finding(
            "certificate_expired" if state != "ends" else "certificate_expires_soon",
            where,
            f"The certificate of {shown} {state} ({one.begins} to {one.ends})"
            + (": browsers refuse it." if state != "ends" else "; then browsers refuse it."),
            evidence=[f"notBefore {one.begins}, notAfter {one.ends}"],
            remedy=renew,
            severity=Severity.WARNING if state == "ends" else None,
        )
    bare = [host for host in hosts if not any(covers(name, host) for name in one.names)]
    if bare:
        yield make_finding(
            "certificate_for_other_names",
            where,
            f"The certificate is for {', '.join(one.names) or 'no name'}, which does not cover {bare[0]}"
            + (f" and {len(bare) - 1} more" if len(bare) > 1 else "")
            + f"; it must include *.{domain}.",
            evidence=[f"subjectAltName: {', '.join(one.names)}"],
            remedy=renew,
        )


CHECKS = (traefik_down, traefik_kinds_missing, routes_wrong, services_empty, certificates_bad)

_EDGE = "VDI_EDGE_MIDDLEWARE"
# Seconds in which a gateway with a volume stops and starts again on a busy node, when it is upgraded.
_RESTART = 60.0
_CUT = "websockets of "
# Seconds between a timeout and the next connection of the page, at most.
_CUT_SLACK = 5.0
_BY_NAME = {
    "database": ("database_unreachable", "Its database does not respond"),
    "shared state": ("redis_unreachable", "Redis does not respond"),
    "clock": ("clock_wrong", "The clock of a replica is wrong"),
    "history": ("history_not_written", "History cannot be written"),
    "single sign-on": ("oidc_unreachable", "The identity provider does not respond correctly"),
}


@check("deployments", "pods@all")
def gateway_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Gateways of which no replica answers, or that are not there though routes ask them."""
    for gateway in gateways_in_scope(snapshot):
        command = f"kubectl --namespace {gateway.namespace}"
        if gateway.desired == 0:
            up = Remedy("Scale it up again.", (f"{command} scale deployment {gateway.name} --replicas 1",))
            yield _gateway_down(snapshot, gateway, "it is scaled to 0", up)
        elif gateway.ready == 0 and unavailable_for(snapshot, gateway) > _RESTART:
            yield _gateway_down(snapshot, gateway, "", Remedy.run(f"{command} logs deployment/{gateway.name}"))
    here = {namespace for gateway in gateways_in_scope(snapshot) for namespace in gateway.watches}
    for operator in operators_in_scope(snapshot):
        containers = operator.raw["spec"]["template"]["spec"]["containers"]
        named = [
            variable.get("value")
            for container in containers
            for variable in container.get("env") or ()
            if variable["name"] == _EDGE
        ]
        without = [namespace for namespace in operator.watches if namespace not in here]
        if named and named[0] and without:
            yield make_finding(
                "gateway_missing",
                operator.object,
                f"Its routes use the Middleware {named[0]}, but {', '.join(without)} has no gateway behind it.",
                evidence=[f"{operator.object}: {_EDGE}={named[0]}", "no Deployment has a container 'gateway'"],
                remedy=Remedy.run(f"{operator.upgrade} --set gateway.enabled=true"),
            )


def _gateway_down(snapshot: Snapshot, gateway: Gateway, words: str, remedy: Remedy) -> Finding:
    evidence, code = [f"status.readyReplicas: {gateway.ready} of {gateway.desired}"], ""
    for pod in pods_of(snapshot, gateway):
        why = explain_pod(snapshot, pod, "gateway")
        evidence += pod_evidence(snapshot, pod, why)
        lines = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
        if ended := last_words(lines):
            evidence += [] if any(ended in line for line in evidence) else [f"log: {ended}"]
            code = "database_newer" if "at revision" in ended else code
        words = words or ended or why
    return make_finding(
        code or "gateway_down",
        gateway.object,
        f"No replica of the gateway is ready: {words or 'it has no pods'}.",
        evidence=evidence,
        remedy=remedy if code != "database_newer" else Remedy.run(gateway.upgrade),
        related_objects=[gateway.object, *snapshot.nodes_of(gateway.raw)],
    )


@check("deployments", "pods@all", "pods/log")
def gateway_troubled(snapshot: Snapshot) -> Iterator[Finding]:
    """What the gateways say in their logs that they lack."""
    for gateway in gateways_in_scope(snapshot):
        reported: dict[str, tuple[str, str]] = {}
        for pod in pods_of(snapshot, gateway):
            lines = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
            for what, why in troubles(lines):
                reported.setdefault(what, (pod.metadata.name, why))
        for what, (pod_name, why) in reported.items():
            if what.startswith(_CUT):
                yield _cut(snapshot, gateway, what.removeprefix(_CUT), pod_name, why)
                continue
            code, words = _BY_NAME.get(what, ("gateway_troubled", f"It lacks {what}"))
            yield make_finding(
                code,
                gateway.object if code != "gateway_troubled" else f"{gateway.object}/{what.replace(' ', '-')}",
                f"{words}: {why.rstrip('.')}.",
                evidence=[f"pod/{pod_name} log: {what}: {why}"],
                remedy=Remedy.run(f"kubectl --namespace {gateway.namespace} logs {pod_name}"),
                related_objects=[gateway.object, *snapshot.nodes_of(gateway.raw)],
            )


def _namespace_of(snapshot: Snapshot, gateway: Gateway, session: str) -> str:
    """Where the session of this name is: one of all that the gateway serves."""
    there = {(known.metadata.namespace, known.metadata.name) for known in snapshot.all_sessions}
    return next((namespace for namespace in gateway.watches if (namespace, session) in there), gateway.watches[0])


def _cut(snapshot: Snapshot, gateway: Gateway, session: str, pod_name: str, why: str) -> Finding:
    timeouts = [
        (traefik, argument, seconds)
        for traefik in find_traefiks(snapshot)
        for argument, seconds in traefik.timeouts.items()
    ]
    period = re.search(r"every (\d+) s", why)
    ends = [timeout for timeout in timeouts if period and 0 <= float(period[1]) - timeout[2] <= _CUT_SLACK]
    message = f"Its connections are interrupted: {why.rstrip('.')}."
    if ends:
        traefik, argument, _ = ends[0]
        option = argument.removeprefix("--").partition("=")[0]
        message += f" Traefik ends them: {option} is {argument.partition('=')[2]}."
        remedy = Remedy(
            "Remove this argument of Traefik, or set it to 0. On K3s: in the HelmChartConfig (docs/k3s.md).",
            (f"kubectl --namespace {traefik.namespace} edit {traefik.kind} {traefik.name}",),
        )
    else:
        message += " A proxy or load balancer between browser and Traefik ends them."
        remedy = Remedy("Raise the idle timeout of the proxy in front of Traefik (nginx: proxy_read_timeout 3600s).")
    return make_finding(
        "websocket_cut",
        f"vdisession/{_namespace_of(snapshot, gateway, session)}/{session}",
        message,
        evidence=[
            f"pod/{pod_name} log: {_CUT}{session}: {why}",
            *(f"{traefik.object}: {argument}" for traefik, argument, _ in timeouts),
        ],
        remedy=remedy,
    )


GATEWAY_CHECKS = (gateway_down, gateway_troubled)

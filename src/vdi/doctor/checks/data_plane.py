"""Checks of a request's path from the browser to the desktop: Traefik, routes, certificates, gateway, Services.

A new check of a hop belongs here. `vdi doctor --probe` (`vdi.doctor.probe`) tries the same path for real.
"""

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
    operators_in_scope,
    troubles,
)
from vdi.doctor.objects.references import hosts_by_certificate
from vdi.doctor.objects.sessions import SessionDiagnosis, active_sessions
from vdi.findings.model import Finding, Remedy
from vdi.kube.certificate import covers
from vdi.session.naming import route_name, service_name

# Time that the operator and the endpoint controller have for a new pod, and (doubled) Traefik for its start.
_YOUNG_SECONDS = 30.0
_EXPIRES_SOON_SECONDS = 14 * 86400.0
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
# Time in which a gateway with a volume stops and starts again on a busy node, when it is upgraded.
_RESTART_SECONDS = 60.0
# The gateway's log names the sessions whose connections end at regular intervals, with the interval. It is longer than
# the timeout that ends them by the time until the page connects again, which is at most the slack.
_CUT = "websockets of "
_CUT_SLACK_SECONDS = 5.0
# A trouble in the gateway's log -> code and message.
_TROUBLES = {
    "database": ("database_unreachable", "Its database does not respond"),
    "shared state": ("redis_unreachable", "Redis does not respond"),
    "clock": ("clock_wrong", "The clock of a replica is wrong"),
    "history": ("history_not_written", "History cannot be written"),
    "single sign-on": ("oidc_unreachable", "The identity provider does not respond correctly"),
}


@check("deployments", "daemonsets")
def traefik_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Traefik without a ready replica, or not watching the sessions' namespace."""
    traefiks = find_traefiks(snapshot)
    for traefik in traefiks:
        new = snapshot.age(traefik.created) <= 2 * _YOUNG_SECONDS
        # A Traefik that is scaled to 0 beside another one that is ready is meant to be.
        if not traefik.ready and not new and not (traefik.desired == 0 and any(other.ready for other in traefiks)):
            yield _traefik_down(snapshot, traefik)
    for namespace in sorted({session.metadata.namespace for session in snapshot.sessions}):
        if traefiks and all(traefik.namespaces and namespace not in traefik.namespaces for traefik in traefiks):
            edits = (f"{traefik.kubectl} edit {traefik.kind} {traefik.name}" for traefik in traefiks)
            yield make_finding(
                "traefik_not_watching",
                f"namespace/{namespace}",
                f"Traefik does not watch the namespace {namespace}, so its routes respond with 404.",
                evidence=[
                    f"{traefik.object}: namespaces {', '.join(sorted(traefik.namespaces))}" for traefik in traefiks
                ],
                remedy=Remedy(
                    f"Add {namespace} to --providers.kubernetescrd.namespaces of Traefik, or remove that argument.",
                    tuple(edits),
                ),
            )


def _traefik_down(snapshot: Snapshot, traefik: Traefik) -> Finding:
    if traefik.desired == 0 and traefik.kind == "deployment":
        state, remedy = "Traefik is scaled to 0", traefik.scale_up()
    else:
        state = f"None of {traefik.desired} replicas of Traefik is ready"
        describe = f"{traefik.kubectl} describe"
        remedy = Remedy.run(f"{describe} {traefik.kind} {traefik.name}", f"{describe} pods")
    return make_finding(
        "traefik_down",
        traefik.object,
        f"{state}: no desktop can be reached.",
        evidence=[f"ready: 0 of {traefik.desired}"],
        remedy=remedy,
        related_objects=snapshot.nodes_of(traefik.raw),
    )


@check("vdisessions", "ingressroutes")
def traefik_kinds_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """A cluster that does not know IngressRoute at all."""
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
    for diagnosis in active_sessions(snapshot):
        pod, name = diagnosis.pod, route_name(diagnosis.name)
        if pod is None or not pod.ready:
            continue
        where = f"ingressroute/{diagnosis.namespace}/{name}"
        route = snapshot.find("ingressroutes", name, diagnosis.namespace)
        if route is not None:
            yield from _rule_findings(diagnosis, route, where)
            yield from _shadowed(diagnosis, route, where)
            yield from _reference_findings(diagnosis, route, where)
        elif snapshot.age(pod.metadata.creation_timestamp) > _YOUNG_SECONDS:
            yield diagnosis.finding(
                "route_missing",
                f"The desktop of {diagnosis.name} is ready, but has no route: its address responds with 404.",
                object_name=where,
                evidence=[f"there is no IngressRoute {diagnosis.namespace}/{name}"],
                remedy=diagnosis.read_operator_log,
            )


def _rule_findings(diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    rules = [str(rule.get("match", "")) for rule in route["spec"].get("routes") or ()]
    recreate = Remedy(
        "Delete the route; the operator creates it again.",
        (f"{diagnosis.kubectl} delete ingressroute {route['metadata']['name']}",),
    )
    for rule in rules:
        for pattern, words in _OLD_RULES:
            if pattern.search(rule):
                yield diagnosis.finding(
                    "route_rule_v2",
                    f"Its rule has the syntax of Traefik 2, which Traefik 3 does not accept: {words}.",
                    object_name=where,
                    evidence=[f"spec.routes[].match: {rule}"],
                    remedy=recreate,
                )
                return
    host = diagnosis.host
    led = [name for rule in rules for name in _HOST.findall(rule)]
    if host and not any(covers(name, host) for name in led):
        yield diagnosis.finding(
            "route_host_mismatch",
            f"The session's address is {host}, but its route is for {', '.join(led) or 'no host'}. Browsers get 404.",
            object_name=where,
            evidence=[
                *(f"spec.routes[].match: {rule}" for rule in rules),
                f"status.url: {diagnosis.session.status.url}",
            ],
            remedy=recreate,
        )


def _shadowed(diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    """Another route that takes all requests for the host."""
    own = max((_priority(rule) for rule in route["spec"].get("routes") or ()), default=0)
    for other in diagnosis.snapshot.raw("ingressroutes"):
        if other is route:
            continue
        namespace, name = other["metadata"]["namespace"], other["metadata"]["name"]
        for rule in other["spec"].get("routes") or ():
            if _priority(rule) <= own or not _takes_all_of(rule.get("match", ""), diagnosis.host):
                continue
            yield diagnosis.finding(
                "route_shadowed",
                f"The route {namespace}/{name} takes over the host {diagnosis.host}: its priority is "
                f"{_priority(rule)}, this route's is {own}.",
                object_name=where,
                evidence=[
                    f"ingressroute/{namespace}/{name}: match {rule['match']},"
                    f" priority {rule.get('priority') or 'not set (its length)'}"
                ],
                remedy=Remedy(
                    f"Give {name} another host or a lower priority, or delete it.",
                    (f"kubectl --namespace {namespace} delete ingressroute {name}",),
                ),
            )
            return


def _priority(rule: Any) -> int:
    # Traefik's default for a rule without a priority is its length.
    return int(rule.get("priority") or 0) or len(rule.get("match", ""))


def _takes_all_of(match: str, host: str) -> bool:
    """Whether a rule takes every request for this host. A rule with other matchers is not judged."""
    rest = re.sub(r"(?:Host|HostRegexp)\(\s*`[^`]+`\s*\)|PathPrefix\(\s*`/`\s*\)|[\s&|()]", "", match)
    if rest or not host:
        return False
    return host in _HOST.findall(match) or any(_matches(one, host) for one in _HOST_PATTERN.findall(match))


def _matches(pattern: str, host: str) -> bool:
    try:
        return re.search(pattern, host) is not None
    except re.error:
        return False  # Go's syntax, which Python does not have


def _reference_findings(diagnosis: SessionDiagnosis, route: Any, where: str) -> Iterator[Finding]:
    """Entry points, Middlewares and namespaces of a route that Traefik does not accept."""
    spec, namespace = route["spec"], diagnosis.namespace
    traefiks = find_traefiks(diagnosis.snapshot)
    known = frozenset(name for traefik in traefiks for name in traefik.entry_points)
    strange = [name for name in spec.get("entryPoints") or () if known and name.lower() not in known]
    if strange:
        upgrade = [f"{diagnosis.operator.upgrade} --set traefik.entryPoint={min(known)}"] if diagnosis.operator else []
        yield diagnosis.finding(
            "route_entry_point_unknown",
            f"Traefik has no entry point {', '.join(strange)}, so it ignores the route; it has: "
            f"{', '.join(sorted(known))}.",
            object_name=where,
            evidence=[f"spec.entryPoints: {', '.join(spec['entryPoints'])}"],
            remedy=Remedy.run(*upgrade),
        )
    crosses = not traefiks or any(traefik.crosses_namespaces for traefik in traefiks)
    for rule in spec.get("routes") or ():
        middlewares = rule.get("middlewares") or ()
        for reference in middlewares:
            there = reference.get("namespace") or namespace
            yield from _middleware_findings(diagnosis, reference["name"], there, where)
        for reference in [*middlewares, *(rule.get("services") or ())]:
            if reference.get("namespace", namespace) != namespace and not crosses:
                yield diagnosis.finding(
                    "route_crosses_namespaces",
                    f"It names {reference['name']!r} in the namespace {reference['namespace']}. Traefik rejects "
                    "references across namespaces and ignores the whole route.",
                    object_name=where,
                    evidence=["--providers.kubernetescrd.allowCrossNamespace is not set"],
                    remedy=Remedy(
                        f"Create it in the namespace {namespace}, and use that name.",
                        (f"{diagnosis.kubectl} get middlewares.traefik.io",),
                    ),
                )


def _middleware_findings(diagnosis: SessionDiagnosis, name: str, namespace: str, where: str) -> Iterator[Finding]:
    snapshot = diagnosis.snapshot
    if snapshot.scope.namespace not in ("", namespace) or "middlewares" in snapshot.unreadable_kinds:
        return
    named = snapshot.find("middlewares", name, namespace) or {}
    links = named.get("spec", {}).get("chain", {}).get("middlewares") or ()
    for each, there in ((name, namespace), *((link["name"], link.get("namespace") or namespace) for link in links)):
        if snapshot.find("middlewares", each, there) is not None:
            continue
        upgrade = [diagnosis.operator.upgrade] if diagnosis.operator else []
        yield diagnosis.finding(
            "middleware_missing",
            f"It names the Middleware {there}/{each}, which does not exist: Traefik ignores the route (404).",
            object_name=where,
            evidence=[
                f"spec.routes[].middlewares: {name}",
                f"spec.chain.middlewares of {name}: {each}" if each != name else "",
            ],
            remedy=Remedy.run(*upgrade, f"kubectl --namespace {there} get middlewares.traefik.io"),
        )


@check("vdisessions", "services", "endpointslices", "pods")
def services_empty(snapshot: Snapshot) -> Iterator[Finding]:
    """Services that do not exist, or have no endpoint although the desktop is ready."""
    for diagnosis in active_sessions(snapshot):
        pod, name = diagnosis.pod, service_name(diagnosis.name)
        # A Service lists a pod a moment after it becomes ready.
        ready = pod.condition("Ready") if pod and pod.ready else None
        if pod is None or ready is None or snapshot.age(ready.last_transition_time) < _YOUNG_SECONDS:
            continue
        service = snapshot.find("services", name, diagnosis.namespace)
        endpoints = [
            endpoint
            for one in snapshot.raw("endpointslices")
            if one["metadata"]["namespace"] == diagnosis.namespace
            and (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name
            for endpoint in one["endpoints"]
        ]
        where = f"service/{diagnosis.namespace}/{name}"
        if service is None:
            yield diagnosis.finding(
                "service_missing",
                "The desktop is ready, but its Service does not exist: the browser gets 404 or 503.",
                object_name=where,
                evidence=[f"there is no Service {diagnosis.namespace}/{name}"],
                remedy=diagnosis.read_operator_log,
            )
        elif all(endpoint["conditions"].get("ready") is False for endpoint in endpoints):
            yield diagnosis.finding(
                "service_without_endpoints",
                "The desktop is ready, but its Service has no pod that responds: the browser gets 404 or 503.",
                object_name=where,
                evidence=[
                    f"spec.selector: {service.get('spec', {}).get('selector')}",
                    f"pod/{pod.metadata.name} labels: {pod.metadata.labels}",
                ],
                remedy=Remedy(
                    "Delete the Service; the operator creates it again.",
                    (f"{diagnosis.kubectl} delete service {name}",),
                ),
            )


@check("vdisessions", "ingressroutes", "secrets")
def certificates_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Certificates of routes that are missing, expired, about to expire, or for other names."""
    there = {(certificate.namespace, certificate.secret): certificate for certificate in snapshot.certificates}
    for key, hosts in hosts_by_certificate(snapshot).items():
        if key in there:
            yield from _certificate_findings(snapshot, there[key], hosts)


def _certificate_findings(snapshot: Snapshot, certificate: Certificate, hosts: list[str]) -> Iterator[Finding]:
    namespace, secret = certificate.namespace, certificate.secret
    where = f"secret/{namespace}/{secret}"
    shown = f"{hosts[0]} and {len(hosts) - 1} more" if len(hosts) > 1 else hosts[0]
    renew = Remedy(
        "Put a certificate that browsers trust into fullchain.pem, and its key into key.pem. Then:",
        (
            f"kubectl --namespace {namespace} create secret tls {secret} --cert fullchain.pem --key key.pem"
            " --dry-run=client -o yaml | kubectl apply -f -",
        ),
    )
    if certificate.problem:
        problem = "which does not exist" if certificate.problem == "missing" else f"but {certificate.problem}"
        yield make_finding(
            "certificate_missing",
            where,
            f"Routes name the certificate {namespace}/{secret}, {problem}. Traefik shows its own, which browsers "
            "refuse.",
            evidence=[f"it is for {shown}"],
            remedy=renew,
        )
        return
    left, begun = -snapshot.age(certificate.ends), snapshot.age(certificate.begins) >= 0
    if left < _EXPIRES_SOON_SECONDS or not begun:
        state = "has ended" if left < 0 else "ends" if begun else "is not valid yet"
        then = "; then browsers refuse it." if state == "ends" else ": browsers refuse it."
        yield make_finding(
            "certificate_expires_soon" if state == "ends" else "certificate_expired",
            where,
            f"The certificate of {shown} {state} ({certificate.begins} to {certificate.ends}){then}",
            evidence=[f"notBefore {certificate.begins}, notAfter {certificate.ends}"],
            remedy=renew,
        )
    bare = [host for host in hosts if not any(covers(name, host) for name in certificate.names)]
    if bare:
        names = ", ".join(certificate.names)
        yield make_finding(
            "certificate_for_other_names",
            where,
            f"The certificate is for {names or 'no name'}, which does not cover {bare[0]}"
            + (f" and {len(bare) - 1} more" if len(bare) > 1 else "")
            + f"; it must include *.{hosts[0].partition('.')[2]}.",
            evidence=[f"subjectAltName: {names}"],
            remedy=renew,
        )


@check("deployments", "pods@all")
def gateway_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Gateways without a ready replica, and routes that refer to a gateway that does not exist."""
    gateways = gateways_in_scope(snapshot)
    for gateway in gateways:
        if gateway.desired == 0:
            yield _gateway_down(snapshot, gateway, "it is scaled to 0", gateway.scale_up())
        elif gateway.ready == 0 and gateway.unavailable_for(snapshot) > _RESTART_SECONDS:
            yield _gateway_down(snapshot, gateway, "", Remedy.run(f"{gateway.kubectl} logs deployment/{gateway.name}"))
    served = {namespace for gateway in gateways for namespace in gateway.watches}
    for operator in operators_in_scope(snapshot):
        middleware = operator.settings.edge_middleware
        without = [namespace for namespace in operator.watches if namespace not in served]
        if middleware and without:
            yield make_finding(
                "gateway_missing",
                operator.object,
                f"Its routes use the Middleware {middleware}, but {', '.join(without)} has no gateway behind it.",
                evidence=[
                    f"{operator.object}: VDI_EDGE_MIDDLEWARE={middleware}",
                    "no Deployment has a container 'gateway'",
                ],
                remedy=Remedy.run(f"{operator.upgrade} --set gateway.enabled=true"),
            )


def _gateway_down(snapshot: Snapshot, gateway: Gateway, words: str, remedy: Remedy) -> Finding:
    evidence, code = [f"status.readyReplicas: {gateway.ready} of {gateway.desired}"], "gateway_down"
    for pod in gateway.pods(snapshot):
        why, shown = explain_pod(snapshot, pod, "gateway")
        evidence += shown
        ended = last_words(snapshot.log_of(pod))
        if ended and not any(ended in line for line in evidence):
            evidence.append(f"log: {ended}")
        if "at revision" in ended:
            code, remedy = "database_newer", Remedy.run(gateway.upgrade)
        words = words or ended or why
    return make_finding(
        code,
        gateway.object,
        f"No replica of the gateway is ready: {words or 'it has no pods'}.",
        evidence=evidence,
        remedy=remedy,
        related_objects=gateway.depends_on(snapshot),
    )


# The gateway checks its dependencies with its own credentials and from its own network, so its log knows more than any
# request from here. A WebSocket that a proxy cuts after minutes is known only there: no probe holds one that long.
@check("deployments", "pods@all", "pods/log")
def gateway_troubled(snapshot: Snapshot) -> Iterator[Finding]:
    """Dependencies that gateways report as failing in their logs."""
    for gateway in gateways_in_scope(snapshot):
        reported: dict[str, tuple[str, str]] = {}
        for pod in gateway.pods(snapshot):
            for what, why in troubles(snapshot.log_of(pod)).items():
                reported.setdefault(what, (pod.metadata.name, why))
        for what, (pod_name, why) in reported.items():
            evidence, reason = f"pod/{pod_name} log: {what}: {why}", why.rstrip(".")
            if what.startswith(_CUT):
                yield _websocket_cut(snapshot, gateway, what.removeprefix(_CUT), reason, evidence)
                continue
            code, words = _TROUBLES.get(what, ("gateway_troubled", f"It lacks {what}"))
            yield make_finding(
                code,
                gateway.object if what in _TROUBLES else f"{gateway.object}/{what.replace(' ', '-')}",
                f"{words}: {reason}.",
                evidence=[evidence],
                remedy=Remedy.run(f"{gateway.kubectl} logs {pod_name}"),
                related_objects=gateway.depends_on(snapshot),
            )


def _websocket_cut(snapshot: Snapshot, gateway: Gateway, session: str, reason: str, evidence: str) -> Finding:
    timeouts = [
        (traefik, argument, seconds)
        for traefik in find_traefiks(snapshot)
        for argument, seconds in traefik.timeouts.items()
    ]
    period = re.search(r"every (\d+) s", reason)
    causes = [one for one in timeouts if period and 0 <= float(period[1]) - one[2] <= _CUT_SLACK_SECONDS]
    if causes:
        traefik, argument, _ = causes[0]
        option, _, value = argument.removeprefix("--").partition("=")
        cause = f"Traefik ends them: {option} is {value}."
        remedy = Remedy(
            "Remove this argument of Traefik, or set it to 0. On K3s: in the HelmChartConfig (docs/k3s.md).",
            (f"{traefik.kubectl} edit {traefik.kind} {traefik.name}",),
        )
    else:
        cause = "A proxy or load balancer between browser and Traefik ends them."
        remedy = Remedy("Raise the idle timeout of the proxy in front of Traefik (nginx: proxy_read_timeout 3600s).")
    # The log has the session's name alone: it is in one of the namespaces that the gateway serves.
    known = {known.metadata.namespace for known in snapshot.all_sessions if known.metadata.name == session}
    namespace = next((namespace for namespace in gateway.watches if namespace in known), gateway.watches[0])
    return make_finding(
        "websocket_cut",
        f"vdisession/{namespace}/{session}",
        f"Its connections are interrupted: {reason}. {cause}",
        evidence=[evidence, *(f"{traefik.object}: {argument}" for traefik, argument, _ in timeouts)],
        remedy=remedy,
    )


CHECKS = (
    traefik_down,
    traefik_kinds_missing,
    routes_wrong,
    services_empty,
    certificates_bad,
    gateway_down,
    gateway_troubled,
)

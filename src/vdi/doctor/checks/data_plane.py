"""Checks of the programs and certificates that serve a desktop: Traefik and the gateway.

Routes and Services between them are in `request_path`.
"""

import re
from collections.abc import Iterator, Sequence

from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import (
    OF_WORKLOADS,
    Gateway,
    Traefik,
    find_servers,
    find_traefiks,
    gateways_in_scope,
    troubles,
)
from vdi.doctor.objects.references import hosts_by_certificate
from vdi.doctor.objects.routing import is_ours
from vdi.doctor.objects.sessions import OF_SESSIONS
from vdi.findings.model import Finding, Remedy
from vdi.snapshot.certificate import covers
from vdi.snapshot.check import check, merge_patch
from vdi.snapshot.dns import DNS_LOG
from vdi.snapshot.model import NOT_SET, Certificate, Snapshot

# Time that Traefik has for its start.
_YOUNG_SECONDS = 60.0
_EXPIRES_SOON_SECONDS = 14 * 86400.0
# Time in which a gateway with a volume stops and starts again on a busy node, when it is upgraded.
_RESTART_SECONDS = 60.0
# The gateway's log names the sessions whose connections end at regular intervals, with the
# interval. It is longer than the timeout that ends them by the time until the page connects again,
# which is at most the slack.
_CUT = "websockets of "
_CUT_SLACK_SECONDS = 5.0
# A trouble in the gateway's log -> code and message.
_TROUBLES = {
    "database": ("database_unreachable", "Its database does not respond or accepts no writes"),
    "shared state": ("redis_unreachable", "Redis does not respond or accepts no writes"),
    "clock": ("clock_wrong", "The clock of a replica is wrong"),
    "history": ("history_not_written", "History cannot be written"),
    "single sign-on": ("oidc_unreachable", "The identity provider does not respond correctly"),
    "webhook": ("gateway_troubled", "The webhook accepts no notices"),
    "email": ("gateway_troubled", "The mail server accepts no notices"),
    "recordings": ("gateway_troubled", "Recordings of desktops cannot be stored"),
}
# A trouble -> variable with what the gateway presents to the server, and the chart's own server.
_SERVERS = {
    "database": ("VDI_DATABASE_URL", "postgresql"),
    "shared state": ("VDI_REDIS_URL", "redis"),
    "single sign-on": ("VDI_OIDC_CLIENT_SECRET", ""),
}
# A server's refusal of a write -> what to do.
_REFUSED_WRITES = {
    "used memory > .maxmemory": (
        "Redis is full. Raise its maxmemory, or remove the keys of other programs from it."
    ),
    "read[- ]?only": (
        "The server only reads. Name the primary in the url of the Secret, or make this one"
        " writable."
    ),
    "No space left|disk is full|could not extend|MISCONF": (
        "Free the disk of the server, or enlarge it."
    ),
}


@check("deployments", "daemonsets", reads=("nodes", "pods", "statefulsets", "vdisessions"))
def traefik_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Traefik without a ready replica, or not watching the sessions' namespace."""
    traefiks = find_traefiks(snapshot)
    for traefik in traefiks:
        # One that is scaled to 0 beside another one that is ready is meant to be.
        is_spare = traefik.desired == 0 and any(other.ready for other in traefiks)
        if traefik.ready or is_spare or snapshot.age(traefik.created) <= _YOUNG_SECONDS:
            continue
        state, remedy = "Traefik is scaled to 0", traefik.scale_up()
        if traefik.desired or traefik.kind != "deployment":
            state = f"None of {traefik.desired} replicas of Traefik is ready"
            describe = f"{traefik.kubectl} describe"
            remedy = Remedy.run(f"{describe} {traefik.kind} {traefik.name}", f"{describe} pods")
        yield make_finding(
            "traefik_down",
            traefik.object,
            f"{state}: no desktop can be reached.",
            evidence=[f"ready: 0 of {traefik.desired}"],
            remedy=remedy,
            related_objects=snapshot.nodes_of(traefik.raw),
        )
    for namespace in sorted({session.metadata.namespace for session in snapshot.sessions}):
        if traefiks and not any(traefik.watches(namespace) for traefik in traefiks):
            yield _not_watching(namespace, traefiks)


def _not_watching(namespace: str, traefiks: Sequence[Traefik]) -> Finding:
    return make_finding(
        "traefik_not_watching",
        f"namespace/{namespace}",
        f"Traefik does not watch the namespace {namespace}, so its routes respond with 404.",
        evidence=[
            f"{traefik.object}: namespaces {', '.join(sorted(traefik.namespaces))}"
            for traefik in traefiks
        ],
        remedy=Remedy(
            f"Add {namespace} to --providers.kubernetescrd.namespaces of Traefik, or remove that"
            " argument.",
            tuple(f"{one.kubectl} edit {one.kind} {one.name}" for one in traefiks),
        ),
    )


@check("vdisessions", "ingressroutes")
def traefik_kinds_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """A cluster that does not know IngressRoute at all."""
    if "ingressroutes" in snapshot.absent and snapshot.sessions:
        yield make_finding(
            "traefik_crds_missing",
            "customresourcedefinition/ingressroutes.traefik.io",
            "The cluster does not know IngressRoute: Traefik 3's CRDs are missing. Desktops have no"
            " address.",
            evidence=["LIST ingressroutes.traefik.io: the server has no such resource"],
            remedy=Remedy(
                "Install Traefik 3 with its CRDs (docs/install.md). K3s: start it without"
                " --disable=traefik."
            ),
        )


@check("tlsoptions", "ingressroutes")
def client_certificate_demanded(snapshot: Snapshot) -> Iterator[Finding]:
    """TLSOptions that demand a client certificate: `default`, which all routes have, and those of
    our routes.
    """
    named = set()
    for route in snapshot.objects.ingressroutes:
        if is_ours(route) and route.spec.tls and (options := route.spec.tls.options):
            named.add((options.namespace or route.metadata.namespace, options.name))
    for option in snapshot.objects.tlsoptions:
        namespace, name = option.metadata.namespace, option.metadata.name
        auth = option.spec.client_auth
        if auth.is_demanded and (name == "default" or (namespace, name) in named):
            patch = {"spec": {"clientAuth": None}}
            yield make_finding(
                "client_certificate_demanded",
                f"tlsoption/{namespace}/{name}",
                f"The TLSOption {namespace}/{name} demands a client certificate: browsers without"
                " one reach neither portal nor desktops.",
                evidence=[f"spec.clientAuth.clientAuthType: {auth.client_auth_type or NOT_SET}"],
                remedy=Remedy.run(
                    f"kubectl --namespace {namespace} get tlsoption {name} --output yaml",
                    merge_patch("tlsoption", name, patch, namespace),
                ),
            )


@check("vdisessions", "ingressroutes", "secrets@certificate", reads=OF_SESSIONS)
def certificates_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Certificates of routes that are missing, expired, about to expire, or for other names."""
    there = {
        (certificate.namespace, certificate.secret): certificate
        for certificate in snapshot.certificates
    }
    for key, hosts in hosts_by_certificate(snapshot).items():
        if key in there:
            yield from _certificate_findings(snapshot, there[key], hosts)


def _certificate_findings(
    snapshot: Snapshot, certificate: Certificate, hosts: list[str]
) -> Iterator[Finding]:
    namespace, secret = certificate.namespace, certificate.secret
    where = f"secret/{namespace}/{secret}"
    if len(hosts) > 1:
        shown = f"{hosts[0]} and {len(hosts) - 1} more"
    else:
        shown = hosts[0]
    renew = Remedy(
        "Put a certificate that browsers trust into fullchain.pem, and its key into key.pem. Then:",
        (
            (
                f"kubectl --namespace {namespace} create secret tls {secret} --cert fullchain.pem"
                " --key key.pem --dry-run=client -o yaml | kubectl apply -f -"
            ),
        ),
    )
    if certificate.problem:
        if certificate.problem == "missing":
            problem = "which does not exist"
        else:
            problem = f"but {certificate.problem}"
        yield make_finding(
            "certificate_missing",
            where,
            f"Routes name the certificate {namespace}/{secret}, {problem}. Traefik shows its own,"
            " which browsers refuse.",
            evidence=[f"it is for {shown}"],
            remedy=renew,
        )
        return
    left, begun = -snapshot.age(certificate.ends), snapshot.age(certificate.begins) >= 0
    if left < _EXPIRES_SOON_SECONDS or not begun:
        state = "ends" if begun else "is not valid yet"
        if left < 0:
            state = "has ended"
        if state == "ends":
            then = "; then browsers refuse it."
        else:
            then = ": browsers refuse it."
        yield make_finding(
            "certificate_expires_soon" if state == "ends" else "certificate_expired",
            where,
            f"The certificate of {shown} {state} ({certificate.begins} to"
            f" {certificate.ends}){then}",
            evidence=[f"notBefore {certificate.begins}, notAfter {certificate.ends}"],
            remedy=renew,
        )
    bare = []
    for host in hosts:
        if not any(covers(name, host) for name in certificate.names):
            bare.append(host)
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


@check("deployments", "pods@all", reads=OF_WORKLOADS)
def gateway_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Gateways without a ready replica."""
    for gateway in gateways_in_scope(snapshot):
        if gateway.desired and (
            gateway.ready or gateway.unavailable_for(snapshot) <= _RESTART_SECONDS
        ):
            continue
        why, evidence = gateway.explain_down(snapshot)
        is_older = "at revision" in why
        yield make_finding(
            "database_newer" if is_older else "gateway_down",
            gateway.object,
            f"No replica of the gateway is ready: {why}.",
            evidence=evidence,
            remedy=Remedy.run(gateway.upgrade) if is_older else _remedy_of_start(gateway, why),
            related_objects=gateway.depends_on(snapshot),
        )


def _remedy_of_start(gateway: Gateway, why: str) -> Remedy:
    if not gateway.desired:
        return gateway.scale_up()
    for _, secret, key in gateway.secret_keys():
        is_gone = f"Secret {secret!r}, which does not exist" in why
        if is_gone or f"{key!r}, which is missing in the Secret {secret!r}" in why:
            show = f"{gateway.kubectl} describe secret {secret}"
            return Remedy(
                f"Write the key {key} into the Secret {secret}. The gateway then starts by itself.",
                (show,),
            )
    return Remedy.run(f"{gateway.kubectl} logs deployment/{gateway.name}")


# The gateway checks its dependencies with its own credentials and from its own network, so its log
# knows more than any request from here. A WebSocket that a proxy cuts after minutes is known only
# there: no probe holds one that long.
@check(
    "deployments",
    "pods@all",
    "pods/log",
    reads=(*OF_WORKLOADS, "daemonsets", "statefulsets", "vdisessions"),
)
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
            code, consequence = _TROUBLES.get(what, ("gateway_troubled", f"It lacks {what}"))
            yield make_finding(
                code,
                (
                    f"{gateway.object}/{what.replace(' ', '-')}"
                    if code == "gateway_troubled"
                    else gateway.object
                ),
                f"{consequence}: {reason}.",
                evidence=[evidence],
                remedy=_remedy_of_server(snapshot, gateway, what)
                or _remedy_of_trouble(gateway, what, why, pod_name),
                related_objects=gateway.depends_on(snapshot),
            )


def _remedy_of_server(snapshot: Snapshot, gateway: Gateway, what: str) -> Remedy | None:
    """Remedy where the chart's own server has no ready pod; None: it has one, or is not the
    chart's.
    """
    _, name = _SERVERS.get(what, ("", ""))
    for server in find_servers(snapshot, name) if name else ():
        if server.namespace != gateway.namespace or server.ready:
            continue
        if not server.desired:
            return server.scale_up()
        sentence = f"No pod of {server.kind} {server.name} is ready, so its Service leads nowhere."
        return Remedy(sentence, (f"{server.kubectl} describe {server.kind} {server.name}",))
    return None


def _remedy_of_trouble(gateway: Gateway, what: str, why: str, pod_name: str) -> Remedy:
    if "cannot resolve" in why:
        sentence = (
            "Check the host name in the gateway's settings. If it is right, repair the cluster's"
            " DNS."
        )
        return Remedy(sentence, (f"{gateway.kubectl} logs {pod_name}", DNS_LOG))
    if re.search("too many clients|connection slots", why):
        sentence = "Raise max_connections of the database, or end its other clients."
        return Remedy(sentence, (f"{gateway.kubectl} logs {pod_name}",))
    if re.search("authentication failed|WRONGPASS|NOAUTH|: 401|invalid_client", why):
        variable, _ = _SERVERS.get(what, ("", ""))
        keys = (
            f"the key {key} of Secret {secret}"
            for name, secret, key in gateway.secret_keys()
            if name == variable
        )
        place = next(keys, "the password in the gateway's Secret")
        # A variable keeps the value that the Secret had at the start.
        sentence = f"Correct {place}. If that is newer than the pod, restart the gateway."
        return Remedy(sentence, (f"{gateway.kubectl} rollout restart deployment/{gateway.name}",))
    for pattern, sentence in _REFUSED_WRITES.items():
        if re.search(pattern, why):
            return Remedy(sentence, (f"{gateway.kubectl} logs {pod_name}",))
    return Remedy.run(f"{gateway.kubectl} logs {pod_name}")


def _websocket_cut(
    snapshot: Snapshot, gateway: Gateway, session: str, reason: str, evidence: str
) -> Finding:
    timeouts = [
        (traefik, argument, seconds)
        for traefik in find_traefiks(snapshot)
        for argument, seconds in traefik.timeouts.items()
    ]
    period = re.search(r"every (\d+) s", reason)
    causes = []
    for one in timeouts:
        if period and 0 <= float(period[1]) - one[2] <= _CUT_SLACK_SECONDS:
            causes.append(one)
    if causes:
        traefik, argument, _ = causes[0]
        option, _, value = argument.removeprefix("--").partition("=")
        cause = f"Traefik ends them: {option} is {value}."
        remedy = Remedy(
            "Remove this argument of Traefik, or set it to 0. On K3s: in the HelmChartConfig"
            " (docs/install.md).",
            (f"{traefik.kubectl} edit {traefik.kind} {traefik.name}",),
        )
    else:
        cause = "A proxy or load balancer between browser and Traefik ends them."
        remedy = Remedy(
            "Raise the idle timeout of the proxy in front of Traefik (nginx: proxy_read_timeout"
            " 3600s)."
        )
    # The log has the session's name alone: it is in one of the namespaces that the gateway serves.
    known = {
        known.metadata.namespace
        for known in snapshot.all_sessions
        if known.metadata.name == session
    }
    namespace = next(
        (namespace for namespace in gateway.watches if namespace in known), gateway.watches[0]
    )
    return make_finding(
        "websocket_cut",
        f"vdisession/{namespace}/{session}",
        f"Its connections are interrupted: {reason}. {cause}",
        evidence=[
            evidence,
            *(f"{traefik.object}: {argument}" for traefik, argument, _ in timeouts),
        ],
        remedy=remedy,
    )


CHECKS = (
    traefik_down,
    traefik_kinds_missing,
    client_certificate_demanded,
    certificates_bad,
    gateway_down,
    gateway_troubled,
)

"""Lines about the way to Kasm: Ingress or IngressRoute or LoadBalancer, certificate, and the web UI itself. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import Unreadable, listed, name_of, unreadable_finding
from vdi.kasm.preflight.installed import Installed
from vdi.kasm.validate.facts import Installation
from vdi.kube.certificate import Certificate, covers

Object = dict[str, Any]
_HOST = re.compile(r"Host\(\s*([^)]*)\)")
_SOON = timedelta(days=21)
EVERYWHERE = "ingresses@all"
"""Ingresses of all namespaces, where they could be read."""


@dataclass(frozen=True, slots=True)
class WayIn:
    """Something that leads to Kasm."""

    what: str
    kind: str
    name: str
    hosts: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """Services that it leads to, right or wrong."""
    secret: str | None = None
    """With the certificate; None: it ends no TLS, "": it has none of its own."""
    addresses: tuple[str, ...] = ()


def ways_in(found: Installation) -> list[WayIn]:
    """All of the namespace, whether they lead to the right Service or not."""
    return [*_ingresses(found), *_routes(found), *_balancers(found)]


def _ingresses(found: Installation) -> Iterator[WayIn]:
    for ingress in found.all("ingresses"):
        spec = ingress.get("spec") or {}
        rules = spec.get("rules") or ()
        paths = [path for rule in rules for path in (rule.get("http") or {}).get("paths") or ()]
        backends = [*(path.get("backend") or {} for path in paths), spec.get("defaultBackend") or {}]
        secrets = [str(tls.get("secretName") or "") for tls in spec.get("tls") or ()]
        name = str(ingress["metadata"]["name"])
        yield WayIn(
            f"ingress {name}",
            "ingress",
            name,
            tuple(str(rule["host"]) for rule in rules if rule.get("host")),
            _unique(str((backend.get("service") or {}).get("name", "")) for backend in backends),
            next(iter(secrets), None),
            _addresses(ingress),
        )


def _routes(found: Installation) -> Iterator[WayIn]:
    for one in found.all("ingressroutes"):
        spec = one.get("spec") or {}
        routes = spec.get("routes") or ()
        hosts = [
            host.strip("`\"' ")
            for route in routes
            for match in _HOST.findall(str(route.get("match", "")))
            for host in match.split(",")
        ]
        tls, name = spec.get("tls"), str(one["metadata"]["name"])
        yield WayIn(
            f"ingressroute {name}",
            "ingressroute",
            name,
            _unique(hosts),
            _unique(str(service.get("name", "")) for route in routes for service in route.get("services") or ()),
            str(tls.get("secretName") or "") if tls is not None else None,
        )


def _balancers(found: Installation) -> Iterator[WayIn]:
    for service in found.all("services"):
        spec, name = service.get("spec") or {}, str(service["metadata"]["name"])
        if spec.get("type") == "LoadBalancer" and any(port.get("port") == 443 for port in spec.get("ports") or ()):
            yield WayIn(f"service {name}", "service", name, (), (name,), None, _addresses(service))


def _addresses(one: Object) -> tuple[str, ...]:
    given = ((one.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(str(each.get("ip") or each.get("hostname")) for each in given)


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word))


def leading(found: Installation, installed: Installed) -> list[WayIn]:
    """Those that lead to Kasm's proxy; an Ingress of somebody else in the namespace is not among them."""
    return [way for way in ways_in(found) if any(leads_to(found, installed, name) == "proxy" for name in way.services)]


def leads_to(found: Installation, installed: Installed, service: str) -> str:
    """The component behind a Service, by the pods that it selects; empty where it selects none of Kasm's."""
    for one in found.all("services"):
        selector = (one.get("spec") or {}).get("selector") or {}
        if one["metadata"]["name"] != service or not selector:
            continue
        for pod in found.all("pods"):
            labels = pod["metadata"].get("labels") or {}
            if all(labels.get(key) == value for key, value in selector.items()):
                component = installed.generation.component_of(labels)
                return component.key if component else ""
    return ""


def way_in_line(found: Installation, installed: Installed) -> Finding:
    """Somebody leads browsers to the proxy, and to nothing else of Kasm."""
    expected = "an Ingress, IngressRoute or LoadBalancer that points to Kasm's proxy"
    unread = found.missing("ingresses", "ingressroutes", "services", "pods")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)

    def line(severity: Severity, observed: str, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="way-in", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    right = leading(found, installed)
    for way in ways_in(found):
        astray = [f"{name} ({part})" for name in way.services if (part := leads_to(found, installed, name))]
        if way not in right and astray:
            message = (
                "Only the proxy can route requests to the components of Kasm: with any other target the page stays "
                "blank."
            )
            remedy = Remedy(
                "Point it to the Service of the proxy.",
                (f"kubectl --namespace {found.namespace} edit {way.kind} {way.name}",),
            )
            return line(Severity.ERROR, f"{way.what} points to {listed(astray)}", message, remedy)
    if not right:
        remedy = Remedy(
            "Render the values with vdi kasm values render --ingress traefik, or create an IngressRoute to the "
            "Service of the proxy."
        )
        return line(Severity.ERROR, "none", "Browsers cannot reach Kasm.", remedy)
    observed = "; ".join(f"{way.what}{_at(way)}" for way in right)
    if rivals := _rivals(found, right):
        message = "Two routes send the same name to different targets. Traefik decides which one is used."
        namespace, _, name = rivals[0].partition("/")
        remedy = Remedy(
            "If it belongs to an earlier Kasm, remove it or its host.",
            (f"kubectl --namespace {namespace} get ingress {name}",),
        )
        return line(Severity.ERROR, f"{observed}; also {listed(rivals)}", message, remedy)
    unheard = [way for way in right if way.kind != "ingressroute" and not way.addresses]
    if unheard and not (found.web and found.web.status == 200):
        message = "It has no address: no controller of its class has accepted it, or the port is in use."
        remedy = Remedy(
            "See the items way-in and port-443 of the preflight.",
            (f"vdi kasm preflight --namespace {found.namespace}",),
        )
        return line(Severity.WARNING if unheard[0].kind == "ingress" else Severity.ERROR, observed, message, remedy)
    return line(Severity.OK, observed)


def _rivals(found: Installation, right: list[WayIn]) -> list[str]:
    """Ingresses of other namespaces with one of our hosts."""
    hosts = {host for way in right for host in way.hosts}
    return [
        name_of(one)
        for one in found.all(EVERYWHERE)
        if one["metadata"]["namespace"] != found.namespace
        and any(rule.get("host") in hosts for rule in (one.get("spec") or {}).get("rules") or ())
    ]


def _at(way: WayIn) -> str:
    return (f" for {listed(way.hosts)}" if way.hosts else "") + (
        f" at {listed(way.addresses)}" if way.addresses else ""
    )


def hostname_of(found: Installation, installed: Installed) -> str:
    """The first host that leads to Kasm."""
    return next((host for way in leading(found, installed) for host in way.hosts), "")


def certificate_line(found: Installation, installed: Installed) -> Finding:
    """What a browser will be shown."""
    host = found.hostname
    expected = f"one for {host or 'the host name'} that is valid and from an authority that browsers trust"
    ways = [way for way in leading(found, installed) if way.secret is not None]

    def line(severity: Severity, observed: str, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="certificate", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    make = Remedy(
        "Put the certificate into fullchain.pem and its key into key.pem, create the Secret, and set it in the "
        "values (vdi kasm values render --tls-secret kasm-tls). Or use cert-manager.",
        (f"kubectl --namespace {found.namespace} create secret tls kasm-tls --cert=fullchain.pem --key=key.pem",),
    )
    if not ways:
        if leading(found, installed):
            return line(Severity.OK, "not checked: Kasm's own proxy, or something outside the cluster, terminates TLS")
        return line(Severity.UNKNOWN, "nothing terminates TLS here", "Nothing routes to Kasm: see item way-in.", make)
    name = ways[0].secret or ""
    if not name:
        message = "Traefik presents its self-signed default certificate: browsers warn."
        return line(Severity.WARNING, f"{ways[0].what} does not name a Secret", message, make)
    unread = found.missing(f"secrets/{name}")
    if unread is not None:
        return unreadable_finding("certificate", expected, unread)
    certificate = found.certificates.get(name, Certificate(problem="the Secret does not exist"))
    severity, message = _judged(certificate, host, found)
    return line(severity, f"Secret {name}: {_words(certificate)}", message, make if message else Remedy())


def _words(certificate: Certificate) -> str:
    if certificate.problem or certificate.ends is None:
        return certificate.problem
    kind = ", self-signed" if certificate.self_signed else ""
    return f"{listed(certificate.names)}, until {certificate.ends:%Y-%m-%d}{kind}"


def _judged(certificate: Certificate, host: str, found: Installation) -> tuple[Severity, str]:
    if certificate.problem or certificate.ends is None or certificate.begins is None:
        return Severity.ERROR, "Traefik presents its default certificate instead: browsers warn."
    if not certificate.begins <= found.now <= certificate.ends:
        return Severity.ERROR, "It is not valid now: browsers reject it."
    if host and not any(covers(name, host) for name in certificate.names):
        return Severity.ERROR, f"It is not for {host}: browsers reject it."
    if certificate.ends - found.now < _SOON:
        return Severity.WARNING, f"It expires within {_SOON.days} days."
    if certificate.self_signed:
        return (
            Severity.WARNING,
            "It is self-signed: browsers warn, and agents reject it unless configured otherwise.",
        )
    return Severity.OK, ""


def web_line(found: Installation, installed: Installed) -> Finding:
    """The web UI answers through the real way."""
    path = installed.generation.health_path
    expected = f"200 from https://{found.hostname or 'HOST'}{path}"
    answer = found.web
    if answer is None:
        unread = Unreadable(
            "Nothing configures the host name of Kasm.", Remedy("Set it: vdi kasm validate --hostname.")
        )
        return unreadable_finding("web-ui", expected, unread)
    trust = "" if answer.trusted else ", with a certificate that this machine does not trust"
    observed = f"{answer.status}{trust}" if answer.status else f"no response: {answer.problem}"
    if answer.status == 200:
        return Finding(code="web-ui", severity=Severity.OK, observed=observed, expected=expected)
    inside = found.inside.status if found.inside else 0
    message, remedy = _why_not(answer.status, inside, found)
    return Finding(
        code="web-ui", severity=Severity.ERROR, observed=observed, expected=expected, message=message, remedy=remedy
    )


def _why_not(status: int, inside: int, found: Installation) -> tuple[str, Remedy]:
    diagnose = Remedy.run(f"vdi kasm diagnose --namespace {found.namespace}")
    within = "Kasm responds inside the cluster, so the problem is on the way to it." if inside == 200 else ""
    preflight = Remedy(
        "See the items dns, port-443 and way-in of the preflight.",
        (f"vdi kasm preflight --hostname {found.hostname}",),
    )
    if status == 0:
        return within or (
            "The name does not resolve to this cluster, or nothing accepts connections on port 443."
        ), preflight
    if status == 404:
        return f"The server that responds has no route for {found.hostname}. {within}".strip(), preflight
    if status in (502, 503, 504):
        return "The route exists, but nothing behind it responds.", diagnose
    return f"This is not the response of a healthy Kasm. {within}".strip(), diagnose

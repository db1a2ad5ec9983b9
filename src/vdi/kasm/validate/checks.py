"""Whether a Kasm that was installed is whole: what was found in, lines out, from the release to the web UI. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations.model import HEALTH_PATH
from vdi.kasm.preflight.checks import Installed, find_installed
from vdi.kasm.preflight.facts import Unreadable, addresses_of, item, listed, unreadable_finding
from vdi.kasm.validate.workloads import (
    Installation,
    database_line,
    pods_line,
    services_line,
    volumes_line,
    workload_lines,
)

_HOST = re.compile(r"Host\(\s*([^)]*)\)")
_AGENTS = (
    "Agents on machines outside the cluster are not visible in the Kubernetes API. See them in Kasm: "
    "Infrastructure, Docker Agents. A new agent is disabled until someone enables it there. It must reach "
    "https://{host}; Kasm's proxy, API and manager must reach the agent's port 443."
)


def validate(found: Installation) -> list[Finding]:
    """Each line with what is expected and what is seen; where there is no Kasm, that alone."""
    unread = found.missing("deployments", "statefulsets")
    if unread is not None:
        return [unreadable_finding("release", "Kasm Workspaces", unread)]
    installed = find_installed(found, found.namespace)
    if installed is None:
        remedy = Remedy("Find it, and pass its namespace with --namespace.", ("helm list --all-namespaces",))
        expected, observed = "Kasm Workspaces from one of its three charts", f"none in namespace {found.namespace}"
        return [item("release", expected, observed, Severity.ERROR, "Its proxy, API and manager do not exist.", remedy)]
    return [
        release_line(found, installed),
        *workload_lines(found, installed),
        pods_line(found, installed),
        services_line(found, installed),
        volumes_line(found, installed),
        database_line(found, installed),
        way_in_line(found, installed),
        web_line(found),
    ]


def notes(found: Installation) -> list[str]:
    """What cannot be looked at from here."""
    return [_AGENTS.format(host=found.hostname or "HOST")]


def release_line(found: Installation, installed: Installed) -> Finding:
    """Helm's own word on it."""
    line, name = partial(item, "release", "a Helm release, deployed"), installed.release
    if not name:
        message = "It was rendered and applied without Helm: its values are not stored, and helm cannot upgrade it."
        remedy = Remedy("Keep the values file; upgrade by rendering again.")
        return line(installed.words, Severity.WARNING, message, remedy)
    unread = found.missing("secrets")
    if unread is not None:
        return unreadable_finding("release", "a Helm release, deployed", unread)
    revisions = [release for release in found.releases if release.name == name]
    if not revisions:
        message = "Helm's record of it (a Secret sh.helm.release.v1...) no longer exists."
        remedy = Remedy.run(f"helm list --all --namespace {found.namespace}")
        return line(f"{installed.words}, without Helm's record", Severity.WARNING, message, remedy)
    newest = max(revisions, key=lambda release: release.revision)
    observed = f"{installed.words}, revision {newest.revision} {newest.status}"
    if newest.status == "deployed":
        return line(observed)
    at_work = newest.status.startswith("pending")
    message = "Helm is working on it, or was interrupted." if at_work else "The last change failed."
    commands = (f"helm {verb} {name} --namespace {found.namespace}" for verb in ("history", "rollback"))
    how = "Go back to a good revision; without a number helm rollback uses the previous one."
    return line(observed, Severity.ERROR, message, Remedy(how, tuple(commands)))


@dataclass(frozen=True, slots=True)
class WayIn:
    """Something that leads to Kasm."""

    kind: str
    name: str
    hosts: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    """Services that it leads to, right or wrong."""
    addresses: tuple[str, ...] = ()


def _ways_in(found: Installation) -> Iterator[WayIn]:
    """All of the namespace, whether they lead to the right Service or not."""
    for ingress in found.all("ingresses"):
        spec = ingress.get("spec") or {}
        rules = spec.get("rules") or ()
        paths = [path for rule in rules for path in (rule.get("http") or {}).get("paths") or ()]
        backends = [*(path.get("backend") or {} for path in paths), spec.get("defaultBackend") or {}]
        services = _unique(str((backend.get("service") or {}).get("name", "")) for backend in backends)
        hosts = _unique(str(rule.get("host") or "") for rule in rules)
        yield WayIn("ingress", str(ingress["metadata"]["name"]), hosts, services, tuple(addresses_of(ingress)))
    for one in found.all("ingressroutes"):
        routes = (one.get("spec") or {}).get("routes") or ()
        matches = [match for route in routes for match in _HOST.findall(str(route.get("match", "")))]
        hosts = _unique(host.strip("`\"' ") for match in matches for host in match.split(","))
        services = _unique(str(service.get("name", "")) for route in routes for service in route.get("services") or ())
        yield WayIn("ingressroute", str(one["metadata"]["name"]), hosts, services)
    for service in found.all("services"):
        spec, name = service.get("spec") or {}, str(service["metadata"]["name"])
        if spec.get("type") == "LoadBalancer" and any(port.get("port") == 443 for port in spec.get("ports") or ()):
            yield WayIn("service", name, (), (name,), tuple(addresses_of(service)))


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word))


def _leads_to(found: Installation, installed: Installed, service: str) -> str:
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


def _leading(found: Installation, installed: Installed) -> list[WayIn]:
    """Those that lead to Kasm's proxy; an Ingress of somebody else in the namespace is not among them."""
    return [
        way for way in _ways_in(found) if any(_leads_to(found, installed, name) == "proxy" for name in way.services)
    ]


def hostname_of(found: Installation, installed: Installed) -> str:
    """The first host that leads to Kasm."""
    return next((host for way in _leading(found, installed) for host in way.hosts), "")


def way_in_line(found: Installation, installed: Installed) -> Finding:
    """Something leads browsers to the proxy, and to nothing else of Kasm."""
    expected = "an Ingress, IngressRoute or LoadBalancer that points to Kasm's proxy"
    unread = found.missing("ingresses", "ingressroutes", "services", "pods")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)
    line, right = partial(item, "way-in", expected), _leading(found, installed)
    for way in _ways_in(found):
        astray = [f"{name} ({part})" for name in way.services if (part := _leads_to(found, installed, name))]
        if way not in right and astray:
            message = "Only the proxy can route requests to the components of Kasm: the page stays blank."
            edit = f"kubectl --namespace {found.namespace} edit {way.kind} {way.name}"
            remedy = Remedy("Point it to the Service of the proxy.", (edit,))
            return line(f"{way.kind} {way.name} points to {listed(astray)}", Severity.ERROR, message, remedy)
    if not right:
        how = "Render the values with vdi kasm values render --ingress traefik, or create an IngressRoute to the proxy."
        return line("none", Severity.ERROR, "Browsers cannot reach Kasm.", Remedy(how))
    observed = "; ".join(
        f"{way.kind} {way.name}"
        + (f" for {listed(way.hosts)}" if way.hosts else "")
        + (f" at {listed(way.addresses)}" if way.addresses else "")
        for way in right
    )
    unheard = [way for way in right if way.kind != "ingressroute" and not way.addresses]
    if unheard and not (found.web and found.web.status == 200):
        message = "It has no address: no controller of its class has accepted it, or the port is in use."
        severity = Severity.WARNING if unheard[0].kind == "ingress" else Severity.ERROR
        return line(observed, severity, message, _preflight(found))
    return line(observed)


def _preflight(found: Installation) -> Remedy:
    command = f"vdi kasm preflight --namespace {found.namespace} --hostname {found.hostname or 'HOST'}"
    return Remedy("See the items dns, port-443 and way-in of the preflight.", (command,))


def web_line(found: Installation) -> Finding:
    """The web UI answers through the real way, with a certificate that is trusted here."""
    expected, answer = f"200 from https://{found.hostname or 'HOST'}{HEALTH_PATH}", found.web
    if answer is None:
        remedy = Remedy("Set it: vdi kasm validate --hostname.")
        return unreadable_finding("web-ui", expected, Unreadable("Nothing configures the host name of Kasm.", remedy))
    trust = "" if answer.trusted else ", with a certificate that this machine does not trust"
    observed = f"{answer.status}{trust}" if answer.status else f"no response: {answer.problem}"
    line, diagnose = partial(item, "web-ui", expected, observed), f"vdi kasm diagnose --namespace {found.namespace}"
    if answer.status == 200 and answer.trusted:
        return line()
    if answer.status == 200:
        create = f"kubectl --namespace {found.namespace} create secret tls kasm-tls --cert=fullchain.pem --key=key.pem"
        how = "Create a Secret with a trusted certificate, and name it in the values (--tls-secret kasm-tls)."
        return line(Severity.WARNING, "Browsers warn, and agents reject it.", Remedy(how, (create,)))
    if answer.status == 0:
        message = "The name does not resolve to this cluster, or nothing accepts connections on port 443."
        return line(Severity.ERROR, message, _preflight(found))
    if answer.status == 404:
        message = f"The server that responds has no route for {found.hostname}."
        return line(Severity.ERROR, message, _preflight(found))
    if answer.status in (502, 503, 504):
        message = "The route exists, but nothing behind it responds."
        return line(Severity.ERROR, message, Remedy.run(diagnose))
    return line(Severity.ERROR, "This is not the response of a healthy Kasm.", Remedy.run(diagnose))

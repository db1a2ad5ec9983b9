"""Checklist of an installed Kasm, from the release to its web UI: a reading in, findings out.
Pure.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import HEALTH_PATH, Component, matches, words_of
from vdi.kasm.preflight.checks import Installed, find_installed, release_of
from vdi.kasm.preflight.facts import (
    Answer,
    Facts,
    addresses_of,
    condition_of,
    is_ready,
    item,
    listed,
    unreadable_finding,
)
from vdi.snapshot.model import Unreadable

Object = dict[str, Any]


class Release(msgspec.Struct, frozen=True):
    """A revision of a Helm release, as its Secret's labels tell it; what is in the Secret is not
    kept.
    """

    name: str
    revision: int
    status: str


class Installation(Facts, frozen=True, kw_only=True, dict=True, eq=False):
    """The namespace of a Kasm, and what is seen of it from outside."""

    namespace: str
    releases: tuple[Release, ...] = ()
    hostname: str = ""
    web: Answer | None = None  # the web UI through the real way


_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}


def parts(found: Installation, installed: Installed) -> Iterator[tuple[Component, list[Object]]]:
    """Components that run for good, with their workloads; without those that are switched off."""
    for component in installed.generation.present(installed.chart_version):
        if component.kind == "Job":
            continue
        there = [
            one
            for one in found.all(_PLURALS[component.kind])
            if matches(component.name, one["metadata"]["name"])
        ]
        if there or not (component.switch or component.may_be_absent):
            yield component, there


def workload_lines(found: Installation, installed: Installed) -> Iterator[Finding]:
    """One line for each component."""
    for component, there in parts(found, installed):
        line = partial(item, f"part {component.key}", f"{component.kind} with all its pods ready")
        unread = found.missing(_PLURALS[component.kind])
        counts = {one["metadata"]["name"]: _counts(one) for one in there}
        observed = "; ".join(
            f"{name} {ready} of {wants} ready" for name, (ready, wants) in counts.items()
        )
        if unread is not None:
            yield unreadable_finding(
                f"part {component.key}", f"{component.kind} with all its pods ready", unread
            )
        elif not there:
            message = (
                "Every installation of this chart has it: it was deleted, or the installation"
                " failed."
            )
            remedy = Remedy(
                "Upgrade with the same values, which creates it again. List the releases with their"
                " status:",
                (f"helm list --all --namespace {found.namespace}",),
            )
            name = f"no {component.kind} {real_name(component.name, installed)}"
            yield line(name, Severity.ERROR, message, remedy)
        elif all(ready >= wants for ready, wants in counts.values()):
            yield line(observed)
        else:
            yield line(
                observed,
                Severity.ERROR,
                "Not all of its pods are ready.",
                _diagnose(found.namespace),
            )


def real_name(pattern: str, installed: Installed) -> str:
    """As it is in this release, in the zone that is always there."""
    version = kasm_version(words_of(installed.chart_version)).replace(".", "-")
    return pattern.format(release=installed.release or "kasm", zone="default", version=version)


def _counts(workload: Object) -> tuple[int, int]:
    """Ready and desired pods; ready ones that an update has yet to replace do not count."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    wants = int(spec["replicas"]) if spec.get("replicas") is not None else 1
    if int(status.get("observedGeneration") or 0) < int(
        workload["metadata"].get("generation") or 0
    ):
        return 0, wants
    ready, updated, there = (
        int(status.get(each) or 0) for each in ("readyReplicas", "updatedReplicas", "replicas")
    )
    return min(max(0, ready - max(0, there - updated)), updated, wants), wants


def _diagnose(namespace: str) -> Remedy:
    return Remedy.run(f"vdi kasm diagnose --namespace {namespace}")


def pods_line(found: Installation, installed: Installed) -> Finding:
    """All pods of the release at once, with the state of those that are not ready."""
    expected = "all pods ready or completed"
    unread = found.missing("pods")
    if unread is not None:
        return unreadable_finding("pods", expected, unread)
    own = [pod for pod in found.all("pods") if installed.owns(pod)]
    bad = [f"{pod['metadata']['name']} {state_of(pod)}" for pod in own if not _is_fine(pod)]
    observed = f"{len(own) - len(bad)} of {len(own)} pods are ready or completed"
    if not own:
        message = (
            "The workloads exist but have no pods: the pods are refused, or the workloads are"
            " scaled to 0."
        )
        look = Remedy.run(
            f"kubectl --namespace {found.namespace} get events --sort-by=.lastTimestamp"
        )
        return item("pods", expected, "none", Severity.ERROR, message, look)
    if not bad:
        return item("pods", expected, observed)
    message, remedy = (
        "The remedy shows what a pod in Init waits for, and the cause.",
        _diagnose(found.namespace),
    )
    return item("pods", expected, f"{observed}; {listed(bad)}", Severity.ERROR, message, remedy)


def _is_fine(pod: Object) -> bool:
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded" or (status.get("phase") == "Failed" and _of_job(pod)):
        return True  # a failed try of a Job: the Job has the word
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return is_ready(pod) or (_of_job(pod) and status.get("phase") == "Running")


def _of_job(pod: Object) -> bool:
    return any(
        owner_reference.get("kind") == "Job"
        for owner_reference in pod["metadata"].get("ownerReferences") or ()
    )


def state_of(pod: Object) -> str:
    """`Init:1/5 (kasm-manager-is-ready)`, `ImagePullBackOff`, `Pending`, ...: as kubectl says it,
    and by name.
    """
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    steps = status.get("initContainerStatuses") or ()
    for number, step in enumerate(steps):
        ended = (step.get("state") or {}).get("terminated")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        waiting = ((step.get("state") or {}).get("waiting") or {}).get("reason", "")
        reason = f", {waiting}" if waiting not in ("", "PodInitializing") else ""
        return f"Init:{number}/{len(steps)} ({step['name']}{reason})"
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if word := (state.get(kind) or {}).get("reason"):
                return str(word)
    phase = str(status.get("phase") or "Unknown")
    return "Running, not ready" if phase == "Running" else phase


def services_line(found: Installation, installed: Installed) -> Finding:
    """Each Service of the components and of the release has somebody behind it."""
    expected = "each Service has a ready endpoint"
    unread = found.missing("services", "endpointslices")
    if unread is not None:
        return unreadable_finding("services", expected, unread)
    there = {str(service["metadata"]["name"]): service for service in found.all("services")}
    own = [
        name
        for name, service in there.items()
        if (service.get("spec") or {}).get("selector") and release_of(service) == installed.release
    ]
    absent = [
        real_name(component.service, installed)
        for component, workloads in parts(found, installed)
        if component.service
        and workloads
        and not any(matches(component.service, name) for name in there)
    ]
    silent = sorted(name for name in own if not _answers(found, name))
    observed = f"{len(own) - len(silent)} of {len(own)} Services have endpoints"
    observed += f"; missing: {listed(absent)}" if absent else ""
    observed += f"; without endpoints: {listed(silent)}" if silent else ""
    if not absent and not silent:
        return item("services", expected, observed)
    message = (
        "A pod that waits for such a Service waits forever: its name cannot be resolved, or nothing"
        " responds."
    )
    return item("services", expected, observed, Severity.ERROR, message, _diagnose(found.namespace))


def _answers(found: Installation, service: str) -> bool:
    return any(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for endpoint_slice in found.all("endpointslices")
        if (endpoint_slice["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
        == service
        for endpoint in endpoint_slice.get("endpoints") or ()
    )


def volumes_line(found: Installation, installed: Installed) -> Finding:
    """The claims of the namespace are bound."""
    expected = "all Bound"
    unread = found.missing("persistentvolumeclaims")
    if unread is not None:
        return unreadable_finding("volumes", expected, unread)
    claims = {
        each["metadata"]["name"]: (each.get("status") or {}).get("phase")
        for each in _claims(found, installed)
    }
    unbound = [name for name, phase in claims.items() if phase != "Bound"]
    observed = f"{len(claims) - len(unbound)} of {len(claims)} claims are bound"
    observed += f"; {listed(f'{name} {claims[name]}' for name in unbound)}" if unbound else ""
    if unbound:
        how = Remedy.run(
            f"kubectl --namespace {found.namespace} describe persistentvolumeclaim {unbound[0]}"
        )
        return item(
            "volumes",
            expected,
            observed,
            Severity.ERROR,
            "A pod whose volume is not bound stays Pending.",
            how,
        )
    if not claims and any(
        component.key == "db" and there for component, there in parts(found, installed)
    ):
        message = "The bundled database has no volume: a restart would delete all data."
        return item(
            "volumes", expected, observed, Severity.ERROR, message, _diagnose(found.namespace)
        )
    return item("volumes", expected, observed)


def _claims(found: Installation, installed: Installed) -> list[Object]:
    """Claims that its pods name: a namespace may have others."""
    used = {
        (volume.get("persistentVolumeClaim") or {}).get("claimName")
        for pod in found.all("pods")
        if installed.owns(pod)
        for volume in (pod.get("spec") or {}).get("volumes") or ()
    }
    return [
        claim for claim in found.all("persistentvolumeclaims") if claim["metadata"]["name"] in used
    ]


def database_line(found: Installation, installed: Installed) -> Finding:
    """The Job that fills the database; gone after its time, it has succeeded."""
    expected = "Job db-init complete, or deleted after its success"
    unread = found.missing("jobs")
    if unread is not None:
        return unreadable_finding("db-init", expected, unread)
    component = installed.generation.component("db-init", installed.chart_version)
    jobs = [
        job
        for job in found.all("jobs")
        if component and matches(component.name, job["metadata"]["name"])
    ]
    line = partial(item, "db-init", expected)
    for job in jobs:
        name, failed = job["metadata"]["name"], condition_of(job, "Failed")
        if condition_of(job, "Complete").get("status") == "True":
            return line(f"{name} complete")
        if failed.get("status") == "True":
            message = f"The database was not initialised: {failed.get('message', '')}"
            return line(f"{name} failed", Severity.ERROR, message, _diagnose(found.namespace))
        message = "API and manager wait for it in init container db-is-ready."
        return line(f"{name} is running", Severity.WARNING, message, _diagnose(found.namespace))
    api = [
        _counts(one)
        for part, there in parts(found, installed)
        if part.key == "api"
        for one in there
    ]
    if any(ready for ready, _ in api):
        return line("deleted; the API is running, which waits until the database is initialised")
    message = "It is unknown whether the database was ever initialised."
    return line(
        "deleted; the API is not running", Severity.UNKNOWN, message, _diagnose(found.namespace)
    )


_HOST = re.compile(r"Host\(\s*([^)]*)\)")
_AGENTS = (
    "Agents on machines outside the cluster are not visible in the Kubernetes API. See them in"
    " Kasm: Infrastructure, Docker Agents. A new agent is disabled until someone enables it there."
    " It must reach https://{host}; Kasm's proxy, API and manager must reach the agent's port 443."
)


def validate(found: Installation) -> list[Finding]:
    """Each line with what is expected and what is seen; where there is no Kasm, that alone."""
    unread = found.missing("deployments", "statefulsets")
    if unread is not None:
        return [unreadable_finding("release", "Kasm Workspaces", unread)]
    installed = find_installed(found, found.namespace)
    if installed is None:
        remedy = Remedy(
            "Find it, and pass its namespace with --namespace.", ("helm list --all-namespaces",)
        )
        expected, observed = (
            "Kasm Workspaces from one of its three charts",
            f"none in namespace {found.namespace}",
        )
        return [
            item(
                "release",
                expected,
                observed,
                Severity.ERROR,
                "Its proxy, API and manager do not exist.",
                remedy,
            )
        ]
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
    """Notes about things that the Kubernetes API does not show."""
    return [_AGENTS.format(host=found.hostname or "HOST")]


def release_line(found: Installation, installed: Installed) -> Finding:
    """Helm's own word on it."""
    line, name = partial(item, "release", "a Helm release, deployed"), installed.release
    if not name:
        message = (
            "It was rendered and applied without Helm: its values are not stored, and helm cannot"
            " upgrade it."
        )
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
    commands = (
        f"helm {verb} {name} --namespace {found.namespace}" for verb in ("history", "rollback")
    )
    how = "Go back to a good revision; without a number helm rollback uses the previous one."
    return line(observed, Severity.ERROR, message, Remedy(how, tuple(commands)))


@dataclass(frozen=True, slots=True)
class WayIn:
    """Something that leads to Kasm."""

    kind: str
    name: str
    hosts: tuple[str, ...] = ()
    # Services that it leads to, right or wrong.
    services: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def _ways_in(found: Installation) -> Iterator[WayIn]:
    """All of the namespace, whether they lead to the right Service or not."""
    for ingress in found.all("ingresses"):
        spec = ingress.get("spec") or {}
        rules = spec.get("rules") or ()
        paths = [path for rule in rules for path in (rule.get("http") or {}).get("paths") or ()]
        backends = [
            *(path.get("backend") or {} for path in paths),
            spec.get("defaultBackend") or {},
        ]
        services = _unique(
            str((backend.get("service") or {}).get("name", "")) for backend in backends
        )
        hosts = _unique(str(rule.get("host") or "") for rule in rules)
        yield WayIn(
            "ingress",
            str(ingress["metadata"]["name"]),
            hosts,
            services,
            tuple(addresses_of(ingress)),
        )
    for one in found.all("ingressroutes"):
        routes = (one.get("spec") or {}).get("routes") or ()
        matches = [
            match for route in routes for match in _HOST.findall(str(route.get("match", "")))
        ]
        hosts = _unique(host.strip("`\"' ") for match in matches for host in match.split(","))
        services = _unique(
            str(service.get("name", ""))
            for route in routes
            for service in route.get("services") or ()
        )
        yield WayIn("ingressroute", str(one["metadata"]["name"]), hosts, services)
    for service in found.all("services"):
        spec, name = service.get("spec") or {}, str(service["metadata"]["name"])
        if spec.get("type") == "LoadBalancer" and any(
            port.get("port") == 443 for port in spec.get("ports") or ()
        ):
            yield WayIn("service", name, (), (name,), tuple(addresses_of(service)))


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word))


def _leads_to(found: Installation, installed: Installed, service: str) -> str:
    """The component behind a Service, by the pods that it selects; empty where it selects none of
    Kasm's.
    """
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
    """Ingresses and routes that lead to Kasm's proxy; other Ingresses of the namespace are left
    out.
    """
    return [
        way
        for way in _ways_in(found)
        if any(_leads_to(found, installed, name) == "proxy" for name in way.services)
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
        astray = [
            f"{name} ({part})"
            for name in way.services
            if (part := _leads_to(found, installed, name))
        ]
        if way not in right and astray:
            message = (
                "Only the proxy can route requests to the components of Kasm: the page stays blank."
            )
            edit = f"kubectl --namespace {found.namespace} edit {way.kind} {way.name}"
            remedy = Remedy("Point it to the Service of the proxy.", (edit,))
            return line(
                f"{way.kind} {way.name} points to {listed(astray)}", Severity.ERROR, message, remedy
            )
    if not right:
        how = (
            "Render the values with vdi kasm values render --ingress traefik, or create an"
            " IngressRoute to the proxy."
        )
        return line("none", Severity.ERROR, "Browsers cannot reach Kasm.", Remedy(how))
    observed = "; ".join(
        f"{way.kind} {way.name}"
        + (f" for {listed(way.hosts)}" if way.hosts else "")
        + (f" at {listed(way.addresses)}" if way.addresses else "")
        for way in right
    )
    unheard = [way for way in right if way.kind != "ingressroute" and not way.addresses]
    if unheard and not (found.web and found.web.status == 200):
        message = (
            "It has no address: no controller of its class has accepted it, or the port is in use."
        )
        severity = Severity.WARNING if unheard[0].kind == "ingress" else Severity.ERROR
        return line(observed, severity, message, _preflight(found))
    return line(observed)


def _preflight(found: Installation) -> Remedy:
    command = (
        f"vdi kasm preflight --namespace {found.namespace} --hostname {found.hostname or 'HOST'}"
    )
    return Remedy("See the items dns, port-443 and way-in of the preflight.", (command,))


def web_line(found: Installation) -> Finding:
    """The web UI answers through the real way, with a certificate that is trusted here."""
    expected, answer = f"200 from https://{found.hostname or 'HOST'}{HEALTH_PATH}", found.web
    if answer is None:
        remedy = Remedy("Set it: vdi kasm validate --hostname.")
        return unreadable_finding(
            "web-ui",
            expected,
            Unreadable("web-ui", "Nothing configures the host name of Kasm.", remedy),
        )
    trust = "" if answer.trusted else ", with a certificate that this machine does not trust"
    observed = f"{answer.status}{trust}" if answer.status else f"no response: {answer.problem}"
    line, diagnose = (
        partial(item, "web-ui", expected, observed),
        f"vdi kasm diagnose --namespace {found.namespace}",
    )
    if answer.status == 200 and answer.trusted:
        return line()
    if answer.status == 200:
        create = (
            f"kubectl --namespace {found.namespace} create secret tls kasm-tls --cert=fullchain.pem"
            " --key=key.pem"
        )
        how = (
            "Create a Secret with a trusted certificate, and name it in the values (--tls-secret"
            " kasm-tls)."
        )
        return line(
            Severity.WARNING, "Browsers warn, and agents reject it.", Remedy(how, (create,))
        )
    if answer.status == 0:
        message = (
            "The name does not resolve to this cluster, or nothing accepts connections on port 443."
        )
        return line(Severity.ERROR, message, _preflight(found))
    if answer.status == 404:
        message = f"The server that responds has no route for {found.hostname}."
        return line(Severity.ERROR, message, _preflight(found))
    if answer.status in (502, 503, 504):
        message = "The route exists, but nothing behind it responds."
        return line(Severity.ERROR, message, Remedy.run(diagnose))
    return line(Severity.ERROR, "This is not the response of a healthy Kasm.", Remedy.run(diagnose))

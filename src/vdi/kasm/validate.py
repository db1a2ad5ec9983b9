"""Checklist of an installed Kasm, from the release to its web UI. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from vdi.cluster.objects import PodCondition
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.checklist import (
    Item,
    error,
    failed,
    find_unread,
    listed,
    passed,
    run_items,
    unknown,
    warning,
)
from vdi.kasm.generations.model import HEALTH_PATH, Component, matches
from vdi.kasm.installation import Installation, InstalledChart, release_of
from vdi.kasm.preflight.needs import Preset
from vdi.snapshot.objects.network import Service
from vdi.snapshot.objects.storage import PersistentVolumeClaim
from vdi.snapshot.objects.workloads import Job, Pod, WorkloadObject


class Release(msgspec.Struct, frozen=True):
    """A revision of a Helm release, as its Secret's labels tell it; what is in the Secret is not
    kept.
    """

    name: str
    revision: int
    status: str


class Answer(msgspec.Struct, frozen=True):
    """Response of an HTTP server; status 0 for none, and then `problem` says why."""

    status: int = 0
    problem: str = ""
    # Whether its certificate is one that this machine trusts.
    trusted: bool = True


@dataclass(frozen=True)
class Validation:
    """The namespace of a Kasm, and what is seen of it from outside."""

    kasm: Installation
    releases: tuple[Release, ...] = ()
    hostname: str = ""
    # The response of the web UI to a browser's request.
    web: Answer | None = None


# Kinds of all items, and Secrets, of which Helm's labels are read.
NEEDS = frozenset(
    {
        *("deployments", "statefulsets", "jobs", "pods", "services", "endpointslices"),
        *("persistentvolumeclaims", "ingresses", "ingressroutes"),
    }
)
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}
_AGENTS = (
    "Agents on machines outside the cluster are not visible in the Kubernetes API. See them in"
    " Kasm: Infrastructure, Docker Agents. A new agent is disabled until someone enables it there."
    " It must reach https://{host}; Kasm's proxy, API and manager must reach the agent's port 443."
)


def notes(validation: Validation) -> list[str]:
    """Notes about things that the Kubernetes API does not show."""
    return [_AGENTS.format(host=validation.hostname or "HOST")]


def validate(validation: Validation) -> list[Finding]:
    """All findings; where there is no Kasm, that alone."""
    snapshot, chart = validation.kasm.snapshot, validation.kasm.installed
    needs = ("deployments", "statefulsets")
    if find_unread(snapshot, *needs):
        items = [Item("release", "Kasm Workspaces", needs, check_release)]
    elif chart is None:
        expected = "Kasm Workspaces from one of its three charts"
        items = [Item("release", expected, needs, _report_no_kasm)]
    else:
        items = list(checklist(validation, chart))
    return list(run_items(items, snapshot, validation, chart))


def _report_no_kasm(validation: Validation, _: None) -> Finding:
    remedy = Remedy(
        "Find it, and pass its namespace with --namespace.", ("helm list --all-namespaces",)
    )
    observed = f"none in namespace {validation.kasm.namespace}"
    return error(observed, "Its proxy, API and manager do not exist.", remedy)


def checklist(validation: Validation, chart: InstalledChart) -> Iterator[Item]:
    with_record = ("secrets",) if chart.release else ()
    yield Item("release", "a Helm release, deployed", with_record, check_release)
    for component, workloads in parts(validation.kasm, chart):
        expected = f"{component.kind} with all its pods ready"
        check = partial(check_workloads, component=component, workloads=workloads)
        yield Item(f"part {component.key}", expected, (_PLURALS[component.kind],), check)
    yield Item("pods", "all pods ready or completed", ("pods",), check_pods)
    needs: tuple[str, ...] = ("services", "endpointslices")
    yield Item("services", "each Service has a ready endpoint", needs, check_services)
    yield Item("volumes", "all Bound", ("persistentvolumeclaims", "pods"), check_volumes)
    expected = "Job db-init complete, or deleted after its success"
    yield Item("db-init", expected, ("jobs",), check_database)
    expected = "an Ingress, IngressRoute or LoadBalancer that points to Kasm's proxy"
    needs = ("ingresses", "ingressroutes", "services", "pods")
    yield Item("way-in", expected, needs, check_way_in)
    yield Item(
        "web-ui", f"200 from https://{validation.hostname or 'HOST'}{HEALTH_PATH}", (), check_web
    )


def check_release(validation: Validation, chart: InstalledChart) -> Finding:
    """As Helm has recorded it."""
    if not chart.release:
        message = (
            "It was rendered and applied without Helm: its values are not stored, and helm cannot"
            " upgrade it."
        )
        remedy = Remedy("Keep the values file; upgrade by rendering again.")
        return warning(chart.words, message, remedy)
    revisions = [release for release in validation.releases if release.name == chart.release]
    namespace = validation.kasm.namespace
    if not revisions:
        message = "Helm's record of it (a Secret sh.helm.release.v1...) no longer exists."
        remedy = Remedy.run(f"helm list --all --namespace {namespace}")
        return warning(f"{chart.words}, without Helm's record", message, remedy)
    newest = max(revisions, key=lambda release: release.revision)
    observed = f"{chart.words}, revision {newest.revision} {newest.status}"
    if newest.status == "deployed":
        return passed(observed)
    message = "The last change failed."
    if newest.status.startswith("pending"):
        message = "Helm is working on it, or was interrupted."
    remedy = Remedy(
        "Go back to a good revision; without a number helm rollback uses the previous one.",
        (
            f"helm history {chart.release} --namespace {namespace}",
            f"helm rollback {chart.release} --namespace {namespace}",
        ),
    )
    return error(observed, message, remedy)


def parts(
    kasm: Installation, chart: InstalledChart
) -> Iterator[tuple[Component, list[WorkloadObject]]]:
    """Components that run for good, with their workloads; without those that are switched off."""
    for component in chart.generation.present(chart.chart_version):
        if component.kind == "Job":
            continue
        workloads = []
        for workload in kasm.all_of(_PLURALS[component.kind]):
            if matches(component.name, workload.metadata.name):
                workloads.append(workload)
        if workloads or not (component.switch or component.may_be_absent):
            yield component, workloads


def check_workloads(
    validation: Validation,
    chart: InstalledChart,
    *,
    component: Component,
    workloads: list[WorkloadObject],
) -> Finding:
    """Workloads of one component."""
    namespace = validation.kasm.namespace
    if not workloads:
        message = (
            "Every installation of this chart has it: it was deleted, or the installation failed."
        )
        remedy = Remedy(
            "Upgrade with the same values, which creates it again. List the releases with their"
            " status:",
            (f"helm list --all --namespace {namespace}",),
        )
        name = _expected_name(component.name, chart)
        return error(f"no {component.kind} {name}", message, remedy)
    counts, is_ready = [], True
    for workload in workloads:
        ready, desired = _ready_pods(workload), workload.spec.replicas
        counts.append(f"{workload.metadata.name} {ready} of {desired} ready")
        is_ready = is_ready and ready >= desired
    if is_ready:
        return passed("; ".join(counts))
    return error("; ".join(counts), "Not all of its pods are ready.", _diagnose(namespace))


def _expected_name(pattern: str, chart: InstalledChart) -> str:
    """As it is in this release, in the zone that is always there."""
    preset = Preset(chart.generation, chart.chart_version, {}, chart.release or "kasm")
    return preset.real_name(pattern)


def _ready_pods(workload: WorkloadObject) -> int:
    """Ready pods, without those that an update has yet to replace."""
    status = workload.status
    if status.observed_generation < workload.metadata.generation:
        return 0
    old = max(0, status.replicas - status.updated_replicas)
    ready = max(0, status.ready_replicas - old)
    return min(ready, status.updated_replicas, workload.spec.replicas)


def _diagnose(namespace: str) -> Remedy:
    return Remedy.run(f"vdi kasm diagnose --namespace {namespace}")


def check_pods(validation: Validation, chart: InstalledChart) -> Finding:
    """All pods of the release at once, with the state of those that are not ready."""
    namespace = validation.kasm.namespace
    pods = _own_pods(validation.kasm, chart)
    if not pods:
        message = (
            "The workloads exist but have no pods: the pods are refused, or the workloads are"
            " scaled to 0."
        )
        command = f"kubectl --namespace {namespace} get events --sort-by=.lastTimestamp"
        return error("none", message, Remedy.run(command))
    bad = [f"{pod.metadata.name} {state_of(pod)}" for pod in pods if not _is_fine(pod)]
    observed = f"{len(pods) - len(bad)} of {len(pods)} pods are ready or completed"
    if not bad:
        return passed(observed)
    message = "The remedy shows what a pod in Init waits for, and the cause."
    return error(f"{observed}; {listed(bad)}", message, _diagnose(namespace))


def _own_pods(kasm: Installation, chart: InstalledChart) -> list[Pod]:
    return [pod for pod in kasm.all_of("pods") if chart.owns(pod)]


def _is_fine(pod: Pod) -> bool:
    phase = pod.status.phase
    is_of_job = any(owner.kind == "Job" for owner in pod.metadata.owner_references)
    if phase == "Succeeded" or (phase == "Failed" and is_of_job):
        return True  # of a failed try the Job reports whether it was the last one
    if pod.terminating:
        return False
    return pod.ready or (is_of_job and phase == "Running")


def state_of(pod: Pod) -> str:
    """`Init:1/5 (kasm-manager-is-ready)`, `ImagePullBackOff`, `Pending`, ...: as kubectl names it,
    and by the name of the init container.
    """
    if pod.terminating:
        return "Terminating"
    steps = pod.status.init_container_statuses
    for number, step in enumerate(steps):
        ended, waiting = step.state.terminated, step.state.waiting
        if ended and not ended.exit_code:
            continue
        name = step.name
        if waiting and waiting.reason not in ("", "PodInitializing"):
            name += f", {waiting.reason}"
        return f"Init:{number}/{len(steps)} ({name})"
    for container in pod.status.container_statuses:
        for state in (container.state.waiting, container.state.terminated):
            if state and state.reason:
                return state.reason
    phase = pod.status.phase or "Unknown"
    if phase == "Running":
        return "Running, not ready"
    return phase


def check_services(validation: Validation, chart: InstalledChart) -> Finding:
    """Each Service of the components and of the release has a pod behind it."""
    kasm = validation.kasm
    own, silent = 0, []
    for name, service in sorted(kasm.services.items()):
        if service.spec.selector and release_of(service) == chart.release:
            own += 1
            if not kasm.endpoints(name)[1]:
                silent.append(name)
    absent = []
    for component, workloads in parts(kasm, chart):
        exists = any(matches(component.service, name) for name in kasm.services)
        if component.service and workloads and not exists:
            absent.append(_expected_name(component.service, chart))
    observed = f"{own - len(silent)} of {own} Services have endpoints"
    observed += f"; missing: {listed(absent)}" if absent else ""
    observed += f"; without endpoints: {listed(silent)}" if silent else ""
    if not absent and not silent:
        return passed(observed)
    message = (
        "A pod that waits for such a Service waits forever: its name cannot be resolved, or nothing"
        " responds."
    )
    return error(observed, message, _diagnose(kasm.namespace))


def check_volumes(validation: Validation, chart: InstalledChart) -> Finding:
    """The claims of its pods are bound."""
    namespace = validation.kasm.namespace
    claims = _claims(validation.kasm, chart)
    unbound = [claim for claim in claims if claim.status.phase != "Bound"]
    observed = f"{len(claims) - len(unbound)} of {len(claims)} claims are bound"
    if unbound:
        names = listed(f"{claim.metadata.name} {claim.status.phase}" for claim in unbound)
        command = (
            f"kubectl --namespace {namespace} describe persistentvolumeclaim"
            f" {unbound[0].metadata.name}"
        )
        message = "A pod whose volume is not bound stays Pending."
        return error(f"{observed}; {names}", message, Remedy.run(command))
    if not claims and _workloads(validation.kasm, chart, "db"):
        message = "The bundled database has no volume: a restart would delete all data."
        return error(observed, message, _diagnose(namespace))
    return passed(observed)


def _claims(kasm: Installation, chart: InstalledChart) -> list[PersistentVolumeClaim]:
    """Claims that its pods name: a namespace may have others."""
    names: set[str] = set()
    for pod in _own_pods(kasm, chart):
        sources = (volume.persistent_volume_claim for volume in pod.spec.volumes)
        names.update(source.claim_name for source in sources if source)
    claims: list[PersistentVolumeClaim] = kasm.all_of("persistentvolumeclaims")
    return [claim for claim in claims if claim.metadata.name in names]


def _workloads(kasm: Installation, chart: InstalledChart, key: str) -> list[WorkloadObject]:
    """Workloads of the component of this key."""
    for component, workloads in parts(kasm, chart):
        if component.key == key:
            return workloads
    return []


def check_database(validation: Validation, chart: InstalledChart) -> Finding:
    """The Job that fills the database; gone after its time, it has succeeded."""
    remedy = _diagnose(validation.kasm.namespace)
    component = chart.generation.component("db-init", chart.chart_version)
    for job in validation.kasm.all_of("jobs"):
        name = job.metadata.name
        if not component or not matches(component.name, name):
            continue
        if _true_condition(job, "Complete"):
            return passed(f"{name} complete")
        if failure := _true_condition(job, "Failed"):
            message = f"The database was not initialised: {failure.message}"
            return error(f"{name} failed", message, remedy)
        message = "API and manager wait for it in init container db-is-ready."
        return warning(f"{name} is running", message, remedy)
    if any(_ready_pods(workload) for workload in _workloads(validation.kasm, chart, "api")):
        return passed("deleted; the API is running, which waits until the database is initialised")
    return unknown(
        "It is unknown whether the database was ever initialised.",
        remedy,
        observed="deleted; the API is not running",
    )


def _true_condition(job: Job, kind: str) -> PodCondition | None:
    for condition in job.status.conditions:
        if condition.type == kind and condition.status == "True":
            return condition
    return None


@dataclass(frozen=True, slots=True)
class WayIn:
    """Something that leads to Kasm."""

    # As kubectl takes it.
    kind: str
    name: str
    hosts: tuple[str, ...] = ()
    # Services that it leads to, right or wrong.
    services: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        text = f"{self.kind} {self.name}"
        text += f" for {listed(self.hosts)}" if self.hosts else ""
        return text + (f" at {listed(self.addresses)}" if self.addresses else "")


_HOST = re.compile(r"Host\(\s*([^)]*)\)")


def _ways_in(kasm: Installation) -> Iterator[WayIn]:
    """All of the namespace, whether they lead to the right Service or not."""
    yield from _ingresses(kasm)
    yield from _ingress_routes(kasm)
    yield from _load_balancers(kasm)


def _ingresses(kasm: Installation) -> Iterator[WayIn]:
    for ingress in kasm.all_of("ingresses"):
        spec = ingress.spec
        backends = [path.backend for rule in spec.rules for path in rule.http.paths]
        backends.append(spec.default_backend)
        yield WayIn(
            "ingress",
            ingress.metadata.name,
            _unique(rule.host for rule in spec.rules),
            _unique(backend.service.name for backend in backends),
            tuple(ingress.status.addresses),
        )


def _ingress_routes(kasm: Installation) -> Iterator[WayIn]:
    for route in kasm.all_of("ingressroutes"):
        hosts, services = [], []
        for rule in route.spec.routes:
            for names in _HOST.findall(rule.match):
                hosts += [host.strip("`\"' ") for host in names.split(",")]
            services += [service.name for service in rule.services]
        yield WayIn("ingressroute", route.metadata.name, _unique(hosts), _unique(services))


def _load_balancers(kasm: Installation) -> Iterator[WayIn]:
    for name, service in kasm.services.items():
        ports = {port.port for port in service.spec.ports}
        if service.spec.type == "LoadBalancer" and 443 in ports:
            yield WayIn("service", name, (), (name,), tuple(service.status.addresses))


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in values if word))


def _component_behind(kasm: Installation, chart: InstalledChart, name: str) -> str:
    """The component behind a Service, by the pods that it selects; empty where it selects none of
    Kasm's.
    """
    service: Service | None = kasm.services.get(name)
    if service is None or not service.spec.selector:
        return ""
    for pod in kasm.all_of("pods"):
        if service.spec.selector.items() <= pod.metadata.labels.items():
            component = chart.generation.component_of(pod.metadata.labels)
            return component.key if component else ""
    return ""


def _leads_to_proxy(kasm: Installation, chart: InstalledChart, way: WayIn) -> bool:
    return any(_component_behind(kasm, chart, name) == "proxy" for name in way.services)


def hostname_of(kasm: Installation, chart: InstalledChart) -> str:
    """The first host that leads to Kasm's proxy."""
    for way in _ways_in(kasm):
        if way.hosts and _leads_to_proxy(kasm, chart, way):
            return way.hosts[0]
    return ""


def check_way_in(validation: Validation, chart: InstalledChart) -> Finding:
    """Something leads browsers to the proxy, and nothing leads them to another component. Other
    Ingresses of the namespace are left out.
    """
    kasm, right = validation.kasm, []
    for way in _ways_in(kasm):
        if _leads_to_proxy(kasm, chart, way):
            right.append(way)
        elif astray := _list_components(kasm, chart, way):
            edit = f"kubectl --namespace {kasm.namespace} edit {way.kind} {way.name}"
            return error(
                f"{way.kind} {way.name} points to {listed(astray)}",
                "Only the proxy can route requests to the components of Kasm: the page stays"
                " blank.",
                Remedy("Point it to the Service of the proxy.", (edit,)),
            )
    if not right:
        remedy = (
            "Render the values with vdi kasm values render --ingress traefik, or create an"
            " IngressRoute to the proxy."
        )
        return error("none", "Browsers cannot reach Kasm.", Remedy(remedy))
    observed = "; ".join(way.words for way in right)
    without_address = [way for way in right if way.kind != "ingressroute" and not way.addresses]
    if without_address and not (validation.web and validation.web.status == 200):
        is_ingress = without_address[0].kind == "ingress"
        return failed(
            Severity.WARNING if is_ingress else Severity.ERROR,
            observed,
            "It has no address: no controller of its class has accepted it, or the port is in use.",
            _preflight(validation),
        )
    return passed(observed)


def _list_components(kasm: Installation, chart: InstalledChart, way: WayIn) -> list[str]:
    """Services of Kasm that it leads to, each with its component."""
    names = []
    for name in way.services:
        component = _component_behind(kasm, chart, name)
        if component:
            names.append(f"{name} ({component})")
    return names


def _preflight(validation: Validation) -> Remedy:
    command = (
        f"vdi kasm preflight --namespace {validation.kasm.namespace} --hostname"
        f" {validation.hostname or 'HOST'}"
    )
    return Remedy("See the items dns, port-443 and way-in of the preflight.", (command,))


def check_web(validation: Validation, _: InstalledChart) -> Finding:
    """The web UI answers through the real way, with a certificate that is trusted here."""
    answer = validation.web
    if answer is None:
        remedy = Remedy("Set it: vdi kasm validate --hostname.")
        return unknown("Nothing configures the host name of Kasm.", remedy)
    if answer.status == 0:
        message = (
            "The name does not resolve to this cluster, or nothing accepts connections on port 443."
        )
        return error(f"no response: {answer.problem}", message, _preflight(validation))
    observed = str(answer.status)
    if not answer.trusted:
        observed += ", with a certificate that this machine does not trust"
    if answer.status == 200 and answer.trusted:
        return passed(observed)
    if answer.status == 200:
        create = (
            f"kubectl --namespace {validation.kasm.namespace} create secret tls kasm-tls"
            " --cert=fullchain.pem --key=key.pem"
        )
        how = (
            "Create a Secret with a trusted certificate, and name it in the values (--tls-secret"
            " kasm-tls)."
        )
        return warning(observed, "Browsers warn, and agents reject it.", Remedy(how, (create,)))
    if answer.status == 404:
        message = f"The server that responds has no route for {validation.hostname}."
        return error(observed, message, _preflight(validation))
    message = "This is not the response of a healthy Kasm."
    if answer.status in (502, 503, 504):
        message = "The route exists, but nothing behind it responds."
    return error(observed, message, _diagnose(validation.kasm.namespace))

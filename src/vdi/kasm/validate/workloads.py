"""What a validation looks at, and lines about what runs: workloads, pods, Services, volumes, the first Job. Pure."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import Component, matches, words_of
from vdi.kasm.preflight.checks import Installed, release_of
from vdi.kasm.preflight.facts import Answer, Facts, condition_of, is_ready, item, listed, unreadable_finding

Object = dict[str, Any]


class Release(msgspec.Struct, frozen=True):
    """A revision of a Helm release, as its Secret's labels tell it; what is in the Secret is not kept."""

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
        there = [one for one in found.all(_PLURALS[component.kind]) if matches(component.name, one["metadata"]["name"])]
        if there or not (component.switch or component.may_be_absent):
            yield component, there


def workload_lines(found: Installation, installed: Installed) -> Iterator[Finding]:
    """One line for each component."""
    for component, there in parts(found, installed):
        line = partial(item, f"part {component.key}", f"{component.kind} with all its pods ready")
        unread = found.missing(_PLURALS[component.kind])
        counts = {one["metadata"]["name"]: _counts(one) for one in there}
        observed = "; ".join(f"{name} {ready} of {wants} ready" for name, (ready, wants) in counts.items())
        if unread is not None:
            yield unreadable_finding(f"part {component.key}", f"{component.kind} with all its pods ready", unread)
        elif not there:
            message = "Every installation of this chart has it: it was deleted, or the installation failed."
            remedy = Remedy(
                "Upgrade with the same values, which creates it again. List the releases with their status:",
                (f"helm list --all --namespace {found.namespace}",),
            )
            name = f"no {component.kind} {real_name(component.name, installed)}"
            yield line(name, Severity.ERROR, message, remedy)
        elif all(ready >= wants for ready, wants in counts.values()):
            yield line(observed)
        else:
            yield line(observed, Severity.ERROR, "Not all of its pods are ready.", _diagnose(found.namespace))


def real_name(pattern: str, installed: Installed) -> str:
    """As it is in this release, in the zone that is always there."""
    version = kasm_version(words_of(installed.chart_version)).replace(".", "-")
    return pattern.format(release=installed.release or "kasm", zone="default", version=version)


def _counts(workload: Object) -> tuple[int, int]:
    """Ready and desired pods; ready ones that an update has yet to replace do not count."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    wants = int(spec["replicas"]) if spec.get("replicas") is not None else 1
    if int(status.get("observedGeneration") or 0) < int(workload["metadata"].get("generation") or 0):
        return 0, wants
    ready, updated, there = (int(status.get(each) or 0) for each in ("readyReplicas", "updatedReplicas", "replicas"))
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
        message = "The workloads exist but have no pods: the pods are refused, or the workloads are scaled to 0."
        look = Remedy.run(f"kubectl --namespace {found.namespace} get events --sort-by=.lastTimestamp")
        return item("pods", expected, "none", Severity.ERROR, message, look)
    if not bad:
        return item("pods", expected, observed)
    message, remedy = "The remedy shows what a pod in Init waits for, and the cause.", _diagnose(found.namespace)
    return item("pods", expected, f"{observed}; {listed(bad)}", Severity.ERROR, message, remedy)


def _is_fine(pod: Object) -> bool:
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded" or (status.get("phase") == "Failed" and _of_job(pod)):
        return True  # a failed try of a Job: the Job has the word
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return is_ready(pod) or (_of_job(pod) and status.get("phase") == "Running")


def _of_job(pod: Object) -> bool:
    return any(owner_reference.get("kind") == "Job" for owner_reference in pod["metadata"].get("ownerReferences") or ())


def state_of(pod: Object) -> str:
    """`Init:1/5 (kasm-manager-is-ready)`, `ImagePullBackOff`, `Pending`, ...: as kubectl says it, and by name."""
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
        if component.service and workloads and not any(matches(component.service, name) for name in there)
    ]
    silent = sorted(name for name in own if not _answers(found, name))
    observed = f"{len(own) - len(silent)} of {len(own)} Services have endpoints"
    observed += f"; missing: {listed(absent)}" if absent else ""
    observed += f"; without endpoints: {listed(silent)}" if silent else ""
    if not absent and not silent:
        return item("services", expected, observed)
    message = "A pod that waits for such a Service waits forever: its name cannot be resolved, or nothing responds."
    return item("services", expected, observed, Severity.ERROR, message, _diagnose(found.namespace))


def _answers(found: Installation, service: str) -> bool:
    return any(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for endpoint_slice in found.all("endpointslices")
        if (endpoint_slice["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service
        for endpoint in endpoint_slice.get("endpoints") or ()
    )


def volumes_line(found: Installation, installed: Installed) -> Finding:
    """The claims of the namespace are bound."""
    expected = "all Bound"
    unread = found.missing("persistentvolumeclaims")
    if unread is not None:
        return unreadable_finding("volumes", expected, unread)
    claims = {each["metadata"]["name"]: (each.get("status") or {}).get("phase") for each in _claims(found, installed)}
    unbound = [name for name, phase in claims.items() if phase != "Bound"]
    observed = f"{len(claims) - len(unbound)} of {len(claims)} claims are bound"
    observed += f"; {listed(f'{name} {claims[name]}' for name in unbound)}" if unbound else ""
    if unbound:
        how = Remedy.run(f"kubectl --namespace {found.namespace} describe persistentvolumeclaim {unbound[0]}")
        return item(
            "volumes", expected, observed, Severity.ERROR, "A pod whose volume is not bound stays Pending.", how
        )
    if not claims and any(component.key == "db" and there for component, there in parts(found, installed)):
        message = "The bundled database has no volume: a restart would delete all data."
        return item("volumes", expected, observed, Severity.ERROR, message, _diagnose(found.namespace))
    return item("volumes", expected, observed)


def _claims(found: Installation, installed: Installed) -> list[Object]:
    """Claims that its pods name: a namespace may have others."""
    used = {
        (volume.get("persistentVolumeClaim") or {}).get("claimName")
        for pod in found.all("pods")
        if installed.owns(pod)
        for volume in (pod.get("spec") or {}).get("volumes") or ()
    }
    return [claim for claim in found.all("persistentvolumeclaims") if claim["metadata"]["name"] in used]


def database_line(found: Installation, installed: Installed) -> Finding:
    """The Job that fills the database; gone after its time, it has succeeded."""
    expected = "Job db-init complete, or deleted after its success"
    unread = found.missing("jobs")
    if unread is not None:
        return unreadable_finding("db-init", expected, unread)
    component = installed.generation.component("db-init", installed.chart_version)
    jobs = [job for job in found.all("jobs") if component and matches(component.name, job["metadata"]["name"])]
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
    api = [_counts(one) for part, there in parts(found, installed) if part.key == "api" for one in there]
    if any(ready for ready, _ in api):
        return line("deleted; the API is running, which waits until the database is initialised")
    message = "It is unknown whether the database was ever initialised."
    return line("deleted; the API is not running", Severity.UNKNOWN, message, _diagnose(found.namespace))

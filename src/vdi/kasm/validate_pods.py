"""Lines about what runs: workloads, pods, Services, volumes, the database's first contents. Pure."""

from collections.abc import Iterator
from typing import Any

from vdi.kasm.generations import kasm_version, parse_version
from vdi.kasm.generations_model import Component, Version, matches
from vdi.kasm.preflight_line import Line, Verdict, listed, unread_line
from vdi.kasm.preflight_release import Installed, release_of
from vdi.kasm.validate_facts import Installation

Object = dict[str, Any]
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}


def version_of_chart(installed: Installed) -> Version:
    """Of the chart that is installed; the newest of its generation where nothing says so."""
    try:
        return parse_version(installed.version)
    except ValueError:
        return installed.generation.newest


def parts(found: Installation, installed: Installed) -> Iterator[tuple[Component, list[Object]]]:
    """Components that run for good, with their workloads; without those that are switched off."""
    for component in installed.generation.present(version_of_chart(installed)):
        if component.kind == "Job":
            continue
        there = [one for one in found.all(_PLURALS[component.kind]) if matches(component.name, one["metadata"]["name"])]
        if there or not (component.switch or component.may_be_absent):
            yield component, there


def workload_lines(found: Installation, installed: Installed) -> Iterator[Line]:
    """One line for each component."""
    for component, there in parts(found, installed):
        check = f"part {component.key}"
        wanted = f"{component.kind} with all its pods ready"
        unread = found.missing(_PLURALS[component.kind])
        if unread is not None:
            yield unread_line(check, wanted, unread)
        else:
            name = real_name(component.name, installed)
            yield _workload_line(check, wanted, f"{component.kind} {name}", there, found.namespace)


def real_name(pattern: str, installed: Installed) -> str:
    """As it is in this release, in the zone that is always there."""
    version = kasm_version(".".join(str(number) for number in version_of_chart(installed))).replace(".", "-")
    return pattern.format(release=installed.release or "kasm", zone="default", version=version)


def _workload_line(check: str, wanted: str, name: str, there: list[Object], namespace: str) -> Line:
    if not there:
        return Line(
            check=check,
            verdict=Verdict.FAIL,
            seen=f"no {name}",
            wanted=wanted,
            why="It belongs to every installation of this chart; somebody has deleted it, or the install broke off.",
            remedy=f"helm history RELEASE --namespace {namespace}; an upgrade with the same values brings it back",
        )
    counts = {one["metadata"]["name"]: _counts(one) for one in there}
    seen = "; ".join(f"{name} {ready} of {wants} ready" for name, (ready, wants) in counts.items())
    if all(ready >= wants for ready, wants in counts.values()):
        return Line(check=check, verdict=Verdict.PASS, seen=seen, wanted=wanted)
    return Line(
        check=check,
        verdict=Verdict.FAIL,
        seen=seen,
        wanted=wanted,
        why="Not all of its pods are ready.",
        remedy=_diagnose(namespace),
    )


def _counts(workload: Object) -> tuple[int, int]:
    """Ready and wanted pods; ready ones that an update has yet to replace do not count."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    wants = int(spec["replicas"]) if spec.get("replicas") is not None else 1
    if int(status.get("observedGeneration") or 0) < int(workload["metadata"].get("generation") or 0):
        return 0, wants
    ready, updated, there = (int(status.get(each) or 0) for each in ("readyReplicas", "updatedReplicas", "replicas"))
    return min(max(0, ready - max(0, there - updated)), updated, wants), wants


def _diagnose(namespace: str) -> str:
    return f"vdi kasm diagnose --namespace {namespace}"


def pods_line(found: Installation, installed: Installed) -> Line:
    """All pods of the release at once, with the state of those that are not ready."""
    wanted = "all ready, or done"
    unread = found.missing("pods")
    if unread is not None:
        return unread_line("pods", wanted, unread)
    own = [pod for pod in found.all("pods") if _is_own(pod, installed)]
    bad = [pod for pod in own if not _is_fine(pod)]
    seen = f"{len(own) - len(bad)} of {len(own)} are"
    if not own:
        why = "The workloads are there and have made no pods: they are refused, or scaled to 0."
        look = f"kubectl --namespace {found.namespace} get events --sort-by=.lastTimestamp"
        return Line(check="pods", verdict=Verdict.FAIL, seen="none", wanted=wanted, why=why, remedy=look)
    if not bad:
        return Line(check="pods", verdict=Verdict.PASS, seen=seen, wanted=wanted)
    states = [f"{pod['metadata']['name']} {state_of(pod)}" for pod in bad]
    return Line(
        check="pods",
        verdict=Verdict.FAIL,
        seen=f"{seen}; {listed(states)}",
        wanted=wanted,
        why="What a pod in Init waits for is said by name, and why that does not come.",
        remedy=_diagnose(found.namespace),
    )


def _is_own(pod: Object, installed: Installed) -> bool:
    return installed.generation.component_of(pod["metadata"].get("labels") or {}) is not None


def _is_fine(pod: Object) -> bool:
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded" or (status.get("phase") == "Failed" and _of_job(pod)):
        return True  # a failed try of a Job: the Job has the word
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()) or (
        _of_job(pod) and status.get("phase") == "Running"
    )


def _of_job(pod: Object) -> bool:
    return any(one.get("kind") == "Job" for one in pod["metadata"].get("ownerReferences") or ())


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


def services_line(found: Installation, installed: Installed) -> Line:
    """Each Service of the components and of the release has somebody behind it."""
    wanted = "each has an address behind it"
    unread = found.missing("services", "endpointslices")
    if unread is not None:
        return unread_line("services", wanted, unread)
    expected = {
        service["metadata"]["name"]: service
        for service in found.all("services")
        if (service.get("spec") or {}).get("selector") and release_of(service) == installed.release
    }
    there = {str(service["metadata"]["name"]) for service in found.all("services")}
    absent = [
        real_name(component.service, installed)
        for component, workloads in parts(found, installed)
        if component.service and workloads and not any(matches(component.service, name) for name in there)
    ]
    silent = sorted(name for name in expected if not _answers(found, name))
    seen = f"{len(expected) - len(silent)} of {len(expected)} have"
    if absent:
        seen += f"; there is no {listed(absent)}"
    if silent:
        seen += f"; nobody behind {listed(silent)}"
    if not absent and not silent:
        return Line(check="services", verdict=Verdict.PASS, seen=seen, wanted=wanted)
    why = "Whoever waits for such a Service waits for ever: its name does not resolve, or nobody takes the connection."
    remedy = _diagnose(found.namespace)
    return Line(check="services", verdict=Verdict.FAIL, seen=seen, wanted=wanted, why=why, remedy=remedy)


def _answers(found: Installation, service: str) -> bool:
    return any(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for one in found.all("endpointslices")
        if (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service
        for endpoint in one.get("endpoints") or ()
    )


def volumes_line(found: Installation, installed: Installed) -> Line:
    """The claims of the namespace are bound."""
    wanted = "all Bound"
    unread = found.missing("persistentvolumeclaims")
    if unread is not None:
        return unread_line("volumes", wanted, unread)
    claims = {one["metadata"]["name"]: (one.get("status") or {}).get("phase", "") for one in _claims(found, installed)}
    bad = [f"{name} {phase or 'without a phase'}" for name, phase in claims.items() if phase != "Bound"]
    database = any(component.key == "db" and there for component, there in parts(found, installed))
    seen = f"{len(claims) - len(bad)} of {len(claims)} are" + (f"; {listed(bad)}" if bad else "")
    if bad:
        how = f"kubectl --namespace {found.namespace} describe persistentvolumeclaim {bad[0].split()[0]}"
        why = "A pod whose volume is not bound stays Pending."
        return Line(check="volumes", verdict=Verdict.FAIL, seen=seen, wanted=wanted, why=why, remedy=how)
    if database and not claims:
        why = "The bundled database runs without a volume: a restart would lose everything."
        return Line(
            check="volumes", verdict=Verdict.FAIL, seen=seen, wanted=wanted, why=why, remedy=_diagnose(found.namespace)
        )
    return Line(check="volumes", verdict=Verdict.PASS, seen=seen, wanted=wanted)


def _claims(found: Installation, installed: Installed) -> list[Object]:
    """Claims that its pods name: a namespace may have others."""
    used = {
        (volume.get("persistentVolumeClaim") or {}).get("claimName")
        for pod in found.all("pods")
        if _is_own(pod, installed)
        for volume in (pod.get("spec") or {}).get("volumes") or ()
    }
    return [one for one in found.all("persistentvolumeclaims") if one["metadata"]["name"] in used]


def database_line(found: Installation, installed: Installed) -> Line:
    """The Job that fills the database; gone after its time, it has succeeded."""
    wanted = "Job db-init complete, or gone after its success"
    unread = found.missing("jobs")
    if unread is not None:
        return unread_line("db-init", wanted, unread)
    component = installed.generation.component("db-init", version_of_chart(installed))
    jobs = [one for one in found.all("jobs") if component and matches(component.name, one["metadata"]["name"])]

    def line(verdict: Verdict, seen: str, why: str = "") -> Line:
        remedy = "" if verdict is Verdict.PASS else _diagnose(found.namespace)
        return Line(check="db-init", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    for job in jobs:
        conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or ()}
        name = job["metadata"]["name"]
        if (conditions.get("Complete") or {}).get("status") == "True":
            return line(Verdict.PASS, f"{name} complete")
        if (conditions.get("Failed") or {}).get("status") == "True":
            why = f"The database was not filled: {conditions['Failed'].get('message', '')}"
            return line(Verdict.FAIL, f"{name} failed", why)
        return line(Verdict.WARN, f"{name} at work", "API and manager wait for it in init container db-is-ready.")
    api = [_counts(one) for part, there in parts(found, installed) if part.key == "api" for one in there]
    if any(ready for ready, _ in api):
        return line(Verdict.PASS, "gone; the API runs, which waits until the database is filled")
    why = "The Job is gone and the API does not run, so whether the database was ever filled is not known."
    return line(Verdict.UNKNOWN, "gone; the API does not run", why)

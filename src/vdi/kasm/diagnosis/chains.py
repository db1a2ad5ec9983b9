"""Kasm Workspaces: which pod waits for whom, and the one thing that all of them wait for in the
end.

Where an init container waits for a Service, that Service and the pods behind it are explained in
turn, down to the one that waits for nothing: that is the cause. A pod that is merely starting is no
finding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from vdi.findings.model import Finding, Remedy
from vdi.kasm.diagnosis.codes import Explainer, Link, link
from vdi.kasm.diagnosis.pod_rules import own_problem
from vdi.kasm.diagnosis.workloads import (
    check_services,
    explain_claim,
    explain_service,
    explain_workload,
)
from vdi.kasm.installation import Installation, KasmContainer, KasmPod, find_kasm
from vdi.snapshot.check import check
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.waits import Target

# Seconds for which an init container may work that waits for nothing: it copies files, or changes
# their owner.
_SILENT = 600.0

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass
class Walk(Explainer):
    """One walk through a namespace; it remembers each pod's explanation."""

    kasm: Installation
    explained: dict[str, Link] = field(default_factory=dict)
    # Pods that are being asked just now, each because the one before waits for it.
    path: list[tuple[KasmPod, KasmContainer]] = field(default_factory=list)
    circles: dict[str, Link] = field(default_factory=dict)

    def explain(self, pod: KasmPod) -> Link:
        """The link that explains this pod."""
        if pod.name in self.explained:
            return self.explained[pod.name]
        for place, (other, _) in enumerate(self.path):
            if other.name == pod.name:
                return self._circle(self.path[place:])
        self.explained[pod.name] = self._explain(pod)
        return self.explained[pod.name]

    def _explain(self, pod: KasmPod) -> Link:
        problem = own_problem(pod)
        container = next(iter(pod.unready), None)
        if problem.claim:
            cause = explain_claim(self.kasm, problem.claim, pod)
            return link(
                "kasm_pod_waiting",
                pod.object,
                problem.message,
                evidence=[f"spec.volumes: {problem.claim}", f"state: {pod.state}"],
                cause=cause,
                remedy=cause.finding.remedy,
                is_starting=cause.is_starting,
            )
        if problem.code:
            return link(
                problem.code,
                pod.object,
                problem.message,
                evidence=problem.evidence,
                remedy=problem.remedy,
                related_objects=problem.related_objects,
            )
        if container is None or not container.is_init or not container.running_since:
            return link(
                "kasm_start_stalled", pod.object, problem.message, remedy=Remedy(), is_starting=True
            )
        target = self._target(pod, container)
        if target:
            return self._waits(pod, container, target)
        return self._works(pod, container, problem.message)

    def _target(self, pod: KasmPod, container: KasmContainer) -> Target | None:
        """Target of its init container: from its command line, else from the chart's
        description.
        """
        if container.target:
            return container.target
        known = self.kasm.step_of(pod, container.name)
        generation = self.kasm.generation
        if known is None or generation is None or not known[1].waits_for:
            return None
        component = generation.component(known[1].waits_for)
        if component is None or not component.service:
            return None
        workloads = [each for each in self.kasm.workloads if component.owns(each.pod_labels)]
        for service in self.kasm.own_services:
            selector = service.spec.selector.items()
            if any(selector <= workload.pod_labels.items() for workload in workloads):
                scheme = "postgresql" if component.key == "db" else "http"
                path = "/zones" if "initialised" in known[1].what else known[1].path
                return Target(scheme, service.metadata.name, known[1].port, path)
        return None

    def _waits(self, pod: KasmPod, container: KasmContainer, target: Target) -> Link:
        self.path.append((pod, container))
        try:
            cause, why = explain_service(self, pod, container, target)
        finally:
            self.path.pop()
        place = pod.steps.index(container)
        if place < len(_ORDINALS):
            ordinal = _ORDINALS[place]
        else:
            ordinal = f"{place + 1}th"
        known = self.kasm.step_of(pod, container.name)
        does = known[1].what if known else "waits"
        chart = f" (chart {self.kasm.chart})" if self.kasm.chart else ""
        where = f"{target.host}:{target.port}" if target.port else target.host
        return link(
            "kasm_pod_waiting",
            pod.object,
            f"{pod.name} is at {pod.state}{chart}. Its {ordinal} init container {container.name}"
            f" {does} ({where}). {why[0].upper()}{why[1:]}.",
            evidence=[
                (
                    f"status.initContainerStatuses: {container.name} has run for"
                    f" {int(self.kasm.snapshot.age(container.running_since))} s"
                ),
                f"it waits for {target.scheme}://{where}{target.path}",
            ],
            remedy=cause.finding.remedy if cause else Remedy(),
            cause=cause,
            is_starting=cause is None or cause.is_starting,
        )

    def _works(self, pod: KasmPod, container: KasmContainer, words: str) -> Link:
        """An init container that does not say what it waits for, if for anything: a finding after a
        long time.
        """
        seconds = int(self.kasm.snapshot.age(container.running_since))
        if seconds < _SILENT:
            return link("kasm_start_stalled", pod.object, words, remedy=Remedy(), is_starting=True)
        known = self.kasm.step_of(pod, container.name)
        does = f" ({known[1].what})" if known else ""
        return link(
            "kasm_start_stalled",
            pod.object,
            f"{pod.name} is at {pod.state}: its init container {container.name}{does} has run for"
            f" {seconds} s. Whether it waits for something cannot be determined.",
            evidence=[
                f"status.initContainerStatuses: {container.name} has run for {seconds} s",
                (
                    f"neither the command line of {container.name} nor the chart says which host it"
                    " waits for"
                ),
            ],
            remedy=Remedy.run(
                f"kubectl --namespace {pod.namespace} logs {pod.name} --container {container.name}"
            ),
        )

    def _circle(self, members: list[tuple[KasmPod, KasmContainer]]) -> Link:
        """Pods of the path that wait for each other."""
        members = sorted(members, key=lambda member: member[0].name)
        key = members[0][0].name
        if key in self.circles:
            return self.circles[key]
        waits, evidence = [], []
        for pod, container in members:
            waits.append(f"{pod.name} (init container {container.name})")
            host = container.target.host if container.target else "?"
            evidence.append(f"pod/{pod.name}: {pod.state}, {container.name} waits for {host}")
        message = (
            f"{len(members)} pods wait for each other, so none of them can start:"
            f" {', '.join(waits)}."
        )
        if len(members) == 1:
            message = (
                f"{key} waits for itself: its init container {members[0][1].name} waits for the"
                " Service of the same pod."
            )
        self.circles[key] = link(
            "kasm_circular_wait",
            members[0][0].object,
            message,
            evidence=evidence,
            remedy=self._break_circle(),
        )
        return self.circles[key]

    def _break_circle(self) -> Remedy:
        kasm = self.kasm
        generation = kasm.generation
        if generation and generation.breaks_circular_wait:
            return Remedy.run(
                f"helm upgrade {kasm.release} {generation.source} --version"
                f" {'.'.join(map(str, generation.newest))} --namespace {kasm.namespace}"
                f" --reuse-values {generation.breaks_circular_wait}"
            )
        return Remedy(
            "Remove one of these waits from its workload.",
            (f"kubectl --namespace {kasm.namespace} get deployments,statefulsets",),
        )


def chain(end: Link) -> Iterator[Finding]:
    """Its finding and all that it follows from; each names its cause."""
    caused_by = end.cause.finding.key if end.cause else ""
    yield msgspec.structs.replace(end.finding, caused_by=caused_by)
    if end.cause:
        yield from chain(end.cause)


def links(kasm: Installation) -> Iterator[Link]:
    """Links of all pods of a namespace, including those that merely start."""
    walk = Walk(kasm)
    for pod in kasm.pods:
        if not pod.ready:
            yield walk.explain(pod)
    for workload in kasm.workloads:
        if explained := explain_workload(kasm, workload, awaited=False):
            yield explained
    yield from check_services(walk)


@once
def all_links(snapshot: Snapshot) -> tuple[Link, ...]:
    """Of all namespaces with Kasm."""
    return tuple(end for kasm in find_kasm(snapshot) for end in links(kasm))


@check(
    "pods",
    "services",
    "endpointslices",
    "persistentvolumeclaims",
    "events",
    "deployments",
    "statefulsets",
    "jobs",
    reads=("nodes", "persistentvolumes", "storageclasses", "pods/log@kasm"),
)
def kasm_chains(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods of Kasm that do not get ready, and what they wait for."""
    for end in all_links(snapshot):
        if not end.is_starting:
            yield from chain(end)


CHECKS = (kasm_chains,)

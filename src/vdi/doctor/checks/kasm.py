"""Kasm Workspaces: which pod waits for whom, and the one thing that all of them wait for in the end.

Each pod that is not ready is asked why. Where an init container waits for a Service, the same question is put to that
Service and to the pods behind it, down to what waits for nobody: that is the cause. What merely starts is no finding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from vdi.doctor.checks.kasm_claims import ask_claim
from vdi.doctor.checks.kasm_link import Asking, Link, link
from vdi.doctor.checks.kasm_pods import own_trouble
from vdi.doctor.checks.kasm_services import ask_service, lint_services
from vdi.doctor.checks.kasm_workloads import ask_workload
from vdi.doctor.checks.registry import check
from vdi.doctor.kasm import Kasm, find_kasm
from vdi.doctor.kasm_parts import Box, Part
from vdi.doctor.kasm_waits import Target
from vdi.doctor.snapshot import Snapshot
from vdi.findings.model import Finding, Remedy

_SILENT = 600.0
"""Seconds for which an init container may be at work that waits for nobody: it copies files, or changes their owner."""
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass
class Walk(Asking):
    """One walk through a namespace; remembers what it was told."""

    kasm: Kasm
    told: dict[str, Link] = field(default_factory=dict)
    path: list[tuple[Part, Box]] = field(default_factory=list)
    """Pods that are being asked just now, each because the one before waits for it."""
    rings: dict[str, Link] = field(default_factory=dict)

    def ask(self, part: Part) -> Link:
        """Why this pod is not ready."""
        if part.name in self.told:
            return self.told[part.name]
        for place, (other, _) in enumerate(self.path):
            if other.name == part.name:
                return self._ring(self.path[place:])
        trouble = own_trouble(part)
        box = next(iter(part.unready), None)
        if trouble.claim:
            cause = ask_claim(self.kasm, trouble.claim, part)
            found = link(
                "kasm_pod_waiting",
                part.object,
                trouble.words,
                evidence=[f"spec.volumes: {trouble.claim}", f"state: {part.state}"],
                cause=cause,
                remedy=cause.finding.remedy,
                soft=cause.soft,
            )
        elif trouble.code:
            found = link(
                trouble.code,
                part.object,
                trouble.words,
                evidence=trouble.evidence,
                remedy=trouble.remedy,
                related_objects=trouble.related_objects,
            )
        elif box is not None and box.is_init and box.running_since:
            target = self._target(part, box)
            found = self._waits(part, box, target) if target else self._works(part, box, trouble.words)
        else:
            found = link("kasm_start_stalled", part.object, trouble.words, remedy=Remedy(), soft=True)
        self.told[part.name] = found
        return found

    def _target(self, part: Part, box: Box) -> Target | None:
        """What its init container waits for: its command line says so, else what is known of the chart."""
        if box.target:
            return box.target
        known = self.kasm.step_of(part, box.name)
        generation = self.kasm.generation
        if known is None or generation is None or not known[1].waits_for:
            return None
        component = generation.component(known[1].waits_for)
        workloads = [
            one for one in self.kasm.workloads if component and component.owns(one.pod_labels) and component.service
        ]
        for service in self.kasm.own_services:
            selector = service["spec"]["selector"].items()
            if any(selector <= one.pod_labels.items() for one in workloads):
                scheme = "postgresql" if component and component.key == "db" else "http"
                path = "/zones" if "initialised" in known[1].what else known[1].path
                return Target(scheme, service["metadata"]["name"], known[1].port, path)
        return None

    def _waits(self, part: Part, box: Box, target: Target) -> Link:
        self.path.append((part, box))
        try:
            cause, why = ask_service(self, part, box, target)
        finally:
            self.path.pop()
        place = part.steps.index(box)
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"
        known = self.kasm.step_of(part, box.name)
        does = known[1].what if known else "waits"
        chart = f" (chart {self.kasm.chart})" if self.kasm.chart else ""
        where = f"{target.host}:{target.port}" if target.port else target.host
        return link(
            "kasm_pod_waiting",
            part.object,
            f"{part.name} is at {part.state}{chart}: its {ordinal} init container {box.name} {does}"
            f" ({where}), and {why}.",
            evidence=[
                f"status.initContainerStatuses: {box.name} has run for"
                f" {int(self.kasm.snapshot.age(box.running_since))} s",
                f"it waits for {target.scheme}://{where}{target.path}",
            ],
            remedy=cause.finding.remedy if cause else Remedy(),
            cause=cause,
            soft=cause is None or cause.soft,
        )

    def _works(self, part: Part, box: Box, words: str) -> Link:
        """An init container that does not say what it waits for, if for anything: a finding after a long time."""
        seconds = int(self.kasm.snapshot.age(box.running_since))
        if seconds < _SILENT:
            return link("kasm_start_stalled", part.object, words, remedy=Remedy(), soft=True)
        known = self.kasm.step_of(part, box.name)
        does = f" ({known[1].what})" if known else ""
        return link(
            "kasm_start_stalled",
            part.object,
            f"{part.name} is at {part.state}: its init container {box.name}{does} has run for {seconds} s. If it waits,"
            " for what cannot be read.",
            evidence=[
                f"status.initContainerStatuses: {box.name} has run for {seconds} s",
                f"neither the command line of {box.name} nor the chart says whom it waits for",
            ],
            remedy=Remedy.run(f"kubectl --namespace {part.namespace} logs {part.name} --container {box.name}"),
        )

    def _ring(self, members: list[tuple[Part, Box]]) -> Link:
        """Those of the path that wait for each other."""
        members = sorted(members, key=lambda one: one[0].name)
        key = members[0][0].name
        if key not in self.rings:
            waits = [f"{part.name} (init container {box.name})" for part, box in members]
            self.rings[key] = link(
                "kasm_circular_wait",
                members[0][0].object,
                f"{len(members)} pods wait for each other, so that none can ever start: {', '.join(waits)}."
                if len(members) > 1
                else f"{members[0][0].name} waits for itself: its init container {members[0][1].name} wants the Service"
                " that it stands behind.",
                evidence=[
                    f"pod/{part.name}: {part.state}, {box.name} waits for {box.target.host if box.target else '?'}"
                    for part, box in members
                ],
                remedy=self._out_of_the_ring(),
            )
        return self.rings[key]

    def _out_of_the_ring(self) -> Remedy:
        kasm = self.kasm
        generation = kasm.generation
        if generation and generation.breaks_circular_wait:
            return Remedy.run(
                f"helm upgrade {kasm.release} {generation.source} --version {'.'.join(map(str, generation.newest))}"
                f" --namespace {kasm.namespace} --reuse-values {generation.breaks_circular_wait}"
            )
        return Remedy(
            "Take one of these waits out of its workload.",
            (f"kubectl --namespace {kasm.namespace} get deployments,statefulsets",),
        )


def chain(found: Link) -> Iterator[Finding]:
    """A link and all that it follows from; each names its cause."""
    yield msgspec.structs.replace(found.finding, caused_by=found.cause.finding.key if found.cause else "")
    if found.cause:
        yield from chain(found.cause)


def links(kasm: Kasm) -> Iterator[Link]:
    """What is to be said about a namespace, also about what merely starts."""
    walk = Walk(kasm)
    for part in kasm.parts:
        if not part.ready:
            yield walk.ask(part)
    for workload in kasm.workloads:
        if found := ask_workload(kasm, workload, awaited=False):
            yield found
    yield from lint_services(walk)


@lru_cache(maxsize=2)
def all_links(snapshot: Snapshot) -> tuple[Link, ...]:
    """Of all namespaces with Kasm."""
    return tuple(one for kasm in find_kasm(snapshot) for one in links(kasm))


@check(
    "pods",
    "services",
    "endpointslices",
    "persistentvolumeclaims",
    "events",
    "deployments",
    "statefulsets",
    "jobs",
)
def kasm_chains(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods of Kasm that do not get ready, and what they wait for."""
    for found in all_links(snapshot):
        if not found.soft:
            yield from chain(found)


CHECKS = (kasm_chains,)

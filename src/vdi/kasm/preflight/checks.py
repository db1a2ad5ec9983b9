"""Whether a cluster can take a Kasm: facts and a planned release in, findings out, in the order of
repair. Pure.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import chart_of_label, kasm_version, of_chart, of_workloads, parse_version
from vdi.kasm.generations.model import Generation, Version, words_of
from vdi.kasm.preflight.entry import dns_line, entry_lines
from vdi.kasm.preflight.facts import Facts, item, label_of, name_of, unreadable_finding
from vdi.kasm.preflight.needs import PlannedRelease
from vdi.kasm.preflight.nodes import (
    kubelet_versions,
    node_lines,
    room_line,
    storage_lines,
    version_of,
)
from vdi.kasm.values.render import value_at

_RELEASE = "meta.helm.sh/release-name"
_ENFORCED = "pod-security.kubernetes.io/enforce"


def run_checks(facts: Facts, planned: PlannedRelease) -> list[Finding]:
    installed, namespace = find_installed(facts, planned.namespace), planned.namespace
    own = [pod for pod in facts.running if pod["metadata"]["namespace"] == namespace and installed]
    pods = frozenset(
        str(pod["metadata"]["uid"]) for pod in own if installed and installed.owns(pod)
    )
    services = frozenset(
        name_of(one)
        for one in facts.all("services")
        if installed
        and one["metadata"]["namespace"] == namespace
        and release_of(one) == installed.release
    )
    return [
        *node_lines(facts),
        room_line(facts, planned.needs, pods),
        *storage_lines(facts, planned.needs),
        *entry_lines(facts, planned.ingress, rdp=planned.rdp, own=services),
        dns_line(facts),
        namespace_line(facts, planned, installed),
        *([database_line(facts, planned, installed)] if installed else []),
        helm_line(facts, planned.generation.minimum_helm),
        kubectl_line(facts),
    ]


@dataclass(frozen=True, slots=True)
class Installed:
    """The Kasm that runs in a namespace already."""

    generation: Generation
    release: str  # empty where no Helm release made it
    version: str  # of the chart; empty where no label says so

    @property
    def chart_version(self) -> Version:
        """The newest of its generation where no label says so."""
        return parse_version(self.version) if self.version else self.generation.newest

    def owns(self, pod: dict[str, Any]) -> bool:
        """Whether a pod of its namespace is one of its components."""
        return self.generation.component_of(pod["metadata"].get("labels") or {}) is not None

    @property
    def words(self) -> str:
        version = f" {self.version}" if self.version else " of an unknown version"
        return (
            f"{self.generation.chart}{version}"
            f" ({f'release {self.release}' if self.release else 'no Helm release'})"
        )


def find_installed(facts: Facts, namespace: str) -> Installed | None:
    """By the chart's label on workloads, else by their names."""
    found = [*facts.all("deployments"), *facts.all("statefulsets")]
    workloads = [
        workload for workload in found if workload["metadata"].get("namespace") == namespace
    ]
    for workload in workloads:
        chart, version = chart_of_label(label_of(workload, "helm.sh/chart"))
        generation = of_chart(chart, version)
        if generation is not None:
            return Installed(generation, release_of(workload), version)
    generation = of_workloads(workload["metadata"]["name"] for workload in workloads)
    if generation is None:
        return None
    return Installed(
        generation,
        next((release_of(workload) for workload in workloads if release_of(workload)), ""),
        "",
    )


def release_of(raw: dict[str, Any]) -> str:
    """The Helm release that an object belongs to."""
    return str((raw["metadata"].get("annotations") or {}).get(_RELEASE, ""))


def namespace_line(facts: Facts, planned: PlannedRelease, installed: Installed | None) -> Finding:
    """Whether pods with root init containers are admitted there, and whether a Kasm is there
    already.
    """
    generation, namespace = planned.generation, planned.namespace
    roots = [
        step.name for part in generation.components for step in part.init_containers if step.as_root
    ]
    expected = f"a namespace for generation {generation.letter}" + (
        ", where pods may run as root" if roots else ""
    )
    unread = facts.missing("namespaces", "deployments", "statefulsets")
    if unread is not None:
        return unreadable_finding("namespace", expected, unread)
    found = next(
        (one for one in facts.all("namespaces") if one["metadata"]["name"] == namespace), None
    )
    level = label_of(found, _ENFORCED) if found else ""
    observed = f"{namespace} {'does not exist yet' if found is None else 'exists'}"
    observed += f", Pod Security {level}" if level else ""
    observed += f", with {installed.words}" if installed else ""
    line = partial(item, "namespace", expected, observed)
    if level == "restricted":
        why = (
            f"init containers of this chart run as root ({roots[0]} and others)"
            if roots
            else "see Kasm's images"
        )
        message = f"Pod Security `restricted` refuses pods: {why}."
        remedy = Remedy.run(f"kubectl label namespace {namespace} --overwrite {_ENFORCED}=baseline")
        return line(Severity.ERROR if roots else Severity.WARNING, message, remedy)
    if installed is not None and installed.generation is not generation:
        message = (
            f"The chart {generation.chart} does not adopt the objects of"
            f" {installed.generation.chart}."
        )
        return line(
            Severity.ERROR,
            message,
            Remedy("Install it in another namespace, and restore a dump there."),
        )
    return line()


def database_line(facts: Facts, planned: PlannedRelease, installed: Installed) -> Finding:
    """Whether an upgrade to another Kasm keeps the data of the bundled database.

    Where the StatefulSet is named after Kasm's version, another version has another one. Unless the
    values have the data carried over, that one is empty, and the old volume goes with the old
    StatefulSet where its policy is Delete.
    """
    generation, paths = planned.generation, planned.generation.paths
    before, after = (
        kasm_version(words_of(version)) for version in (installed.chart_version, planned.version)
    )
    line = partial(item, "database", "an upgrade that keeps the data", f"Kasm {before} -> {after}")
    external = value_at(planned.values, paths.get("database_external", "")) is True
    if before == after or external or not generation.carries_database:
        return line()
    missing = [
        f"{path}: {str(value).lower()}"
        for path, value in generation.carries_database.items()
        if value_at(planned.values, path) is not value
    ]
    if missing:
        message = "The new version's StatefulSet starts with an empty database beside the old one."
        return line(
            Severity.ERROR,
            message,
            Remedy(f"Save the database with pg_dump, and set {', '.join(missing)} in the values."),
        )
    doomed = [
        one["metadata"]["name"]
        for one in facts.all("statefulsets")
        if _loses_volume(generation, one)
    ]
    if doomed:
        patch = '{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}'
        command = (
            f"kubectl --namespace {planned.namespace} patch statefulset {doomed[0]} --type merge -p"
            f" '{patch}'"
        )
        message = (
            f"The volume of StatefulSet {doomed[0]} is deleted with it, and the chart's dump is the"
            " only copy."
        )
        return line(Severity.ERROR, message, Remedy.run(command))
    return line()


def _loses_volume(generation: Generation, statefulset: dict[str, Any]) -> bool:
    component = generation.component_of(
        statefulset["spec"]["template"]["metadata"].get("labels") or {}
    )
    policy = statefulset["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    return component is not None and component.key == "db" and policy.get("whenDeleted") == "Delete"


def helm_line(facts: Facts, least: Version) -> Finding:
    """In PATH, and new enough for the chart."""
    line, tool = partial(item, "helm", f"{words_of(least)} or later"), facts.tools.get("helm")
    remedy = Remedy("See https://helm.sh/docs/intro/install/.")
    if tool is None or tool.problem:
        message = (
            "The chart cannot be installed without Helm:"
            f" {tool.problem if tool else 'it was not checked'}."
        )
        return line("not found", Severity.ERROR, message, remedy)
    if version_of(tool.version) < least:
        return line(tool.version, Severity.ERROR, "Kasm's chart requires a newer version.", remedy)
    return line(tool.version)


def kubectl_line(facts: Facts) -> Finding:
    """In PATH, and near the cluster's version."""
    line = partial(item, "kubectl", "at most one minor version from the cluster's")
    tool, versions = facts.tools.get("kubectl"), kubelet_versions(facts)
    remedy = Remedy("See https://kubernetes.io/docs/tasks/tools/; a K3s server has `k3s kubectl`.")
    if tool is None or tool.problem:
        message = (
            f"The remedies are kubectl commands: {tool.problem if tool else 'it was not checked'}."
        )
        return line("not found", Severity.WARNING, message, remedy)
    if any(abs(version_of(tool.version)[1] - version_of(version)[1]) > 1 for version in versions):
        message = f"The cluster has {', '.join(versions)}; a larger difference is not supported."
        return line(tool.version, Severity.WARNING, message, remedy)
    return line(tool.version)

"""The Kasm that runs in a namespace already, and what the namespace allows. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import chart_of_label, of_chart, of_workloads
from vdi.kasm.generations.model import Generation
from vdi.kasm.preflight.checklist import item, label_of, unreadable_finding
from vdi.kasm.preflight.facts import Facts
from vdi.kasm.preflight.request import PlannedRelease

_RELEASE = "meta.helm.sh/release-name"
_ENFORCED = "pod-security.kubernetes.io/enforce"


@dataclass(frozen=True, slots=True)
class Installed:
    """What is there."""

    generation: Generation
    release: str
    """Empty where no Helm release made it."""
    version: str
    """Of the chart; empty where no label says so."""

    @property
    def words(self) -> str:
        """`kasm-helm 1.1190.6 (release kasm)`."""
        version = f" {self.version}" if self.version else " of an unknown version"
        return f"{self.generation.chart}{version} ({f'release {self.release}' if self.release else 'no Helm release'})"


def find_installed(facts: Facts, namespace: str) -> Installed | None:
    """By the chart's label on workloads, else by their names."""
    workloads = [workload for workload in workloads_of(facts) if workload["metadata"].get("namespace") == namespace]
    for workload in workloads:
        chart, version = chart_of_label(label_of(workload, "helm.sh/chart"))
        generation = of_chart(chart, version)
        if generation is not None:
            return Installed(generation, release_of(workload), version)
    generation = of_workloads(workload["metadata"]["name"] for workload in workloads)
    if generation is None:
        return None
    return Installed(generation, next((release_of(workload) for workload in workloads if release_of(workload)), ""), "")


def workloads_of(facts: Facts) -> list[dict[str, Any]]:
    """Deployments and StatefulSets."""
    return [*facts.all("deployments"), *facts.all("statefulsets")]


def release_of(raw: dict[str, Any]) -> str:
    """The Helm release that an object belongs to."""
    return str((raw["metadata"].get("annotations") or {}).get(_RELEASE, ""))


def own_pods(facts: Facts, installed: Installed | None, namespace: str) -> frozenset[str]:
    """The uids of its pods."""
    if installed is None:
        return frozenset()
    return frozenset(
        str(pod["metadata"]["uid"])
        for pod in facts.running
        if pod["metadata"]["namespace"] == namespace
        and installed.generation.component_of(pod["metadata"].get("labels") or {}) is not None
    )


def own_services(facts: Facts, installed: Installed | None, namespace: str) -> frozenset[str]:
    """`service NAMESPACE/NAME` of its Services."""
    if installed is None:
        return frozenset()
    return frozenset(
        f"service {namespace}/{service['metadata']['name']}"
        for service in facts.all("services")
        if service["metadata"]["namespace"] == namespace and release_of(service) == installed.release
    )


def namespace_line(facts: Facts, generation: Generation, namespace: str, installed: Installed | None) -> Finding:
    """Whether pods with root init containers are admitted there, and whether a Kasm is there already."""
    roots = [step.name for part in generation.components for step in part.init_containers if step.as_root]
    expected = f"a namespace for generation {generation.letter}" + (", where pods may run as root" if roots else "")
    unread = facts.missing("namespaces", "deployments", "statefulsets")
    if unread is not None:
        return unreadable_finding("namespace", expected, unread)
    found = next((one for one in facts.all("namespaces") if one["metadata"]["name"] == namespace), None)
    level = label_of(found, _ENFORCED) if found else ""
    observed = f"{namespace} {'does not exist yet' if found is None else 'exists'}"
    observed += f", Pod Security {level}" if level else ""
    observed += f", with {installed.words}" if installed else ""

    def line(severity: Severity, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="namespace", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if level == "restricted":
        what = (
            f"init containers of this chart run as root ({roots[0]} and others)"
            if roots
            else "Kasm's images do not support it"
        )
        remedy = Remedy.run(f"kubectl label namespace {namespace} --overwrite {_ENFORCED}=baseline")
        return line(
            Severity.ERROR if roots else Severity.WARNING, f"Pod Security `restricted` refuses pods: {what}.", remedy
        )
    if installed is not None and installed.generation is not generation:
        message = f"The chart {generation.chart} does not adopt the objects of {installed.generation.chart}."
        return line(Severity.ERROR, message, Remedy("Upgrade one generation at a time: vdi kasm values migrate."))
    if installed is not None:
        message = "helm install would fail; for an upgrade see docs/kasm-install.md#what-an-upgrade-refuses."
        return line(Severity.WARNING, message, Remedy.run(f"vdi kasm validate --namespace {namespace}"))
    return line(Severity.OK)


def secret_lines(facts: Facts, planned: PlannedRelease, installed: Installed | None) -> Iterator[Finding]:
    """Whether the Secret of an earlier Kasm is where the chart makes its own: A's is a hook, and stays."""
    if not planned.secret or installed is not None:
        return
    where, expected = f"{planned.namespace}/{planned.secret}", "no Secret of an earlier Kasm"
    unread = facts.missing("secrets")
    if unread is not None:
        yield unreadable_finding("secret", expected, unread)
    elif any(release_of(secret) != planned.release for secret in facts.all("secrets")):
        command = f"kubectl --namespace {planned.namespace}"
        yield item(
            "secret",
            expected,
            f"{where} exists",
            Severity.WARNING,
            f"The Secret {where} does not belong to the release {planned.release}, so helm does not adopt it. "
            "Generation A leaves a Secret with this name.",
            Remedy(
                "Save it, because an old database accepts only its passwords. Then delete it.",
                (
                    f"(umask 077; {command} get secret {planned.secret} --output yaml > {planned.secret}.yaml)",
                    f"{command} delete secret {planned.secret}",
                ),
            ),
        )

"""The checklist of a preflight: whether a cluster can take a Kasm, in the order of repair. Pure."""

from collections.abc import Iterator
from functools import partial

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.checklist import (
    Item,
    error,
    failed,
    find_unread,
    not_read,
    passed,
    run_items,
    warning,
)
from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import Generation, words_of
from vdi.kasm.installation import InstalledChart
from vdi.kasm.preflight.entry import entry_items
from vdi.kasm.preflight.model import Preflight, Tool
from vdi.kasm.preflight.needs import PlannedRelease
from vdi.kasm.preflight.nodes import (
    kubelet_versions,
    node_items,
    room_item,
    storage_items,
    version_of,
)
from vdi.kasm.values.render import value_at
from vdi.snapshot.objects.workloads import WorkloadObject

_ENFORCED = "pod-security.kubernetes.io/enforce"


def run_checks(preflight: Preflight) -> list[Finding]:
    return list(run_items(checklist(preflight), preflight.snapshot, preflight))


def checklist(preflight: Preflight) -> Iterator[Item]:
    planned = preflight.planned
    yield from node_items()
    yield room_item(planned.needs)
    yield from storage_items(planned.needs.claims)
    yield from entry_items(preflight)
    yield namespace_item(planned.generation)
    if installed := preflight.installed:
        check = partial(check_database, installed=installed)
        yield Item("database", "an upgrade that keeps the data", (), check)
    yield Item("helm", f"{words_of(planned.generation.minimum_helm)} or later", (), check_helm)
    yield Item("kubectl", "at most one minor version from the cluster's", (), check_kubectl)


def namespace_item(generation: Generation) -> Item:
    """Whether pods with root init containers are admitted there, and whether a Kasm is there
    already.
    """
    expected = f"a namespace for generation {generation.letter}"
    if _root_steps(generation):
        expected += ", where pods may run as root"
    return Item(
        "namespace", expected, ("namespaces", "deployments", "statefulsets"), check_namespace
    )


def _root_steps(generation: Generation) -> list[str]:
    """Init containers that run as root."""
    names = []
    for component in generation.components:
        names += [step.name for step in component.init_containers if step.as_root]
    return names


def check_namespace(preflight: Preflight) -> Finding:
    generation, namespace = preflight.planned.generation, preflight.planned.namespace
    installed, roots = preflight.installed, _root_steps(generation)
    there = preflight.snapshot.find("namespaces", namespace)
    level = there.metadata.labels.get(_ENFORCED, "") if there else ""
    if there:
        observed = f"{namespace} exists"
    else:
        observed = f"{namespace} does not exist yet"
    observed += f", Pod Security {level}" if level else ""
    observed += f", with {installed.words}" if installed else ""
    if level == "restricted":
        why = "see Kasm's images"
        if roots:
            why = f"init containers of this chart run as root ({roots[0]} and others)"
        return failed(
            Severity.ERROR if roots else Severity.WARNING,
            observed,
            f"Pod Security `restricted` refuses pods: {why}.",
            Remedy.run(f"kubectl label namespace {namespace} --overwrite {_ENFORCED}=baseline"),
        )
    if installed and installed.generation is not generation:
        message = (
            f"The chart {generation.chart} does not adopt the objects of"
            f" {installed.generation.chart}."
        )
        remedy = Remedy("Install it in another namespace, and restore a dump there.")
        return error(observed, message, remedy)
    return passed(observed)


def check_database(preflight: Preflight, installed: InstalledChart) -> Finding:
    """Whether an upgrade to another Kasm keeps the data of the bundled database.

    Where the StatefulSet is named after Kasm's version, another version has another one. Unless the
    values have the data carried over, that one is empty, and the old volume goes with the old
    StatefulSet where its policy is Delete.
    """
    planned, generation = preflight.planned, preflight.planned.generation
    before = kasm_version(words_of(installed.chart_version))
    after = kasm_version(words_of(planned.version))
    observed = f"Kasm {before} -> {after}"
    external = value_at(planned.values, generation.paths.get("database_external", "")) is True
    if before == after or external or not generation.carries_database:
        return passed(observed)
    if missing := _missing_values(planned):
        message = "The new version's StatefulSet starts with an empty database beside the old one."
        remedy = f"Save the database with pg_dump, and set {', '.join(missing)} in the values."
        return error(observed, message, Remedy(remedy))
    if unread := find_unread(preflight.snapshot, "statefulsets"):
        return not_read(unread)
    for statefulset in preflight.snapshot.objects.statefulsets:
        if not _loses_volume(generation, statefulset):
            continue
        name = statefulset.metadata.name
        patch = '{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}'
        command = (
            f"kubectl --namespace {planned.namespace} patch statefulset {name} --type merge -p"
            f" '{patch}'"
        )
        message = (
            f"The volume of StatefulSet {name} is deleted with it, and the chart's dump is the"
            " only copy."
        )
        return error(observed, message, Remedy.run(command))
    return passed(observed)


def _missing_values(planned: PlannedRelease) -> list[str]:
    """Values with which the new database would have the data."""
    missing = []
    for path, value in planned.generation.carries_database.items():
        if value_at(planned.values, path) is not value:
            missing.append(f"{path}: {str(value).lower()}")
    return missing


def _loses_volume(generation: Generation, statefulset: WorkloadObject) -> bool:
    spec = statefulset.spec
    component = generation.component_of(spec.template.metadata.labels)
    is_database = component is not None and component.key == "db"
    return is_database and spec.persistent_volume_claim_retention_policy.when_deleted == "Delete"


def check_helm(preflight: Preflight) -> Finding:
    """In PATH, and new enough for the chart."""
    tool = _tool(preflight, "helm")
    remedy = Remedy("See https://helm.sh/docs/intro/install/.")
    if tool.problem:
        message = f"The chart cannot be installed without Helm: {tool.problem}."
        return error("not found", message, remedy)
    if version_of(tool.version) < preflight.planned.generation.minimum_helm:
        return error(tool.version, "Kasm's chart requires a newer version.", remedy)
    return passed(tool.version)


def check_kubectl(preflight: Preflight) -> Finding:
    """In PATH, and near the cluster's version."""
    tool, versions = _tool(preflight, "kubectl"), kubelet_versions(preflight)
    remedy = Remedy("See https://kubernetes.io/docs/tasks/tools/; a K3s server has `k3s kubectl`.")
    if tool.problem:
        message = f"The remedies are kubectl commands: {tool.problem}."
        return warning("not found", message, remedy)
    minor = version_of(tool.version)[1]
    if any(abs(minor - version_of(version)[1]) > 1 for version in versions):
        message = f"The cluster has {', '.join(versions)}; a larger difference is not supported."
        return warning(tool.version, message, remedy)
    return passed(tool.version)


def _tool(preflight: Preflight, name: str) -> Tool:
    return preflight.surroundings.tools.get(name, Tool(problem="it was not checked"))

"""Lines about the machines: version of Kubernetes, nodes, processors, memory, disk. Pure."""

import re
from collections.abc import Iterator
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import Unreadable, listed, unreadable_finding
from vdi.kasm.preflight.facts import Facts
from vdi.kasm.preflight.needs import Needs, gigabytes, size_words, version_of
from vdi.session.capacity_matching import read_capacity
from vdi.session.observed import Node
from vdi.session.units import parse_quantity

LEAST_VERSION, ADVISED_VERSION = (1, 25), (1, 28)
LEAST_CORES, ADVISED_CORES = 2, 4
LEAST_MEMORY, ADVISED_MEMORY = 4e9, 8e9
LEAST_DISK, ADVISED_DISK = 50e9, 100e9
_NOMINAL = 0.9
"""A machine sold as 4 GB shows its kernel a little less, a disk of 50 GB gives its file system a little less."""
_GC_AT = 0.85
"""From this share of used disk on the kubelet deletes images (imageGCHighThresholdPercent, default)."""


def node_lines(facts: Facts, needs: Needs) -> Iterator[Finding]:
    """All lines about nodes; one that says so where nodes cannot be read."""
    unread = facts.missing("nodes")
    if unread is not None:
        for check, expected in (("kubernetes", _expected_versions()), ("nodes", "at least one that accepts pods")):
            yield unreadable_finding(check, expected, unread)
        return
    yield kubernetes_line(facts)
    yield nodes_line(facts)
    yield _size_line(facts, "cpu")
    yield _size_line(facts, "memory")
    yield disk_line(facts)
    yield free_disk_line(facts, needs)


def usable(facts: Facts) -> list[Node]:
    """Nodes that take pods without a toleration."""
    rooms = {node.metadata.name: read_capacity(node) for node in facts.nodes}
    return [
        node for node in facts.nodes if not rooms[node.metadata.name].closed and not rooms[node.metadata.name].taints
    ]


def _raw(facts: Facts, node: Node) -> dict[str, Any]:
    return next(one for one in facts.all("nodes") if one["metadata"]["name"] == node.metadata.name)


def _expected_versions() -> str:
    least, advised = (".".join(map(str, one)) for one in (LEAST_VERSION, ADVISED_VERSION))
    return f"K3s {least} or later, {advised} recommended"


def kubernetes_line(facts: Facts) -> Finding:
    """The oldest kubelet decides."""
    versions = {str(node["status"]["nodeInfo"]["kubeletVersion"]) for node in facts.all("nodes") if _has_version(node)}
    expected = _expected_versions()
    if not versions:
        unread = Unreadable("No node reports the version of its kubelet.", Remedy.run("kubectl get nodes -o wide"))
        return unreadable_finding("kubernetes", expected, unread)
    oldest = min(versions, key=version_of)
    observed = listed(sorted(versions, key=version_of))
    remedy = Remedy("Upgrade K3s on all nodes, servers first (https://docs.k3s.io/upgrades/manual).")
    if version_of(oldest)[:2] < LEAST_VERSION:
        message = f"Kasm needs Kubernetes {'.'.join(map(str, LEAST_VERSION))}; {oldest} is older."
        return Finding(
            code="kubernetes",
            severity=Severity.ERROR,
            observed=observed,
            expected=expected,
            message=message,
            remedy=remedy,
        )
    if version_of(oldest)[:2] < ADVISED_VERSION:
        message = f"{oldest} works, but is no longer maintained."
        return Finding(
            code="kubernetes",
            severity=Severity.WARNING,
            observed=observed,
            expected=expected,
            message=message,
            remedy=remedy,
        )
    if "+k3s" not in oldest:
        observed += " (not K3s)"
    return Finding(code="kubernetes", severity=Severity.OK, observed=observed, expected=expected)


def _has_version(node: dict[str, Any]) -> bool:
    found = ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", "")
    return re.search(r"\d+\.\d+", found) is not None


def nodes_line(facts: Facts) -> Finding:
    """How many take pods, and why others do not."""
    good = {node.metadata.name for node in usable(facts)}
    closed = []
    for node in facts.nodes:
        room = read_capacity(node)
        if room.closed or room.taints:
            closed.append(f"{room.name} {room.closed or 'tainted ' + listed(taint.key for taint in room.taints)}")
    observed = f"{len(good)} of {len(facts.nodes)} accept pods" + (f" ({'; '.join(closed)})" if closed else "")
    expected = "all nodes Ready, at least one accepts pods"
    names = [node.metadata.name for node in facts.nodes if node.metadata.name not in good]
    look = Remedy.run(f"kubectl describe node {' '.join(names)}")
    if not good:
        message = "No node accepts pods, so no pod of Kasm would start."
        return Finding(
            code="nodes", severity=Severity.ERROR, observed=observed, expected=expected, message=message, remedy=look
        )
    if closed:
        message = "Capacity of nodes that accept no pods is not counted below."
        return Finding(
            code="nodes", severity=Severity.WARNING, observed=observed, expected=expected, message=message, remedy=look
        )
    return Finding(code="nodes", severity=Severity.OK, observed=observed, expected=expected)


def _size_line(facts: Facts, resource: str) -> Finding:
    """Cores or memory of all nodes that take pods."""
    total = sum(_capacity(facts, node, resource) for node in usable(facts))
    if resource == "cpu":
        least, advised, enough = float(LEAST_CORES), float(ADVISED_CORES), 1.0
        observed, expected = f"{total:g} cores", f"{LEAST_CORES} cores, {ADVISED_CORES} recommended"
    else:
        least, advised, enough = LEAST_MEMORY, ADVISED_MEMORY, _NOMINAL
        observed, expected = size_words(int(total)), "4 GB, 8 GB recommended"
    count = len(usable(facts))
    observed += f" on {count} nodes" if count != 1 else ""
    if total < enough * least:
        severity, message = Severity.ERROR, "This is below Kasm's minimum."
    elif total < enough * advised:
        severity = Severity.WARNING
        message = (
            "This is the minimum. Item `room` checks whether the chart fits. If agents are pods, sessions need more."
        )
    else:
        return Finding(code=resource, severity=Severity.OK, observed=observed, expected=expected)
    remedy = Remedy("Give the machine more, or add a node (https://docs.k3s.io/quick-start#install-script).")
    return Finding(
        code=resource, severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
    )


def _capacity(facts: Facts, node: Node, resource: str) -> float:
    return float(parse_quantity((_raw(facts, node)["status"].get("capacity") or {}).get(resource, "0")))


def disk_line(facts: Facts) -> Finding:
    """The smallest disk of a node that takes pods: images go to each of them."""
    expected = "50 GB, 100 GB recommended"
    sizes = {node.metadata.name: int(_capacity(facts, node, "ephemeral-storage")) for node in usable(facts)}
    known = {name: size for name, size in sizes.items() if size}
    if not known:
        unread = Unreadable(
            "No node that accepts pods reports the size of its disk.", Remedy.run("kubectl describe nodes")
        )
        return unreadable_finding("disk", expected, unread)
    name = min(known, key=lambda one: known[one])
    observed = f"{gigabytes(known[name])} on {name}"
    if known[name] >= _NOMINAL * ADVISED_DISK:
        return Finding(code="disk", severity=Severity.OK, observed=observed, expected=expected)
    too_small = known[name] < _NOMINAL * LEAST_DISK
    return Finding(
        code="disk",
        severity=Severity.ERROR if too_small else Severity.WARNING,
        observed=observed,
        expected=expected,
        message="Images, logs and local-path volumes share this disk; a full one evicts pods.",
        remedy=Remedy(
            "Enlarge the disk under /var/lib/rancher, or move that folder to a larger one (K3s: --data-dir)."
        ),
    )


def free_disk_line(facts: Facts, needs: Needs) -> Finding:
    """What is free, against the chart's volumes and the mark from which on the kubelet deletes images."""
    claims = sum(claim.size for claim in needs.claims)
    expected = f"{gigabytes(claims)} for volumes, and less than {_GC_AT:.0%} used afterwards"
    unread = facts.missing("nodes/proxy")
    names = [node.metadata.name for node in usable(facts)]
    known = {name: facts.disks[name] for name in names if name in facts.disks}
    silent = next((name for name in names if name not in known), "NODE")
    nothing = Unreadable(
        f"{len(known)} of {len(names)} kubelets returned their statistics.",
        Remedy("Query one yourself:", (f"kubectl get --raw /api/v1/nodes/{silent}/proxy/stats/summary",)),
    )
    if not known:
        return unreadable_finding("disk-free", expected, unread or nothing)
    name = min(known, key=lambda one: known[one].available)
    disk = known[name]
    after = disk.capacity - disk.available + claims
    observed = f"{gigabytes(disk.available)} free on {name}"
    evidence = (
        f"{gigabytes(disk.capacity - disk.available)} used + {gigabytes(claims)} volumes = {gigabytes(after)}"
        f" of {gigabytes(disk.capacity)}, {after / max(1, disk.capacity):.1%}",
    )
    remedy = Remedy("Enlarge the disk, or on the node:", ("k3s crictl rmi --prune", "du -xsh /var/lib/rancher/k3s/*"))
    if claims > disk.available:
        severity, message = (
            Severity.ERROR,
            "The volumes alone do not fit. local-path does not enforce sizes, so the disk would fill up.",
        )
    elif after > _GC_AT * disk.capacity:
        severity, message = Severity.WARNING, "At that level the kubelet deletes images, and soon after evicts pods."
    elif len(known) < len(names):
        return unreadable_finding("disk-free", expected, unread or nothing)
    else:
        return Finding(code="disk-free", severity=Severity.OK, observed=observed, expected=expected, evidence=evidence)
    return Finding(
        code="disk-free",
        severity=severity,
        observed=observed,
        expected=expected,
        message=message,
        remedy=remedy,
        evidence=evidence,
    )

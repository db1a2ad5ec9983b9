"""Lines about the machines: version, nodes, processors, memory, disk, room for the chart's pods,
volumes. Pure.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from vdi.cluster.capacity import NodeCapacity, read_capacity
from vdi.cluster.units import PODS, parse_quantity
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.facts import Facts, item, label_of, listed, unreadable_finding
from vdi.kasm.preflight.needs import Needs, PodNeed
from vdi.kasm.values.render import CHART, PROFILES
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.snapshot.model import Unreadable

LEAST_VERSION, ADVISED_VERSION = (1, 25), (1, 28)
# At least, and advised.
_SIZES = {"cpu": (2, 4), "memory": (4e9, 8e9), "ephemeral-storage": (50e9, 100e9)}

# A machine sold as 4 GB shows its kernel a little less, a disk of 50 GB gives its file system a
# little less.
_NOMINAL = 0.9
_VERSIONS = "K3s 1.25 or later, 1.28 recommended"
_RESOURCES = ("cpu", "memory", PODS)
LOCAL_PATH = "rancher.io/local-path"


def node_lines(facts: Facts) -> Iterator[Finding]:
    """All lines about nodes; one that says so where nodes cannot be read."""
    unread = facts.missing("nodes")
    if unread is not None:
        yield unreadable_finding("kubernetes", _VERSIONS, unread)
        yield unreadable_finding("nodes", "at least one that accepts pods", unread)
        return
    yield kubernetes_line(facts)
    yield nodes_line(facts)
    yield from size_lines(facts)
    yield disk_line(facts)


def version_of(text: str) -> tuple[int, int, int]:
    """The first version in a text: `v1.34.4+k3s1` -> (1, 34, 4); zeros for a text without a
    version.
    """
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def kubelet_versions(facts: Facts) -> list[str]:
    """Of all nodes that report one, the oldest first."""
    infos = [(node.get("status") or {}).get("nodeInfo") or {} for node in facts.all("nodes")]
    found = {str(info.get("kubeletVersion", "")) for info in infos}
    return sorted((version for version in found if any(version_of(version))), key=version_of)


def kubernetes_line(facts: Facts) -> Finding:
    versions = kubelet_versions(facts)
    if not versions:
        unread = Unreadable(
            "nodes",
            "No node reports the version of its kubelet.",
            Remedy.run("kubectl get nodes -o wide"),
        )
        return unreadable_finding("kubernetes", _VERSIONS, unread)
    oldest = versions[0]
    line = partial(item, "kubernetes", _VERSIONS, listed(versions))
    remedy = Remedy(
        "Upgrade K3s on all nodes, servers first (https://docs.k3s.io/upgrades/manual)."
    )
    if version_of(oldest)[:2] < LEAST_VERSION:
        return line(Severity.ERROR, f"Kasm needs Kubernetes 1.25; {oldest} is older.", remedy)
    if version_of(oldest)[:2] < ADVISED_VERSION:
        return line(Severity.WARNING, f"{oldest} works, but is no longer maintained.", remedy)
    return line()


def _closed(facts: Facts) -> dict[str, str]:
    """Nodes that take no pods without a toleration, and why."""
    rooms = [room for room in map(read_capacity, facts.nodes) if room.closed or room.taints]
    return {
        room.name: room.closed or f"tainted {listed(taint.key for taint in room.taints)}"
        for room in rooms
    }


def _usable(facts: Facts) -> list[dict[str, Any]]:
    return [node for node in facts.all("nodes") if node["metadata"]["name"] not in _closed(facts)]


def nodes_line(facts: Facts) -> Finding:
    """Number of nodes that accept pods, and reasons of the others."""
    closed = _closed(facts)
    observed = f"{len(facts.nodes) - len(closed)} of {len(facts.nodes)} accept pods"
    observed += (
        f" ({'; '.join(f'{name} {reason}' for name, reason in closed.items())})" if closed else ""
    )
    line = partial(item, "nodes", "all nodes Ready, at least one accepts pods", observed)
    look = Remedy.run(f"kubectl describe node {' '.join(closed)}")
    if len(closed) == len(facts.nodes):
        return line(Severity.ERROR, "No node accepts pods, so no pod of Kasm would start.", look)
    if closed:
        return line(
            Severity.WARNING, "Capacity of nodes that accept no pods is not counted below.", look
        )
    return line()


def size_lines(facts: Facts) -> Iterator[Finding]:
    """Cores and memory of all nodes that take pods."""
    cores, memory = (
        sum(_capacity(node, name) for node in _usable(facts)) for name in ("cpu", "memory")
    )
    yield _size_line("cpu", cores, f"{cores:g} cores", "2 cores, 4 recommended", 1.0)
    yield _size_line(
        "memory", memory, _words("memory", int(memory)), "4 GB, 8 GB recommended", _NOMINAL
    )


def _size_line(resource: str, total: float, observed: str, expected: str, enough: float) -> Finding:
    least, advised = _SIZES[resource]
    line = partial(item, resource, expected, observed)
    remedy = Remedy(
        "Give the machine more, or add a node (https://docs.k3s.io/quick-start#install-script)."
    )
    if total < enough * least:
        return line(Severity.ERROR, "This is below Kasm's minimum.", remedy)
    if total < enough * advised:
        return line(
            Severity.WARNING,
            "This is the minimum. Item `room` checks whether the chart fits.",
            remedy,
        )
    return line()


def _capacity(node: dict[str, Any], resource: str) -> float:
    return float(parse_quantity((node["status"].get("capacity") or {}).get(resource, "0")))


def disk_line(facts: Facts) -> Finding:
    """The smallest disk of a node that takes pods: images go to each of them."""
    expected, (least, advised) = "50 GB, 100 GB recommended", _SIZES["ephemeral-storage"]
    sizes = {
        str(node["metadata"]["name"]): _capacity(node, "ephemeral-storage")
        for node in _usable(facts)
    }
    known = {name: size for name, size in sizes.items() if size}
    if not known:
        words = "No node that accepts pods reports the size of its disk."
        return unreadable_finding(
            "disk", expected, Unreadable("nodes", words, Remedy.run("kubectl describe nodes"))
        )
    name = min(known, key=lambda one: known[one])
    observed = f"{round(known[name] / 1e9, 1):g} GB on {name}"
    if known[name] >= _NOMINAL * advised:
        return item("disk", expected, observed)
    return item(
        "disk",
        expected,
        observed,
        Severity.ERROR if known[name] < _NOMINAL * least else Severity.WARNING,
        "Images, logs and local-path volumes share this disk; a full one evicts pods.",
        Remedy(
            "Enlarge the disk under /var/lib/rancher, or move that folder to a larger one (K3s:"
            " --data-dir)."
        ),
    )


def room_line(facts: Facts, needs: Needs, own: frozenset[str] = frozenset()) -> Finding:
    """All pods at once, beside what runs there now; pods in `own` are Kasm's, which the new ones
    replace.
    """
    requested = {name: needs.total(name) for name in _RESOURCES}
    expected = (
        f"{_words('cpu', requested['cpu'])} and {_words('memory', requested['memory'])} free"
        f" ({needs.source})"
    )
    unread = facts.missing("nodes", "pods")
    if unread is not None:
        return unreadable_finding("room", expected, unread)
    rooms = [room for room in facts.rooms(without=own) if not room.closed and not room.taints]
    free = {name: sum(max(0, room.free.get(name, 0)) for room in rooms) for name in _RESOURCES}
    observed = f"{_words('cpu', free['cpu'])} and {_words('memory', free['memory'])} free"
    evidence = [*_request_lines(needs), *_free_lines(rooms, own)]
    short = [name for name in _RESOURCES if requested[name] > free[name]]
    too_large = next(
        (pod for pod in needs.pods if not any(room.fits(pod.takes.items()) for room in rooms)), None
    )
    if short:
        message = (
            "Pods would stay Pending (Insufficient), and pods that wait for them would stay in"
            " Init."
        )
        evidence += [
            f"{_words(name, requested[name])} requested - {_words(name, free[name])} free"
            f" = {_words(name, requested[name] - free[name])} missing"
            for name in short
        ]
    elif too_large:
        message = (
            f"The total would fit, but {too_large.name} needs {_takes(too_large)} on one node, and"
            " none has that."
        )
    else:
        return item("room", expected, observed, evidence=evidence)
    profiles = " or ".join(profile.name for profile in PROFILES if profile is not CHART)
    remedy = Remedy(
        f"Request less (vdi kasm values render --profile {profiles}, then -f); or add a node."
    )
    return item("room", expected, observed, Severity.ERROR, message, remedy, evidence)


def _request_lines(needs: Needs) -> Iterator[str]:
    for one in needs.pods:
        yield f"{one.count} x {one.name}: {_takes(one)}"
    total = ", ".join(_words(name, needs.total(name)) for name in ("cpu", "memory"))
    yield f"total of {sum(one.count for one in needs.pods)} pods: {total}"


def _free_lines(rooms: list[NodeCapacity], own: frozenset[str]) -> Iterator[str]:
    for room in rooms:
        parts = [
            f"{_words(name, room.allocatable.get(name, 0))} allocatable"
            f" - {_words(name, room.allocatable.get(name, 0) - room.free.get(name, 0))} requested"
            f" = {_words(name, room.free.get(name, 0))}"
            for name in ("cpu", "memory")
        ]
        yield f"node {room.name}: {'; '.join(parts)}"
    if own:
        yield (
            f"not counted, because new pods replace them: {len(own)} pods of the Kasm that runs"
            " there now"
        )


def _takes(one: PodNeed) -> str:
    return ", ".join(_words(name, one.takes.get(name, 0)) for name in ("cpu", "memory"))


def _words(resource: str, amount: int) -> str:
    """`4.75 CPU`, `3.75 GiB`, `512 MiB`, `110 pods`."""
    if resource == "cpu":
        return f"{amount / 1000:g} CPU"
    if resource == PODS:
        return f"{amount} pods"
    return (
        f"{round(amount / 2**30, 2):g} GiB"
        if abs(amount) >= 2**30
        else f"{round(amount / 2**20):g} MiB"
    )


def storage_lines(facts: Facts, needs: Needs) -> Iterator[Finding]:
    """One line for each storage class that a volume names, or for the default."""
    unread = facts.missing("storageclasses")
    for name in sorted({claim.storage_class for claim in needs.claims}):
        claims = [claim for claim in needs.claims if claim.storage_class == name]
        volumes = ", ".join(f"{claim.name} {_words('memory', claim.size)}" for claim in claims)
        expected = f"{name or 'a default class'} for {volumes}"
        if unread is not None:
            yield unreadable_finding("storage-class", expected, unread)
        else:
            yield _class_line(facts, name, expected)


def _class_line(facts: Facts, name: str, expected: str) -> Finding:
    classes = {str(each["metadata"]["name"]): each for each in facts.all("storageclasses")}
    defaults = sorted(each for each in classes if _is_default(classes[each]))
    observed = listed(
        f"{each}{' (default)' if each in defaults else ''}" for each in sorted(classes)
    )
    line = partial(item, "storage-class", expected, observed)
    if name and name not in classes:
        message = f"There is no StorageClass {name}: the volume would stay Pending."
        return line(
            Severity.ERROR,
            message,
            Remedy(f"Set one of these in the values: {listed(sorted(classes))}."),
        )
    if not name and not defaults:
        start = Remedy(
            "Start K3s without --disable=local-storage: it then provides the class local-path."
        )
        make = Remedy.run(
            f"kubectl annotate storageclass {min(classes, default='')} {IS_DEFAULT_CLASS}=true"
        )
        return line(
            Severity.ERROR,
            "Without a default class the volume stays Pending.",
            make if classes else start,
        )
    if not name and len(defaults) > 1:
        drop = Remedy.run(f"kubectl annotate storageclass {defaults[0]} {IS_DEFAULT_CLASS}-")
        return line(
            Severity.WARNING, "If there are several defaults, Kubernetes uses the newest one.", drop
        )
    made = (
        classes[name or defaults[0]].get("provisioner") != LOCAL_PATH
        or facts.missing("pods") is not None
    )
    if made or any(label_of(pod, "app") == "local-path-provisioner" for pod in facts.running):
        return line()
    return item(
        "storage-class",
        expected,
        f"{observed}; no pod of local-path-provisioner",
        Severity.ERROR,
        "No provisioner creates the volumes of this class: they would stay Pending.",
        Remedy.run("kubectl --namespace kube-system get deployment local-path-provisioner"),
    )


def _is_default(one: dict[str, Any]) -> bool:
    return bool((one["metadata"].get("annotations") or {}).get(IS_DEFAULT_CLASS) == "true")

"""Items about the machines: version, nodes, processors, memory, disk, room for the chart's pods,
volumes. Pure.
"""

import re
from collections.abc import Iterator
from functools import partial

from vdi.cluster.capacity import NodeCapacity
from vdi.cluster.units import PODS, parse_quantity
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.checklist import Item, error, failed, find_unread, listed, passed, unknown, warning
from vdi.kasm.preflight.model import Preflight
from vdi.kasm.preflight.needs import ClaimNeed, Needs, PodNeed
from vdi.kasm.values.render import CHART, PROFILES
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.snapshot.objects.storage import Node, StorageClass

LEAST_VERSION, ADVISED_VERSION = (1, 25), (1, 28)
# At least, and advised.
_SIZES = {"cpu": (2, 4), "memory": (4e9, 8e9), "ephemeral-storage": (50e9, 100e9)}

# A machine sold as 4 GB shows its kernel a little less, a disk of 50 GB gives its file system a
# little less.
_NOMINAL = 0.9
_RESOURCES = ("cpu", "memory", PODS)
LOCAL_PATH = "rancher.io/local-path"


def node_items() -> Iterator[Item]:
    yield Item("kubernetes", "K3s 1.25 or later, 1.28 recommended", ("nodes",), check_version)
    yield Item("nodes", "all nodes Ready, at least one accepts pods", ("nodes",), check_nodes)
    yield Item("cpu", "2 cores, 4 recommended", ("nodes",), check_cpu)
    yield Item("memory", "4 GB, 8 GB recommended", ("nodes",), check_memory)
    yield Item("disk", "50 GB, 100 GB recommended", ("nodes",), check_disk)


def version_of(text: str) -> tuple[int, int, int]:
    """The first version in a text: `v1.34.4+k3s1` -> (1, 34, 4); zeros for a text without a
    version.
    """
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match:
        return (int(match[1]), int(match[2]), int(match[3] or 0))
    return (0, 0, 0)


def kubelet_versions(preflight: Preflight) -> list[str]:
    """Of all nodes that report one, the oldest first."""
    nodes = preflight.snapshot.objects.nodes
    versions = {node.status.node_info.kubelet_version for node in nodes}
    return sorted((text for text in versions if any(version_of(text))), key=version_of)


def check_version(preflight: Preflight) -> Finding:
    versions = kubelet_versions(preflight)
    if not versions:
        return unknown(
            "No node reports the version of its kubelet.", Remedy.run("kubectl get nodes -o wide")
        )
    observed, oldest = listed(versions), versions[0]
    remedy = Remedy(
        "Upgrade K3s on all nodes, servers first (https://docs.k3s.io/upgrades/manual)."
    )
    if version_of(oldest)[:2] < LEAST_VERSION:
        return error(observed, f"Kasm needs Kubernetes 1.25; {oldest} is older.", remedy)
    if version_of(oldest)[:2] < ADVISED_VERSION:
        return warning(observed, f"{oldest} works, but is no longer maintained.", remedy)
    return passed(observed)


def check_nodes(preflight: Preflight) -> Finding:
    """Number of nodes that accept pods, and reasons of the others."""
    closed, total = preflight.closed_nodes, len(preflight.snapshot.nodes)
    observed = f"{total - len(closed)} of {total} accept pods"
    if closed:
        observed += f" ({'; '.join(f'{name} {reason}' for name, reason in closed.items())})"
    look = Remedy.run(f"kubectl describe node {' '.join(closed)}")
    if len(closed) == total:
        return error(observed, "No node accepts pods, so no pod of Kasm would start.", look)
    if closed:
        message = "Capacity of nodes that accept no pods is not counted below."
        return warning(observed, message, look)
    return passed(observed)


def check_cpu(preflight: Preflight) -> Finding:
    cores = sum(_capacity(node, "cpu") for node in preflight.usable_nodes)
    return _check_size("cpu", cores, f"{cores:g} cores", 1.0)


def check_memory(preflight: Preflight) -> Finding:
    memory = sum(_capacity(node, "memory") for node in preflight.usable_nodes)
    return _check_size("memory", memory, _words("memory", int(memory)), _NOMINAL)


def _check_size(resource: str, total: float, observed: str, enough: float) -> Finding:
    least, advised = _SIZES[resource]
    remedy = Remedy(
        "Give the machine more, or add a node (https://docs.k3s.io/quick-start#install-script)."
    )
    if total < enough * least:
        return error(observed, "This is below Kasm's minimum.", remedy)
    if total < enough * advised:
        message = "This is the minimum. Item `room` checks whether the chart fits."
        return warning(observed, message, remedy)
    return passed(observed)


def _capacity(node: Node, resource: str) -> float:
    return float(parse_quantity(node.status.capacity.get(resource, "0")))


def check_disk(preflight: Preflight) -> Finding:
    """The smallest disk of a node that takes pods: images go to each of them."""
    least, advised = _SIZES["ephemeral-storage"]
    sizes = {
        node.metadata.name: _capacity(node, "ephemeral-storage") for node in preflight.usable_nodes
    }
    known = {name: size for name, size in sizes.items() if size}
    if not known:
        return unknown(
            "No node that accepts pods reports the size of its disk.",
            Remedy.run("kubectl describe nodes"),
        )
    name = min(known, key=lambda node: known[node])
    observed = f"{round(known[name] / 1e9, 1):g} GB on {name}"
    if known[name] >= _NOMINAL * advised:
        return passed(observed)
    return failed(
        Severity.ERROR if known[name] < _NOMINAL * least else Severity.WARNING,
        observed,
        "Images, logs and local-path volumes share this disk; a full one evicts pods.",
        Remedy(
            "Enlarge the disk under /var/lib/rancher, or move that folder to a larger one (K3s:"
            " --data-dir)."
        ),
    )


def room_item(needs: Needs) -> Item:
    """All pods at once, beside what runs there now."""
    cpu, memory = _words("cpu", needs.total("cpu")), _words("memory", needs.total("memory"))
    expected = f"{cpu} and {memory} free ({needs.source})"
    return Item("room", expected, ("nodes", "pods"), check_room)


def check_room(preflight: Preflight) -> Finding:
    needs, capacities = preflight.planned.needs, preflight.usable_capacities
    requested = {name: needs.total(name) for name in _RESOURCES}
    free = {
        name: sum(max(0, capacity.free.get(name, 0)) for capacity in capacities)
        for name in _RESOURCES
    }
    observed = f"{_words('cpu', free['cpu'])} and {_words('memory', free['memory'])} free"
    evidence = [*_request_lines(needs), *_free_lines(capacities, len(preflight.replaced_pods))]
    short = [name for name in _RESOURCES if requested[name] > free[name]]
    too_large = _find_too_large(needs, capacities)
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
        return passed(observed, evidence)
    profiles = " or ".join(profile.name for profile in PROFILES if profile is not CHART)
    remedy = Remedy(
        f"Request less (vdi kasm values render --profile {profiles}, then -f); or add a node."
    )
    return failed(Severity.ERROR, observed, message, remedy, evidence)


def _find_too_large(needs: Needs, capacities: list[NodeCapacity]) -> PodNeed | None:
    """The first pod that fits on no node."""
    for pod in needs.pods:
        if not any(capacity.fits(pod.takes.items()) for capacity in capacities):
            return pod
    return None


def _request_lines(needs: Needs) -> Iterator[str]:
    for pod in needs.pods:
        yield f"{pod.count} x {pod.name}: {_takes(pod)}"
    total = ", ".join(_words(name, needs.total(name)) for name in ("cpu", "memory"))
    yield f"total of {sum(pod.count for pod in needs.pods)} pods: {total}"


def _free_lines(capacities: list[NodeCapacity], replaced: int) -> Iterator[str]:
    for capacity in capacities:
        parts = []
        for name in ("cpu", "memory"):
            allocatable, free = capacity.allocatable.get(name, 0), capacity.free.get(name, 0)
            parts.append(
                f"{_words(name, allocatable)} allocatable"
                f" - {_words(name, allocatable - free)} requested = {_words(name, free)}"
            )
        yield f"node {capacity.name}: {'; '.join(parts)}"
    if replaced:
        yield (
            f"not counted, because new pods replace them: {replaced} pods of the Kasm that runs"
            " there now"
        )


def _takes(pod: PodNeed) -> str:
    return ", ".join(_words(name, pod.takes.get(name, 0)) for name in ("cpu", "memory"))


def _words(resource: str, amount: int) -> str:
    """`4.75 CPU`, `3.75 GiB`, `512 MiB`, `110 pods`."""
    if resource == "cpu":
        return f"{amount / 1000:g} CPU"
    if resource == PODS:
        return f"{amount} pods"
    if abs(amount) >= 2**30:
        return f"{round(amount / 2**30, 2):g} GiB"
    return f"{round(amount / 2**20):g} MiB"


def storage_items(claims: tuple[ClaimNeed, ...]) -> Iterator[Item]:
    """One item for each storage class that a volume names, or for the default."""
    for name in sorted({claim.storage_class for claim in claims}):
        volumes = ", ".join(
            f"{claim.name} {_words('memory', claim.size)}"
            for claim in claims
            if claim.storage_class == name
        )
        expected = f"{name or 'a default class'} for {volumes}"
        check = partial(check_named_class, name=name) if name else check_default_class
        yield Item("storage-class", expected, ("storageclasses",), check)


def check_named_class(preflight: Preflight, *, name: str) -> Finding:
    classes = _classes(preflight)
    if name in classes:
        return _check_provisioner(preflight, classes[name])
    return error(
        _listed_classes(classes),
        f"There is no StorageClass {name}: the volume would stay Pending.",
        Remedy(f"Set one of these in the values: {listed(classes)}."),
    )


def check_default_class(preflight: Preflight) -> Finding:
    classes = _classes(preflight)
    defaults = [name for name, storage_class in classes.items() if storage_class.is_default]
    observed = _listed_classes(classes)
    if len(defaults) > 1:
        message = "If there are several defaults, Kubernetes uses the newest one."
        command = f"kubectl annotate storageclass {defaults[0]} {IS_DEFAULT_CLASS}-"
        return warning(observed, message, Remedy.run(command))
    if defaults:
        return _check_provisioner(preflight, classes[defaults[0]])
    remedy = Remedy(
        "Start K3s without --disable=local-storage: it then provides the class local-path."
    )
    if classes:
        command = f"kubectl annotate storageclass {min(classes)} {IS_DEFAULT_CLASS}=true"
        remedy = Remedy.run(command)
    return error(observed, "Without a default class the volume stays Pending.", remedy)


def _check_provisioner(preflight: Preflight, storage_class: StorageClass) -> Finding:
    observed = _listed_classes(_classes(preflight))
    is_foreign = storage_class.provisioner != LOCAL_PATH
    if is_foreign or find_unread(preflight.snapshot, "pods"):
        return passed(observed)
    if any(pod.metadata.labels.get("app") == "local-path-provisioner" for pod in preflight.running):
        return passed(observed)
    return error(
        f"{observed}; no pod of local-path-provisioner",
        "No provisioner creates the volumes of this class: they would stay Pending.",
        Remedy.run("kubectl --namespace kube-system get deployment local-path-provisioner"),
    )


def _classes(preflight: Preflight) -> dict[str, StorageClass]:
    classes = {each.metadata.name: each for each in preflight.snapshot.objects.storageclasses}
    return dict(sorted(classes.items()))


def _listed_classes(classes: dict[str, StorageClass]) -> str:
    names = []
    for name, storage_class in classes.items():
        names.append(f"{name} (default)" if storage_class.is_default else name)
    return listed(names)

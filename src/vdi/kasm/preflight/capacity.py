"""Whether the chart's pods find room, with the arithmetic, and whether its volumes find a storage class. Pure."""

from collections.abc import Iterator
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import counted, label_of, listed, unreadable_finding
from vdi.kasm.preflight.facts import Facts
from vdi.kasm.preflight.needs import Needs, PodNeed, cpu_words, size_words
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.session.capacity import PODS
from vdi.session.capacity_matching import NodeCapacity

_RESOURCES = ("cpu", "memory", PODS)
LOCAL_PATH = "rancher.io/local-path"


def room_line(facts: Facts, needs: Needs, own: frozenset[str] = frozenset()) -> Finding:
    """All pods at once, beside what runs there now; pods in `own` are Kasm's, which the new ones replace."""
    expected = (
        f"{_words('cpu', needs.total('cpu'))} and {_words('memory', needs.total('memory'))} free ({needs.source})"
    )
    unread = facts.missing("nodes", "pods")
    if unread is not None:
        return unreadable_finding("room", expected, unread)
    rooms = [room for room in facts.rooms(without=own) if not room.closed and not room.taints]
    free = {name: sum(max(0, room.free.get(name, 0)) for room in rooms) for name in _RESOURCES}
    observed = f"{_words('cpu', free['cpu'])} and {_words('memory', free['memory'])} free"
    evidence = (*_request_lines(needs), *_free_lines(rooms, own))
    remedy = Remedy(
        "Request less (vdi kasm values render --profile 4gb, or 8gb, and check again with -f); or add a node, or a "
        "larger one."
    )
    short = [
        f"{_words(name, needs.total(name))} requested - {_words(name, free[name])} free"
        f" = {_words(name, needs.total(name) - free[name])} too little"
        for name in _RESOURCES
        if needs.total(name) > free[name]
    ]
    if short:
        message = "Pods would stay Pending (Insufficient), and pods that wait for them would stay in Init."
        severity = Severity.ERROR
    elif homeless := _without_room(needs, rooms):
        severity = Severity.ERROR if homeless[1] else Severity.WARNING
        message = (
            f"The total would fit, but {homeless[0].name} needs {_takes(homeless[0])} on one node, and no node "
            f"{'is that large' if homeless[1] else 'has that much left'}."
        )
    else:
        return Finding(code="room", severity=Severity.OK, observed=observed, expected=expected, evidence=evidence)
    return Finding(
        code="room",
        severity=severity,
        observed=observed,
        expected=expected,
        message=message,
        remedy=remedy,
        evidence=(*evidence, *short),
    )


def _without_room(needs: Needs, rooms: list[NodeCapacity]) -> tuple[PodNeed, bool] | None:
    """A pod for which no node is left, the largest placed first; and whether even an otherwise idle node is too full.

    The scheduler places them in another order: that this one fails proves nothing, so it is a warning only.
    """
    pods = sorted(needs.lasting, key=lambda one: (one.takes.get("cpu", 0), one.takes.get("memory", 0)), reverse=True)
    for pod in pods:
        if not any(room.fits(pod.takes.items()) for room in rooms):
            return pod, True
    for pod in pods:
        for _ in range(pod.count):
            fitting = [room for room in rooms if room.fits(pod.takes.items())]
            if not fitting:
                return pod, False
            min(fitting, key=lambda room: room.free.get("cpu", 0)).take(pod.takes, 1)
    return None


def _request_lines(needs: Needs) -> Iterator[str]:
    for one in needs.lasting:
        yield f"{one.count} x {one.name}: {_takes(one)}"
    yield f"total of {counted(sum(one.count for one in needs.lasting), 'pod')}: " + ", ".join(
        _words(name, needs.total(name)) for name in ("cpu", "memory")
    )
    for pod in needs.pods:
        if pod.passing:
            yield f"{pod.name} temporarily takes {_takes(pod)} in addition"


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
        yield f"not counted, because new pods replace them: {counted(len(own), 'pod')} of the Kasm that runs there now"


def _takes(one: PodNeed) -> str:
    return ", ".join(_words(name, one.takes.get(name, 0)) for name in ("cpu", "memory"))


def _words(resource: str, amount: int) -> str:
    if resource == "cpu":
        return cpu_words(amount)
    return size_words(amount) if resource == "memory" else f"{amount} pods"


def storage_lines(facts: Facts, needs: Needs) -> Iterator[Finding]:
    """One line for each storage class that a volume names, or for the default."""
    if not needs.claims:
        yield Finding(
            code="storage-class", severity=Severity.OK, observed="not checked", expected="no volume is requested"
        )
        return
    unread = facts.missing("storageclasses")
    for name in sorted({claim.storage_class for claim in needs.claims}):
        claims = [claim for claim in needs.claims if claim.storage_class == name]
        volumes = ", ".join(f"{claim.name} {size_words(claim.size)}" for claim in claims)
        expected = f"{name or 'a default class'} for {volumes}"
        if unread is not None:
            yield unreadable_finding("storage-class", expected, unread)
        else:
            yield _class_line(facts, name, expected)


def _class_line(facts: Facts, name: str, expected: str) -> Finding:
    classes = {str(storage_class["metadata"]["name"]): storage_class for storage_class in facts.all("storageclasses")}
    defaults = sorted(each for each, storage_class in classes.items() if _is_default(storage_class))
    observed = listed(
        f"{storage_class}{' (default)' if storage_class in defaults else ''}" for storage_class in sorted(classes)
    )

    def line(severity: Severity, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="storage-class",
            severity=severity,
            observed=observed,
            expected=expected,
            message=message,
            remedy=remedy,
        )

    if name and name not in classes:
        return line(
            Severity.ERROR, f"There is no StorageClass {name}: the volume would stay Pending.", _values_remedy(classes)
        )
    if not name and not defaults:
        make = Remedy.run(
            f"kubectl annotate storageclass {next(iter(sorted(classes)), 'local-path')} {IS_DEFAULT_CLASS}=true"
        )
        how = (
            make
            if classes
            else Remedy("Start K3s without --disable=local-storage: it then provides the class local-path.")
        )
        return line(Severity.ERROR, "Without a default class the volume stays Pending.", how)
    if not name and len(defaults) > 1:
        drop = Remedy.run(f"kubectl annotate storageclass {defaults[0]} {IS_DEFAULT_CLASS}-")
        return line(Severity.WARNING, "If there are several defaults, Kubernetes uses the newest one.", drop)
    chosen = classes[name or defaults[0]]
    if chosen.get("provisioner") == LOCAL_PATH:
        return _local_path_line(facts, line(Severity.OK))
    return line(Severity.OK)


def _local_path_line(facts: Facts, good: Finding) -> Finding:
    """Somebody has to make the folders."""
    if facts.missing("pods") is not None:
        return good
    provisioners = [pod for pod in facts.running if label_of(pod, "app") == "local-path-provisioner"]
    if provisioners:
        return good
    return Finding(
        code=good.code,
        severity=Severity.ERROR,
        observed=f"{good.observed}; no pod of local-path-provisioner",
        expected=good.expected,
        message="No provisioner creates the volumes of this class: they would stay Pending.",
        remedy=Remedy.run("kubectl --namespace kube-system get deployment local-path-provisioner"),
    )


def _values_remedy(classes: dict[str, dict[str, Any]]) -> Remedy:
    return Remedy(f"Set one of these in the values: {listed(sorted(classes))}.")


def _is_default(one: dict[str, Any]) -> bool:
    return bool((one["metadata"].get("annotations") or {}).get(IS_DEFAULT_CLASS) == "true")

"""Whether the chart's pods find room, with the arithmetic, and whether its volumes find a storage class. Pure."""

from collections.abc import Iterator
from typing import Any

from vdi.kasm.preflight_facts import Facts
from vdi.kasm.preflight_line import Line, Verdict, counted, label_of, listed, unread_line
from vdi.kasm.preflight_needs import Needs, PodNeed, cpu_words, size_words
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.session.capacity import PODS
from vdi.session.capacity_matching import Room

_RESOURCES = ("cpu", "memory", PODS)
LOCAL_PATH = "rancher.io/local-path"


def room_line(facts: Facts, needs: Needs, own: frozenset[str] = frozenset()) -> Line:
    """All pods at once, beside what runs there now; pods in `own` are Kasm's, which the new ones replace."""
    wanted = f"{_words('cpu', needs.total('cpu'))} and {_words('memory', needs.total('memory'))} free ({needs.source})"
    unread = facts.missing("nodes", "pods")
    if unread is not None:
        return unread_line("room", wanted, unread)
    rooms = [room for room in facts.rooms(without=own) if not room.closed and not room.taints]
    free = {name: sum(max(0, room.free.get(name, 0)) for room in rooms) for name in _RESOURCES}
    seen = f"{_words('cpu', free['cpu'])} and {_words('memory', free['memory'])} free"
    arithmetic = (*_wanted_lines(needs), *_free_lines(rooms, own))
    remedy = (
        "less: vdi kasm values render --profile 4gb (or 8gb), and look again with -f; or a larger node, or one more"
    )
    short = [
        f"{_words(name, needs.total(name))} wanted - {_words(name, free[name])} free"
        f" = {_words(name, needs.total(name) - free[name])} too little"
        for name in _RESOURCES
        if needs.total(name) > free[name]
    ]
    if short:
        why = "Pods would stay Pending (Insufficient), and all that waits for them in Init."
        verdict = Verdict.FAIL
    elif homeless := _without_room(needs, rooms):
        verdict = Verdict.FAIL if homeless[1] else Verdict.WARN
        why = (
            f"In sum it would fit, but {homeless[0].name} takes {_takes(homeless[0])} on one node, and no node"
            f" {'has' if homeless[1] else 'has so much left beside the others'}."
        )
    else:
        return Line(check="room", verdict=Verdict.PASS, seen=seen, wanted=wanted, arithmetic=arithmetic)
    return Line(
        check="room",
        verdict=verdict,
        seen=seen,
        wanted=wanted,
        why=why,
        remedy=remedy,
        arithmetic=(*arithmetic, *short),
    )


def _without_room(needs: Needs, rooms: list[Room]) -> tuple[PodNeed, bool] | None:
    """A pod for which no node is left, the largest placed first; and whether even an otherwise idle node is too full.

    The scheduler places them in another order: that this one fails proves nothing, so it is a warning only.
    """
    pods = sorted(needs.lasting, key=lambda one: (one.takes.get("cpu", 0), one.takes.get("memory", 0)), reverse=True)
    for one in pods:
        if not any(room.fits(one.takes.items()) for room in rooms):
            return one, True
    for one in pods:
        for _ in range(one.count):
            fitting = [room for room in rooms if room.fits(one.takes.items())]
            if not fitting:
                return one, False
            min(fitting, key=lambda room: room.free.get("cpu", 0)).take(one.takes, 1)
    return None


def _wanted_lines(needs: Needs) -> Iterator[str]:
    for one in needs.lasting:
        yield f"{one.count} x {one.name}: {_takes(one)}"
    yield f"sum of {counted(sum(one.count for one in needs.lasting), 'pod')}: " + ", ".join(
        _words(name, needs.total(name)) for name in ("cpu", "memory")
    )
    for one in needs.pods:
        if one.passing:
            yield f"{one.name} takes {_takes(one)} for a while, beside these"


def _free_lines(rooms: list[Room], own: frozenset[str]) -> Iterator[str]:
    for room in rooms:
        parts = [
            f"{_words(name, room.has.get(name, 0))} allocatable"
            f" - {_words(name, room.has.get(name, 0) - room.free.get(name, 0))} requested"
            f" = {_words(name, room.free.get(name, 0))}"
            for name in ("cpu", "memory")
        ]
        yield f"node {room.name}: {'; '.join(parts)}"
    if own:
        yield f"not counted, as new ones take their place: {counted(len(own), 'pod')} of the Kasm that runs there now"


def _takes(one: PodNeed) -> str:
    return ", ".join(_words(name, one.takes.get(name, 0)) for name in ("cpu", "memory"))


def _words(resource: str, amount: int) -> str:
    if resource == "cpu":
        return cpu_words(amount)
    return size_words(amount) if resource == "memory" else f"{amount} pods"


def storage_lines(facts: Facts, needs: Needs) -> Iterator[Line]:
    """One line for each storage class that a volume names, or for the default."""
    if not needs.claims:
        yield Line(check="storage-class", verdict=Verdict.PASS, seen="not looked at", wanted="no volume is asked for")
        return
    unread = facts.missing("storageclasses")
    for name in sorted({one.storage_class for one in needs.claims}):
        claims = [one for one in needs.claims if one.storage_class == name]
        told = ", ".join(f"{one.name} {size_words(one.size)}" for one in claims)
        wanted = f"{name or 'a default class'} for {told}"
        if unread is not None:
            yield unread_line("storage-class", wanted, unread)
        else:
            yield _class_line(facts, name, wanted)


def _class_line(facts: Facts, name: str, wanted: str) -> Line:
    classes = {str(one["metadata"]["name"]): one for one in facts.all("storageclasses")}
    defaults = sorted(each for each, one in classes.items() if _is_default(one))
    seen = listed(f"{each}{' (default)' if each in defaults else ''}" for each in sorted(classes))

    def line(verdict: Verdict, why: str = "", remedy: str = "") -> Line:
        return Line(check="storage-class", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    if name and name not in classes:
        return line(
            Verdict.FAIL, f"There is no StorageClass {name}: the volume would stay Pending.", _values_remedy(classes)
        )
    if not name and not defaults:
        make = f"kubectl annotate storageclass {next(iter(sorted(classes)), 'local-path')} {IS_DEFAULT_CLASS}=true"
        how = make if classes else "K3s without --disable=local-storage brings the class local-path"
        return line(Verdict.FAIL, "Without a default class the volume stays Pending.", how)
    if not name and len(defaults) > 1:
        drop = f"kubectl annotate storageclass {defaults[0]} {IS_DEFAULT_CLASS}-"
        return line(Verdict.WARN, "Of several defaults Kubernetes takes the newest, whichever that is.", drop)
    chosen = classes[name or defaults[0]]
    if chosen.get("provisioner") == LOCAL_PATH:
        return _local_path_line(facts, line(Verdict.PASS))
    return line(Verdict.PASS)


def _local_path_line(facts: Facts, good: Line) -> Line:
    """Somebody has to make the folders."""
    if facts.missing("pods") is not None:
        return good
    provisioners = [pod for pod in facts.running if label_of(pod, "app") == "local-path-provisioner"]
    if provisioners:
        return good
    return Line(
        check=good.check,
        verdict=Verdict.FAIL,
        seen=f"{good.seen}; no pod of local-path-provisioner",
        wanted=good.wanted,
        why="Nobody makes the volumes of this class: they would stay Pending.",
        remedy="kubectl --namespace kube-system get deployment local-path-provisioner",
    )


def _values_remedy(classes: dict[str, dict[str, Any]]) -> str:
    return f"name one of these in the values: {listed(sorted(classes))}"


def _is_default(one: dict[str, Any]) -> bool:
    return bool((one["metadata"].get("annotations") or {}).get(IS_DEFAULT_CLASS) == "true")

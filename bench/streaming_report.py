"""Figures of `python -m bench.streaming` -> what people read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report import goal, render
from bench.stats import percentile

OURS, PLAIN, WAYLAND, RECORDED = "vdi", "plain Selkies", "vdi, Wayland", "vdi, recorded"
AIM_P95_MS, AIM_SIZE = 50.0, "1280x720"
AIM_ADDED_MS = 2.0
# A desktop to which no one is connected.
AIM_REST_MIB = 240.0
# What recording may add to that, to the CPU of one that is watched, and to a key's delay.
AIM_RECORDED_CORES, AIM_RECORDED_MIB, AIM_RECORDED_RATIO, AIM_RECORDED_MS = 0.03, 60.0, 1.2, 5.0
AT_REST = "nobody connected"
PERCENTS = (50.0, 95.0)

Figures = dict[str, Any]


def seen(figures: Figures, way: str, size: str) -> list[float]:
    """Milliseconds of every key whose letter came."""
    return [
        photon["ms"]
        for photon in figures["photons"]
        if photon["way"] == way and photon["size"] == size and photon["ms"] is not None
    ]


def lost(figures: Figures) -> int:
    """How many keys' letters did not come in time."""
    return sum(1 for photon in figures["photons"] if photon["ms"] is None)


def compare(title: str, ours: Sequence[float], theirs: Sequence[float]) -> list[list[str]]:
    """A row for the median and one for p95: both, how much ours is more, and their ratio."""
    rows = []
    for percent in PERCENTS:
        mine, other = percentile(ours, percent), percentile(theirs, percent)
        cells = ["-"] * 4
        if mine is not None and other:
            cells = [f"{mine:.1f}", f"{other:.1f}", f"{mine - other:+.1f}", f"{mine / other:.2f}"]
        rows.append([f"{title}, p{percent:g}, ms", f"{len(ours)} + {len(theirs)}", *cells])
    return rows


def delays(figures: Figures) -> str:
    """The table of input to photon, and of the way alone."""
    rows = [["", "n", OURS, PLAIN, f"{OURS} - {PLAIN}", f"{OURS} / {PLAIN}"]]
    for size in sizes(figures):
        rows += compare(
            f"input to photon, {size}", seen(figures, OURS, size), seen(figures, PLAIN, size)
        )
    trips = figures["round_trips"]
    rows += compare("round trip of a WebSocket ping", trips[OURS], trips[PLAIN])
    return render(rows)


def beside(figures: Figures, way: str, this: str, other: str) -> str:
    """The table of input to photon of another desktop beside ours; empty when that was not
    measured.
    """
    rows = [["", "n", this, other, f"{this} - {other}", f"{this} / {other}"]]
    for size in sizes(figures):
        if theirs := seen(figures, way, size):
            rows += compare(f"input to photon, {size}", theirs, seen(figures, OURS, size))
    return f"{render(rows)}\n\n" if len(rows) > 1 else ""


def sizes(figures: Figures) -> list[str]:
    """In the order of their measurement."""
    return list(dict.fromkeys(photon["size"] for photon in figures["photons"]))


def cores(load: Figures) -> float:
    """What a session costs in CPU: the pod's, and what Traefik takes to carry its stream."""
    return float((load["pod_cpu_s"] + load["traefik_cpu_s"]) / load["seconds"])


def per_core(load: Figures) -> float:
    """How many such sessions one core carries, if nothing else runs on it."""
    return 1 / cores(load)


def loads(figures: Figures) -> str:
    """The table of CPU and memory, with the division that makes sessions per core."""
    rows = [
        [
            "one session",
            "pod, cores",
            "Traefik, cores",
            "frames/s shown",
            "memory, MiB",
            "sessions per core",
        ]
    ]
    for load in figures["loads"]:
        pod, traefik = load["pod_cpu_s"] / load["seconds"], load["traefik_cpu_s"] / load["seconds"]
        shown = "-" if load["frames"] is None else f"{load['frames'] / load['seconds']:.1f}"
        division = f"1 / ({pod:.3f} + {traefik:.3f}) = {per_core(load):.1f}"
        memory = f"{load['working_set_mib']:.0f}"
        rows.append([load["what"], f"{pod:.3f}", f"{traefik:.3f}", shown, memory, division])
    return render(rows)


def verdicts(figures: Figures) -> list[str]:
    """Whether the aims are reached; nothing for one that was not measured."""
    said = []
    slow = percentile(seen(figures, OURS, AIM_SIZE), 95.0)
    if slow is not None:
        text = f"input to photon at {AIM_SIZE}, p95 {slow:.1f} ms: under {AIM_P95_MS:g} ms wanted"
        said.append(goal(slow < AIM_P95_MS, text))
    for size in sizes(figures):
        ours, plain = (percentile(seen(figures, way, size), 50.0) for way in (OURS, PLAIN))
        if ours is not None and plain is not None:
            text = (
                f"our way in adds {ours - plain:.1f} ms at {size}, p50: under {AIM_ADDED_MS:g} ms"
                " wanted"
            )
            said.append(goal(ours - plain < AIM_ADDED_MS, text))
    by_name = {load["what"]: load for load in figures["loads"]}
    if AT_REST in by_name:
        mib = by_name[AT_REST]["working_set_mib"]
        text = f"{AT_REST}: {mib:.0f} MiB, at most {AIM_REST_MIB:g} wanted"
        said.append(goal(mib <= AIM_REST_MIB, text))
    said += _verdicts_of_recording(figures, by_name)
    recorded = [load for load in figures["loads"] if "recording_mb_per_hour" in load]
    said += [
        f"recording, {load['what']}: {load['recording_mb_per_hour']:.0f} MB an hour"
        for load in recorded
    ]
    if missing := lost(figures):
        said.append(
            f"{missing} of {len(figures['photons'])} keys had no letter in time; they are in no"
            " percentile"
        )
    return said


def _verdicts_of_recording(figures: Figures, by_name: dict[str, Figures]) -> list[str]:
    said = []
    for what, plain in by_name.items():
        recorded = by_name.get(f"recorded, {what}")
        if recorded is None:
            continue
        if what == AT_REST:
            added = cores(recorded) - cores(plain)
            mib = recorded["working_set_mib"] - plain["working_set_mib"]
            text = (
                f"recording, {what}: {added:+.2f} cores and {mib:+.0f} MiB, at most"
                f" {AIM_RECORDED_CORES:g} and {AIM_RECORDED_MIB:g} wanted"
            )
            said.append(goal(added <= AIM_RECORDED_CORES and mib <= AIM_RECORDED_MIB, text))
        else:
            times = cores(recorded) / cores(plain)
            text = (
                f"recording, {what}: {times:.2f} of the CPU, at most {AIM_RECORDED_RATIO:g} wanted"
            )
            said.append(goal(times <= AIM_RECORDED_RATIO, text))
    for size in sizes(figures):
        slow, plain_slow = (percentile(seen(figures, way, size), 95.0) for way in (RECORDED, OURS))
        if slow is not None and plain_slow is not None:
            text = (
                f"recording adds {slow - plain_slow:.1f} ms to a key at {size}, p95: at most"
                f" {AIM_RECORDED_MS:g} wanted"
            )
            said.append(goal(slow - plain_slow <= AIM_RECORDED_MS, text))
    return said


def table(figures: Figures) -> str:
    machine = figures["machine"]
    head = (
        f"one node of {machine['cpus']} CPUs that runs cluster, desktop and browser; software"
        f" encoder; {machine['busy_percent']:g} % busy before the first desktop"
    )
    others = beside(figures, WAYLAND, "Wayland", "X11") + beside(
        figures, RECORDED, "recorded", "not recorded"
    )
    return "\n".join(
        [head, "", delays(figures), "", others + loads(figures), "", *verdicts(figures)]
    )

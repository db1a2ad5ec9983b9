"""Traefik as its Deployments and DaemonSets show it. Pure. It may run outside the cluster, so none is no fault."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.workloads import Workload, workloads

_POINT = "--entrypoints."
_PROVIDER = "--providers.kubernetescrd"
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Traefik(Workload):
    """One workload that runs Traefik, and what its arguments say. A file may say more."""

    args: tuple[str, ...]

    @property
    def entry_points(self) -> frozenset[str]:
        """Names of its entry points; empty: its arguments do not say."""
        return frozenset(arg.removeprefix(_POINT).split(".")[0] for arg in self._named(_POINT))

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces whose routes it sees; empty: all."""
        lists = [arg.partition("=")[2] for arg in self._named(f"{_PROVIDER}.namespaces=")]
        return frozenset(name for names in lists for name in names.split(",") if name)

    @property
    def crosses_namespaces(self) -> bool:
        """Whether routes may name what is in another namespace."""
        return any(arg.partition("=")[2] in ("", "true") for arg in self._named(f"{_PROVIDER}.allowcrossnamespace"))

    @property
    def timeouts(self) -> dict[str, float]:
        """Timeouts of its entry points: argument -> seconds; 0: none. Defaults are not among them."""
        found = {}
        for arg in self.args:
            name, _, value = arg.partition("=")
            if ".transport.respondingtimeouts." in name.lower() and (seconds := read_go_duration(value)) is not None:
                found[arg] = seconds
        return found

    def _named(self, prefix: str) -> list[str]:
        # Traefik takes its options in any spelling; their values are the only part where capitals count.
        spelt = [f"{name.lower()}{sign}{value}" for name, sign, value in (arg.partition("=") for arg in self.args)]
        return [one for one in spelt if one.startswith(prefix)]


def read_go_duration(text: str) -> float | None:
    """Seconds of a duration as Traefik reads it: `1m30s`, `500ms`, or digits alone; None: it is not a duration."""
    if text.isdigit():
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


@lru_cache(maxsize=2)
def find_traefiks(snapshot: Snapshot) -> tuple[Traefik, ...]:
    """Workloads with Traefik's image."""
    found = []
    for workload in workloads(snapshot):
        for container in workload.raw["spec"]["template"]["spec"]["containers"]:
            name = PurePosixPath(str(container.get("image", ""))).name.partition(":")[0].partition("@")[0]
            if name in ("traefik", "mirrored-library-traefik"):
                found.append(Traefik(workload.kind, workload.raw, tuple(container.get("args") or ())))
    return tuple(found)

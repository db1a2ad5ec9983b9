"""What a chart asks of a cluster: its pods with what they take, its volumes. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from vdi.kasm.preflight.facts import takes_of
from vdi.session.units import parse_quantity

Raw = Mapping[str, Any]
_SCALED = frozenset({"Deployment", "StatefulSet", "ReplicaSet"})


class PodNeed(msgspec.Struct, frozen=True):
    """So many pods of one kind. CPU in thousandths, memory in bytes, as `vdi.session.capacity` has them."""

    name: str
    count: int
    takes: dict[str, int]
    passing: bool = False
    """A Job's: it ends, and what it took is free again."""


class ClaimNeed(msgspec.Struct, frozen=True):
    """A volume; an empty class is the cluster's default."""

    name: str
    size: int
    storage_class: str = ""


class Needs(msgspec.Struct, frozen=True):
    """All that has to find room, and where that was taken from, in words."""

    source: str
    pods: tuple[PodNeed, ...] = ()
    claims: tuple[ClaimNeed, ...] = ()

    @property
    def lasting(self) -> tuple[PodNeed, ...]:
        """Pods that stay."""
        return tuple(pod for pod in self.pods if not pod.passing)

    def total(self, resource: str) -> int:
        """What all pods that stay take of a resource."""
        return sum(one.count * one.takes.get(resource, 0) for one in self.lasting)


def needs_of_manifests(documents: Iterable[Raw], source: str) -> Needs:
    """What rendered manifests (`helm template`) ask for. Hooks that run tests and CronJobs take no room now."""
    pods: list[PodNeed] = []
    claims: list[ClaimNeed] = []
    for document in documents:
        if "test" in str((document["metadata"].get("annotations") or {}).get("helm.sh/hook", "")).split(","):
            continue
        pods += _pods_of(document)
        claims += _claims_of(document)
    return Needs(source, tuple(pods), tuple(claims))


def _pods_of(document: Raw) -> Iterator[PodNeed]:
    kind, spec = document["kind"], document.get("spec") or {}
    name = f"{kind.lower()}/{document['metadata']['name']}"
    if kind in _SCALED:
        count = spec["replicas"] if spec.get("replicas") is not None else 1
        yield PodNeed(name, int(count), takes_of(spec["template"]["spec"]))
    elif kind == "Job":
        yield PodNeed(name, int(spec.get("parallelism") or 1), takes_of(spec["template"]["spec"]), passing=True)
    elif kind == "Pod":
        yield PodNeed(name, 1, takes_of(spec))


def _claims_of(document: Raw) -> Iterator[ClaimNeed]:
    kind, spec = document["kind"], document.get("spec") or {}
    if kind == "PersistentVolumeClaim":
        yield _claim(document, 1)
    elif kind == "StatefulSet":
        for template in spec.get("volumeClaimTemplates") or ():
            yield _claim(template, int(spec["replicas"] if spec.get("replicas") is not None else 1))


def _claim(document: Raw, count: int) -> ClaimNeed:
    spec = document.get("spec") or {}
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage", "0")
    return ClaimNeed(
        str(document["metadata"]["name"]), count * int(parse_quantity(size)), str(spec.get("storageClassName") or "")
    )


def cpu_words(thousandths: int) -> str:
    """`4.75 CPU`."""
    return f"{thousandths / 1000:g} CPU"


def size_words(size: int) -> str:
    """`3.75 GiB`, `512 MiB`."""
    if abs(size) >= 2**30:
        return f"{round(size / 2**30, 2):g} GiB"
    return f"{round(size / 2**20):g} MiB"


def gigabytes(size: int) -> str:
    """`53.7 GB`, as disks are sold."""
    return f"{round(size / 1e9, 1):g} GB"


def version_of(text: str) -> tuple[int, int, int]:
    """The first version in a text: `v1.34.4+k3s1` -> (1, 34, 4). Raises ValueError for a text without a version."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ValueError(f"{text!r} has no version in it; expected something like v1.34.4")
    return int(match[1]), int(match[2]), int(match[3] or 0)

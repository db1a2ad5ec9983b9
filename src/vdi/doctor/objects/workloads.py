"""What runs as a Deployment or as a DaemonSet, whichever it is. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from vdi.diagnosis.snapshot import Raw, Snapshot


@dataclass(frozen=True)
class Workload:
    """One Deployment or DaemonSet."""

    kind: str
    """`deployment` or `daemonset`."""
    raw: Raw

    @property
    def namespace(self) -> str:
        """Where it runs."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Its own name."""
        return str(self.raw["metadata"]["name"])

    @property
    def object(self) -> str:
        """As findings name it."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def upgrade(self) -> str:
        """The command that renders its release again, whichever Helm is there."""
        release = (self.raw["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", "vdi")
        named = f" --release {release}" if release != "vdi" else ""
        return f"vdi upgrade --namespace {self.namespace}{named}"

    @property
    def ready(self) -> int:
        """How many replicas answer."""
        status = self.raw.get("status") or {}
        return int(status.get("readyReplicas") or status.get("numberReady") or 0)

    @property
    def desired(self) -> int:
        """How many there should be."""
        if self.kind == "daemonset":
            return int((self.raw.get("status") or {}).get("desiredNumberScheduled") or 0)
        return int(self.raw["spec"].get("replicas", 1))


def workloads(snapshot: Snapshot) -> Iterator[Workload]:
    """All Deployments, then all DaemonSets."""
    for kind in ("deployment", "daemonset"):
        for raw in snapshot.raw(f"{kind}s"):
            yield Workload(kind, raw)


def find_turn_servers(snapshot: Snapshot) -> list[Workload]:
    """The chart's own TURN servers, by their label."""
    return [
        workload
        for workload in workloads(snapshot)
        if (workload.raw["metadata"].get("labels") or {}).get("app.kubernetes.io/name") == "coturn"
    ]

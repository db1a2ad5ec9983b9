"""A pod as its chain is followed: its init containers in order, which of them it is at, what it waits for. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vdi.diagnosis.snapshot import Snapshot
from vdi.kasm.diagnosis.waits import Target, parse_wait
from vdi.session.explain import PASSING
from vdi.session.observed import Event

Raw = dict[str, Any]


@dataclass(frozen=True)
class KasmContainer:
    """A container with its state."""

    spec: Raw
    status: Raw
    is_init: bool

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.spec["name"])

    @property
    def image(self) -> str:
        """Its image."""
        return str(self.spec.get("image", ""))

    @property
    def target(self) -> Target | None:
        """What it waits for, by its command line."""
        return parse_wait(str(self.spec.get("waitsFor", "")))

    def _state(self, which: str, kind: str) -> Raw | None:
        return (self.status.get(which) or {}).get(kind)

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message for which it does not run; both empty where it runs, has ended, or was never mentioned."""
        found = self._state("state", "waiting") or {}
        return str(found.get("reason", "")), str(found.get("message", ""))

    @property
    def running_since(self) -> str:
        """Since when it runs; empty: it does not."""
        return str((self._state("state", "running") or {}).get("startedAt", ""))

    @property
    def ended(self) -> Raw | None:
        """How it ended, if it has ended badly, now or the last time."""
        for found in (self._state("state", "terminated"), self._state("lastState", "terminated")):
            if found and (found.get("exitCode") or found.get("reason") == "OOMKilled"):
                return found
        return None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return int(self.status.get("restartCount", 0))

    @property
    def is_done(self) -> bool:
        """An init container that lets the next one begin."""
        if self.spec.get("restartPolicy") == "Always":
            return bool(self.status.get("started"))
        ended = self._state("state", "terminated")
        return ended is not None and not ended.get("exitCode")

    @property
    def is_crashing(self) -> bool:
        """It has ended badly, and does not run now."""
        return self.ended is not None and not self.running_since


@dataclass(frozen=True, eq=False)
class KasmPod:
    """A pod."""

    raw: Raw
    snapshot: Snapshot

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Where it is."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def object(self) -> str:
        """As findings name it."""
        return f"pod/{self.namespace}/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.raw["metadata"].get("labels") or {}

    @property
    def phase(self) -> str:
        """Its phase."""
        return str(self._status.get("phase", ""))

    @property
    def node(self) -> str:
        """Where it was put; empty: nowhere yet."""
        return str(self.raw["spec"].get("nodeName", ""))

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return self.snapshot.age(self.raw["metadata"].get("creationTimestamp"))

    @property
    def _status(self) -> Raw:
        return self.raw.get("status") or {}

    def condition(self, kind: str) -> Raw | None:
        """The condition of that type."""
        return next(
            (condition for condition in self._status.get("conditions") or () if condition["type"] == kind), None
        )

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        found = self.condition("Ready")
        return found is not None and found["status"] == "True"

    def _boxes(self, spec: str, status: str) -> list[KasmContainer]:
        states = {one["name"]: one for one in self._status.get(status) or ()}
        found = self.raw["spec"].get(spec) or ()
        return [KasmContainer(one, states.get(one["name"], {}), spec == "initContainers") for one in found]

    @cached_property
    def steps(self) -> list[KasmContainer]:
        """Its init containers, in their order."""
        return self._boxes("initContainers", "initContainerStatuses")

    @cached_property
    def containers(self) -> list[KasmContainer]:
        """Its other containers."""
        return self._boxes("containers", "containerStatuses")

    @property
    def done(self) -> int:
        """How many init containers have done their work: the `x` of `Init:x/y`."""
        return sum(step.is_done for step in self.steps)

    @property
    def step(self) -> KasmContainer | None:
        """The init container that it is at; None: all are done."""
        return next((step for step in self.steps if not step.is_done), None)

    @property
    def state(self) -> str:
        """As `kubectl get pods` names it, as far as it concerns the init containers."""
        if self.step and self.node:
            return f"Init:{self.done}/{len(self.steps)}"
        return self.phase or "Pending"

    @property
    def unready(self) -> list[KasmContainer]:
        """What keeps it from being ready: the init container that it is at, or those of its containers that are not."""
        if self.step:
            return [self.step]
        return [container for container in self.containers if not container.status.get("ready")]

    @property
    def has_begun(self) -> bool:
        """Whether any of its containers has run: then it has its network and its volumes."""
        states = [
            container.status.get(one) or {}
            for container in (*self.steps, *self.containers)
            for one in ("state", "lastState")
        ]
        return any(state.get("running") or state.get("terminated") for state in states)

    @property
    def failing_containers(self) -> Iterator[KasmContainer]:
        """Containers whose log may say why."""
        for one in () if self.ready else self.unready:
            if one.ended or (one.running_since and not one.is_init):
                yield one

    @property
    def claims(self) -> list[str]:
        """The claims that it mounts."""
        sources = (volume.get("persistentVolumeClaim") for volume in self.raw["spec"].get("volumes") or ())
        return [str(source["claimName"]) for source in sources if source]

    @property
    def events(self) -> list[Event]:
        """Warnings about it, the newest last."""
        uid = self.raw["metadata"].get("uid")
        found = self.snapshot.events.get(("Pod", self.namespace, self.name), [])
        return sorted((one for one in found if one.regarding.uid in ("", uid)), key=lambda one: one.seen)

    def newest(self, *reasons: str) -> Event | None:
        """The newest Warning with one of these reasons, but for those that say nothing."""
        matching = [event for event in self.events if event.reason in reasons and not PASSING.search(event.note)]
        return matching[-1] if matching else None

    def log(self, container: KasmContainer, lines: int = 3) -> list[str]:
        """The last words of a container."""
        found = self.snapshot.logs.get(f"{self.namespace}/{self.name}/{container.name}") or []
        return [line for line in found if line.strip()][-lines:]

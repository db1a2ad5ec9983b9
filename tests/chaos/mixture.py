"""A random mixture of everything that people, nodes and networks do to the operator, decided by one
seed.

Actions come one after another, with short random pauses; every so often the storm ends, all that is
broken is repaired, and the cluster must come to what the model says within `QUIET` seconds. What
must never be is watched all the time.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chaos.fault_proxy import RandomFaults
from chaos.machine import Machine
from chaos.model import Model
from chaos.replicas import Replica
from chaos.world import ChaosWorld
from support.waiting import eventually
from vdi.kinds import POOLS, ROUTES, SESSIONS, TEMPLATES
from vdi.kube.resource import NODES, PODS, SERVICES

# Seconds that the cluster may take to come to rest: a lost desktop waits up to 40 s before its
# fourth try.
QUIET = 120.0
# Seconds between two rests.
STORM = 40.0
MOST_SESSIONS = 40
# Failures that one session is made to suffer: of the sixth in a row the operator makes an end,
# rightly.
MOST_FAILURES = 3

Action = Callable[[], Awaitable[None]]


@dataclass
class Mixture:
    """`run` it once."""

    world: ChaosWorld
    replicas: list[Replica]
    machine: Machine
    seed: int
    tell: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.model = Model(self.world)
        self.faults = [RandomFaults(self.seed + number) for number in range(len(self.replicas))]
        for replica, faults in zip(self.replicas, self.faults, strict=True):
            replica.proxy.choose = faults
        self._made = 0

    async def run(self, seconds: float) -> None:
        """Storm and rest in turn, for so long; ends with a rest."""
        actions = self._actions()
        chosen, weights = [action for action, _ in actions], [weight for _, weight in actions]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rest_at = min(end, time.monotonic() + STORM)
            while time.monotonic() < rest_at:
                action = self.rng.choices(chosen, weights)[0]
                await action()
                self.done[action.__name__] += 1
                await asyncio.sleep(self.rng.expovariate(4.0))
            await self.rest()

    async def rest(self) -> None:
        """Repair everything and wait until all is as the model says."""
        await self.calm()
        await self.revive()
        await self.uncordon()
        await eventually(self.machine.is_back, "the control plane is whole", 60)
        began = time.monotonic()
        await self._await_model()
        await self.world.orderly(30)
        injected = sum(sum(replica.proxy.injected.values()) for replica in self.replicas)
        self.tell(
            f"{sum(self.done.values())} actions, {len(self.model.expected)} sessions, {injected}"
            f" faults, {max(0, len(self.world.audit.changes) - 1)} changes of the leader, at most"
            f" {self.world.checker.most_gpus} GPUs in use; at rest after"
            f" {time.monotonic() - began:.1f} s"
        )

    async def _await_model(self) -> None:
        deadline = time.monotonic() + QUIET
        while differences := self.model.differences():
            assert time.monotonic() < deadline, "not at rest:\n" + "\n".join(differences)
            await asyncio.sleep(0.2)

    def _actions(self) -> list[tuple[Action, float]]:
        return [
            (self.create, 12),
            (self.delete, 5),
            (self.suspend, 3),
            (self.resume, 4),
            (self.expire, 2),
            (self.restart, 1),
            (self.fail, 2),
            (self.lose_pod, 2),
            (self.lose_child, 2),
            (self.edit_template, 0.5),
            (self.scale_pool, 0.5),
            (self.cordon, 0.5),
            (self.uncordon, 1),
            (self.storm, 2),
            (self.calm, 0.7),
            (self.cut_watches, 2),
            (self.kill, 0.6),
            (self.freeze, 0.4),
            (self.stop, 0.4),
            (self.revive, 2),
            (self.kill_api_server, 0.15),
            (self.kill_etcd, 0.15),
        ]

    async def create(self) -> None:
        if len(self.model.expected) >= MOST_SESSIONS:
            return
        kind = self.rng.choice(
            (
                "plain",
                "plain",
                "homely",
                "homely",
                "gpu",
                "gpu",
                "gpu",
                "pooled",
                "pooled",
                "resting",
            )
        )
        user = f"user{self.rng.randrange(8)}@example.com"
        priority = self.rng.choice((0, 0, 0, 5))
        self._made += 1
        await self.model.create(f"s{self._made}", kind, user, priority)

    async def delete(self) -> None:
        if name := self._pick():
            await self.model.delete(name)

    async def suspend(self) -> None:
        if name := self._pick(lambda name: not self.model.expected[name].suspended):
            await self.model.suspend(name, suspended=True)

    async def resume(self) -> None:
        if name := self._pick(lambda name: self.model.expected[name].suspended):
            await self.model.suspend(name, suspended=False)

    async def expire(self) -> None:
        """Its time is over at once, if it runs; else when it will have run for a second."""
        if name := self._pick(lambda name: not self.model.expected[name].suspended):
            await self.model.expire(name)

    async def restart(self) -> None:
        if name := self._pick():
            when = f"2026-11-20T08:00:{self.rng.randrange(60):02}Z"
            stamp = {"metadata": {"annotations": {"vdi.kasm.io/restartedAt": when}}}
            await self.world.persist(lambda: self.world.stage.patch(SESSIONS, name, stamp))

    async def fail(self) -> None:
        name = self._pick(lambda name: self.model.expected[name].failures < MOST_FAILURES)
        pod = self.world.find_pod(name) if name else None
        if name and pod and pod.ready:
            self.model.expected[name].failures += 1
            await self.world.persist(lambda: self.world.kubelet.fail(pod.metadata.name))

    async def lose_pod(self) -> None:
        name = self._pick(lambda name: self.model.expected[name].failures < MOST_FAILURES)
        pod = self.world.find_pod(name) if name else None
        if name and pod:
            self.model.expected[name].failures += 1
            pod_name = pod.metadata.name
            await self.world.persist(
                lambda: self.world.stage.delete(PODS, pod_name, grace_seconds=0)
            )

    async def lose_child(self) -> None:
        if name := self._pick():
            kind = self.rng.choice((SERVICES, ROUTES))
            await self.world.persist(lambda: self.world.stage.delete(kind, name))

    async def edit_template(self) -> None:
        kind = self.rng.choice(("plain", "pooled"))
        image = f"registry.example.com/desktop:{self.rng.randrange(10**6)}"
        name = self.world.templates[kind]
        spec = {"spec": {"image": image, "prePull": self.rng.random() < 0.5}}
        await self.world.persist(
            lambda: self.world.stage.api.patch(TEMPLATES, name, spec, into=dict)
        )

    async def scale_pool(self) -> None:
        self.model.pool_size = self.rng.randrange(6)
        spec = {"spec": {"replicas": self.model.pool_size}}
        await self.world.persist(
            lambda: self.world.stage.api.patch(POOLS, self.world.pools[0], spec, into=dict)
        )

    async def cordon(self) -> None:
        await self._cordon(closed=True)

    async def uncordon(self) -> None:
        await self._cordon(closed=False)

    async def _cordon(self, *, closed: bool) -> None:
        name = f"{self.world.stage.namespace}-gpus"
        spec = {"spec": {"unschedulable": closed}}
        await self.world.persist(lambda: self.world.stage.api.patch(NODES, name, spec, into=dict))

    async def storm(self) -> None:
        for faults in self.faults:
            faults.rate = self.rng.choice((0.02, 0.05, 0.1, 0.2))

    async def calm(self) -> None:
        for faults in self.faults:
            faults.rate = 0.0

    async def cut_watches(self) -> None:
        self.rng.choice(self.replicas).proxy.cut_watches()

    async def kill(self) -> None:
        await self.rng.choice(self.replicas).kill()

    async def freeze(self) -> None:
        await self.rng.choice(self.replicas).freeze()

    async def stop(self) -> None:
        await self.rng.choice(self.replicas).stop()

    async def revive(self) -> None:
        for replica in self.replicas:
            await replica.start()

    async def kill_api_server(self) -> None:
        self.machine.kill("kube-apiserver")

    async def kill_etcd(self) -> None:
        self.machine.kill("etcd")

    def _pick(self, fits: Callable[[str], bool] = lambda _: True) -> str | None:
        """One of the model's sessions; the choice depends on nothing but the seed and the model."""
        names = sorted(name for name in self.model.expected if fits(name))
        return self.rng.choice(names) if names else None

"""The desired state, from people's requests alone; compared with the cluster when it is at rest."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from chaos.checker import Checker
from chaos.world import GPUS, ChaosWorld
from vdi.api.session import VDISession

WHOLE = {"Pod": 1, "Service": 1, "IngressRoute": 1}


@dataclass
class ExpectedSession:
    """One session as its owner wants it."""

    kind: str
    user: str
    suspended: bool = False
    # Its time is over as soon as it has run for a second.
    expiring: bool = False
    # How often it was made to fail.
    failures: int = 0


class Model:
    """Writes to the API server and remembers what it has written."""

    def __init__(self, world: ChaosWorld) -> None:
        self.expected: dict[str, ExpectedSession] = {}
        self.gone: set[str] = set()
        self.pool_size = 3
        self._world = world

    async def create(self, name: str, kind: str, user: str, priority: int) -> None:
        await self._world.create(name, self._world.templates[kind], user=user, priority=priority)
        self.expected[name] = ExpectedSession(kind, user)

    async def delete(self, name: str) -> None:
        await self._world.delete(name)
        self.gone.add(name)
        del self.expected[name]

    async def suspend(self, name: str, *, suspended: bool) -> None:
        if await self._world.edit(name, suspended=suspended):
            self.expected[name].suspended = suspended

    async def expire(self, name: str) -> None:
        if await self._world.edit(name, timeout="1s"):
            self.expected[name].expiring = True

    def differences(self) -> list[str]:
        """Differences between cluster and desired state; empty when all is well."""
        self._forget_expired()
        checker = self._world.checker
        present = {session.metadata.name: session for session in checker.sessions.values()}
        wrong = [
            f"{name}: is there, though deleted: {_left(checker, present[name])}"
            for name in present
            if name in self.gone
        ]
        wrong += [f"{name}: is lost" for name in self.expected if name not in present]
        for name, expected_session in self.expected.items():
            if name in present:
                wrong += self._compare(name, expected_session, present[name])
        wrong += self._compare_groups(present)
        return [*wrong, *self._compare_pool()]

    def _compare_pool(self) -> Iterator[str]:
        """As many as its spec says; fewer where somebody waits, who could use a node that the pool
        could use too.
        """
        checker, name = self._world.checker, self._world.pools[0]
        found, pool = self._world.waiting_in(name), self._world.checker.pools.get("", name)
        people_wait = any(session.status.queue for session in checker.sessions.values())
        if found > self.pool_size or (found < self.pool_size and not people_wait):
            yield f"pool: {found} of {self.pool_size} ready: {pool and (pool.spec, pool.status)}"

    def _forget_expired(self) -> None:
        """A session whose time was over is gone by itself (its deletion may be seen at any
        time).
        """
        for name, expected_session in list(self.expected.items()):
            session = self._world.session(name)
            if expected_session.expiring and expected_session.kind == "resting":
                expected_session.suspended = expected_session.suspended or (
                    session is not None and session.spec.suspended
                )
            elif expected_session.expiring and session is None:
                self.gone.add(name)
                del self.expected[name]

    def _compare(
        self, name: str, expected_session: ExpectedSession, session: VDISession
    ) -> Iterator[str]:
        phase, found = session.status.phase, self._world.checker.children_of(session)
        if expected_session.suspended:
            if phase != "Suspended" or found["Pod"] or found["IngressRoute"]:
                yield f"{name} ({expected_session.kind}): {phase} with {found}, should be Suspended"
        elif phase == "Running":
            if expected_session.expiring:
                yield f"{name} ({expected_session.kind}): runs, though its time is over"
            elif {kind: found[kind] for kind in WHOLE} != WHOLE or not 1 <= found["Secret"] <= 2:
                yield f"{name} ({expected_session.kind}): runs with {found}"
        elif not (
            phase == "Pending" and not found["Pod"] and expected_session.kind in ("gpu", "homely")
        ):
            yield (
                f"{name} ({expected_session.kind}): {phase} with {found}: {session.status.message}"
            )

    def _compare_groups(self, present: dict[str, VDISession]) -> Iterator[str]:
        """Sessions that compete for one resource: as many run as can, and not one more."""
        groups: dict[str, list[VDISession]] = defaultdict(list)
        for name, expected_session in self.expected.items():
            if (
                name in present
                and not expected_session.suspended
                and expected_session.kind in ("gpu", "homely")
            ):
                groups[
                    "GPUs" if expected_session.kind == "gpu" else f"home of {expected_session.user}"
                ].append(present[name])
        for thing, sessions in groups.items():
            runs = [
                session.metadata.name for session in sessions if session.status.phase == "Running"
            ]
            most = GPUS if thing == "GPUs" else 1
            if len(runs) != min(most, len(sessions)):
                waits = [
                    f"{session.metadata.name}: {session.status.message}"
                    for session in sessions
                    if session.metadata.name not in runs
                ]
                yield f"{thing}: {len(runs)} of {len(sessions)} run ({most} can): {waits[:4]}"
        places = sorted(one.status.queue.position for one in groups["GPUs"] if one.status.queue)
        if places != list(range(1, len(places) + 1)):
            yield f"places in the queue: {places}"


def _left(checker: Checker, session: VDISession) -> str:
    """The reason why a session that should be gone is still there."""
    metadata = session.metadata
    pods = [
        (pod.metadata.name, pod.leaving) for pod in checker.pods.by_index("session", metadata.uid)
    ]
    return (
        f"uid {metadata.uid}, version {metadata.resource_version}, deleted"
        f" {metadata.deletion_timestamp or 'never'}, finalizers {metadata.finalizers},"
        f" {session.status.phase} {session.status.message!r}, {checker.children_of(session)}, pods"
        f" (name, leaving) {pods}"
    )

"""The flows of a session's life: how each is prepared, set off, and seen to have ended well."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from chaos.world import GPUS, ChaosWorld
from support.waiting import eventually
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.resource import CLAIMS, PODS, SECRETS

Step = Callable[[ChaosWorld, str], Awaitable[None]]
RUNS = {"Pod": 1, "Service": 1, "Secret": 1, "IngressRoute": 1}
# Less than the pool has: each finds a ready desktop, however late it comes.
_CLAIMS_AT_ONCE = 20
_PLAIN: dict[str, Any] = {"resources": {"defaultGPU": 0}, "persistence": {"enabled": False}}


@dataclass(frozen=True)
class Flow:
    """`prepare` without faults, then `act`, and `settle` waits for the end and checks it."""

    name: str
    prepare: Step
    act: Step
    settle: Step
    # How many go side by side: enough to meet each other, few enough for two cores.
    at_once: int = 40
    # The garbage collector does the same work: the operator's calls may find nothing left to do, or
    # not be made.
    helped: bool = False

    async def play(self, world: ChaosWorld, name: str) -> None:
        """From setting it off to its end."""
        await self.act(world, name)
        await self.settle(world, name)


async def nothing(_world: ChaosWorld, _name: str) -> None:
    """Nothing to prepare."""


async def create_plain(world: ChaosWorld, name: str) -> None:
    await world.create(name, await world.plain())


async def create_homely(world: ChaosWorld, name: str) -> None:
    await world.create(name, await world.homely())


async def start_plain(world: ChaosWorld, name: str) -> None:
    await create_plain(world, name)
    await world.reach(name, "Running")


async def start_homely(world: ChaosWorld, name: str) -> None:
    await create_homely(world, name)
    await world.reach(name, "Running")


async def delete(world: ChaosWorld, name: str) -> None:
    await world.delete(name)


async def time_is_over(world: ChaosWorld, name: str) -> None:
    await world.edit(name, timeout="1s")


async def runs(world: ChaosWorld, name: str) -> None:
    """One desktop, and one of each child."""
    session = await world.reach(name, "Running", 120)

    def complete() -> bool:
        found = world.checker.children_of(session)
        return {kind: found[kind] for kind in RUNS} == RUNS

    await eventually(complete, f"{name} has one of each", 60)


async def is_gone(world: ChaosWorld, name: str) -> None:
    """Gone; that it left nothing is seen for all at once."""
    await world.gone(name, 120)


async def is_gone_but_for_its_home(world: ChaosWorld, name: str) -> None:
    await world.gone(name, 120)
    homes = world.checker.children[CLAIMS.kind].values()
    users = [home.metadata.annotations.get("vdi.kasm.io/user") for home in homes]
    assert users.count(world.users[name]) == 1, f"{name}: its home is gone, or there are two"


async def suspend(world: ChaosWorld, name: str) -> None:
    await world.edit(name, suspended=True)


async def suspend_it(world: ChaosWorld, name: str) -> None:
    await start_homely(world, name)
    await suspend(world, name)
    await is_suspended(world, name)


async def resume(world: ChaosWorld, name: str) -> None:
    await world.edit(name, suspended=False)


async def is_suspended(world: ChaosWorld, name: str) -> None:
    """No desktop and no way to it; the rest stays."""
    session = await world.reach(name, "Suspended", 120)
    await eventually(
        lambda: (
            world.checker.children_of(session)["Pod"]
            == world.checker.children_of(session)["IngressRoute"]
            == 0
        ),
        f"{name}: pod and route are gone",
    )
    found = world.checker.children_of(session)
    assert (found["Service"], found["Secret"]) == (1, 1), f"{name}: {found}"


async def start_to_be_suspended(world: ChaosWorld, name: str) -> None:
    await world.create(name, await world.resting())
    await world.reach(name, "Running")


async def is_left_idle(world: ChaosWorld, name: str) -> None:
    await world.edit(name, idleTimeout="4s")


async def restart(world: ChaosWorld, name: str) -> None:
    world.notes[name] = world.pod(name).metadata.uid
    stamp = {"metadata": {"annotations": {"vdi.kasm.io/restartedAt": "2026-11-20T08:00:00Z"}}}
    await world.persist(lambda: world.stage.patch(SESSIONS, name, stamp))


async def fail(world: ChaosWorld, name: str) -> None:
    pod = world.pod(name)
    world.notes[name] = pod.metadata.uid
    await world.kubelet.fail(pod.metadata.name)


async def lose_the_pod(world: ChaosWorld, name: str) -> None:
    pod = world.pod(name)
    world.notes[name] = pod.metadata.uid
    await world.persist(lambda: world.stage.delete(PODS, pod.metadata.name, grace_seconds=0))


async def runs_again(world: ChaosWorld, name: str) -> None:
    """Another pod, the same everything else."""

    def renewed() -> bool:
        pod = world.find_pod(name)
        return pod is not None and pod.metadata.uid != world.notes[name]

    await eventually(renewed, f"{name} has another pod", 120)
    await runs(world, name)


async def await_pool(world: ChaosWorld, name: str) -> None:
    pool = f"{world.stage.namespace}-pool"
    await world.pooled()
    await eventually(
        lambda: world.waiting_in(pool) >= _CLAIMS_AT_ONCE, f"{pool} has desktops for all", 60
    )


async def claim(world: ChaosWorld, name: str) -> None:
    await world.create(name, await world.pooled())


async def is_claimed(world: ChaosWorld, name: str) -> None:
    """It runs on a desktop of the pool, and its Secret is that of the desktop."""
    await runs(world, name)
    pod = world.pod(name).metadata.name
    assert pod != name, f"{name} has a desktop of its own"
    own, kept = [await world.stage.get(SECRETS, f"{owner}-auth") for owner in (name, pod)]
    assert own and kept and own["data"] == kept["data"], f"{name}: its Secret is not that of {pod}"


async def make_pool(world: ChaosWorld, name: str) -> None:
    await world.pool(name, await world.plain(), 2)


async def pool_is_full(world: ChaosWorld, name: str) -> None:
    """Two desktops, each with its Secret, and no third."""
    await eventually(lambda: world.waiting_in(name) == 2, f"{name} has two desktops", 120)
    try:
        await eventually(
            lambda: world.members_of(name) == (2, 2), f"{name}: desktops, Secrets", 120
        )
    except AssertionError as late:
        raise AssertionError(f"{late}: {world.members_of(name)}") from None


async def fill_pool(world: ChaosWorld, name: str) -> None:
    await make_pool(world, name)
    await pool_is_full(world, name)


async def drop_pool(world: ChaosWorld, name: str) -> None:
    await world.persist(lambda: world.stage.api.delete(POOLS, name, into=dict))


async def pool_is_gone(world: ChaosWorld, name: str) -> None:
    await eventually(lambda: world.members_of(name) == (0, 0), f"{name} has left nothing", 120)


async def wait_in_queue(world: ChaosWorld, name: str) -> None:
    """All GPUs are taken by holders; this session waits, or has just got what another holder gave
    back.
    """
    template = await world.with_gpu()
    holder = f"hold-{name}"
    await world.create(holder, template, priority=1000)
    await world.reach(holder, "Running")
    await world.create(name, template)

    def decided() -> bool:
        session = world.session(name)
        return session is not None and (
            session.status.queue is not None or session.status.phase == "Running"
        )

    await eventually(decided, f"{name} waits in the queue", 60)


async def free_a_slot(world: ChaosWorld, name: str) -> None:
    await world.delete(f"hold-{name}")


async def is_admitted(world: ChaosWorld, name: str) -> None:
    await runs(world, name)
    session = world.session(name)
    assert session and session.status.queue is None, f"{name} runs and still stands in the queue"
    await world.delete(name)
    await world.gone(name)


async def want_image(world: ChaosWorld, name: str) -> None:
    await world.template(name, **_PLAIN, image=f"registry.example.com/{name}:1", prePull=True)


async def is_pulled(world: ChaosWorld, name: str) -> None:
    """On every node, and the pullers are gone."""

    async def pulled() -> bool:
        found = await world.persist_get(TEMPLATES, world.templates[name])
        conditions = ((found or {}).get("status") or {}).get("conditions") or ()
        return any(
            condition["reason"] == "Pulled" for condition in conditions
        ) and not world.pullers_of(world.templates[name])

    await eventually(pulled, f"{name}: its image is everywhere", 120)


async def pull_image(world: ChaosWorld, name: str) -> None:
    await want_image(world, name)
    await is_pulled(world, name)


async def change_image(world: ChaosWorld, name: str) -> None:
    spec = {"spec": {"image": f"registry.example.com/{name}:2"}}
    await world.persist(
        lambda: world.stage.api.patch(TEMPLATES, world.templates[name], spec, into=dict)
    )


async def is_pulled_again(world: ChaosWorld, name: str) -> None:
    async def about_the_new_one() -> bool:
        found = await world.persist_get(TEMPLATES, world.templates[name])
        return bool(found and found["status"]["prePull"]["image"].endswith(":2"))

    await eventually(about_the_new_one, f"{name}: the status is about the new image", 60)
    await is_pulled(world, name)


FLOWS: tuple[Flow, ...] = (
    Flow("create", nothing, create_plain, runs),
    Flow("create-home", nothing, create_homely, runs),
    Flow("delete", start_homely, delete, is_gone_but_for_its_home),
    Flow("suspend", start_homely, suspend, is_suspended),
    Flow("resume", suspend_it, resume, runs),
    Flow("timeout", start_plain, time_is_over, is_gone),
    Flow("timeout-suspend", start_to_be_suspended, time_is_over, is_suspended),
    Flow("idle", start_plain, is_left_idle, is_suspended),
    Flow("restart", start_homely, restart, runs_again),
    Flow("fail", start_homely, fail, runs_again),
    Flow("lose", start_homely, lose_the_pod, runs_again),
    Flow("claim", await_pool, claim, is_claimed, at_once=_CLAIMS_AT_ONCE),
    Flow("pool-fill", nothing, make_pool, pool_is_full),
    Flow("pool-drop", fill_pool, drop_pool, pool_is_gone, helped=True),
    Flow("queue", wait_in_queue, free_a_slot, is_admitted, at_once=GPUS),
    Flow("prepull", nothing, want_image, is_pulled),
    Flow("prepull-again", pull_image, change_image, is_pulled_again),
)

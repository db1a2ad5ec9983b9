"""The flows of a session's life: how each is prepared, set off, and seen to have ended well."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.world import World
from vdi.kube.resource import CLAIMS

Step = Callable[[World, str], Awaitable[None]]
RUNS = {"Pod": 1, "Service": 1, "Secret": 1, "IngressRoute": 1}


@dataclass(frozen=True)
class Flow:
    """`prepare` without faults, then `act`, and `settle` waits for the end and checks it."""

    name: str
    prepare: Step
    act: Step
    settle: Step

    async def play(self, world: World, name: str) -> None:
        """From setting it off to its end."""
        await self.act(world, name)
        await self.settle(world, name)


async def nothing(_world: World, _name: str) -> None:
    """Nothing to prepare."""


async def create_plain(world: World, name: str) -> None:
    await world.create(name, await world.plain())


async def create_homely(world: World, name: str) -> None:
    await world.create(name, await world.homely())


async def start_plain(world: World, name: str) -> None:
    await create_plain(world, name)
    await world.reach(name, "Running")


async def start_homely(world: World, name: str) -> None:
    await create_homely(world, name)
    await world.reach(name, "Running")


async def delete(world: World, name: str) -> None:
    await world.delete(name)


async def time_is_over(world: World, name: str) -> None:
    await world.edit(name, timeout="1s")


async def runs(world: World, name: str) -> None:
    """One desktop, and one of each child."""
    session = await world.reach(name, "Running", 120)
    found = world.checker.children_of(session)
    assert {kind: found[kind] for kind in RUNS} == RUNS, f"{name}: {found}"


async def is_gone(world: World, name: str) -> None:
    """Gone; that it left nothing is seen for all at once."""
    await world.gone(name, 120)


async def is_gone_but_for_its_home(world: World, name: str) -> None:
    await world.gone(name, 120)
    homes = world.checker.children[CLAIMS.kind].values()
    users = [home.metadata.annotations.get("vdi.kasm.io/user") for home in homes]
    assert users.count(world.users[name]) == 1, f"{name}: its home is gone, or there are two"


FLOWS: tuple[Flow, ...] = (
    Flow("create", nothing, create_plain, runs),
    Flow("create-home", nothing, create_homely, runs),
    Flow("delete", start_homely, delete, is_gone_but_for_its_home),
    Flow("timeout", start_plain, time_is_over, is_gone),
)

"""Leader election: never two leaders at once, whatever is lost, late, stolen or stopped; and a new
one soon.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.clock import FakeClock, settle
from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, refusal
from unit.kube.kube_lease_world import LeaseSimulation
from unit.kube.kube_things import THINGS, Thing, requested
from vdi.kube.errors import ConnectionFailed, Forbidden, NotLeader
from vdi.kube.lease import DEFAULT_LEASE_TIMING, Elector
from vdi.kube.transport import NO_RETRY, Client

TIMING = DEFAULT_LEASE_TIMING
ACTIONS = (
    "tick",
    "tick",
    "begin",
    "begin",
    "execute",
    "execute",
    "deliver",
    "deliver",
    "deliver",
    "lose",
    "stray",
)
RARE = ("restart", "release", "jump", "calm")


@given(
    rates=st.tuples(*[st.sampled_from((0.97, 1.0, 1.03))] * 3),
    story=st.lists(
        st.tuples(st.sampled_from(ACTIONS * 3 + RARE), st.integers(0, 2), st.floats(0.05, 6.0)),
        max_size=150,
    ),
)
def test_no_two_ever_write_at_the_same_time(
    rates: tuple[float, ...], story: list[tuple[str, int, float]]
) -> None:
    world = LeaseSimulation(rates)
    world.live(3)
    for action, number, amount in story:
        process = world.processes[number]
        match action:
            case "tick":
                world.time += amount
            case "begin":
                process.begin()
            case "execute":
                process.execute()
            case "deliver":
                process.deliver()
            case "lose":
                process.deliver(lost=True)
            case "stray" if world.strays:
                world.serve(world.strays.pop(number % len(world.strays)))
            case "restart":
                world.restart(number)
            case "release":
                process.release()
            case "jump":
                process.clock.wall_jump += timedelta(seconds=amount * 1000 - 3000)
            case "calm":
                world.live(amount, number)
            case "stray":
                pass  # none is under way
            case _:
                raise AssertionError(action)
        world.write_all()
    for number, process in enumerate(world.processes):
        if process.over:
            world.restart(number)
    terms = len(world.terms)
    world.live(30)
    assert len(world.terms) >= max(1, terms), "somebody leads in the end"
    assert sum(process.elector.leads for process in world.processes) == 1


def test_the_first_leads_at_once_and_the_second_waits() -> None:
    world = LeaseSimulation()
    world.live(0.3, 0)
    assert world.terms == ["p0-1"]
    world.live(30)
    assert world.terms == ["p0-1"]
    assert not world.processes[1].elector.leads
    assert world.processes[1].elector.holder == "p0-1"


def test_killed_leader_is_replaced_when_its_lease_has_expired() -> None:
    world = LeaseSimulation()
    world.live(5)
    killed = world.time
    while len(world.terms) < 2:
        world.live(0.2, 1)
    assert world.terms == ["p0-1", "p1-2"]
    assert TIMING.deadline < world.time - killed < 13
    assert world.lease is not None
    assert world.lease["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("said", [1, 86400, None])
def test_dead_holder_keeps_the_lease_for_our_own_duration(said: int | None) -> None:
    world = LeaseSimulation(rates=(1.0,))
    spec = {
        "holderIdentity": "x",
        "leaseDurationSeconds": said,
        "renewTime": "2099-01-01T00:00:00.000000Z",
    }
    world.lease = {"metadata": {"resourceVersion": "0"}, "spec": spec}
    world.live(TIMING.duration - 0.5)
    assert world.terms == []
    world.live(2)
    assert world.terms == ["p0-1"]


def test_released_lease_is_taken_at_the_next_look() -> None:
    world = LeaseSimulation()
    world.live(5)
    world.processes[0].release()
    world.processes[0].execute()
    world.processes[0].deliver()
    world.live(1.5, 1)
    assert world.terms == ["p0-1", "p1-2"]


def test_release_follows_a_renewal_without_an_answer() -> None:
    world = LeaseSimulation(rates=(1.0,))
    world.live(5)
    process = world.processes[0]
    process.wait_for_request()
    process.execute()
    process.release()
    for _ in range(3):  # conflict, look, given back
        process.execute()
        process.deliver()
    assert world.lease is not None
    assert world.lease["spec"]["holderIdentity"] == ""


def test_lost_answers_to_renewal_and_takeover_do_no_harm() -> None:
    world = LeaseSimulation()
    for _ in range(2):
        for number in (0, 1):
            process = world.processes[number]
            process.wait_for_request()
            process.execute()
            process.deliver(lost=True)
        world.live(4)
    assert world.terms == ["p0-1"]
    assert world.processes[0].elector.leads


def test_a_slow_api_does_not_cost_the_lease() -> None:
    world = LeaseSimulation()
    world.live(1, 0)
    world.live(60, latency=3.0)
    assert world.terms == ["p0-1"]
    assert world.processes[0].elector.leads


def test_failed_renewals_stop_writes_until_the_next_success() -> None:
    world = LeaseSimulation(rates=(1.0,))
    world.live(3)
    elector = world.processes[0].elector
    world.time += TIMING.deadline
    with pytest.raises(NotLeader, match="last renewed"):
        elector.allowance()
    world.time += 3600
    world.live(0.2)
    assert elector.leads
    assert world.terms == ["p0-1"]


def test_a_write_may_never_outlast_the_lease() -> None:
    world = LeaseSimulation(rates=(1.0,))
    world.live(0.3)
    elector = world.processes[0].elector
    assert elector.age is not None
    world.time += 6.5 - elector.age
    assert elector.allowance() == pytest.approx(TIMING.last_word - 6.5)
    world.time += 0.6
    with pytest.raises(NotLeader):
        elector.allowance()


def test_renewal_counts_from_when_it_was_sent() -> None:
    world = LeaseSimulation(rates=(1.0,))
    world.live(0.3)
    process = world.processes[0]
    process.wait_for_request()
    process.execute()
    world.time += 4.0
    process.deliver()
    assert process.elector.age == pytest.approx(4.0)


def test_forward_jump_of_the_wall_clock_stops_writes() -> None:
    """A machine that slept: its monotonic clock has not noticed."""
    world = LeaseSimulation(rates=(1.0,))
    world.live(3)
    process = world.processes[0]
    process.clock.wall_jump += timedelta(hours=1)
    assert not process.elector.leads
    world.live(3)
    assert process.elector.leads
    process.clock.wall_jump -= timedelta(hours=2)
    assert process.elector.leads
    assert process.elector.age is not None
    world.time += TIMING.deadline
    assert not process.elector.leads


def test_deleted_lease_is_not_taken_before_its_holder_stops() -> None:
    world = LeaseSimulation()
    world.live(3)
    world.lease = None
    deleted = world.time
    while len(world.terms) < 2:
        world.live(0.2, 1)
    assert world.time - deleted > TIMING.deadline


def test_a_deleted_lease_ends_its_holders_candidacy() -> None:
    world = LeaseSimulation()
    world.live(3)
    world.lease = None
    world.live(3, 0)
    assert world.processes[0].over
    assert not world.processes[0].elector.leads


def test_holder_that_returns_after_another_term_has_lost() -> None:
    world = LeaseSimulation()
    world.live(3)
    world.live(14, 1)
    assert world.terms == ["p0-1", "p1-2"]
    world.live(3)
    assert world.processes[0].over
    assert world.processes[0].elector.holder == "p1-2"
    with pytest.raises(NotLeader, match="held by p1-2"):
        world.processes[0].elector.allowance()


# -- over HTTP, on an event loop


@asynccontextmanager
async def electing(api: FakeApi, clock: FakeClock, identity: str = "me") -> AsyncIterator[Elector]:
    """An elector at work, with its own client."""
    async with Client(api.config(), field_manager="t", retry=NO_RETRY, clock=clock) as client:
        elector = Elector(client, namespace="ns", name="lease", identity=identity, clock=clock)
        task = asyncio.create_task(elector.run())
        try:
            yield elector
        finally:
            task.cancel()


async def test_over_http_one_leads_renews_and_hands_over(api: FakeApi) -> None:
    clock = FakeClock()
    async with electing(api, clock, "one") as one, electing(api, clock, "two") as two:
        await eventually(lambda: one.holder and two.holder, "both have looked")
        leader, other = (one, two) if one.leads else (two, one)
        assert not other.leads
        renewals = api.count("PATCH")
        await clock.advance(TIMING.renew)
        await eventually(lambda: api.count("PATCH") > renewals, "a renewal")
        spec = api.objects["leases", "ns", "lease"]["spec"]
        assert spec["holderIdentity"] == leader.identity
        assert spec["renewTime"] > spec["acquireTime"]
        assert spec["leaseDurationSeconds"] == 10
        await leader.release()
        assert not leader.leads
        await clock.advance(TIMING.look)
        await asyncio.wait_for(other.wait_leading(), PATIENCE)


async def test_refused_write_renews_the_lease_at_once(api: FakeApi) -> None:
    clock = FakeClock()
    async with electing(api, clock) as elector:
        await asyncio.wait_for(elector.wait_leading(), PATIENCE)
        clock.wall += timedelta(hours=1)
        with pytest.raises(NotLeader):
            elector.allowance()
        await asyncio.wait_for(elector.wait_leading(), PATIENCE)
        assert elector.allowance() > TIMING.deadline


async def test_refusal_is_logged_once_and_kept_for_the_probe(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    api.faults = [("GET", refusal(403, "Forbidden")) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        async with electing(api, clock) as elector:
            await eventually(lambda: elector.last_error, "the refusal was noticed")
            assert isinstance(elector.last_error, Forbidden)
            for _ in range(3):
                await settle()
                sent = api.count("GET")
                await clock.advance(TIMING.look)
                await eventually(
                    partial(lambda sent: api.count("GET") > sent, sent), "another look"
                )
            await asyncio.wait_for(elector.wait_leading(), PATIENCE)
            assert elector.last_error is None
    assert len([record for record in caplog.records if "lease" in record.message]) == 1


async def test_write_without_the_lease_is_not_sent(api: FakeApi) -> None:
    def shut() -> float:
        raise NotLeader("somebody else leads")

    async with Client(api.config(), field_manager="t", lease_guard=shut) as client:
        api.put("things", "a")
        assert await client.get(THINGS, "a", namespace="ns", into=Thing)
        for write in (
            client.create(THINGS, requested("b"), namespace="ns", into=Thing),
            client.patch(THINGS, "a", {"size": 2}, namespace="ns", into=Thing),
            client.apply(THINGS, "a", requested("a"), namespace="ns", into=Thing),
            client.delete(THINGS, "a", namespace="ns", into=Thing),
        ):
            with pytest.raises(NotLeader):
                await write
    assert [request[0] for request in api.requests] == ["GET"]


async def test_lease_lost_while_connecting_stops_the_write(api: FakeApi) -> None:
    looks = 0

    def closing() -> float:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise NotLeader("somebody else leads by now")
        return 9.0

    async with Client(api.config(), field_manager="t", lease_guard=closing) as client:
        with pytest.raises(NotLeader):
            await client.create(THINGS, requested("b"), namespace="ns", into=Thing)
    assert looks > 1
    assert api.requests == []


async def test_a_write_is_given_up_when_its_allowance_is_spent(api: FakeApi) -> None:
    async def never(_request: Any) -> None:
        await asyncio.sleep(5)

    async with Client(
        api.config(), field_manager="t", lease_guard=lambda: 0.05, retry=NO_RETRY
    ) as client:
        api.faults = [("POST", never)]
        with pytest.raises(ConnectionFailed):
            await client.create(THINGS, requested("b"), namespace="ns", into=Thing)

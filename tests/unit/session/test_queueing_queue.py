"""Never over capacity, never starving, in the order that was promised."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as some

from support.builders import GPU, a_node
from unit.session.queueing_world import (
    MINUTE,
    QueueSimulation,
    a_demand,
    a_room,
    a_waiter,
    pinned_to,
)
from vdi.cluster.capacity import Demand, read_capacity
from vdi.session.queueing.groups import AGEING, GroupQueue, PendingSession, sort_pending
from vdi.session.queueing.queue import BACKFILL_TIMEOUT, Grant, Queue


def a_world(
    *capacities: str, weights: dict[str, float] | None = None, **has: str
) -> QueueSimulation:
    world = QueueSimulation(Queue(weights))
    for name in capacities or ("n1",):
        world.queue.set_node(a_room(name, **has))
    return world


def full_world(user: str = "filler") -> QueueSimulation:
    """One node with 8 GPUs, and 8 desktops on it: r0 to r7."""
    world = a_world()
    for number in range(8):
        assert world.arrive(a_waiter(f"r{number}", user=user.format(number)))
    return world


def granted(grants: list[Grant]) -> list[str]:
    return [grant.pending.uid for grant in grants]


def test_a_point_of_priority_is_worth_ten_minutes() -> None:
    for wait, first in ((AGEING - 1, "important"), (AGEING, "early")):
        world = full_world()
        world.arrive(a_waiter("early", 0))
        world.pass_time(wait)
        world.arrive(a_waiter("important", wait, priority=1))
        assert granted(world.end("r0")) == [first]


def test_weights_scale_the_shares() -> None:
    world = a_world(weights={"big@x.yz": 4.0, "small@x.yz": 1.0})
    for number in range(3):
        world.arrive(a_waiter(f"big{number}", user="big@x.yz"))
    world.arrive(a_waiter("small0", user="small@x.yz"))
    for number in range(4):
        world.arrive(a_waiter(f"filler{number}", user="filler"))
    world.arrive(a_waiter("small1", 0, user="small@x.yz"))  # has 1 per weight
    world.arrive(a_waiter("big3", 1000, user="big@x.yz"))  # has 3/4 per weight
    assert granted(world.end("filler0")) == ["big3"]


def test_closed_nodes_take_no_session_until_they_open() -> None:
    for shut in (a_node("n1", unschedulable=True), a_node("n1", ready=False)):
        world = QueueSimulation(Queue())
        world.queue.set_node(read_capacity(shut))
        assert world.arrive(a_waiter("one")) == []
        world.queue.set_node(read_capacity(a_node("n1")))
        assert granted(world.settle()) == ["one"]


def test_pods_on_an_unknown_node_count_when_it_appears() -> None:
    world = QueueSimulation(Queue())
    world.queue.bind("theirs", "n1", {GPU: 8}, foreign=True, now=0)
    world.queue.set_node(a_room("n1"))
    assert world.queue.grant(0) == []
    world.queue.enter(a_waiter("one"), 0)
    assert world.queue.grant(0) == []
    world.queue.remove("theirs", 0)
    assert granted(world.settle()) == ["one"]


def test_large_demand_is_not_starved_by_small_ones() -> None:
    world = full_world("u{}")
    world.arrive(a_waiter("large", 0, demand=a_demand(gpu=4)))
    world.arrive(a_waiter("small0", 1))
    assert granted(world.end("r0")) == ["small0"], (
        "gaps are used as long as nobody has lost patience"
    )
    world.pass_time(BACKFILL_TIMEOUT)
    for number in range(3):
        world.arrive(a_waiter(f"late{number}", world.now))
        assert world.end(f"r{number + 1}") == [], "what the large one needs is kept for it"
    assert granted(world.end("r4")) == ["large"]


def test_offered_gpus_are_those_that_start_at_once() -> None:
    """The number says for each smaller request what the queue then decides."""
    offered = []
    for taken, cpu, patient in ((5, 250, 0), (8, 250, 0), (5, 40_000, 0), (5, 250, 6), (5, 250, 3)):
        for gpu in (4, 3, 2, 1):
            world = a_world(gpu="8", cpu="32", memory="64Gi", pods="99")
            world.arrive(a_waiter("filler", demand=a_demand(gpu=taken)))
            if patient:  # what it lacks is kept for it
                world.arrive(
                    a_waiter("patient", 0, user="filler", priority=1, demand=a_demand(gpu=patient))
                )
                world.pass_time(BACKFILL_TIMEOUT)
            asks = a_waiter("asks", world.now, demand=a_demand(gpu=4, cpu=cpu))
            world.arrive(asks)
            number = world.queue.find_fewer_gpus(asks, world.now)
            starts = granted(world.arrive(replace(asks, demand=a_demand(gpu=gpu, cpu=cpu))))
            assert (starts == ["asks"]) == (gpu <= number), (taken, cpu, patient, gpu, number)
        offered.append(number)
    assert offered == [3, 0, 0, 0, 0]


def test_a_session_takes_less_of_what_is_kept_for_it() -> None:
    world = a_world(gpu="8")
    world.arrive(a_waiter("filler", demand=a_demand(gpu=6)))
    first, second = (
        a_waiter(uid, place, demand=a_demand(gpu=4))
        for place, uid in enumerate(("first", "second"))
    )
    world.arrive(first)
    world.arrive(second)
    world.pass_time(BACKFILL_TIMEOUT)
    assert [world.queue.find_fewer_gpus(each, world.now) for each in (first, second)] == [2, 0]


def test_reservation_leaves_other_resources_free() -> None:
    world = full_world()
    world.arrive(a_waiter("gpu", 0))
    world.pass_time(BACKFILL_TIMEOUT)
    assert granted(world.arrive(a_waiter("plain", world.now, demand=a_demand(gpu=0)))) == ["plain"]


def test_reservation_ends_when_its_session_leaves() -> None:
    world = full_world()
    world.arrive(a_waiter("large", 0, demand=a_demand(gpu=4)))
    world.pass_time(BACKFILL_TIMEOUT)
    world.arrive(a_waiter("small", world.now))
    assert world.end("r0") == []
    world.queue.leave("large", world.now)
    assert granted(world.settle()) == ["small"]


def test_reservation_ends_when_its_session_starts_elsewhere() -> None:
    world = a_world("n0", "n1", gpu="2")
    for name in ("n0", "n1"):
        world.arrive(a_waiter(f"on-{name}", demand=a_demand(pin=pinned_to(name))))
    world.arrive(a_waiter("large", 0, demand=a_demand(gpu=2)))
    world.pass_time(BACKFILL_TIMEOUT)  # n0 is kept for it
    assert world.arrive(a_waiter("small", world.now, demand=a_demand(pin=pinned_to("n0")))) == []
    assert granted(world.end("on-n1")) == ["large", "small"]


def test_session_that_moves_ahead_takes_the_reserved_node() -> None:
    world = a_world("n0", "n1", gpu="3")
    world.arrive(a_waiter("r0", user="patient", demand=a_demand(pin=pinned_to("n0"))))
    for uid in ("r1", "r2", "r3"):
        world.arrive(a_waiter(uid, user="greedy", demand=a_demand(pin=pinned_to("n1"))))
    world.arrive(a_waiter("large", 0, user="patient", demand=a_demand(gpu=3, pin=pinned_to("n0"))))
    world.pass_time(BACKFILL_TIMEOUT)
    small = a_waiter(
        "small", world.now, user="greedy", priority=1, demand=a_demand(pin=pinned_to("n0"))
    )
    assert world.arrive(small) == [], "with three desktops it comes after one with one desktop"
    assert [granted(world.end(uid)) for uid in ("r1", "r2", "r3")] == [[], [], ["small"]]


def test_second_reservation_binds_only_sessions_behind_it() -> None:
    world = a_world("n0", gpu="2")
    world.arrive(a_waiter("r0"))
    for uid, priority in (("important", 2), ("other", 0)):
        world.arrive(a_waiter(uid, 0, priority=priority, demand=a_demand(gpu=2)))
    world.pass_time(BACKFILL_TIMEOUT)
    assert world.arrive(a_waiter("small", world.now, priority=2)) == []
    world.queue.leave("important", world.now)
    assert granted(world.settle()) == ["small"]


def test_capacity_withheld_from_a_pool_goes_to_sessions() -> None:
    world = full_world()
    world.arrive(a_waiter("one"))
    assert granted(world.try_pool("pool-1", a_demand(), instead_of="r0")) == ["one"]
    assert "pool-1" not in world.running


def test_pools_get_only_capacity_that_no_session_needs() -> None:
    world = a_world()
    for number in range(7):
        world.arrive(a_waiter(f"r{number}"))
    world.arrive(a_waiter("large", demand=a_demand(gpu=2)))
    assert world.queue.try_bind("pool-1", a_demand(), world.now) is None
    world.queue.leave("large", world.now)
    assert world.queue.try_bind("pool-1", a_demand(), world.now) == "n1"
    assert world.queue.try_bind("pool-2", a_demand(), world.now) is None, "the eighth was the last"
    world.queue.enter(a_waiter("hopeless", demand=a_demand(gpu=9)), world.now)
    world.queue.remove("pool-1", world.now)
    assert world.queue.try_bind("pool-1", a_demand(), world.now) == "n1", (
        "who can never start blocks nobody"
    )


def test_pool_that_takes_nothing_sessions_lack_is_filled() -> None:
    world = full_world()
    world.arrive(a_waiter("wants-a-gpu"))
    assert world.queue.try_bind("cpu-pool", a_demand(gpu=0), world.now) == "n1"
    free = world.queue.capacities["n1"].free["cpu"]
    assert world.queue.try_bind("greedy-pool", a_demand(gpu=0, cpu=free - 249), world.now) is None
    assert world.queue.try_bind("modest-pool", a_demand(gpu=0, cpu=free - 250), world.now) == "n1"


def test_changed_request_keeps_its_waiting_time() -> None:
    world = full_world()
    world.arrive(a_waiter("one", 0))
    world.arrive(a_waiter("two", 1))
    world.arrive(a_waiter("one", 0, priority=-1))
    assert granted(world.end("r0") + world.end("r1")) == ["two", "one"]


def test_reserved_node_that_is_deleted_is_forgotten() -> None:
    world = a_world("n1", gpu="2")
    for name in ("r0", "r1"):
        world.arrive(a_waiter(name))
    world.arrive(a_waiter("small"))  # its line is there before the other's
    world.arrive(a_waiter("large", demand=a_demand(gpu=2), priority=1))
    world.pass_time(11 * MINUTE)
    assert world.end("r0") == [], "it is kept for the large one"
    world.queue.remove_node("n1")
    world.queue.tick(world.now)
    assert world.queue.grant(world.now) == []


def test_session_that_comes_back_waits_since_then() -> None:
    line = GroupQueue(lambda _: 0.0)
    line.add(a_waiter("back", 0), 0)
    line.add(a_waiter("other", 5 * MINUTE), 5 * MINUTE)
    line.remove("back", 6 * MINUTE)
    line.add(a_waiter("back", 7 * MINUTE), 7 * MINUTE)
    assert line.oldest() == 5 * MINUTE


DEMANDS = some.builds(
    lambda gpu, cpu, gib, pin: a_demand(
        gpu, cpu, gib * 2**30, **({"pin": pinned_to(pin)} if pin else {})
    ),
    some.integers(0, 4),
    some.sampled_from([250, 4000, 9000]),
    some.sampled_from([1, 16, 40]),
    some.sampled_from(["", "", "", "n0", "n1", "n9"]),
)
STEPS = some.lists(
    some.tuples(
        some.sampled_from(["arrive", "arrive", "end", "pool", "time", "leave", "node", "gone"]),
        some.integers(0, 40),
        DEMANDS,
        some.integers(-2, 2),
    ),
    max_size=60,
)


@given(STEPS)
def test_never_over_capacity_and_nothing_free_is_left(
    steps: list[tuple[str, int, Demand, int]],
) -> None:
    world = a_world("n0", "n1")
    for number, (what, which, demand, priority) in enumerate(steps):
        everybody = sorted(world.running)
        waiting = sorted(one.uid for one in world.queue)
        if what == "arrive":
            world.arrive(PendingSession(f"w{number}", f"u{which % 4}", priority, world.now, demand))
        elif what == "end" and everybody:
            world.end(everybody[which % len(everybody)])
        elif what == "pool":
            world.try_pool(
                f"p{number}",
                demand,
                instead_of=everybody[which % len(everybody)] if everybody else "",
            )
        elif what == "time":
            world.pass_time(which * MINUTE)
        elif what == "leave" and waiting:
            world.queue.leave(waiting[which % len(waiting)], world.now)
            world.settle()
        elif what == "node":
            world.queue.set_node(
                read_capacity(a_node(f"n{which % 3}", unschedulable=which % 2 == 0))
            )
            world.settle()
        elif what == "gone":
            world.lose_node(f"n{which % 3}")
        assert world.queue.grant(world.now) == [], "a decision is complete at once"
        world.queue.tick(world.now)
        assert world.queue.grant(world.now) == [], "time has not passed"
        _assert_work_conserving(world)


def _assert_work_conserving(world: QueueSimulation) -> None:
    """Whoever waits does not fit anywhere, but for what is kept for somebody who has waited
    long.
    """
    for group in world.queue.groups():
        for room in group.capacities.values():
            if not room.closed and room.fits(group.demand.takes):
                assert world.queue.holders(room.name, group), (
                    f"{room.name} has room for {group.demand}"
                )


@given(
    some.lists(
        some.tuples(some.integers(0, 3), some.integers(-3, 3), some.integers(0, 120)),
        min_size=1,
        max_size=40,
    ),
    some.lists(some.integers(0, 200), min_size=1, max_size=12),
    some.dictionaries(some.sampled_from(["u0", "u1", "u2"]), some.sampled_from([0.5, 1.0, 2.0])),
)
def test_group_queue_has_the_order_of_sorting(
    given_waiters: list[tuple[int, int, int]], times: list[int], weights: dict[str, float]
) -> None:
    running: dict[str, int] = {}
    line = GroupQueue(lambda user: running.get(user, 0) / weights.get(user, 1.0))
    pending_sessions = {}
    for number, (user, priority, since) in enumerate(given_waiters):
        pending = a_waiter(f"w{number:02}", since * MINUTE, user=f"u{user}", priority=priority)
        pending_sessions[pending.uid] = pending
        line.add(pending, 0)
    now = 120 * MINUTE
    for step in times:
        now += step * MINUTE
        expected = sort_pending(pending_sessions.values(), running, weights, now)[0]
        first = line.first(now)
        assert first is not None and first[1] == expected
        assert line.oldest() == min(
            pending_session.since for pending_session in pending_sessions.values()
        )
        line.remove(expected.uid, now)
        del pending_sessions[expected.uid]
        running[expected.user] = running.get(expected.user, 0) + 1
        line.share_changed(expected.user, now)
        if not pending_sessions:
            assert line.first(now) is None
            return


@given(
    some.lists(
        some.tuples(some.integers(1, 8), some.sampled_from([250, 8000])), min_size=1, max_size=6
    )
)
@settings(max_examples=15)
def test_no_session_starves_under_a_stream_of_newcomers(desired: list[tuple[int, int]]) -> None:
    """Every minute new desktops of other people come, small and more important; each runs for half
    an hour.
    """
    world = a_world("n0", "n1")
    patient = [
        a_waiter(f"p{i}", 0, demand=a_demand(gpu, cpu)) for i, (gpu, cpu) in enumerate(desired)
    ]
    ends: dict[str, int] = {}

    def note() -> None:
        for uid in world.running.keys() - ends.keys():
            ends[uid] = world.now + 30 * MINUTE

    for number in range(40):  # everything is full before the patient ones come
        world.arrive(a_waiter(f"first{number}", 0, demand=a_demand(1, 250)))
    for pending in patient:
        world.arrive(pending)
    note()
    newcomers = 0
    while any(one.uid not in ends for one in patient):
        assert world.now < 24 * 60 * MINUTE, "somebody starves"
        world.pass_time(MINUTE)
        for uid in [uid for uid, end in ends.items() if end <= world.now and uid in world.running]:
            world.end(uid)
            note()
        newcomers += 1
        world.arrive(a_waiter(f"new{newcomers}", world.now, priority=2))
        note()


@given(some.lists(some.integers(0, 2), min_size=6, max_size=30))
def test_slots_are_shared_evenly_between_users(users: list[int]) -> None:
    """Whoever waits with fewer desktops than somebody who was let in after the same moment has been
    passed over.
    """
    world = full_world()
    for number, user in enumerate(users):
        world.arrive(a_waiter(f"w{number:02}", number, user=f"u{user}"))
    for number in range(8):
        waiting_users = {one.user for one in world.queue}
        if not waiting_users:
            break
        counts = {
            user: sum(1 for one, _ in world.running.values() if one.user == user)
            for user in waiting_users
        }
        (grant,) = world.end(f"r{number}")
        assert counts[grant.pending.user] == min(counts.values())


@given(some.lists(some.tuples(some.integers(0, 2), some.integers(-1, 1)), min_size=1, max_size=20))
def test_reported_order_is_the_order_of_starts(pending_sessions: list[tuple[int, int]]) -> None:
    world = full_world()
    for number, (user, priority) in enumerate(pending_sessions):
        world.arrive(a_waiter(f"w{number:02}", number, user=f"u{user}", priority=priority))
    reported = [one.uid for one in world.queue.order(world.now)]
    started = [uid for number in range(8) for uid in granted(world.end(f"r{number}"))]
    assert started == reported[: len(started)]


def test_decision_without_free_capacity_looks_at_no_node() -> None:
    world = full_world()
    world.arrive(a_waiter("one"))

    class Trap(dict[str, int]):
        def get(self, *_: object) -> int:
            raise AssertionError("a node was looked at")

    world.queue.capacities["n1"].free = Trap()
    world.queue.enter(a_waiter("two"), 0)
    assert world.queue.grant(0) == []


@given(
    some.lists(some.integers(1, 4), min_size=1, max_size=4),
    some.lists(some.integers(0, 99), max_size=40),
)
def test_scheduler_may_choose_other_nodes_than_assumed(gpus: list[int], choices: list[int]) -> None:
    """Whatever it chooses, what was granted fits: it finds a node for every desktop, and none is
    granted too many.
    """
    queue = Queue()
    for number, gpu in enumerate(gpus):
        queue.set_node(a_room(f"n{number}", gpu=str(gpu)))
    unbound: list[str] = []
    bound: dict[str, str] = {}
    takes = dict(a_demand().takes)
    for number, choice in enumerate(choices):
        queue.enter(a_waiter(f"w{number}"), 0)
        for grant in queue.grant(0):
            assert queue.assume(
                f"pod/{grant.pending.uid}", a_demand(), takes, granted=grant.pending.uid, now=0
            )
            queue.remove(grant.pending.uid, 0)
            unbound.append(f"pod/{grant.pending.uid}")
        assert len(unbound) + len(bound) == min(number + 1, sum(gpus))
        if choice % 3 == 0:
            continue
        while unbound:
            pod = unbound.pop(choice % len(unbound))
            open_nodes = [
                f"n{i}" for i, gpu in enumerate(gpus) if list(bound.values()).count(f"n{i}") < gpu
            ]
            assert open_nodes, "granted more than there is"
            bound[pod] = open_nodes[choice % len(open_nodes)]
            queue.bind(pod, bound[pod], takes, now=0)
            assert queue.grant(0) == [] or len(unbound) + len(bound) < sum(gpus)

"""The work queue and the controller, in time that stands still."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from support.clock import FakeClock, settle
from support.waiting import PATIENCE
from vdi.kube.errors import Conflict, TooManyRequests
from vdi.kube.queue import GRAIN, Controller, Result, TerminalError, WorkQueue


@asynccontextmanager
async def at_work(controller: Controller[str], reconcile: Callable[[str], Awaitable[Result]]) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run(reconcile))
    await settle()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_in_the_queue_once() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    assert [await queue.take(), await queue.take()] == ["a", "b"]


async def test_a_key_added_while_worked_on_comes_once_more_and_not_before() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    await queue.take()
    queue.done("a")
    assert len(queue) == 0


async def test_what_is_urgent_is_handed_out_first_and_once() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    for key in "abcd":
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("c", urgent=True)
    queue.add("e", urgent=True)
    assert len(queue) == 5
    taken = [await queue.take() for _ in range(5)]
    assert taken == ["c", "e", "a", "b", "d"]
    assert len(queue) == 0
    queue.add("a")
    queue.add("b", urgent=True)
    assert len(queue) == 0, "they are being worked on"
    for one in taken:
        queue.done(str(one))
    assert [await queue.take(), await queue.take()] == ["b", "a"]


async def test_a_key_that_was_urgent_is_so_no_longer() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    queue.add("a")
    queue.add("a", urgent=True)
    assert await queue.take() == "a"
    queue.done("a")
    queue.add("b")
    queue.add("a")
    assert len(queue) == 2
    first, second = await queue.take(), await queue.take()
    assert {first, second} == {"a", "b"}, "the place that it had in the line may be used"
    assert len(queue) == 0
    waiting = asyncio.ensure_future(queue.take())
    await settle()
    assert not waiting.done(), "no key is handed out twice"
    queue.close()
    assert await waiting is None


async def test_delays_come_due_in_order_and_the_earliest_of_several_counts() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    timer = asyncio.create_task(queue.run_timer())
    queue.add_after("late", 10)
    queue.add_after("early", 5)
    queue.add_after("late", 20)
    queue.add_after("early", 3)
    await clock.advance(2.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await queue.take() == "early"
    queue.done("early")
    await clock.advance(7)
    assert await queue.take() == "late"
    queue.done("late")
    await clock.advance(30)
    assert len(queue) == 0, "the later time of a key that had two must not bring it again"
    timer.cancel()


async def test_a_look_that_a_key_gets_before_will_do() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    timer = asyncio.create_task(queue.run_timer())
    queue.requeue_within("a", 5)
    queue.requeue_within("a", 3)
    queue.add("a")
    assert await queue.take() == "a"
    queue.done("a")
    await clock.advance(10)
    assert len(queue) == 0
    queue.requeue_within("a", 5)
    queue.add_after("b", 7)
    queue.add("b")
    assert await queue.take() == "b"
    queue.done("b")
    await clock.advance(10)
    assert len(queue) == 2, "one that nobody looked at, and one that was wanted then, whatever happened before"
    timer.cancel()


async def test_times_that_no_longer_hold_are_not_kept_for_ever() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    for round_ in range(1000):
        queue.requeue_within("a", 9000 - round_)
        queue.add("a")
        await queue.take()
        queue.done("a")
    queue.requeue_within("b", 8)
    assert len(queue._heap) < 250
    timer = asyncio.create_task(queue.run_timer())
    await clock.advance(9)
    assert await queue.take() == "b"
    timer.cancel()


async def test_failures_wait_longer_each_time_up_to_the_cap_and_success_forgives() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock(), backoff=1, backoff_cap=10)
    assert [queue.retry("a") for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert queue.retry("b") == 1
    queue.forget("a")
    assert queue.retry("a") == 1
    assert queue.retry("b", at_least=7) == 7


async def test_one_key_is_never_worked_on_twice_at_a_time_but_different_ones_are() -> None:
    active: dict[str, int] = {}
    most_of_one = most_of_all = 0
    gate = asyncio.Semaphore(0)

    async def reconcile(key: str) -> Result:
        nonlocal most_of_one, most_of_all
        active[key] = active.get(key, 0) + 1
        most_of_one = max(most_of_one, active[key])
        most_of_all = max(most_of_all, sum(active.values()))
        await gate.acquire()
        active[key] -= 1
        return Result()

    controller: Controller[str] = Controller("test", workers=4, clock=FakeClock())
    async with at_work(controller, reconcile):
        for _ in range(5):
            for key in "abc":
                controller.enqueue(key)
            gate.release()
            await settle()
        for _ in range(20):
            gate.release()
        await settle()
    assert most_of_one == 1
    assert most_of_all == 3
    assert not any(active.values())


Reconcile = Callable[[str], Awaitable[Result]]


def failing(error: Exception) -> Reconcile:
    async def reconcile(key: str) -> Result:
        raise error

    return reconcile


async def test_the_four_outcomes_are_counted_and_reported() -> None:
    clock = FakeClock()
    reported: list[str] = []
    answers: dict[str, Result | Exception] = {
        "done": Result(),
        "requeue_after": Result(requeue_after=60),
        "retry": ValueError("a bug"),
        "terminal": TerminalError("nothing to be done"),
    }

    async def reconcile(key: str) -> Result:
        answer = answers[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    controller: Controller[str] = Controller(
        "test", clock=clock, on_outcome=lambda outcome, seconds: reported.append(outcome)
    )
    async with at_work(controller, reconcile):
        for key in answers:
            controller.enqueue(key)
        await settle()
        assert sorted(reported) == sorted(answers)
        assert controller.outcomes == dict.fromkeys(answers, 1)
        await clock.advance(0.15)
        assert controller.outcomes["retry"] == 2
        await clock.advance(60)
        assert controller.outcomes["requeue_after"] == 2
        assert controller.outcomes["terminal"] == controller.outcomes["done"] == 1


async def test_what_a_reconcile_has_written_calls_for_one_more_of_it() -> None:
    called = 0

    async def reconcile(key: str) -> Result:
        nonlocal called
        called += 1
        if called == 1:
            await asyncio.gather(*(tell(key) for _ in range(3)))
        return Result()

    async def tell(key: str) -> None:
        controller.enqueue(key)

    controller: Controller[str] = Controller("test", clock=FakeClock())
    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert called == 2


async def test_what_others_tell_meanwhile_is_never_missed() -> None:
    called: list[str] = []
    end, late = asyncio.Event(), asyncio.Event()
    lingering: list[asyncio.Task[None]] = []

    async def tell_late(key: str) -> None:
        await late.wait()
        controller.enqueue(key)

    async def reconcile(key: str) -> Result:
        called.append(key)
        if called == ["a"]:
            lingering.append(asyncio.create_task(tell_late("a")))  # of this reconcile, and beyond its end
            controller.enqueue("b")
            await end.wait()
        return Result()

    controller: Controller[str] = Controller("test", clock=FakeClock())
    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
        assert called == ["a", "b"]
        controller.enqueue("a")
        end.set()
        await settle()
        assert called == ["a", "b", "a"]
        late.set()
        await settle()
        assert called == ["a", "b", "a", "a"]
        assert lingering[0].done()


async def test_a_failure_loses_no_call_of_its_own() -> None:
    called = 0

    async def reconcile(key: str) -> Result:
        nonlocal called
        called += 1
        if called == 1:
            controller.enqueue(key)
            raise Conflict(409, "Conflict", "changed")
        return Result()

    controller: Controller[str] = Controller("test", clock=FakeClock())
    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert called == 2


async def test_the_servers_requested_to_wait_is_honoured() -> None:
    clock = FakeClock()
    controller: Controller[str] = Controller("test", clock=clock)
    async with at_work(controller, failing(TooManyRequests(429, "", "busy", retry_after=30))):
        controller.enqueue("a")
        await clock.advance(29)
        assert controller.outcomes["retry"] == 1
        await clock.advance(2)
        assert controller.outcomes["retry"] == 2


async def test_a_conflict_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    controller: Controller[str] = Controller("test", clock=FakeClock())
    async with at_work(controller, failing(Conflict(409, "Conflict", "changed"))):
        controller.enqueue("a")
        await settle()
    assert controller.outcomes["retry"] == 1
    assert not caplog.records


async def test_a_bug_is_reported_with_its_trace_and_the_workers_live_on(caplog: pytest.LogCaptureFixture) -> None:
    controller: Controller[str] = Controller("test", clock=FakeClock(), workers=1)
    async with at_work(controller, failing(KeyError("oops"))):
        for key in "ab":
            controller.enqueue(key)
        await settle()
    assert controller.outcomes["retry"] == 2
    assert "Traceback" in caplog.text


async def test_stop_lets_the_work_under_way_end_and_takes_no_more() -> None:
    gate = asyncio.Event()
    finished: list[str] = []

    async def reconcile(key: str) -> Result:
        await gate.wait()
        finished.append(key)
        return Result()

    controller: Controller[str] = Controller("test", workers=1, clock=FakeClock())
    running = asyncio.create_task(controller.run(reconcile))
    controller.enqueue("a")
    controller.enqueue("b")
    await settle()
    controller.stop()
    await settle()
    assert not running.done()
    gate.set()
    await asyncio.wait_for(running, PATIENCE)
    assert finished == ["a"]


async def test_cancelling_run_cancels_the_work() -> None:
    cancelled: list[str] = []

    async def reconcile(key: str) -> Result:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(key)
            raise
        return Result()

    controller: Controller[str] = Controller("test", clock=FakeClock())
    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert cancelled == ["a"]


async def test_a_worker_cancelled_when_its_key_has_just_come_leaves_it_to_another() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
    await settle()
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, PATIENCE) == "a"


async def test_a_crowd_of_timers_wakes_no_one_for_each_of_them() -> None:
    clock = FakeClock()
    queue: WorkQueue[int] = WorkQueue(clock)
    timer = asyncio.create_task(queue.run_timer())
    for number in range(100):
        queue.add_after(number, 1 + number / 1000)
    before = len(clock.slept)
    await clock.advance(1.2)
    assert len(queue) == 100
    assert len(clock.slept) - before <= 0.1 / GRAIN + 2
    timer.cancel()

"""The work queue and the controller, in time that stands still."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from support.clock import FakeClock, settle
from support.waiting import PATIENCE
from vdi.kube.errors import Conflict, TooManyRequests
from vdi.kube.queue import GRAIN, Controller, Result, WorkQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def queue(clock: FakeClock) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(clock)
    timer = asyncio.create_task(queue.run_timer())
    yield queue
    timer.cancel()


@pytest.fixture
def controller(clock: FakeClock) -> Controller[str]:
    return Controller("test", clock=clock)


@asynccontextmanager
async def at_work(
    controller: Controller[str], reconcile: Callable[[str], Awaitable[Result]]
) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run(reconcile))
    await settle()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_in_the_queue_once(queue: WorkQueue[str]) -> None:
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    assert [await queue.take(), await queue.take()] == ["a", "b"]


async def test_key_added_during_its_work_comes_once_more(queue: WorkQueue[str]) -> None:
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


async def test_urgent_keys_come_first_and_once(queue: WorkQueue[str]) -> None:
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


async def test_a_key_that_was_urgent_is_so_no_longer(queue: WorkQueue[str]) -> None:
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


async def test_earliest_delay_of_a_key_counts(clock: FakeClock, queue: WorkQueue[str]) -> None:
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


async def test_earlier_work_on_a_key_satisfies_requeue_within(
    clock: FakeClock, queue: WorkQueue[str]
) -> None:
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
    assert len(queue) == 2, (
        "one that nobody looked at, and one that was wanted then, whatever happened before"
    )


async def test_outdated_delays_are_dropped(clock: FakeClock, queue: WorkQueue[str]) -> None:
    for round_ in range(1000):
        queue.requeue_within("a", 9000 - round_)
        queue.add("a")
        await queue.take()
        queue.done("a")
    queue.requeue_within("b", 8)
    assert len(queue._heap) < 250
    await clock.advance(9)
    assert await queue.take() == "b"


async def test_backoff_grows_to_its_cap_and_success_resets_it() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock(), backoff=1, backoff_cap=10)
    assert [queue.retry("a") for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert queue.retry("b") == 1
    queue.forget("a")
    assert queue.retry("a") == 1
    assert queue.retry("b", at_least=7) == 7


async def test_keys_are_worked_on_in_parallel_but_never_one_twice() -> None:
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


async def test_the_outcomes_are_counted_and_reported() -> None:
    clock = FakeClock()
    reported: list[str] = []
    answers: dict[str, Result | Exception] = {
        "done": Result(),
        "requeue_after": Result(requeue_after=60),
        "retry": ValueError("a bug"),
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
        assert controller.outcomes["done"] == 1


async def test_own_writes_of_a_reconcile_enqueue_it_once_more(controller: Controller[str]) -> None:
    called = 0

    async def reconcile(key: str) -> Result:
        nonlocal called
        called += 1
        if called == 1:
            await asyncio.gather(*(tell(key) for _ in range(3)))
        return Result()

    async def tell(key: str) -> None:
        controller.enqueue(key)

    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert called == 2


async def test_changes_during_a_reconcile_are_not_missed(controller: Controller[str]) -> None:
    called: list[str] = []
    end, late = asyncio.Event(), asyncio.Event()
    lingering: list[asyncio.Task[None]] = []

    async def tell_late(key: str) -> None:
        await late.wait()
        controller.enqueue(key)

    async def reconcile(key: str) -> Result:
        called.append(key)
        if called == ["a"]:
            # Of this reconcile, and beyond its end.
            lingering.append(asyncio.create_task(tell_late("a")))
            controller.enqueue("b")
            await end.wait()
        return Result()

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


async def test_a_failure_loses_no_call_of_its_own(controller: Controller[str]) -> None:
    called = 0

    async def reconcile(key: str) -> Result:
        nonlocal called
        called += 1
        if called == 1:
            controller.enqueue(key)
            raise Conflict(409, "Conflict", "changed")
        return Result()

    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert called == 2


async def test_retry_after_of_the_server_is_honoured(
    clock: FakeClock, controller: Controller[str]
) -> None:
    async with at_work(controller, failing(TooManyRequests(429, "", "busy", retry_after=30))):
        controller.enqueue("a")
        await clock.advance(29)
        assert controller.outcomes["retry"] == 1
        await clock.advance(2)
        assert controller.outcomes["retry"] == 2


async def test_conflict_is_retried_without_a_log_line(
    controller: Controller[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(controller, failing(Conflict(409, "Conflict", "changed"))):
        controller.enqueue("a")
        await settle()
    assert controller.outcomes["retry"] == 1
    assert not caplog.records


async def test_exception_is_logged_with_its_traceback_and_retried(
    caplog: pytest.LogCaptureFixture,
) -> None:
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


async def test_cancelling_run_cancels_the_work(controller: Controller[str]) -> None:
    cancelled: list[str] = []

    async def reconcile(key: str) -> Result:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(key)
            raise
        return Result()

    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
    assert cancelled == ["a"]


async def test_cancelled_worker_leaves_its_key_to_another(queue: WorkQueue[str]) -> None:
    first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
    await settle()
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, PATIENCE) == "a"


async def test_many_delays_share_few_wake_ups(clock: FakeClock, queue: WorkQueue[str]) -> None:
    for number in range(100):
        queue.add_after(str(number), 1 + number / 1000)
    before = len(clock.slept)
    await clock.advance(1.2)
    assert len(queue) == 100
    assert len(clock.slept) - before <= 0.1 / GRAIN + 2


async def test_own_change_enqueues_a_key_only_outside_its_reconcile(
    controller: Controller[str],
) -> None:
    taken: list[str] = []
    later: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    async def change_after_the_reconcile() -> None:
        await ended.wait()
        controller.enqueue_changed("a")

    async def write() -> None:
        controller.enqueue_changed("a")
        controller.enqueue_changed("b")

    async def reconcile(key: str) -> Result:
        taken.append(key)
        if taken == ["a"]:
            await asyncio.gather(write(), write())
            later.append(asyncio.create_task(change_after_the_reconcile()))
        return Result()

    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
        assert taken == ["a", "b"], "its own change is no reason for another reconcile"
        ended.set()
        await settle()
        assert taken == ["a", "b", "a"], "a task that outlives the reconcile is no part of it"
        await asyncio.gather(*later)


async def test_own_reconcile_that_is_not_done_is_called_again_at_once(
    controller: Controller[str],
) -> None:
    taken: list[str] = []

    async def reconcile(key: str) -> Result:
        taken.append(key)
        return Result(requeue_after=0.0 if len(taken) < 3 else None)

    async with at_work(controller, reconcile):
        controller.enqueue("a")
        await settle()
        assert taken == ["a"] * 3

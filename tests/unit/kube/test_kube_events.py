"""Events: sent once, counted when sent again, never in the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from support.clock import FakeClock
from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, refusal
from vdi.kube import events
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.kube.transport import NO_RETRY, Client

ABOUT = ObjectReference("example.org/v1", "Thing", "a", "uid-a", "ns")


class Reporter:
    def __init__(self, api: FakeApi, client: Client, clock: FakeClock) -> None:
        self.api = api
        self.clock = clock
        self.recorder = EventRecorder(
            client, controller="example.org/tests", instance="tests-0", clock=clock
        )

    def say(self, note: str = "something", about: ObjectReference = ABOUT) -> None:
        self.recorder.emit(about, "Normal", "Tested", note, "Test")

    async def flushed(self) -> None:
        await asyncio.wait_for(self.recorder.flush(), PATIENCE)

    async def send(self, note: str = "something", about: ObjectReference = ABOUT) -> None:
        self.say(note, about)
        await self.flushed()

    def reported(self) -> list[tuple[str, int]]:
        """(note, count) of each Event on the server."""
        return [
            (event["note"], event.get("series", {}).get("count", 1))
            for event in self.api.objects.values()
        ]

    def sent(self, method: str) -> list[Any]:
        return [body for sent, _, _, body, _ in self.api.requests if sent == method]


@pytest.fixture
async def idle(api: FakeApi) -> AsyncIterator[Reporter]:
    """A recorder that sends nothing yet."""
    async with Client(api.config(), field_manager="tester", retry=NO_RETRY) as client:
        yield Reporter(api, client, FakeClock())


@pytest.fixture
async def here(idle: Reporter) -> AsyncIterator[Reporter]:
    task = asyncio.create_task(idle.recorder.run())
    yield idle
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_event_has_all_fields_of_the_api(here: Reporter) -> None:
    await here.send("hello")
    (body,) = here.sent("POST")
    assert body["metadata"].pop("name").startswith("a.")
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "ns"},
        "eventTime": "2026-11-20T12:00:00.000000Z",
        "reportingController": "example.org/tests",
        "reportingInstance": "tests-0",
        "type": "Normal",
        "reason": "Tested",
        "action": "Test",
        "note": "hello",
        "regarding": {
            "apiVersion": "example.org/v1",
            "kind": "Thing",
            "name": "a",
            "namespace": "ns",
            "uid": "uid-a",
        },
    }


async def test_unprintable_text_in_a_note_is_escaped(here: Reporter) -> None:
    await here.send("its agent says \x1b]0;title\x07\u202e\nx")
    assert here.reported() == [("its agent says \\u001b]0;title\\u0007\\u202e\\u000ax", 1)]


async def test_repetitions_become_one_series_with_few_requests(here: Reporter) -> None:
    await here.send()
    for _ in range(100):
        here.say()
    assert here.reported() == [("something", 1)]
    await here.clock.advance(events.SERIES_PAUSE + 1)
    await eventually(lambda: here.reported() == [("something", 101)])
    assert here.api.count("POST") == here.api.count("PATCH") == 1
    assert here.sent("PATCH") == [
        {"series": {"count": 101, "lastObservedTime": "2026-11-20T12:00:00.000000Z"}}
    ]


async def test_other_words_or_another_object_are_another_event(here: Reporter) -> None:
    here.say("one")
    here.say("two")
    await here.send("one", ObjectReference("example.org/v1", "Thing", "b", "uid-b", "ns"))
    assert here.reported() == [("one", 1), ("two", 1), ("one", 1)]


async def test_repetition_after_a_long_pause_is_a_new_event(here: Reporter) -> None:
    await here.send()
    await here.clock.advance(events.SERIES_LIFE + 1)
    await here.send()
    assert here.reported() == [("something", 1), ("something", 1)]


async def test_repetitions_before_sending_are_one_request(here: Reporter) -> None:
    for _ in range(3):
        here.say()
    await here.flushed()
    assert here.reported() == [("something", 3)]
    assert here.api.count("POST") == 1


async def test_repetition_during_the_request_is_counted(here: Reporter) -> None:
    async def say_again(request: web.Request) -> None:
        here.say()

    here.api.faults = [("POST", say_again)]
    await here.send()
    await here.clock.advance(events.SERIES_PAUSE + 1)
    await eventually(lambda: here.reported() == [("something", 2)])


async def test_a_series_that_the_server_threw_away_begins_again(here: Reporter) -> None:
    await here.send()
    here.api.objects.clear()
    here.say()
    await here.clock.advance(events.SERIES_PAUSE + 1)
    await eventually(lambda: here.reported() == [("something", 2)])


async def test_overload_drops_and_counts_events(idle: Reporter) -> None:
    for number in range(events.WAITING + 50):
        idle.say(f"note {number}")
    assert idle.recorder.dropped == 50


async def test_refused_event_is_counted_and_the_next_is_sent(here: Reporter) -> None:
    here.api.faults = [("POST", refusal(403, "Forbidden"))]
    await here.send("refused")
    assert here.recorder.dropped == 1
    await here.send("refused")
    assert here.reported() == [("refused", 1)]


async def test_lost_answer_to_an_event_counts_as_sent(here: Reporter) -> None:
    """The client tries again, and the server has it already: seen in the chaos suite as "was not
    sent".
    """
    here.api.faults = [("POST", refusal(409, "AlreadyExists"))]
    await here.send()
    assert here.recorder.dropped == 0
    assert len(here.sent("POST")) == 1


async def test_long_notes_and_names_fit(here: Reporter) -> None:
    await here.send("ü" * 2000, ObjectReference("example.org/v1", "Thing", "x." * 126, "uid-x"))
    (body,) = here.sent("POST")
    assert len(body["note"].encode()) == events.NOTE_BYTES
    assert len(body["metadata"]["name"]) <= 253
    assert ".." not in body["metadata"]["name"]
    assert body["metadata"]["namespace"] == "default"


async def test_in_a_crowd_events_give_way_and_warnings_go_first(here: Reporter) -> None:
    for number in range(20):
        here.say(str(number))
    here.recorder.emit(ABOUT, "Warning", "Tested", "look", "Test")
    await eventually(lambda: events.CROWD_PAUSE in here.clock.slept)
    assert [body["note"] for body in here.sent("POST")] == ["look"]
    await here.clock.advance(events.CROWD_PAUSE)
    await eventually(lambda: len(here.sent("POST")) == 2)

"""The live stream: who gets what, how much at a time, and when it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.waiting import PATIENCE, eventually
from unit.gateway.portal_stage import (
    ADMIN,
    ALICE,
    BOB,
    PortalStage,
    a_session,
    a_template,
    running,
    settle,
)
from vdi.cluster.units import parse_time
from vdi.gateway.cluster_cache import EVERYTHING, STREAMS_PER_USER, session_topic, user_topic
from vdi.gateway.portal import component, pages
from vdi.gateway.portal.admin import sessions_page_pieces
from vdi.gateway.portal.pages import ITEM, LIST, Pieces, View, digest, news
from vdi.gateway.rights import User

ONE, TWO = running("one"), running("two", created="2026-11-20T10:00:00Z")


@pytest.fixture
def stage() -> PortalStage:
    return PortalStage(a_template(), ONE, TWO)


class Reader:
    """Reads a stream as a browser does: events by name."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self.last_event_id = ""

    async def next(self) -> Pieces:
        """The events of the next message."""
        text = (await asyncio.wait_for(anext(self._stream), PATIENCE)).decode()
        found = {}
        for part in text.strip("\n").split("\n\n"):
            lines = part.split("\n")
            if lines[0].startswith("id: "):
                self.last_event_id = lines.pop(0).removeprefix("id: ")
            name = lines[0].removeprefix("event: ")
            found[name] = "\n".join(line.removeprefix("data: ") for line in lines[1:])
        return found

    async def listen(self) -> asyncio.Future[Pieces]:
        """The next message, once the stream waits for it."""
        message = asyncio.ensure_future(self.next())
        await settle()
        return message

    async def is_over(self) -> bool:
        try:
            await asyncio.wait_for(anext(self._stream), PATIENCE)
        except StopAsyncIteration:
            return True
        return False


@asynccontextmanager
async def reading(
    stage: PortalStage,
    view: View,
    *,
    person: User = ALICE,
    topics: set[str] | None = None,
    seen: str | None = None,
    gone: Pieces | None = None,
    look_again: float = 60.0,
    ended: asyncio.Event | None = None,
) -> AsyncIterator[Reader]:
    """A page that shows what is there now, unless `seen` says otherwise, and its stream."""
    shown = view()
    mark = digest(shown) if seen is None and shown else seen or ""

    async def allowed() -> bool:
        return ended is None or not ended.is_set()

    stream = component.stream_pieces(
        stage.services.subscriptions,
        person,
        topics or {user_topic(person.email)},
        view,
        allowed,
        seen=mark,
        gone=gone,
        quiet=0.0,
        look_again=look_again,
        ask_login=look_again,
    )
    async with aclosing(stream):  # type: ignore[type-var]
        yield Reader(stream)


def mine(stage: PortalStage, person: User = ALICE) -> View:
    return partial(pages.list_of, "desktops", stage.services, person)


async def test_a_page_that_is_up_to_date_is_reported_only_what_changes(stage: PortalStage) -> None:
    async with reading(stage, mine(stage)) as reader:
        reported = await reader.listen()
        assert not reported.done()
        stage.put(a_session("one", status={"phase": "Suspended"}))
        pieces = await reported
        assert list(pieces) == ["item-uid-one"]
        assert "Suspended" in pieces["item-uid-one"]


async def test_a_page_that_missed_something_gets_the_list_then_changes(stage: PortalStage) -> None:
    async with reading(stage, mine(stage), seen="of yesterday") as reader:
        pieces = await reader.next()
        assert (
            list(pieces) == ["guest-of", LIST] and "one" in pieces[LIST] and "two" in pieces[LIST]
        )
        assert reader.last_event_id == digest(mine(stage)() or {})
        suspended = a_session("one", status={"phase": "Suspended"})
        for change, names in ((suspended, ["item-uid-one"]), (running("three"), [LIST])):
            stage.put(change)
            assert list(await reader.next()) == names
            assert reader.last_event_id == digest(mine(stage)() or {}), (
                "each message ends with the mark of the page"
            )


@pytest.mark.parametrize("missed", [True, False])
async def test_a_reopened_stream_begins_with_the_current_page(
    stage: PortalStage, monkeypatch: pytest.MonkeyPatch, missed: bool
) -> None:
    """What it was loaded with (`seen`) may be what there is, and what a message brought since may
    not.
    """
    monkeypatch.setattr(
        component,
        "stream_pieces",
        partial(component.stream_pieces, look_again=0.01, ask_login=0.01),
    )
    now, other = digest(mine(stage)() or {}), digest({})
    seen, last_event_id = (now, other) if missed else (other, now)
    headers = {"Last-Event-ID": last_event_id}
    answer = asyncio.ensure_future(
        stage.browser().get(f"/events?view=desktops&seen={seen}", **headers)
    )
    await eventually(lambda: len(stage.services.subscriptions) == 1, "the stream is open")
    await stage.end_logins()
    async with asyncio.timeout(PATIENCE):
        assert (f"id: {now}\nevent: list\n" in (await answer).text) == missed


async def test_a_reopened_stream_does_not_keep_a_login_alive(stage: PortalStage) -> None:
    browser = stage.browser()
    await browser.get("/")
    begun = stage.last_seen
    stage.clock.forward(minutes=5)
    answer = asyncio.ensure_future(browser.get("/events?view=desktops&seen="))
    await eventually(lambda: len(stage.services.subscriptions) == 1, "the stream is open")
    assert stage.last_seen == begun
    answer.cancel()
    await stage.end_logins()
    refused = await browser.get("/events?view=desktops&seen=", Accept="text/event-stream")
    assert (refused.status_code, refused.text) == (
        401,
        "You are not signed in, or your sign-in has ended.\n",
    )
    page = await browser.client.head("/")
    assert page.status_code == 303, "by this the page's script sees that the login has ended"


async def test_who_comes_and_goes_changes_the_list(stage: PortalStage) -> None:
    async with reading(stage, mine(stage)) as reader:
        reported = await reader.listen()
        stage.put(running("three", created="2026-11-20T11:00:00Z"))
        assert list(await reported) == [LIST]
        reported = await reader.listen()
        stage.drop(ONE)
        assert "one" not in (await reported)[LIST]


async def test_changes_that_come_together_are_reported_together(stage: PortalStage) -> None:
    async with reading(stage, mine(stage)) as reader:
        reported = await reader.listen()
        for phase in ("Pending", "Creating", "Suspended"):
            stage.put(
                a_session("one", status={"phase": phase}), a_session("two", status={"phase": phase})
            )
        pieces = await reported
        assert sorted(pieces) == [LIST] or sorted(pieces) == ["item-uid-one", "item-uid-two"]
        assert "Creating" not in "".join(pieces.values())


async def test_what_others_do_with_their_own_wakes_no_one_else(stage: PortalStage) -> None:
    looks = 0

    def counted() -> Pieces | None:
        nonlocal looks
        looks += 1
        return mine(stage)()

    async with reading(stage, counted) as reader:
        reported = await reader.listen()
        before = looks
        stage.put(running("bobs", user="bob@example.com"))
        await settle()
        assert looks == before
        reported.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reported


async def test_a_share_appears_and_vanishes_by_itself(stage: PortalStage) -> None:
    shared = partial(pages.list_of, "shared", stage.services, BOB)
    async with reading(stage, shared, person=BOB, look_again=0.01) as reader:
        reported = await reader.listen()
        access = [{"user": "bob@example.com", "role": "viewer", "expires": "2026-11-20T13:00:00Z"}]
        stage.put(running("one", access=access))
        assert "one" in (await reported)[LIST]
        stage.clock.wall = parse_time("2026-11-20T13:00:01Z")
        assert "Nothing is shared with you" in (await reader.next())[LIST]


async def test_taking_a_share_back_is_reported_to_who_had_it(stage: PortalStage) -> None:
    stage.put(running("one", access=[{"user": "bob@example.com"}]))
    view = partial(pages.page_of, stage.services, BOB, "one")
    async with reading(stage, view, person=BOB, gone=pages.ended_pieces("one")) as reader:
        reported = await reader.listen()
        stage.put(running("one"))
        assert "This desktop has ended" in (await reported)["head"]
        assert list(await reader.next()) == ["bye"]
        assert await reader.is_over()


async def test_a_guest_is_never_sent_what_only_the_owner_sees(stage: PortalStage) -> None:
    stage.put(
        running("one", access=[{"user": "bob@example.com"}, {"user": "secret-guest@example.com"}])
    )
    for person, sees in ((BOB, False), (ALICE, True)):
        pieces = pages.page_of(stage.services, person, "one")
        assert pieces and ("secret-guest" in "".join(pieces.values())) is sees


async def test_a_login_that_has_ended_ends_its_streams(stage: PortalStage) -> None:
    ended = asyncio.Event()
    async with reading(stage, mine(stage), look_again=0.01, ended=ended) as reader:
        ended.set()
        assert list(await reader.next()) == ["bye"]
        assert await reader.is_over()
    assert len(stage.services.subscriptions) == 0


@pytest.mark.parametrize("change", [{"admin": False}, {"groups": '["staff"]'}], ids=str)
@pytest.mark.parametrize("view", ["admin", "overview", "desktop&name=one"])
async def test_a_stream_ends_when_what_its_user_may_see_changes(
    stage: PortalStage, monkeypatch: pytest.MonkeyPatch, view: str, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(
        component,
        "stream_pieces",
        partial(component.stream_pieces, look_again=0.01, ask_login=0.01),
    )
    answer = asyncio.ensure_future(stage.browser(ADMIN).get(f"/events?view={view}"))
    await eventually(lambda: len(stage.services.subscriptions) == 1, "the stream is open")
    await stage.change_logins(**change)
    async with asyncio.timeout(PATIENCE):
        assert (await answer).text.endswith("\n\nevent: bye\ndata: \n\n")


async def test_the_oldest_page_of_a_person_makes_room(stage: PortalStage) -> None:
    async with reading(stage, mine(stage)) as oldest:
        reported = await oldest.listen()
        subscriptions = stage.services.subscriptions
        with ExitStack() as others:
            for _ in range(STREAMS_PER_USER):
                others.enter_context(
                    subscriptions.subscribe(ALICE.email, {user_topic(ALICE.email)})
                )
            assert list(await reported) == ["bye"]
            assert await oldest.is_over()
            with subscriptions.subscribe(BOB.email, {user_topic(BOB.email)}):
                assert len(subscriptions) == STREAMS_PER_USER + 1
    assert len(subscriptions) == 0


async def test_an_administrators_page_follows_everybody(stage: PortalStage) -> None:
    view = partial(sessions_page_pieces, stage.services, ADMIN, {"order": "name"})
    async with reading(stage, view, person=ADMIN, topics={EVERYTHING}) as reader:
        reported = await reader.listen()
        stage.put(a_session("two", status={"phase": "Failed", "message": "Lost."}))
        assert list(await reported) == ["item-uid-two"]


@pytest.mark.parametrize(
    "query", ["", "?view=everything", "?view=admin", "?view=overview", "?view=desktop"]
)
async def test_a_stream_that_is_none_of_theirs_is_refused(stage: PortalStage, query: str) -> None:
    answer = await stage.browser().get(f"/events{query}")
    assert (answer.status_code, "is not one of" in answer.text) == (400, True)


async def test_the_stream_of_a_desktop_of_others_tells_nothing(stage: PortalStage) -> None:
    answer = await stage.browser(BOB).get("/events?view=desktop&name=one")
    assert answer.headers["content-type"].startswith("text/event-stream")
    none = await stage.browser(BOB).get("/events?view=desktop&name=nothing-there")
    assert answer.text.replace("one", "nothing-there") == none.text
    assert "Ubuntu" not in answer.text


def test_topics_of_people_and_sessions_never_meet() -> None:
    assert user_topic("a") != session_topic("a")


def test_a_page_that_missed_that_a_piece_became_empty_gets_it() -> None:
    assert news({}, {"head": "<h1>one</h1>", "end": ""}) == {"head": "<h1>one</h1>", "end": ""}


_STATES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), unique_by=lambda one: one[0]
)


@given(_STATES, _STATES)
def test_news_brings_a_page_from_any_state_to_any_other(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    def pieces(state: list[tuple[str, str]]) -> Pieces:
        return {f"{ITEM}{name}": text for name, text in state} | {
            LIST: repr(state),
            "figures": str(len(state)),
        }

    shown = dict(one)
    order = [name for name, _ in one]
    reported = news(pieces(one), pieces(other))
    if LIST in reported:
        shown, order = dict(other), [name for name, _ in other]
    shown |= {
        name.removeprefix(ITEM): text for name, text in reported.items() if name.startswith(ITEM)
    }
    assert [(name, shown[name]) for name in order] == other
    assert (len(one) != len(other)) == ("figures" in reported)

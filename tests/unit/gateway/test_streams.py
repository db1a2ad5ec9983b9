"""Streams of events: their wire form, their pace, their end."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from support.waiting import PATIENCE
from vdi.gateway.metrics import Metrics
from vdi.gateway.web import streams
from vdi.gateway.web.streams import sse_event, sse_response


def a_gateway() -> Any:
    return SimpleNamespace(metrics=Metrics(), stopping=asyncio.Event())


def live(gateway: Any) -> float:
    value: float = gateway.metrics.registry.get_sample_value("vdi_gateway_sse_streams")
    return value


def test_an_event_of_several_lines() -> None:
    assert (
        sse_event("one\ntwo\r\nthree", event="news", id="7")
        == b"id: 7\nevent: news\ndata: one\ndata: two\ndata: three\n\n"
    )
    assert sse_event("") == b"data: \n\n"


def test_what_a_user_wrote_cannot_end_the_event() -> None:
    """A carriage return and Unicode's line separators end lines, too."""
    for text in ("a\rdata: x", "a\n\nevent: evil", "a\u2028b"):
        assert sse_event(text).count(b"\n\n") == 1
        assert b"\r" not in sse_event(text)
        assert b"\nevent:" not in sse_event(text)


async def chunks_of(gateway: Any, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in sse_response(gateway, source).body_iterator:
        assert isinstance(chunk, bytes)
        yield chunk


async def test_what_comes_is_passed_on_until_it_ends() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield sse_event("a")
        yield sse_event("b")

    gateway = a_gateway()
    got = [chunk async for chunk in chunks_of(gateway, source())]
    assert got == [b"retry: 2000\n\n", b"data: a\n\n", b"data: b\n\n"]
    assert live(gateway) == 0


async def test_silence_is_filled_without_losing_what_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.01)
    reported = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        await reported.wait()
        yield sse_event("late")

    gateway = a_gateway()
    chunks = chunks_of(gateway, source())
    first = [await anext(chunks) for _ in range(3)]
    assert first[1:] == [b": still here\n\n"] * 2
    assert live(gateway) == 1
    reported.set()
    rest = [chunk async for chunk in chunks]
    assert rest[-1] == b"data: late\n\n"


async def test_streams_and_their_sources_end_with_the_gateway() -> None:
    closed = []

    async def source() -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.append(True)

    gateway = a_gateway()
    chunks = chunks_of(gateway, source())
    await anext(chunks)
    rest = asyncio.create_task(anext(chunks, None))
    await asyncio.sleep(0)
    gateway.stopping.set()
    assert await asyncio.wait_for(rest, PATIENCE) is None
    assert (closed, live(gateway)) == ([True], 0)


async def test_a_source_that_fails_ends_its_stream_and_is_heard_of() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield sse_event("a")
        raise RuntimeError("broken")

    gateway = a_gateway()
    with pytest.raises(RuntimeError, match="broken"):
        [chunk async for chunk in chunks_of(gateway, source())]
    assert live(gateway) == 0

"""The network between a browser and its desktop is cut: not a byte passes, and no one is notified.
When it is back, so is the picture, by itself, and what is typed then arrives.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from e2e.firewall import dropped
from e2e.streaming_desktops import Streamed, streamed
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

log = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(240)

# Seconds.
CUTS = (5, 15, 60)
# Seconds in which a page whose network is back has its picture again. TCP alone takes up to as long
# as it was cut.
HEARS_AGAIN = 20
WATCH = "[stream-watch]"
# Milliseconds; images/desktop/stream-watch.js connects again after eight seconds without an answer.
LONGER_THAN_SILENCE = 12_000
# More than a browser may have in hand of what came before the cut.
NEW_FRAMES = 10
CHUNK = 65_536


@pytest.fixture(scope="module")
def desktop(world: World) -> Iterator[Streamed]:
    with streamed(world, cut={"streaming": {"transport": "WebSocket"}}) as made:
        yield made["cut"]


def test_stream_resumes_after_a_network_cut(desktop: Streamed) -> None:
    with way_to(urlsplit(desktop.url).port or 443) as port:
        rule = f"--host-resolver-rules=MAP *.vdi.localhost 127.0.0.1:{port}"
        with desktop.opened(rule) as browser:
            again: list[str] = []
            browser.page.on(
                "console", lambda said: again.append(said.text) if WATCH in said.text else None
            )
            before = browser.picture()
            browser.open_terminal()
            browser.wait_for_change(before, pixels=20_000)
            # Typed text is kept by a program that reads it. A command after Control+C would not do:
            # the shell throws away what comes while it starts its line again, here as at any
            # terminal.
            browser.type("(while sleep 0.3; do date; done) & cat > /tmp/typed\n")
            expected = ""
            for seconds in CUTS:
                moves(browser, HEARS_AGAIN)
                with cut(port):
                    assert not answers(browser), "the network is not cut"
                    browser.page.wait_for_timeout(seconds * 1000)
                back = time.monotonic()
                moves(browser, HEARS_AGAIN)
                log.info(
                    "cut for %d s: new pictures %.1f s after the network was back",
                    seconds,
                    time.monotonic() - back,
                )
                browser.type(f"after {seconds} s\n")
                expected += f"after {seconds} s\n"
                wait_until("what was typed", lambda: desktop.run("cat /tmp/typed") == expected)  # noqa: B023
            times = len(again)
            assert times in (2, 3), (
                "the short cut may fall into 3 s without a word, the others are long enough:"
                f" {again}"
            )
            browser.page.wait_for_timeout(LONGER_THAN_SILENCE)
            assert len(again) == times, f"it connected again though all is well: {again}"


def moves(browser: DesktopBrowser, within: float) -> None:
    """Wait until the video itself shows new pictures: not the page around it, which may well be
    alive without it.
    """
    last, new = frames(browser), 0

    def look() -> bool:
        nonlocal last, new
        before, last = last, frames(browser)
        new += last - before if last >= before else last  # a stream that begins again counts again
        return new >= NEW_FRAMES

    wait_until("new pictures", look, within)


def frames(browser: DesktopBrowser) -> int:
    """The number of frames that the page's video has received."""
    script = (
        "document.querySelector('#videoStream')?.getVideoPlaybackQuality().totalVideoFrames ?? 0"
    )
    given: int = browser.page.evaluate(script)
    return given


def answers(browser: DesktopBrowser) -> bool:
    """Whether the desktop answers the browser within a second."""
    script = (
        "() => fetch('/api/health', {signal: AbortSignal.timeout(1000)}).then(() => true, () =>"
        " false)"
    )
    return bool(browser.page.evaluate(script))


def cut(port: int) -> AbstractContextManager[None]:
    """No packet passes to or from this port of 127.0.0.1, as if the cable was pulled."""
    return dropped(*(f"-i lo -p tcp {way} {port}" for way in ("--dport", "--sport")))


@contextmanager
def way_to(port: int) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to that one, which others use too: this one can be cut."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    writers: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        both = {writer, other_writer}
        writers.update(both)
        await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))
        writers.difference_update(both)

    async def serve() -> asyncio.Server:
        return await asyncio.start_server(pass_on, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(
            *asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True
        )

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then the other does."""
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()

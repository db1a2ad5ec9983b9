"""When what became visible to a client: two watches in a process of their own, so that arrival
times stay honest.

Both sides use the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import signal
import ssl
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from bench.objects import PODS, SESSION_KIND, SESSIONS

# What is watched (`pod` or `session`), type of the event, the session's name, the object's phase,
# seconds.
Sighting = tuple[str, str, str, str | None, float]


def sighting(what: str, line: bytes, at: float) -> tuple[Sighting, str]:
    """One line of a watch, and the resource version it carries. A pod counts for the session that
    owns it.
    """
    event = json.loads(line)
    metadata = event["object"].get("metadata", {})
    owners = (
        owner["name"]
        for owner in metadata.get("ownerReferences", ())
        if owner["kind"] == SESSION_KIND
    )
    name = next(owners, metadata.get("name", ""))
    phase = (event["object"].get("status") or {}).get("phase") if event["type"] != "ERROR" else None
    return (what, event["type"], name, phase, at), metadata.get("resourceVersion", "0")


async def watch(http: aiohttp.ClientSession, path: str, what: str, conn: Connection) -> None:
    """Send every change of a collection through the pipe; a watch that ends is opened again where
    it ended.
    """
    version = "0"
    while True:
        async with http.get(path, params={"watch": "1", "resourceVersion": version}) as response:
            conn.send((what, "OPEN", "", None, time.monotonic()))
            rest = b""
            async for chunk in response.content.iter_any():
                at = time.monotonic()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    seen, version = sighting(what, line, at)
                    conn.send(seen)
        await asyncio.sleep(0.05)


def watch_both(url: str, ca: Path, token: str, conn: Connection) -> None:
    """The main function of the watching process. Ctrl-C goes to the bench, which then ends this
    process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)))
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            url, connector=connector, headers=headers, timeout=timeout, read_bufsize=2**20
        ) as http:
            await asyncio.gather(
                watch(http, PODS, "pod", conn), watch(http, SESSIONS, "session", conn)
            )

    with contextlib.suppress(BrokenPipeError):
        asyncio.run(main())


class Timeline:
    """First sightings by session name, in seconds of the monotonic clock. An async context
    manager.
    """

    def __init__(self, url: str, ca: Path, token: str) -> None:
        self.pod_added: dict[str, float] = {}
        self.pod_running: dict[str, float] = {}
        self.pod_gone: dict[str, float] = {}
        self.session_running: dict[str, float] = {}
        self.session_gone: dict[str, float] = {}
        self._opened: set[str] = set()
        self._changed = asyncio.Event()
        self._conn, self._far_end = multiprocessing.Pipe(duplex=False)
        arguments = (url, ca, token, self._far_end)
        self._process = multiprocessing.get_context("spawn").Process(
            target=watch_both, args=arguments, daemon=True
        )

    async def __aenter__(self) -> Timeline:
        self._process.start()
        self._far_end.close()
        asyncio.get_running_loop().add_reader(self._conn.fileno(), self._read)
        await self.until(lambda: self._opened == {"pod", "session"}, 30, "watches opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._conn.fileno())
        self._process.terminate()
        self._process.join()
        self._conn.close()

    def _read(self) -> None:
        with contextlib.suppress(EOFError):  # `until` says that the process has ended
            while self._conn.poll():
                self.record(self._conn.recv())
        self._changed.set()

    def record(self, seen: Sighting) -> None:
        """Take in one sighting; only the first of its kind counts."""
        what, event, name, phase, at = seen
        if event == "OPEN":
            self._opened.add(what)
        elif event == "DELETED":
            (self.pod_gone if what == "pod" else self.session_gone).setdefault(name, at)
        elif event in {"ADDED", "MODIFIED"}:
            if what == "pod":
                self.pod_added.setdefault(name, at)
            if phase == "Running":
                (self.pod_running if what == "pod" else self.session_running).setdefault(name, at)

    async def until(self, reached: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition on what was seen. Raises TimeoutError, or RuntimeError when the
        watching ended.
        """
        end = time.monotonic() + seconds
        while not reached():
            self._changed.clear()
            if not self._process.is_alive():
                raise RuntimeError("the process that watches the cluster has ended")
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not within {seconds:g} s: {what}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, left))

    async def all_in(
        self, sightings: dict[str, float], names: Iterable[str], seconds: float, what: str
    ) -> None:
        """Wait until every one of `names` was seen."""
        expected = set(names)
        await self.until(
            lambda: expected <= sightings.keys(), seconds, f"{what} of all {len(expected)}"
        )

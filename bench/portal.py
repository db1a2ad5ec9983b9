"""`python -m bench.portal`: how quick the portal's pages are with 1,000 sessions; how soon 500
browsers see a change.

One gateway process (`bench.portal_server`) with the real app, login and SQLite; this process plays
the browsers, over loopback and without TLS, which is Traefik's work. Figures are of one gateway on
one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from subprocess import PIPE
from typing import Any

import uvloop

from bench.command import FINDINGS, INTERRUPTED, positive
from bench.measure import pooled
from bench.portal_server import ADMIN, HOST, SESSIONS, USERS, user
from bench.processes import MACHINE_CPUS, cpu_seconds, machine_cpu_seconds, memory_mib
from bench.rows import add_json_option, write_rows
from bench.stats import latency
from vdi.gateway.web.credentials import LOGIN_COOKIE

Figures = dict[str, Any]
PAGES = (
    ("everyone's sessions, page 1 of 20", ADMIN, "/admin/sessions"),
    ("everyone's sessions, last page, by user", ADMIN, "/admin/sessions?order=user&page=20"),
    ("everyone's sessions, searched", ADMIN, "/admin/sessions?q=user01&phase=Running"),
    ("administration, overview", ADMIN, "/admin"),
    ("my desktops", user(7), "/"),
    ("one desktop", user(7), "/desktops/desk-0007"),
    ("catalogue", user(7), "/catalogue"),
)
CLIENTS = 8
ROUNDS = 6  # even: all desktops are Running again after them
IDLE_SECONDS = 30.0
DEADLINE = 30.0

EXAMPLE = """\
examples:
  python -m bench.portal               about two minutes on two cores
  python -m bench.portal -n 100        a quick look
  python -m bench.portal --json FILE   every figure, too
"""


class Gateway:
    def __init__(
        self, process: asyncio.subprocess.Process, port: int, cookies: dict[str, str]
    ) -> None:
        self.process = process
        self.port = port
        self.cookies = cookies

    async def order(self, text: str) -> float:
        """Let something change; when that was."""
        assert self.process.stdin
        self.process.stdin.write(f"{text}\n".encode())
        return float((await _line(self.process))["done"])

    @property
    def memory(self) -> float:
        """MiB of the process."""
        return memory_mib(self.process.pid)

    def request(self, path: str, who: str, accept: str = "text/html") -> bytes:
        """What a browser sends."""
        cookie = f"{LOGIN_COOKIE}={self.cookies[who]}"
        return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\nCookie: {cookie}\r\n\r\n".encode()


async def _line(process: asyncio.subprocess.Process) -> Figures:
    assert process.stdout
    line = await asyncio.wait_for(process.stdout.readline(), DEADLINE)
    if not line:
        raise RuntimeError("the gateway has ended; its words are above")
    figures: Figures = json.loads(line)
    return figures


class Browser:
    """One connection that is kept open."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __aenter__(self) -> Browser:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._gateway.port, limit=2**20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def get(self, path: str, who: str) -> tuple[float, int]:
        """Seconds until the whole page is here, and its length. Raises RuntimeError for anything
        but a page.
        """
        start = time.monotonic()
        self._writer.write(self._gateway.request(path, who))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        if " 200 " not in head.split("\r\n")[0]:
            raise RuntimeError(f"{path} answered {head.splitlines()[0]}")
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        await self._reader.readexactly(length)
        return time.monotonic() - start, length

    async def listen(self, who: str) -> None:
        """Open the stream of `My desktops`, and read until its first list is here."""
        self._writer.write(
            self._gateway.request("/events?view=desktops&seen=nothing", who, "text/event-stream")
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"/events answered {head.splitlines()[0]!r}")
        await self.event()

    async def event(self) -> float:
        """When the next event with something in it has come."""
        while not (await self._reader.readuntil(b"\n")).startswith(b"data: "):
            pass
        at = time.monotonic()
        await self._reader.readuntil(b"\n\n")
        return at


async def measure_pages(gateway: Gateway, times: int) -> Figures:
    """Each page so many times: by one browser, and by several at once."""
    figures: Figures = {}
    for name, who, path in PAGES:
        async with Browser(gateway) as browser:
            for _ in range(20):
                _, length = await browser.get(path, who)
            alone = [(await browser.get(path, who))[0] for _ in range(times)]
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(_ask(gateway, path, who, times // CLIENTS))
                for _ in range(CLIENTS)
            ]
        seconds = time.monotonic() - start
        crowd = [each for task in asking for each in task.result()]
        figures[name] = {
            "bytes": length,
            "alone": latency(alone),
            f"{CLIENTS}_at_once": latency(crowd) | {"per_second": round(len(crowd) / seconds)},
        }
    return figures


async def _ask(gateway: Gateway, path: str, who: str, times: int) -> list[float]:
    async with Browser(gateway) as browser:
        return [(await browser.get(path, who))[0] for _ in range(times)]


async def measure_streams(gateway: Gateway, number: int) -> Figures:
    """Memory of so many streams, what they cost when nothing happens, and how soon the last one
    sees a change.
    """
    before = gateway.memory
    browsers = [Browser(gateway) for _ in range(number)]
    try:
        start = time.monotonic()
        await pooled(
            [str(index) for index in range(number)],
            50,
            lambda each: _join(browsers[int(each)], int(each)),
        )
        joined = time.monotonic() - start
        after = gateway.memory
        start, cpu = time.monotonic(), cpu_seconds(gateway.process.pid)
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(gateway.process.pid) - cpu) / (time.monotonic() - start)
        single = await _rounds(gateway, browsers[:1], "one")
        everybody = await _rounds(gateway, browsers, "all")
        return {
            "browsers": number,
            "all_joined_s": round(joined, 2),
            "memory_before_mib": before,
            "memory_after_mib": after,
            "kib_per_browser": round((after - before) * 1024 / number, 1),
            "idle_cpu_percent_of_a_core": round(100 * idle, 1),
            "one_desktop_changes": single,
            "all_desktops_change_at_once": everybody,
            "memory_at_end_mib": gateway.memory,
        }
    finally:
        for browser in browsers:
            await browser.__aexit__()


async def _join(browser: Browser, number: int) -> None:
    await browser.__aenter__()
    await browser.listen(user(number % USERS))


async def _rounds(gateway: Gateway, browsers: Sequence[Browser], which: str) -> Figures:
    """A change that all of them show, several times: from the change to each browser, and to the
    last one.
    """
    delays: list[float] = []
    last: list[float] = []
    for number in range(ROUNDS):
        await asyncio.sleep(1)
        waiting = [asyncio.ensure_future(browser.event()) for browser in browsers]
        changed = await gateway.order(f"{which} {'Creating' if number % 2 == 0 else 'Running'}")
        seen = [at - changed for at in await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)]
        delays += seen
        last.append(max(seen))
    return {"each": latency(delays), "last_ms": [round(one * 1000) for one in last]}


async def run(times: int, browsers: int) -> Figures:
    """All of it, on a gateway of its own."""
    with tempfile.TemporaryDirectory() as folder:
        argv = (sys.executable, "-m", "bench.portal_server", folder)
        process = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, limit=2**20)
        try:
            said = await _line(process)
            gateway = Gateway(process, said["port"], said["cookies"])
            start, busy, own = time.monotonic(), machine_cpu_seconds(), _own(process)
            figures: Figures = {"sessions": SESSIONS, "pages": await measure_pages(gateway, times)}
            figures["streams"] = await measure_streams(gateway, browsers)
            foreign = machine_cpu_seconds() - busy - (_own(process) - own)
            seconds = time.monotonic() - start
            figures["foreign_cpu_percent"] = round(
                max(0.0, 100 * foreign / seconds / MACHINE_CPUS), 1
            )
            return figures
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


def _own(process: asyncio.subprocess.Process) -> float:
    return cpu_seconds(process.pid) + time.process_time()


def table(figures: Figures) -> str:
    lines = [
        f"| page, {figures['sessions']} sessions | KiB | p50 ms | p99 ms | p99 ms, {CLIENTS} at"
        " once | per second |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, one in figures["pages"].items():
        crowd = one[f"{CLIENTS}_at_once"]
        cells = (
            one["bytes"] // 1024,
            one["alone"]["p50_ms"],
            one["alone"]["p99_ms"],
            crowd["p99_ms"],
            crowd["per_second"],
        )
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    live = figures["streams"]
    one, every = live["one_desktop_changes"]["each"], live["all_desktops_change_at_once"]
    lines += [
        "",
        (
            f"{live['browsers']} browsers: {live['kib_per_browser']} KiB each"
            f" ({live['memory_before_mib']} -> {live['memory_after_mib']} MiB,"
            f" {live['memory_at_end_mib']} at the end), {live['idle_cpu_percent_of_a_core']} % of a"
            f" core when nothing happens; joined in {live['all_joined_s']} s."
        ),
        (
            f"One desktop changes: its browser shows it after p50 {one['p50_ms']} ms, at most"
            f" {one['max_ms']} ms."
        ),
        (
            f"{live['browsers']} desktops of {live['browsers']} people change at once: p50"
            f" {every['each']['p50_ms']} ms, p99 {every['each']['p99_ms']} ms, the last browser"
            f" after {', '.join(map(str, every['last_ms']))} ms."
        ),
        f"Others used {figures['foreign_cpu_percent']} % of the machine.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: the run had an error; 2: wrong command line; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.portal",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--times", type=positive, default=500, help="how often each page is asked for (500)"
    )
    parser.add_argument(
        "-b", "--browsers", type=positive, default=500, help="browsers that listen (500)"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(run(options.times, options.browsers))
    except (RuntimeError, TimeoutError) as error:
        print(f"the run failed: {error or 'no response in time'}", file=sys.stderr)
        return FINDINGS
    except KeyboardInterrupt:
        return INTERRUPTED
    print(table(figures))
    write_rows(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m bench.first_picture`: from a session applied to the first picture in a real browser,
on the demo's cluster, beside the same objects applied raw; with `--wayland`, beside the same
desktop on Wayland; with `--user-namespaces`, with and without one. It needs `make demo` first, and
removes what it made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.command import COULD_NOT_LOOK, FINDINGS, INTERRUPTED, add_demo_options
from bench.pooled import FromPool, a_pool
from bench.processes import cpu_seconds, end_cleanly_on_signals, machine_cpu_seconds
from bench.report import goal, render
from bench.rows import add_json_option, write_rows
from bench.stats import percentile, ratio
from bench.template_copy import OnWayland, WithIsolation
from bench.ways import USER, Raw, ThroughOperator, Way, remove, status, until
from vdi.demo.browser import CHROMIUM_NAMES, DesktopBrowser, Login, NoPictureError, find_chromium
from vdi.demo.run import PeopleError, add_user, portal_url, remove_user
from vdi.devcluster import cluster
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.layout import ClusterError
from vdi.devcluster.progress import Progress, StepFailed
from vdi.kube.config import load_config
from vdi.kube.errors import ConnectionFailed, KubeError
from vdi.kube.resource import CLAIMS
from vdi.kube.transport import Client
from vdi.session.naming import home_claim_name

PICTURE_SECONDS = 60.0
FIRST, FIRST_WITH_FORM = "first start", "first start, form open"
# Of the turns with Wayland.
X11 = "vdi, X11"
ISOLATIONS = ("Required", "Off")
ISOLATED = tuple(map(WithIsolation.NAME.format, ISOLATIONS))
# From applied to the first picture, with the image on the node, and from a pool.
GOAL_S, POOL_GOAL_S, POOL_SLOWEST_S = 4.0, 1.0, 1.3

Figures = dict[str, Any]


class CouldNotLookError(Exception):
    """Raised when there is no cluster to measure on, or no browser; says how to get one."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.first_picture",
        description=__doc__,
        epilog="example: make demo && python -m bench.first_picture -n 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--starts", type=int, default=5, help="starts each way (5)")
    add_demo_options(parser)
    parser.add_argument(
        "--wayland", action="store_true", help="as many starts of the same desktop on Wayland, too"
    )
    parser.add_argument(
        "--user-namespaces", action="store_true", help="as many starts with and without one, too"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if options.starts < 1:
        parser.error(f"argument -n: {options.starts}: allowed: 1 or more")
    return options


def see_picture(
    login: Login | None, page: str, inside: Future[None], ready: Future[str]
) -> Figures:
    """Start a browser, log in and open the portal's `page`; open the desktop when its URL comes,
    and wait for its picture.

    Returns `picture`: when it was there (monotonic seconds); `refused`: how often a page was
    refused before, as it is asked for again at once, as a person would; and seconds of CPU in
    between: `browser_cpu_s` of the browser, what controls it and this benchmark, `node_cpu_s` of
    all else on the machine.
    """
    try:
        with DesktopBrowser("", login) as browser:
            if login:
                browser.log_in()
                browser.page.goto(f"{login.portal}{page}")
            inside.set_result(None)
            used = cpu_seconds(os.getpid())
            browser.url, busy = ready.result(), machine_cpu_seconds()
            end, refused = time.monotonic() + PICTURE_SECONDS, 0
            while True:
                try:
                    browser.open(timeout_s=max(1.0, end - time.monotonic()))
                    picture = time.monotonic()
                    used = cpu_seconds(os.getpid()) - used
                    cpu = {"browser_cpu_s": used, "node_cpu_s": machine_cpu_seconds() - busy - used}
                    return {"picture": picture, "refused": refused, **cpu}
                except NoPictureError:
                    if time.monotonic() > end:
                        raise
                refused += 1
                time.sleep(0.05)
    except BaseException as error:
        if not inside.done():
            inside.set_exception(error)
        raise


async def start(
    way: Way,
    desktop: str,
    browsers: Executor,
    *,
    page: str = "/",
    settled: Callable[[], Awaitable[object]] | None = None,
) -> Figures:
    """One desktop from nothing to its first picture; seconds since it was applied.

    The browser has been started and is logged in, as a person's who is at the portal and looks at
    `page`, until what that has begun is `settled`.
    """
    inside: Future[None] = Future()
    ready: Future[str] = Future()
    seen = asyncio.get_running_loop().run_in_executor(
        browsers, see_picture, way.login, page, inside, ready
    )
    try:
        await asyncio.wait_for(asyncio.wrap_future(inside), PICTURE_SECONDS)
        if settled:
            await settled()
        begin = time.monotonic()
        await way.apply(desktop)
        url = await way.url(desktop)
        await way.ready(desktop)
        ready_s = time.monotonic() - begin
        ready.set_result(url)
        figures = await seen
    finally:
        if not ready.done():
            ready.cancel()
            # The browser is closed before the error goes on.
            await asyncio.gather(seen, return_exceptions=True)
    return {
        "way": way.name,
        "ready_s": ready_s,
        "picture_s": figures.pop("picture") - begin,
        **figures,
    }


async def measure(
    client: Client, options: argparse.Namespace, login: Login, progress: Progress
) -> list[Figures]:
    """Two first starts, of which the first makes the home, and the second finds the one that its
    form has made; as many of each way, taking turns in who goes first; as many from a pool. With
    `--wayland`, as many on Wayland and on X11, taking turns; with `--user-namespaces`, as many in
    one and in none.
    """
    isolated = [
        WithIsolation(client, login, mode) for mode in ISOLATIONS if options.user_namespaces
    ]
    template, starts = options.template, options.starts
    operator, other = ThroughOperator(client, template, login), OnWayland(client, login)
    made: list[tuple[Way, str]] = []
    home = home_claim_name(session_name="picture-0", user=USER, template=template, retain=True)
    with ThreadPoolExecutor(max_workers=1) as browsers:

        async def once(way: Way, desktop: str, **more: Any) -> Figures:
            made.append((way, desktop))
            with progress.step(f"{way.name}: {desktop}"):
                return await start(way, desktop, browsers, **more)

        async def volume_made() -> None:
            await until(client, CLAIMS, home, lambda claim: status(claim, "phase") == "Bound")

        async def clear() -> None:
            while made:
                way, desktop = made[-1]
                await way.remove(desktop)
                made.pop()

        try:
            first = await once(operator, "picture-0") | {"way": FIRST}
            raw = await Raw.like(client, operator, "picture-0")
            await clear()
            await remove(client, CLAIMS, home)
            form = await once(
                operator, "picture-form", page=f"/catalogue/{template}", settled=volume_made
            )
            await clear()
            figures = [first, form | {"way": FIRST_WITH_FORM}]
            for number in range(1, starts + 1):
                turns: list[tuple[Way, str]] = [
                    (operator, f"picture-{number}"),
                    (raw, f"picture-raw-{number}"),
                ]
                for way, desktop in turns if number % 2 else reversed(turns):
                    figures.append(await once(way, desktop))
                    await clear()
            async with a_pool(client, template, login) as pool:
                for number in range(1, starts + 1):
                    with progress.step("The pool is filled"):
                        await pool.filled()
                    figures.append(await once(pool, f"picture-pool-{number}"))
                    await clear()
            if options.wayland:
                await other.prepare(template)
                await once(other, "picture-wayland-0")  # makes the home
                await clear()
                for number in range(1, starts + 1):
                    figures.append(await once(other, f"picture-wayland-{number}"))
                    await clear()
                    figures.append(await once(operator, f"picture-x11-{number}") | {"way": X11})
                    await clear()
            for copy in isolated:
                await copy.prepare(template)
            for number in range(starts + 1):
                for copy in isolated if number % 2 else reversed(isolated):
                    taken = await once(copy, f"picture-isolated-{number}")
                    figures += [taken] if number else []  # the first makes the home
                    await clear()
            return figures
        finally:
            await clear()
            await asyncio.gather(other.clear(), *(copy.clear() for copy in isolated))
            await remove(client, CLAIMS, home)


def table(figures: Sequence[Figures]) -> str:
    """p50 and the slowest, of our way and of the raw API's, and their ratio; the same from a
    pool.
    """

    def seconds(way: str, key: str) -> list[float]:
        return [figure[key] for figure in figures if figure["way"] == way]

    rows = [["applied ->", "vdi", "raw API", "vdi / raw API", FromPool.name]]
    for title, key, percent in (
        ("ready to be opened, p50", "ready_s", 50.0),
        ("ready to be opened, slowest", "ready_s", 100.0),
        ("first picture in the browser, p50", "picture_s", 50.0),
        ("first picture in the browser, slowest", "picture_s", 100.0),
        ("CPU of the browser from ready to picture, p50", "browser_cpu_s", 50.0),
        ("CPU of all else from ready to picture, p50", "node_cpu_s", 50.0),
    ):
        ours, raw, pool = (
            percentile(seconds(way, key), percent) or 0.0
            for way in (ThroughOperator.name, Raw.name, FromPool.name)
        )
        rows.append(
            [f"{title}, s", f"{ours:.2f}", f"{raw:.2f}", ratio([ours], [raw]), f"{pool:.2f}"]
        )
    for way, home in ((FIRST, "the home is made"), (FIRST_WITH_FORM, "the open form had it made")):
        first = f"first picture of a user's first start ({home}), s"
        rows += ([first, f"{taken:.2f}", "", "", ""] for taken in seconds(way, "picture_s"))
    tables = [render(rows)]
    for ways, names in (
        ((OnWayland.name, X11), ("Wayland", "X11")),
        (ISOLATED, ("user namespace", "none")),
    ):
        if not seconds(ways[1], "picture_s"):
            continue
        beside = [["applied ->", *names, " / ".join(names)]]
        for title, key in (
            ("ready to be opened", "ready_s"),
            ("first picture in the browser", "picture_s"),
        ):
            for which, percent in (("p50", 50.0), ("slowest", 100.0)):
                one, other = (percentile(seconds(way, key), percent) or 0.0 for way in ways)
                beside.append(
                    [f"{title}, {which}, s", f"{one:.2f}", f"{other:.2f}", ratio([one], [other])]
                )
        tables.append(render(beside))
    return "\n\n".join(tables)


def verdicts(figures: Sequence[Figures]) -> list[str]:
    """Each goal, and whether the figure reaches it."""
    lines = []
    for way, which, percent, aim in (
        (ThroughOperator.name, "image present, p50", 50.0, GOAL_S),
        (FromPool.name, "from a pool, p50", 50.0, POOL_GOAL_S),
        (FromPool.name, "from a pool, slowest", 100.0, POOL_SLOWEST_S),
    ):
        seconds = (
            percentile([figure["picture_s"] for figure in figures if figure["way"] == way], percent)
            or 0.0
        )
        lines.append(
            goal(seconds < aim, f"first picture, {which}: {seconds:.2f} s, under {aim:g} s wanted")
        )
    return lines


def where(name: str) -> tuple[Path, str]:
    """Kubeconfig and portal of an embedded cluster that runs, if there is a browser too. Raises
    CouldNotLookError.
    """
    status = cluster.status(name)
    if status.state not in ("running", "degraded") or status.control_plane_only:
        raise CouldNotLookError(f"cluster {name!r} is {status.state}: start one with `make demo`")
    if find_chromium() is None:
        raise CouldNotLookError(f"no browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH")
    return Path(status.kubeconfig), portal_url(status.websecure_port)


@contextmanager
def a_user(kubeconfig: Path, portal: str) -> Iterator[Login]:
    """The benchmark's own user at the portal, while the context lasts."""
    login = Login(portal, USER, secrets.token_urlsafe(12))
    add_user(kubeconfig, login.user, login.password)
    try:
        yield login
    finally:
        remove_user(kubeconfig, login.user)


def exit_status(run: Callable[[], int]) -> int:
    """The status of a run on an embedded cluster: its own; 3: no cluster or browser; 1: it failed;
    130: interrupted.
    """
    end_cleanly_on_signals()
    try:
        return run()
    except (
        CouldNotLookError,
        ClusterError,
        BinaryUnavailable,
        ConnectionFailed,
        StepFailed,
    ) as error:
        sys.stderr.write(f"{error}\n")
        return COULD_NOT_LOOK
    except (KubeError, NoPictureError, PeopleError, RuntimeError, TimeoutError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return FINDINGS
    except KeyboardInterrupt:
        return INTERRUPTED


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: a start failed; 2: wrong command line; 3: there is no cluster; 130:
    interrupted.
    """
    options = parse(arguments)

    async def ask(kubeconfig: Path, login: Login, progress: Progress) -> list[Figures]:
        async with Client(load_config(kubeconfig), field_manager="vdi-bench") as client:
            return await measure(client, options, login, progress)

    def run() -> int:
        kubeconfig, portal = where(options.cluster)
        with (
            Progress(default_cache(os.environ) / "logs") as progress,
            a_user(kubeconfig, portal) as login,
        ):
            figures = asyncio.run(ask(kubeconfig, login, progress))
        write_rows(options.json, figures)
        refused = sum(figure["refused"] for figure in figures)
        cpus = os.cpu_count()
        print(
            f"{options.starts} starts each way, image present, home volume present, one node of"
            f" {cpus} CPUs\n"
        )
        print(
            table(figures),
            f"pages refused before the first that worked: {refused}",
            *verdicts(figures),
            sep="\n",
        )
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
